"""Benchmarks' items on local files: canonical form, digest, selection.

An item is what is asked and what it is graded by, in one canonical form whatever file it came from: the hub's
Parquet and a local JSON lines file of one data set give the same digests. Nothing is downloaded here.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from harness.errors import KitError
from harness.journal.scores import items_digest
from harness.spec.canonical import canonical_json

Row: TypeAlias = dict[str, Any]

ENVIRONMENT = "KIT_BENCHMARKS"
"""Names the folder of benchmarks where no option does."""


@dataclass(frozen=True)
class Item:
    """One item.

    Attributes:
        id: Unique in its split, and stable: how a suite selects items.
        content: What the digest is over.
        group: Subject or task it shares with others, whose errors are not independent; None: with none.
    """

    id: str
    content: Row
    group: str | None = None

    @property
    def sha256(self) -> str:
        """Digest of the canonical JSON of the content."""
        return hashlib.sha256(canonical_json(self.content)).hexdigest()


@dataclass(frozen=True)
class Source:
    """A data set: where its splits lie below the folder of benchmarks, and what of a row is the item."""

    splits: Mapping[str, tuple[str, ...]]
    items: Callable[[Sequence[Row]], Iterator[Item]]


def _gsm8k(rows: Sequence[Row]) -> Iterator[Item]:
    for number, row in enumerate(rows):
        yield Item(str(number), {name: row[name] for name in ("question", "answer")})


def _mmlu(rows: Sequence[Row]) -> Iterator[Item]:
    numbers: Counter[str] = Counter()
    for row in rows:
        subject = row["subject"]
        content = {name: row[name] for name in ("subject", "question", "choices", "answer")}
        yield Item(f"{subject}/{numbers[subject]}", content, subject)
        numbers[subject] += 1


def _ifeval(rows: Sequence[Row]) -> Iterator[Item]:
    for row in rows:
        # Parquet has every argument in every row, as null; numbers may come as floats.
        given = [{k: _whole(v) for k, v in kwargs.items() if v is not None} for kwargs in row["kwargs"]]
        content = {name: row[name] for name in ("key", "prompt", "instruction_id_list")}
        yield Item(str(row["key"]), {**content, "kwargs": given})


def _alpaca_eval(rows: Sequence[Row]) -> Iterator[Item]:
    for number, row in enumerate(rows):
        content = {name: row[name] for name in ("dataset", "instruction", "output", "generator")}
        yield Item(str(number), content)


def _mt_bench_101(rows: Sequence[Row]) -> Iterator[Item]:
    for row in rows:
        history = [{name: turn[name] for name in ("user", "bot")} for turn in row["history"]]
        content = {"task": row["task"], "id": row["id"], "history": history}
        yield Item(str(row["id"]), content, row["task"])


def _plain(rows: Sequence[Row]) -> Iterator[Item]:
    for number, row in enumerate(rows):
        yield Item(str(row.get("id", number)), row, row.get("group"))


def _whole(value: Any) -> Any:
    return int(value) if isinstance(value, float) and value.is_integer() else value


SOURCES = {
    "gsm8k": Source(
        {
            "test": ("gsm8k/test.jsonl", "gsm8k/main/test-*.parquet"),
            "train": ("gsm8k/train.jsonl", "gsm8k/main/train-*.parquet"),
        },
        _gsm8k,
    ),
    "mmlu": Source(
        {
            "test": ("mmlu/mmlu_test.jsonl", "mmlu/all/test-*.parquet"),
            "dev": ("mmlu/mmlu_dev.jsonl", "mmlu/all/dev-*.parquet"),
        },
        _mmlu,
    ),
    "ifeval": Source({"train": ("ifeval/input_data.jsonl", "ifeval/data/train-*.parquet")}, _ifeval),
    "alpaca_eval": Source(
        {
            "eval": (
                "alpaca_eval/gpt4_1106_preview.model_outputs.json",
                "alpaca_eval/alpaca_eval_gpt4_baseline.json",
            )
        },
        _alpaca_eval,
    ),
    "mt_bench_101": Source({"test": ("mt_bench_101/mtbench101.jsonl",)}, _mt_bench_101),
}


def folder_of(given: Path | None) -> Path:
    """The folder of benchmarks: the one given, else $KIT_BENCHMARKS.

    Raises:
        KitError: Neither names a folder.
    """
    named = given or (Path(os.environ[ENVIRONMENT]) if os.environ.get(ENVIRONMENT) else None)
    if named is None or not named.is_dir():
        raise KitError(
            "no folder of benchmarks" if named is None else "is no folder of benchmarks",
            where=None if named is None else str(named),
            expected="gsm8k/, mmlu/, ifeval/, alpaca_eval/, mt_bench_101/ with their items",
            fix=f"name it: --data DIR, or {ENVIRONMENT}=DIR; docs/evaluation.md says where items come from",
        )
    return named


def read_items(source: str, split: str, folder: Path) -> list[Item]:
    """All items of a split, in the file's order.

    Raises:
        KitError: There is no such file, or it holds something else.
    """
    # A data set of its own needs no entry: SOURCE/SPLIT.jsonl, each line an item.
    found = SOURCES.get(source) or Source({split: (f"{source}/{split}.jsonl",)}, _plain)
    patterns = found.splits.get(split, ())
    for pattern in patterns:
        paths = sorted(folder.glob(pattern))
        if paths:
            break
    else:
        expected = " or ".join(patterns) or f"split {' or '.join(found.splits)}"
        raise KitError(f"has no {split} split of {source}", where=str(folder), expected=expected)
    try:
        rows = [row for path in paths for row in _rows(path)]
        return list(found.items(rows))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise KitError(f"holds no items of {source} ({error})", where=str(paths[0])) from None


def select(items: Sequence[Item], ids: Sequence[str] | None, where: str) -> list[Item]:
    """The items with these ids, in the order of the ids; all where None.

    Raises:
        KitError: An id that no item has.
    """
    if ids is None:
        return list(items)
    known = {item.id: item for item in items}
    missing = [name for name in ids if name not in known]
    if missing:
        raise KitError(f"has no item {missing[0]!r}", where=where, expected=f"{len(ids)} items of the suite")
    return [known[name] for name in ids]


def digest_of(items: Sequence[Item]) -> str:
    """Names items and their order."""
    return items_digest([item.sha256 for item in items])


def _rows(path: Path) -> list[Row]:
    if path.suffix == ".parquet":
        import pyarrow.parquet as pq

        rows: list[Row] = pq.read_table(path).to_pylist()
        return rows
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".jsonl":
        return [json.loads(line) for line in text.split("\n") if line.strip()]
    found = json.loads(text)
    if not isinstance(found, list):
        raise ValueError("no list")
    return found


def load(data: Any, folder: Path | None, what: str) -> list[Item]:
    """The items a suite names, checked by their digest.

    Args:
        data: `harness.evaluation.suites.Data`.
        folder: Of benchmarks; not needed for items that are made here.
        what: Whose items, for errors.

    Raises:
        KitError: They are not there, or are not the suite's.
    """
    if data.source == "pocket":
        from harness.evaluation.pocket_items import make_items

        items = make_items(data.split, data.n_items, data.seed or 0)
        where = "pocket"
    else:
        place = folder_of(folder)
        where = str(place)
        items = select(read_items(data.source, data.split, place), data.ids, where)
    if data.items_sha256 is not None and digest_of(items) != data.items_sha256:
        raise KitError(
            f"holds other items of {what}: {len(items)} with digest {digest_of(items)[:12]}",
            where=where,
            expected=f"{data.n_items} with digest {data.items_sha256[:12]}, as in the suite",
            fix="get the data at the suite's revision, or lock a suite of your own: kit lock suites",
        )
    return items
