"""What a vector is made of, and how a family of them is written down."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from fractions import Fraction
from typing import Any

from tests.oracle.faults import FAULTS, PROTOCOL
from tests.oracle.reference import answer, plain

Json = dict[str, Any]
Answer = Json | Sequence[str] | None


class Family:
    """One file of vectors.

    Args:
        name: of the file, and the beginning of every id.
        doc: what the family is about.
        op: operation of its vectors, where they do not name another one.
        clause: clause of its vectors, the same.
    """

    def __init__(self, name: str, doc: str, op: str, clause: str) -> None:
        self.name, self.doc, self._op, self._clause = name, doc, op, clause
        self.vectors: list[Json] = []

    def add(
        self,
        name: str,
        text: str,
        given: Json,
        flags: str = "",
        answer: Answer = None,
        *,
        op: str = "",
        clause: str = "",
        tolerance: float | None = None,
        result: str = "valid",
    ) -> None:
        """Add an input.

        Args:
            name: id without the family's name.
            text: what the vector shows.
            given: its input.
            flags: faults that fail it, the one that explains it first.
            answer: figures by hand, with which the reference must agree, or the names of those that the
                reference works out; all of them by default.
            op: another operation than the family's.
            clause: another clause than the family's.
            tolerance: absolute, of every number of the answer.
            result: valid, acceptable, or invalid for what must be refused.
        """
        op, given = op or self._op, plain(given)
        names, notes = flags.split(), {"description": text}
        if names:
            notes = {"bug": FAULTS[names[0]][0], "description": text, "effect": FAULTS[names[0]][1]}
        vector: Json = {"id": f"{self.name}-{name}", "clause": clause or self._clause, "op": op}
        vector |= {"result": result, "flags": sorted(set(names)), "notes": notes, "input": given}
        found = reference(op, given)
        if result == "invalid":
            assert found is None, f"{vector['id']} is answered"
        else:
            assert found is not None, f"{vector['id']} is refused"
            if isinstance(answer, dict):
                vector["expected"] = plain(answer)
                assert _agree(vector["expected"], found, tolerance or 0), (vector["id"], found)
            else:
                vector["expected"] = {key: found[key] for key in answer or found}
        if tolerance is not None:
            vector["tolerance"] = {"abs": tolerance}
        self.vectors.append(vector)

    def refuse(self, name: str, text: str, given: Json, flags: str = "", *, clause: str = "") -> None:
        """Add an input that has to be refused."""
        self.add(name, text, given, flags, clause=clause, result="invalid")

    def text(self) -> str:
        """The file: a member a line, so that a change shows as the line that changed."""
        flags = sorted({flag for vector in self.vectors for flag in vector["flags"]})
        described = {flag: {"bug": FAULTS[flag][0], "effect": FAULTS[flag][1]} for flag in flags}
        lines = ["{", *_members({"protocol": PROTOCOL, "family": self.name, "doc": self.doc}, " ")]
        lines[-1] += ","
        lines += [' "flags": {', *_members(described, "  "), " },", ' "vectors": [']
        for vector in self.vectors:
            lines += ["  {", *_members(vector, "   "), "  },"]
        lines[-1] = "  }"
        return "\n".join([*lines, " ]", "}", ""])


def reference(op: str, given: Json) -> Json | None:
    """What the reference answers, or None where it refuses."""
    return answer(op, plain(given)).get("output")


def _agree(wanted: Any, found: Any, tolerance: float) -> bool:
    if isinstance(wanted, dict):
        return all(key in found and _agree(value, found[key], tolerance) for key, value in wanted.items())
    if isinstance(wanted, list):
        pairs = list(zip(wanted, found, strict=False))
        return len(wanted) == len(found) and all(_agree(one, other, tolerance) for one, other in pairs)
    if isinstance(wanted, float) and isinstance(found, float):
        return math.isclose(wanted, found, rel_tol=1e-12, abs_tol=tolerance)
    return bool(wanted == found)


def _members(value: Json, indent: str) -> list[str]:
    """Members of an object, a line each."""
    lines = [
        f"{indent}{json.dumps(key)}: {json.dumps(item, allow_nan=False)}," for key, item in value.items()
    ]
    return [*lines[:-1], *(line.removesuffix(",") for line in lines[-1:])]


def dec(text: str) -> Fraction:
    """A decimal figure, exactly."""
    return Fraction(text)


def maybe(text: str | None) -> Fraction | None:
    """A decimal figure, or None for an unknown one."""
    return None if text is None else Fraction(text)


def figures(texts: str, scale: int) -> list[int | None]:
    """Decimal figures, `-` for a failed read, in whole units of 1 / scale."""
    return [None if text == "-" else int(Fraction(text) * scale) for text in texts.split()]


def numbered(stages: Sequence[Json]) -> list[Json]:
    """Rows of `stages` with their numbers."""
    return [{"stage_uid": k, **stage} for k, stage in enumerate(stages)]
