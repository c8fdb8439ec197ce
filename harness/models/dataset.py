"""A tokenised data set on disk: two Arrow files, memory-mapped, and a `meta.json` that names their content.

    train.arrow  validation.arrow  meta.json

Columns: id, task (string), input_ids (list<int32>), label_mask (list<bool>), answer (string, may be null).
label_mask[t] says that token t is a label, predicted from position t-1; position 0 never is one. The row
order is the example index used everywhere, the logit cache included.
"""

from __future__ import annotations

import hashlib
import json
import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from harness.errors import KitError
from harness.files import write_json

SPLITS = ("train", "validation")
ROWS_PER_BLOCK = 1024

SCHEMA = pa.schema(
    [
        pa.field("id", pa.string(), nullable=False),
        pa.field("task", pa.string(), nullable=False),
        pa.field("input_ids", pa.list_(pa.field("item", pa.int32(), nullable=False)), nullable=False),
        pa.field("label_mask", pa.list_(pa.field("item", pa.bool_(), nullable=False)), nullable=False),
        pa.field("answer", pa.string()),
    ]
)


@dataclass(frozen=True)
class Example:
    """One tokenised example.

    Attributes:
        id: Unique within the data set.
        task: The family or source it came from.
        input_ids: int32 [n], the whole conversation.
        label_mask: bool [n], true where the token is a label.
        answer: What a checker compares with; None where nothing can be checked.
    """

    id: str
    task: str
    input_ids: npt.NDArray[np.int32]
    label_mask: npt.NDArray[np.bool_]
    answer: str | None = None


class DatasetWriter:
    """Writes a data set in blocks of a fixed number of rows, so that neither memory nor bytes depend on the
    caller's batches.

    Nothing is visible under the final names before `publish`; leaving the `with` block without it removes
    what was written.
    """

    def __init__(self, out: Path) -> None:
        self._out = out
        out.mkdir(parents=True, exist_ok=True)
        self._splits = {name: _SplitWriter(_temporary(out, name)) for name in SPLITS}

    def add(self, split: str, example: Example) -> None:
        """Append one example to a split.

        Raises:
            ValueError: The mask does not fit the tokens, has no label, or labels position 0.
        """
        mask = example.label_mask
        if mask.shape != example.input_ids.shape or mask.ndim != 1:
            raise ValueError(f"{example.id}: mask {mask.shape} for tokens {example.input_ids.shape}")
        if not mask.any() or mask[0]:
            raise ValueError(f"{example.id}: needs a label, and none at position 0")
        self._splits[split].add(example)

    def publish(self, meta: dict[str, Any]) -> dict[str, Any]:
        """Make the data set visible under its final names; `meta.json` comes last and makes it whole.

        Args:
            meta: Fields to record beside the counts and digests that the writer adds.

        Returns:
            What `meta.json` holds.
        """
        digests = {}
        for name, split in self._splits.items():
            split.close()
            digests[name] = split.digest
        result = {
            **meta,
            "content_digest": content_digest(digests),
            "split_digests": digests,
            "examples": {name: split.rows for name, split in self._splits.items()},
            "tokens": {name: split.tokens for name, split in self._splits.items()},
            "label_tokens": {name: split.labels for name, split in self._splits.items()},
            "longest": max(split.longest for split in self._splits.values()),
        }
        (self._out / "meta.json").unlink(missing_ok=True)
        for name in SPLITS:
            _temporary(self._out, name).replace(self._out / f"{name}.arrow")
        write_json(self._out / "meta.json", result)
        return result

    def __enter__(self) -> DatasetWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for name, split in self._splits.items():
            split.close()
            _temporary(self._out, name).unlink(missing_ok=True)


class _SplitWriter:
    def __init__(self, path: Path) -> None:
        self._stream = path.open("wb")
        self._writer = pa.ipc.new_file(self._stream, SCHEMA)
        self._block: list[Example] = []
        self._hash = hashlib.sha256()
        self._closed = False
        self.rows = self.tokens = self.labels = self.longest = 0

    @property
    def digest(self) -> str:
        return self._hash.hexdigest()

    def add(self, example: Example) -> None:
        hash_example(self._hash, example)
        self.rows += 1
        self.tokens += len(example.input_ids)
        self.labels += int(np.count_nonzero(example.label_mask))
        self.longest = max(self.longest, len(example.input_ids))
        self._block.append(example)
        if len(self._block) == ROWS_PER_BLOCK:
            self._flush()

    def _flush(self) -> None:
        if not self._block:
            return
        block, self._block = self._block, []
        offsets = np.zeros(len(block) + 1, dtype=np.int32)
        np.cumsum([len(example.input_ids) for example in block], out=offsets[1:])
        tokens = np.concatenate([example.input_ids for example in block]).astype(np.int32, copy=False)
        masks = np.concatenate([example.label_mask for example in block])
        columns = [
            pa.array([example.id for example in block], pa.string()),
            pa.array([example.task for example in block], pa.string()),
            pa.ListArray.from_arrays(
                pa.array(offsets), pa.array(tokens), type=SCHEMA.field("input_ids").type
            ),
            pa.ListArray.from_arrays(
                pa.array(offsets), pa.array(masks), type=SCHEMA.field("label_mask").type
            ),
            pa.array([example.answer for example in block], pa.string()),
        ]
        self._writer.write_batch(pa.RecordBatch.from_arrays(columns, schema=SCHEMA))

    def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        self._flush()
        self._writer.close()
        self._stream.flush()
        os.fsync(self._stream.fileno())
        self._stream.close()


