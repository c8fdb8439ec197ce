"""Mistakes that the reference makes on request, by the names of the vectors' flags."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

PROTOCOL = "1.0"
FOLDER = Path(__file__).resolve().parents[2] / "protocol" / PROTOCOL / "vectors"
README = FOLDER / "README.md"
FIRST = "<!-- flags: one row for each fault; python -m tests.oracle.make counts the vectors -->"
LAST = "<!-- end of flags -->"


class Refused(Exception):
    """The input is not allowed."""


def need(condition: object, message: str) -> None:
    """Refuse an input that does not meet a condition.

    Raises:
        Refused: It does not.
    """
    if not condition:
        raise Refused(message)


def table() -> dict[str, tuple[str, str]]:
    """Fault -> (the mistake, its effect on a figure), from the table in the README of the vectors."""
    _, _, rest = README.read_text(encoding="utf-8").partition(FIRST)
    rows, _, tail = rest.partition(LAST)
    if not tail:
        raise SystemExit(f"{README.name} has lost its marks {FIRST!r} and {LAST!r}")
    found = re.findall(r"^\| `(\w+)` \| \d+ \| (.*?) \| (.*?) \|$", rows, re.MULTILINE)
    return {name: (mistake, effect) for name, mistake, effect in found}


FAULTS = table()

_made: frozenset[str] = frozenset()


def wrong(fault: str) -> bool:
    """Whether this mistake is to be made."""
    return fault in _made


@contextmanager
def making(faults: Iterable[str]) -> Iterator[None]:
    """Make these mistakes inside the block.

    Raises:
        SystemExit: One of them has no row in the table.
    """
    global _made
    before, _made = _made, frozenset(faults)
    if unknown := _made - set(FAULTS):
        raise SystemExit(f"no such fault: {', '.join(sorted(unknown))}")
    try:
        yield
    finally:
        _made = before
