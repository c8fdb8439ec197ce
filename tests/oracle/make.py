"""Writes protocol/1.0/vectors/*.json and the counts in their README, or checks that they are what it writes.

python -m tests.oracle.make            write
python -m tests.oracle.make --check    compare; exit code 1 and a diff when a file has drifted
"""

from __future__ import annotations

import argparse
import difflib
import sys
from collections import Counter
from pathlib import Path

from tests.oracle.cases import families
from tests.oracle.family import Family
from tests.oracle.faults import FAULTS, FIRST, FOLDER, LAST, README


def with_counts(made: list[Family]) -> str:
    """The README, how many vectors catch each fault counted."""
    found = Counter(flag for family in made for vector in family.vectors for flag in vector["flags"])
    head, _, rest = README.read_text(encoding="utf-8").partition(FIRST)
    rows = [f"| `{name}` | {found[name]} | {' | '.join(FAULTS[name])} |" for name in sorted(FAULTS)]
    table = ["| flag | vectors | the mistake | its effect |", "|---|---|---|---|", *rows]
    return "\n".join([head + FIRST, *table, LAST]) + rest.partition(LAST)[2]


def main(argv: list[str] | None = None) -> int:
    """Write or check.

    Args:
        argv: arguments; those of the process by default.

    Returns:
        0, or 1 where --check found a difference.
    """
    parser = argparse.ArgumentParser(
        prog="python -m tests.oracle.make",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--check", action="store_true", help="compare and write nothing")
    parser.add_argument("--folder", type=Path, default=FOLDER, help="where the files are")
    options = parser.parse_args(argv)
    made = families()
    texts = {f"{family.name}.json": family.text() for family in made}
    found = {path.name for path in options.folder.glob("*.json") if not path.match("*.schema.json")}
    stale = found - set(texts)
    texts[README.name] = with_counts(made)
    if not options.check:
        options.folder.mkdir(parents=True, exist_ok=True)
        for name, text in texts.items():
            (options.folder / name).write_text(text, encoding="utf-8")
        for name in stale:
            (options.folder / name).unlink()
        print(
            f"{sum(len(family.vectors) for family in made)} vectors in {len(made)} families, {options.folder}"
        )
        return 0
    drift = [f"{name}: no family of this name" for name in sorted(stale)]
    for name, text in texts.items():
        path = options.folder / name
        stored = path.read_text(encoding="utf-8") if path.exists() else ""
        drift += difflib.unified_diff(
            stored.splitlines(), text.splitlines(), f"stored/{name}", f"made/{name}", lineterm="", n=0
        )
    for line in drift[:60]:
        print(line[:200])
    if drift:
        print("run: python -m tests.oracle.make")
    return int(bool(drift))


if __name__ == "__main__":
    sys.exit(main())
