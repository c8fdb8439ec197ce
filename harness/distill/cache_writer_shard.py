"""One shard in memory: rows arrive example by example in any order and leave as one file."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from harness.distill.cache_folder import Shard, ShardRecord
from harness.distill.cache_format import CacheSpec, RowBlock, header_bytes, high_bits, write_arrays
from harness.errors import KitError
from harness.files import sync_folder

Arrays = dict[str, npt.NDArray[Any]]


def allocate(spec: CacheSpec, rows: int) -> Arrays:
    """Room for shards of up to `rows` rows, one after the other: fresh memory for each would cost more than
    packing its rows, in page faults.
    """
    k = spec.k
    result: Arrays = {
        "log_tail": np.empty(rows, dtype="<f4"),
        "a_t": np.empty((rows, len(spec.temperatures)), dtype="<f4"),
        "target": np.empty(rows, dtype="<u4"),
        "ids_lo": np.empty((rows, k), dtype="<u2"),
        "logp": np.empty((rows, k), dtype="<f2"),
        "target_logp": np.empty(rows, dtype="<f2"),
        "ids_hi": np.empty((rows, spec.high_bits * -(-k // 8)), dtype="u1"),
    }
    if spec.ragged:
        result["row_len"] = np.empty(rows, dtype="<u2")
    if spec.mode == "sample":
        result["counts"] = np.empty((rows, k), dtype=spec.counts_dtype)
    return result


class ShardBuffer:
    """A shard's arrays, one row for every label position.

    Args:
        spec: What a row holds.
        shard: The shard.
        label_counts: Label positions of its examples.
        keys: Their keys, uint64.
        room: From `allocate`, for at least the shard's rows; holds another shard's rows no longer.
    """

    def __init__(
        self,
        spec: CacheSpec,
        shard: Shard,
        label_counts: npt.NDArray[np.int64],
        keys: npt.NDArray[np.uint64],
        room: Arrays,
    ) -> None:
        self._spec = spec
        self._shard = shard
        self._offsets = np.concatenate([[0], np.cumsum(label_counts, dtype=np.int64)])
        self._filled = np.zeros(len(label_counts), dtype=np.bool_)
        self._kept = np.zeros(1 + len(spec.temperatures), dtype=np.float64)
        self._arrays: Arrays = {name: values[: shard.rows] for name, values in room.items()}
        self._arrays |= {"offsets": self._offsets, "example_key": keys}

    def put(self, block: RowBlock, example_rows: Sequence[tuple[int, int]]) -> None:
        """Store rows.

        Args:
            block: The rows of these examples, one after the other.
            example_rows: (example index, number of rows) in the block's order.

        Raises:
            ValueError: The rows are not those of whole examples of this shard that were not stored before.
            KitError: The teacher gave something that is no distribution.
        """
        examples = np.array([index for index, _ in example_rows], dtype=np.int64) - self._shard.first
        counts = np.array([count for _, count in example_rows], dtype=np.int64)
        if (examples < 0).any() or (examples >= len(self._filled)).any():
            raise ValueError(f"{self._shard} does not hold all of {example_rows}")
        starts, ends = self._offsets[examples], np.cumsum(counts)
        if (counts != self._offsets[examples + 1] - starts).any() or counts.sum() != len(block.target):
            raise ValueError(f"{self._shard.name}: not the label counts of the data set: {example_rows}")
        if self._filled[examples].any() or not np.diff(np.sort(examples)).all():
            raise ValueError(f"{self._shard.name}: an example twice: {example_rows}")
        broken = np.isnan(block.target_logp) | np.isnan(block.log_tail)
        if broken.any() or not np.isfinite(block.a_t).all():
            bad = broken | ~np.isfinite(block.a_t).all(axis=1)
            number = int(np.searchsorted(ends, int(bad.argmax()), side="right"))
            raise KitError(
                f"the teacher gives no finite distribution for example {example_rows[number][0]}",
                where=self._shard.name,
                fix="check that its weights are whole; run it in bfloat16 or float32, not float16",
            )
        self._filled[examples] = True
        self._kept += block.kept.sum(axis=0, dtype=np.float64)
        place: Any = slice(int(starts[0]), int(starts[0] + ends[-1]))
        if not np.array_equal(starts[1:], starts[0] + ends[:-1]):
            place = np.repeat(starts - (ends - counts), counts) + np.arange(len(block.target))
        arrays = self._arrays
        # The cast to 16 bits keeps the low ones.
        arrays["ids_lo"][place] = block.ids.astype("<u2")
        if self._spec.high_bits:
            arrays["ids_hi"][place] = high_bits(block.ids, self._spec.high_bits)
        for name in ("logp", "log_tail", "a_t", "target", "target_logp"):
            arrays[name][place] = getattr(block, name)
        if block.lengths is not None:
            arrays["row_len"][place] = block.lengths
        if block.counts is not None:
            arrays["counts"][place] = block.counts

    def write(self, temporary: Path, final: Path, note: Mapping[str, str]) -> ShardRecord:
        """Write the shard under a temporary name, make it durable, and give it its own.

        Args:
            temporary: A file in the same folder; what it holds is overwritten.
            final: Where the shard is to appear.
            note: Strings for the header.

        Raises:
            ValueError: Not every example has its rows.
        """
        if not self._filled.all():
            missing = int(np.flatnonzero(~self._filled)[0]) + self._shard.first
            raise ValueError(f"{self._shard.name}: example {missing} has no rows")
        spec, shard = self._spec, self._shard
        arrays = _flattened(spec, self._arrays) if spec.ragged else self._arrays
        entries, examples = arrays["ids_lo"].size, shard.last - shard.first
        order = list(spec.fields(shard.rows, examples, entries))
        header = header_bytes(spec, shard.rows, examples, entries, note)
        digest = hashlib.sha256()
        with temporary.open("wb") as stream:
            size = write_arrays(stream, digest, header, arrays, order)
            stream.flush()
            os.fsync(stream.fileno())
        temporary.replace(final)
        sync_folder(final.parent)
        names = ["1", *(f"{value:g}" for value in spec.temperatures)]
        return ShardRecord(
            name=shard.name,
            first=shard.first,
            last=shard.last,
            rows=shard.rows,
            entries=entries,
            bytes=size,
            sha256=digest.hexdigest(),
            kept_mass={name: float(sum_) / shard.rows for name, sum_ in zip(names, self._kept, strict=True)},
        )


def _flattened(spec: CacheSpec, arrays: Arrays) -> Arrays:
    """Padded rows to the flat entries of the ragged modes."""
    used = np.arange(spec.k) < arrays["row_len"][:, None]
    result = dict(arrays)
    for name in ("ids_lo", "logp", "counts"):
        if name in arrays:
            result[name] = arrays[name][used]
    if spec.high_bits:
        planes = np.split(arrays["ids_hi"], spec.high_bits, axis=1)
        bits = [np.unpackbits(plane, axis=1, count=spec.k)[used] for plane in planes]
        result["ids_hi"] = np.concatenate([np.packbits(plane) for plane in bits])
    return result