class TokenDataset:
    """One split, read through a memory map: nothing is loaded before it is asked for.

    Attributes:
        directory: The data set's folder.
        split: "train" or "validation".
        meta: `meta.json`; counts are per split ({"train": n, "validation": n}).
    """

    def __init__(self, directory: Path, split: str, meta: dict[str, Any], blocks: list[_Block]) -> None:
        self.directory = directory
        self.split = split
        self.meta = meta
        self._blocks = blocks
        self._starts = np.cumsum([0] + [block.rows for block in blocks])

    @classmethod
    def open(cls, directory: Path | str, split: str) -> TokenDataset:
        """Open a split.

        Raises:
            KitError: The folder is no finished data set, or a file does not fit `meta.json`.
        """
        directory = Path(directory)
        meta_path, path = directory / "meta.json", directory / f"{split}.arrow"
        try:
            meta = json.loads(meta_path.read_text(encoding="utf-8"))
            with pa.memory_map(str(path)) as source:
                reader = pa.ipc.open_file(source)
                if not reader.schema.equals(SCHEMA):
                    raise KitError("has other columns", where=str(path), expected=f"{SCHEMA}")
                blocks = [_Block(reader.get_batch(i)) for i in range(reader.num_record_batches)]
        except (OSError, ValueError, pa.ArrowInvalid) as error:
            raise KitError(
                f"no data set that can be read ({error})",
                where=str(directory),
                expected="train.arrow, validation.arrow and meta.json as preprocess writes them",
                fix="python -m harness.distill.preprocess --out " + directory.name,
            ) from None
        dataset = cls(directory, split, meta, blocks)
        if len(dataset) != meta["examples"][split]:
            raise KitError(
                f"{len(dataset)} examples in {path.name}",
                where=str(directory),
                expected=f"{meta['examples'][split]} as meta.json says",
                fix="run preprocess again",
            )
        return dataset

    def __len__(self) -> int:
        return int(self._starts[-1])

    def example(self, index: int) -> Example:
        """The example at a row; its token array is a read-only view of the file."""
        block, row = self._locate(index)
        start, end = int(block.offsets[row]), int(block.offsets[row + 1])
        ids = block.tokens[start:end]
        return Example(
            block.ids[row].as_py(),
            block.tasks[row].as_py(),
            ids,
            block.mask(start, end),
            block.answers[row].as_py(),
        )

    def arrays(self, index: int) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.bool_]]:
        """Token ids and label mask of a row, without its strings: what building a batch needs."""
        block, row = self._locate(index)
        start, end = int(block.offsets[row]), int(block.offsets[row + 1])
        return block.tokens[start:end], block.mask(start, end)

    def label_count(self, index: int) -> int:
        """Number of label tokens of a row."""
        return int(self.label_counts[index])

    @cached_property
    def lengths(self) -> npt.NDArray[np.int64]:
        """Tokens of every row, int64 [examples]."""
        parts = [np.diff(block.offsets).astype(np.int64) for block in self._blocks]
        return np.concatenate(parts) if parts else np.zeros(0, dtype=np.int64)

    @cached_property
    def label_counts(self) -> npt.NDArray[np.int64]:
        """Label tokens of every row, int64 [examples]."""
        parts = []
        for block in self._blocks:
            total = np.concatenate([[0], np.cumsum(block.mask(0, int(block.offsets[-1])), dtype=np.int64)])
            parts.append(np.diff(total[block.offsets]))
        return np.concatenate(parts) if parts else np.zeros(0, dtype=np.int64)

    def __iter__(self) -> Iterator[Example]:
        return (self.example(index) for index in range(len(self)))

    def digest(self) -> str:
        """The split's digest, computed from the rows; equals meta["split_digests"][split]."""
        result = hashlib.sha256()
        for example in self:
            hash_example(result, example)
        return result.hexdigest()

    def _locate(self, index: int) -> tuple[_Block, int]:
        if not 0 <= index < len(self):
            raise IndexError(f"example {index} of {len(self)}")
        number = int(np.searchsorted(self._starts, index, side="right")) - 1
        return self._blocks[number], index - int(self._starts[number])


class _Block:
    """One record batch as numpy views on the memory map."""

    def __init__(self, batch: pa.RecordBatch) -> None:
        self.rows: int = batch.num_rows
        self.ids, self.tasks, self.answers = batch.column("id"), batch.column("task"), batch.column("answer")
        column = batch.column("input_ids")
        self.offsets: npt.NDArray[np.int32] = column.offsets.to_numpy()
        self.tokens: npt.NDArray[np.int32] = column.values.to_numpy()
        self._bits = np.frombuffer(batch.column("label_mask").values.buffers()[1], dtype=np.uint8)

    def mask(self, start: int, end: int) -> npt.NDArray[np.bool_]:
        """Label mask of the tokens [start, end) of this block."""
        first = start // 8
        bits = np.unpackbits(self._bits[first : (end + 7) // 8], bitorder="little")
        return bits[start - first * 8 : end - first * 8].view(np.bool_)


def hash_example(into: Any, example: Example) -> None:
    """Add one example to a digest: id, tokens (little-endian int32) and mask, each with its length."""
    name = example.id.encode()
    into.update(struct.pack("<II", len(name), len(example.input_ids)))
    into.update(name)
    into.update(np.ascontiguousarray(example.input_ids, dtype="<i4").tobytes())
    into.update(np.packbits(example.label_mask, bitorder="little").tobytes())


def content_digest(split_digests: dict[str, str]) -> str:
    """The digest of a whole data set from the digests of its splits."""
    return hashlib.sha256("".join(f"{name} {split_digests[name]}\n" for name in SPLITS).encode()).hexdigest()


def _temporary(out: Path, split: str) -> Path:
    return out / f".{split}.arrow.tmp"
