"""Writes protocol/1.0/vectors/*.json and the flags of their README, or checks that they are what it writes.

    python scripts/make_vectors.py            write
    python scripts/make_vectors.py --check    compare; exit code 1 and a diff when a file has drifted

Imports nothing of the kit: expected values come from exact fractions and closed forms.
"""

from __future__ import annotations

import argparse
import difflib
import sys
from collections import Counter
from itertools import chain
from pathlib import Path

from vector_oracle import (
    canonical,
    counters,
    decisions,
    digests,
    energies,
    gaps,
    methods,
    power,
    published,
    quality,
    rapl,
    reader,
    runs,
    scores,
    versions,
    waveforms,
)
from vector_oracle.build import FLAGS, PROTOCOL, Family

FOLDER = Path(__file__).resolve().parents[1] / "protocol" / PROTOCOL / "vectors"
README = "README.md"
FIRST = "<!-- flags: written by scripts/make_vectors.py -->"
LAST = "<!-- end of flags -->"


def families() -> list[Family]:
    """Every family, in the order of the protocol."""
    measured = (power, gaps, waveforms, counters, rapl, runs, methods)
    reported = (energies, reader, decisions, quality, scores, published)
    written = (canonical, digests, versions)
    return list(chain.from_iterable(room.families() for room in (*measured, *reported, *written)))


def with_flags(readme: str, made: list[Family]) -> str:
    """The README with its table of flags: what each stands for and how many vectors catch it."""
    found = Counter(flag for family in made for vector in family.vectors for flag in vector["flags"])
    rows = [f"| `{flag}` | {found[flag]} | {FLAGS[flag][0]} | {FLAGS[flag][1]} |" for flag in sorted(found)]
    head, _, rest = readme.partition(FIRST)
    _, _, tail = rest.partition(LAST)
    if not tail:
        raise SystemExit(f"{README} has lost its marks {FIRST!r} and {LAST!r}")
    table = ["| flag | vectors | the mistake | its effect |", "|---|---|---|---|", *rows]
    return "\n".join([head + FIRST, *table, LAST]) + tail


def main(argv: list[str] | None = None) -> int:
    """Write or check.

    Args:
        argv: arguments; those of the process by default.

    Returns:
        0, or 1 where --check found a difference.
    """
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--check", action="store_true", help="compare and write nothing")
    parser.add_argument("--folder", type=Path, default=FOLDER, help="where the files are")
    options = parser.parse_args(argv)
    made = families()
    fresh = {f"{family.name}.json": family.text() for family in made}
    found = {path.name for path in options.folder.glob("*.json") if not path.match("*.schema.json")}
    stale = found - set(fresh)
    fresh[README] = with_flags((FOLDER / README).read_text(encoding="utf-8"), made)
    if not options.check:
        options.folder.mkdir(parents=True, exist_ok=True)
        for name, text in fresh.items():
            (options.folder / name).write_text(text, encoding="utf-8")
        for name in stale:
            (options.folder / name).unlink()
        count = sum(len(family.vectors) for family in made)
        print(f"{count} vectors in {len(made)} families, {options.folder}")
        return 0
    drift = [f"{name}: no family of this name" for name in sorted(stale)]
    for name, text in fresh.items():
        path = options.folder / name
        stored = path.read_text(encoding="utf-8") if path.exists() else ""
        drift += difflib.unified_diff(
            stored.splitlines(), text.splitlines(), f"stored/{name}", f"made/{name}", lineterm="", n=0
        )
    for line in drift[:60]:
        print(line[:200])
    if drift:
        print("run: python scripts/make_vectors.py")
    return int(bool(drift))


if __name__ == "__main__":
    sys.exit(main())
