"""Where conversations come from: the pocket generators, files in the Examples format, the paper's data sets.

Every source gives conversations one at a time, in an order that depends on the source and the seed alone.
The paper's data sets are read from a folder fetched before; nothing here uses a network.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq
import yaml

from harness.distill import pocket_tasks
from harness.errors import KitError
from harness.files import file_digest

Kind = Literal["pocket", "examples", "hub", "tulu", "openr1-math", "codeforces"]


@dataclass(frozen=True)
class SourceConfig:
    """One source of conversations."""

    kind: Kind = field(
        metadata={
            "help": "pocket (generated), examples (JSON lines or Parquet), hub (a data set's folder as the "
            "hub has it, with `messages`), or a data set of the paper: tulu, openr1-math, codeforces"
        }
    )
    path: Path | None = field(
        default=None, metadata={"help": "file or folder; for a data set the folder it was fetched into"}
    )
    task: str | None = field(
        default=None,
        metadata={
            "help": "pocket: one family instead of all; else the task's name in place of the source's own"
        },
    )
    split: Literal["auto", "train", "validation"] = field(
        default="auto", metadata={"help": "where its conversations go; auto draws the split by the prompt"}
    )
    samples: int | None = field(
        default=None,
        metadata={"help": "how many to take, drawn with the seed; all by default (pocket: needed)"},
    )
    part: str = field(default="train", metadata={"help": "the source's own split to read"})
    subset: str | None = field(default=None, metadata={"help": "a data set's configuration, by its name"})
    seed: int | None = field(default=None, metadata={"help": "instead of the stage's seed"})
    strip_think: bool = field(
        default=False,
        metadata={"help": "leave <think>...</think> out of the answers, as the paper's authors do"},
    )

    def __post_init__(self) -> None:
        if self.samples is not None and self.samples < 0:
            raise KitError(f"samples {self.samples}", where=f"source {self.kind}", expected="at least 0")


@dataclass(frozen=True)
class Conversation:
    """One conversation before tokenisation; `messages` is empty where it has none that can be read."""

    id: str
    task: str
    messages: list[dict[str, str]]
    answer: str | None = None


def read(source: SourceConfig, seed: int) -> Iterator[Conversation]:
    """The conversations of a source.

    Args:
        source: Which.
        seed: The stage's seed; the source's own wins.

    Raises:
        KitError: The source cannot be read, or has fewer conversations than were asked for.
    """
    seed = seed if source.seed is None else source.seed
    if source.kind == "pocket":
        yield from _pocket(source, seed)
        return
    total, records = _records(source)
    chosen = _sample(total, source, seed)
    adapt = _ADAPTERS[source.kind]
    for row, record in records(chosen):
        conversation = adapt(record, row)
        if source.task is not None:
            conversation = replace(conversation, task=source.task)
        if source.strip_think:
            conversation = replace(conversation, messages=_unthought(conversation.messages))
        yield conversation


def describe(source: SourceConfig, seed: int) -> dict[str, Any]:
    """What names a source's content without saying where it lies: its settings and a digest of its files."""
    described: dict[str, Any] = {
        "kind": source.kind,
        "task": source.task,
        "split": source.split,
        "samples": source.samples,
        "part": source.part,
        "subset": source.subset,
        "seed": seed if source.seed is None else source.seed,
        "strip_think": source.strip_think,
    }
    if source.kind == "pocket":
        # The generator is the content: another version of it is another source.
        described["sha256"] = file_digest(Path(pocket_tasks.__file__))
    else:
        described["sha256"] = _digest_of(_place(source))
    return described


