#!/usr/bin/env python3
"""Compare two reproductions of the same settings: same losses, tokens, weights and answers.

    python scripts/check_repeat.py OUT_A OUT_B

Both are output folders of `kit reproduce`. Joules and seconds differ between any two runs: not compared.
Exit code 0: everything is the same; 1: something differs, and each difference is named; 2: usage.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from harness.bundle import Bundle
from harness.errors import KitError
from harness.files import file_digest

_TOKENS = ("tokens_trained", "tokens_processed", "tokens_positions", "tokens_generated")
_CLOCKED = {"tokens_per_s"}
"""What a line of metrics says about the clock."""


@dataclass
class Comparison:
    """What was found equal, counted, and what was not, in words."""

    equal: dict[str, int] = field(default_factory=dict)
    differences: list[str] = field(default_factory=list)

    def check(self, what: str, where: str, one: object, other: object) -> None:
        """Note whether two values are the same."""
        if one == other:
            self.equal[what] = self.equal.get(what, 0) + 1
        else:
            self.differences.append(f"{where}: {what} differ")


def compare(one: Path, other: Path) -> Comparison:
    """Compare two output folders.

    Raises:
        KitError: One of them holds no runs, or a log cannot be read.
    """
    found = Comparison()
    names = [sorted(path.name for path in (root / "runs").glob("*")) for root in (one, other)]
    if not names[0]:
        raise KitError("holds no runs", where=str(one), expected="an output folder of kit reproduce")
    found.check("sets of runs", "runs", *names)
    for name in sorted({*names[0]} & {*names[1]}):
        runs = [root / "runs" / name for root in (one, other)]
        counts = [_tokens(run) for run in runs]
        once = sorted(counts[0].keys() & counts[1].keys())
        found.check("token counts", name, *([(stage, side[stage]) for stage in once] for side in counts))
        works = [run / "work" for run in runs]
        for what, pattern, read in (
            ("losses", "**/metrics.jsonl", _metrics),
            ("weights", "**/checkpoint/*.safetensors", file_digest),
            ("shards of logits", "**/shard-*.safetensors", file_digest),
            ("data sets", "**/*.arrow", file_digest),
            ("answers", "**/answers.jsonl", file_digest),
            ("generated answers", "**/examples.jsonl", file_digest),
            ("scores", "**/results.json", _json),
        ):
            files = [{path.relative_to(work) for path in work.glob(pattern)} for work in works]
            if files[0] != files[1]:
                found.differences.append(f"{name}: other files of {what}")
            for file in sorted(files[0] & files[1]):
                found.check(what, f"{name}/{file}", *(read(work / file) for work in works))
    return found


def _tokens(run: Path) -> dict[str, list[int | None]]:
    """Token counts of the stages that took one attempt: what is done again after a kill counts again."""
    rows = Bundle.open(run).table("stages", ["name", "status", "attempt", *_TOKENS]).to_pylist()
    attempts = Counter(row["name"] for row in rows)
    return {
        row["name"]: [row[key] for key in _TOKENS]
        for row in rows
        if row["status"] == "completed" and attempts[row["name"]] == 1
    }


def _metrics(path: Path) -> list[dict[str, Any]]:
    lines = path.read_text(encoding="utf-8").splitlines()
    return [{k: v for k, v in json.loads(line).items() if k not in _CLOCKED} for line in lines]


def _json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def _lines(found: Comparison) -> Iterator[str]:
    for what, count in found.equal.items():
        yield f"same {what}: {count}"
    yield from found.differences


def main() -> int:
    """Entry point."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("one", type=Path)
    parser.add_argument("other", type=Path)
    given = parser.parse_args()
    try:
        found = compare(given.one, given.other)
    except KitError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    print("\n".join(_lines(found)))
    return 1 if found.differences else 0


if __name__ == "__main__":
    sys.exit(main())
