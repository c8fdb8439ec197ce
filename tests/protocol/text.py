"""PROTOCOL.md taken apart: clauses, numbers, examples."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
TEXT = (ROOT / "PROTOCOL.md").read_text(encoding="utf-8")

_HEADING = re.compile(r"^##+ (\d+(?:\.\d+)?) (.+)$", re.MULTILINE)
_NUMBER = re.compile(r"\*\*(\d[\d.e-]*)(?:\s+(s|ms|%|W))?\*\*\s+\(`(\w+)`\)")
_VECTOR = re.compile(r"^```vector\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def headings() -> dict[str, str]:
    """Number of a clause -> its title."""
    found = _HEADING.findall(TEXT)
    assert len({number for number, _ in found}) == len(found), "a clause stands twice"
    return dict(found)


def numbers() -> list[tuple[str, float]]:
    """(field of protocol.yaml, the number that the text gives, in the field's unit)."""
    scale = {"": 1.0, "s": 1e6, "ms": 1e3, "%": 1e-2, "W": 1.0}
    return [(name, float(value) * scale[unit]) for value, unit, name in _NUMBER.findall(TEXT)]


def vectors() -> list[dict[str, Any]]:
    """The examples, in the form of the conformance suite, with the clause each stands under as `under`."""
    found = []
    for match in _VECTOR.finditer(TEXT):
        above = _HEADING.findall(TEXT[: match.start()])
        found.append({**json.loads(match[1]), "under": above[-1][0]})
    return found