def _pocket(source: SourceConfig, seed: int) -> Iterator[Conversation]:
    if source.samples is None:
        raise KitError(
            "a pocket source has no end", where="sources", expected="samples: how many to generate"
        )
    families = pocket_tasks.FAMILIES if source.task is None else (source.task,)
    share = [source.samples // len(families)] * len(families)
    for number in range(source.samples % len(families)):
        share[number] += 1
    for family, count in zip(families, share, strict=True):
        for example in pocket_tasks.examples(family, source.part, count, seed):  # type: ignore[arg-type]
            yield _from_example(example, 0)


# (row, record) pairs for the chosen rows, in file order.
Records = Callable[[npt.NDArray[np.int64]], Iterable[tuple[int, dict[str, Any]]]]


def _records(source: SourceConfig) -> tuple[int, Records]:
    if source.kind != "examples":
        return _from_datasets(source)
    files = _data_files(_place(source), (".jsonl", ".parquet"))
    counts = [_count(path) for path in files]

    def rows(chosen: npt.NDArray[np.int64]) -> Iterator[tuple[int, dict[str, Any]]]:
        first = 0
        for path, count in zip(files, counts, strict=True):
            wanted = set((chosen[(chosen >= first) & (chosen < first + count)] - first).tolist())
            for row, record in enumerate(_lines(path)):
                if row in wanted:
                    yield first + row, record
            first += count

    return sum(counts), rows


def _from_datasets(source: SourceConfig) -> tuple[int, Records]:
    """A fetched data set. Its README says which files a configuration has; they are read as they are, since a
    conversion would be billed to whoever comes first.
    """
    place = _place(source)
    try:
        files = _files_of(place, source.subset, source.part)
        opened = [pq.ParquetFile(path) for path in files]
    except (OSError, ValueError, TypeError, AttributeError, KeyError, yaml.YAMLError) as error:
        raise KitError(
            f"cannot be read as a data set ({' '.join(str(error).split())[:300]})",
            where=place.name,
            expected=f"the fetched folder, with subset {source.subset!r} and part {source.part!r} in Parquet",
        ) from None

    def rows(chosen: npt.NDArray[np.int64]) -> Iterator[tuple[int, dict[str, Any]]]:
        first = 0
        for parquet in opened:
            wanted = [name for name in _COLUMNS if name in parquet.schema_arrow.names]
            for group in range(parquet.num_row_groups):
                count = parquet.metadata.row_group(group).num_rows
                here = chosen[(chosen >= first) & (chosen < first + count)]
                if len(here):
                    picked = parquet.read_row_group(group, columns=wanted).take(here - first)
                    yield from zip(here.tolist(), picked.to_pylist(), strict=True)
                first += count

    return sum(parquet.metadata.num_rows for parquet in opened), rows


def _files_of(place: Path, subset: str | None, part: str) -> list[Path]:
    """Parquet files of a configuration's part, by the `configs` on top of the README, as the hub reads them.

    Without `configs` they are the files whose names begin with the part.

    Raises:
        ValueError: There is no such configuration, or it has no such files.
    """
    patterns = [f"{part}*.parquet", f"*/{part}*.parquet"]
    readme = place / "README.md"
    parts = readme.read_text(encoding="utf-8").split("---\n", 2) if readme.exists() else []
    front = yaml.safe_load(parts[1]) if len(parts) == 3 and not parts[0].strip() else {}
    configs = {config["config_name"]: config for config in (front or {}).get("configs", ())}
    if configs:
        name = subset or ("default" if "default" in configs else next(iter(configs)))
        if name not in configs:
            raise ValueError(f"no configuration {name!r}, only {', '.join(configs)}")
        found = [entry["path"] for entry in configs[name]["data_files"] if entry["split"] == part]
        patterns = [path for paths in found for path in (paths if isinstance(paths, list) else [paths])]
    files = sorted({path for pattern in patterns for path in place.glob(pattern) if path.is_file()})
    if not files or any(path.suffix != ".parquet" for path in files):
        raise ValueError(
            f"{len(files)} files for {', '.join(patterns) or 'nothing'}, all of them to be Parquet"
        )
    return files


def _sample(total: int, source: SourceConfig, seed: int) -> npt.NDArray[np.int64]:
    """Rows to take, ascending: all, or a sample without replacement."""
    if source.samples is None:
        return np.arange(total)
    if source.samples > total:
        raise KitError(
            f"holds {total} conversations", where=source.kind, expected=f"at least samples = {source.samples}"
        )
    if seed < 0:
        raise KitError(f"seed {seed}", where=f"source {source.kind}", expected="at least 0")
    stream = np.random.PCG64(np.random.SeedSequence([seed, total]))
    return np.sort(np.argsort(stream.random_raw(total), kind="stable")[: source.samples])


def _from_example(record: Mapping[str, Any], row: int) -> Conversation:
    messages = record.get("messages")
    if isinstance(messages, str):
        try:
            messages = json.loads(messages)
        except ValueError:
            messages = None
    answer = record.get("answer")
    return Conversation(
        str(record.get("id", row)),
        str(record.get("task", "examples")),
        _messages(messages),
        None if answer is None else str(answer),
    )


def _from_tulu(record: Mapping[str, Any], row: int) -> Conversation:
    return Conversation(str(record.get("id", row)), "tulu", _messages(record.get("messages")))


def _from_openr1_math(record: Mapping[str, Any], row: int) -> Conversation:
    messages = _messages(record.get("messages"))
    if not messages and record.get("problem") and record.get("solution"):
        messages = [
            {"role": "user", "content": str(record["problem"])},
            {"role": "assistant", "content": str(record["solution"])},
        ]
    answer = record.get("answer")
    name = str(record.get("uuid") or row)
    return Conversation(name, "openr1-math", messages, None if answer is None else str(answer))


def _from_codeforces(record: Mapping[str, Any], row: int) -> Conversation:
    # A problem has several solutions, and its id is the problem's.
    return Conversation(
        f"{record.get('id', 'problem')}#{row}", "codeforces", _messages(record.get("messages"))
    )


_THINK = re.compile(r"<think>.*?(?:</think>|\Z)\s*", re.DOTALL)


def _unthought(messages: list[dict[str, str]]) -> list[dict[str, str]]:
    """Answers without their chain of thought; none at all where one of them is nothing but thought: to answer
    nothing is not to be learned."""
    left = [
        {**message, "content": _THINK.sub("", message["content"])}
        if message["role"] == "assistant"
        else message
        for message in messages
    ]
    return left if all(message["content"].strip() for message in left) else []


_ADAPTERS: dict[str, Callable[[Mapping[str, Any], int], Conversation]] = {
    "examples": _from_example,
    "hub": _from_example,
    "tulu": _from_tulu,
    "openr1-math": _from_openr1_math,
    "codeforces": _from_codeforces,
}
_COLUMNS = ("id", "uuid", "messages", "problem", "solution", "answer")


def _messages(value: Any) -> list[dict[str, str]]:
    """Messages as role and content; none at all where one of them has no text or no speaker."""
    if not isinstance(value, list | tuple | np.ndarray):
        return []
    result = []
    for message in value:
        if not isinstance(message, Mapping):
            return []
        role, content = message.get("role"), message.get("content")
        if not isinstance(role, str) or not isinstance(content, str):
            return []
        result.append({"role": role, "content": content})
    return result


def _place(source: SourceConfig) -> Path:
    if source.path is None:
        raise KitError(f"a source of kind {source.kind!r} needs a path", where="sources")
    if not source.path.exists():
        raise KitError(
            "there is nothing there",
            where=str(source.path),
            expected=f"the {source.kind} source",
            fix=None if source.kind == "examples" else "kit fetch",
        )
    return source.path


def _data_files(place: Path, suffixes: tuple[str, ...]) -> list[Path]:
    if place.is_file():
        files = [place] if place.suffix in suffixes else []
    else:
        files = sorted(path for path in place.rglob("*") if path.is_file() and path.suffix in suffixes)
        # The place itself may lie in a hidden folder, such as the hub's own cache.
        inside = [path.relative_to(place).parts for path in files]
        hidden = [any(part.startswith(".") for part in parts) for parts in inside]
        files = [path for path, out in zip(files, hidden, strict=True) if not out]
    if not files:
        raise KitError("no data file", where=str(place), expected=f"files ending in {', '.join(suffixes)}")
    return files


def _digest_of(place: Path) -> str:
    suffixes = (".arrow", ".csv", ".json", ".jsonl", ".parquet", ".zst")
    result = hashlib.sha256()
    for path in _data_files(place, suffixes):
        name = path.name if place.is_file() else path.relative_to(place).as_posix()
        result.update(f"{file_digest(path)} {name}\n".encode())
    return result.hexdigest()


def _count(path: Path) -> int:
    try:
        if path.suffix == ".parquet":
            return int(pq.ParquetFile(path).metadata.num_rows)
        return sum(1 for _ in _lines(path))
    except (OSError, ValueError) as error:
        raise KitError(f"cannot be read ({error})", where=str(path)) from None


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    if path.suffix == ".parquet":
        for batch in pq.ParquetFile(path).iter_batches(batch_size=256):
            yield from batch.to_pylist()
        return
    with path.open(encoding="utf-8") as stream:
        for number, line in enumerate(stream, start=1):
            if not line.strip():
                continue
            try:
                record = json.loads(line)
            except ValueError:
                record = None
            if not isinstance(record, dict):
                raise KitError("is no JSON object", where=f"{path}:{number}", expected="one example a line")
            yield record
