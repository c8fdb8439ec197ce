"""Runs vectors through an implementation and compares what comes back."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from harness.conformance.operations import Answer, Implementation, answer
from harness.conformance.vectors import Vector, check_vector

Verdict = Literal["pass", "fail", "unsupported"]

DEFAULT_REL = 1e-9
DEFAULT_ABS = 1e-12


@dataclass(frozen=True)
class Outcome:
    """How one vector went.

    Attributes:
        vector: as read.
        verdict: unsupported is no pass: the implementation does not offer the operation.
        problems: what is wrong, one line each; empty unless it failed.
        got: output of the implementation; None where it gave none.
    """

    vector: Vector
    verdict: Verdict
    problems: tuple[str, ...] = ()
    got: Mapping[str, Any] | None = None

    @property
    def id(self) -> str:
        """Of the vector."""
        return str(self.vector["id"])

    @property
    def family(self) -> str:
        """Of the vector; `document` for one that lies in no file."""
        return str(self.vector.get("family", "document"))

    @property
    def passed(self) -> bool:
        """Whether the implementation did what the vector wants."""
        return self.verdict == "pass"


def run_vector(vector: Vector, implementation: Implementation = answer) -> Outcome:
    """Run one vector.

    Raises:
        KitError: it is no vector.
    """
    check_vector(vector, "vector")
    return judge(vector, implementation(vector["id"], vector["op"], vector["input"]))


def run_vectors(vectors: Iterable[Vector], implementation: Implementation = answer) -> list[Outcome]:
    """Run vectors one after another."""
    return [run_vector(vector, implementation) for vector in vectors]


def judge(vector: Vector, given: Answer) -> Outcome:
    """Compare an answer with what the vector wants."""
    if given.unsupported:
        return Outcome(vector, "unsupported")
    if given.broken is not None:
        return Outcome(vector, "fail", (given.broken,))
    result = vector["result"]
    if given.refused is not None:
        if result == "valid":
            return Outcome(vector, "fail", (f"refused: {given.refused}",))
        return Outcome(vector, "pass")
    output = given.output if given.output is not None else {}
    if result == "invalid":
        return Outcome(vector, "fail", ("answered what must be refused",), output)
    rel, absolute = DEFAULT_REL, DEFAULT_ABS
    if "tolerance" in vector:
        rel, absolute = vector["tolerance"].get("rel", 0.0), vector["tolerance"].get("abs", 0.0)
    problems = tuple(_Comparison(rel, absolute).members(vector["expected"], output, "", exact=False))
    return Outcome(vector, "fail" if problems else "pass", problems, output)


class _Comparison:
    """Differences between expected and given values, in words, each with its path."""

    def __init__(self, rel: float, absolute: float) -> None:
        self._rel = rel
        self._abs = absolute

    def members(self, wanted: Mapping[str, Any], given: object, path: str, *, exact: bool) -> Iterable[str]:
        """Compare objects; `exact`: the given one may have no further members."""
        if not isinstance(given, Mapping):
            yield f"{path or 'output'}: expected an object, got {show(given)}"
            return
        for name, value in wanted.items():
            inner = f"{path}.{name}" if path else name
            if name not in given:
                yield f"{inner}: missing, expected {show(value)}"
            else:
                yield from self._value(value, given[name], inner, rows=not exact and not path)
        if exact:
            for name in sorted(set(given) - set(wanted)):
                yield f"{path}.{name}: not expected, got {show(given[name])}"

    def _value(self, wanted: object, given: object, path: str, *, rows: bool) -> Iterable[str]:
        if isinstance(wanted, Mapping):
            yield from self.members(wanted, given, path, exact=True)
        elif isinstance(wanted, list):
            if not isinstance(given, list | tuple) or len(given) != len(wanted):
                size = f"{len(given)} items" if isinstance(given, list | tuple) else show(given)
                yield f"{path}: expected {len(wanted)} items, got {size}"
                return
            for place, (one, other) in enumerate(zip(wanted, given, strict=True)):
                inner = f"{path}[{place}]"
                if rows and isinstance(one, Mapping):
                    yield from self.members(one, other, inner, exact=False)
                else:
                    yield from self._value(one, other, inner, rows=False)
        elif not self._same(wanted, given):
            yield f"{path}: expected {show(wanted)}, got {show(given)}{self._apart(wanted, given)}"

    def _same(self, wanted: object, given: object) -> bool:
        if _is_number(wanted) and _is_number(given):
            if isinstance(wanted, int):
                return bool(wanted == given)
            return math.isclose(wanted, given, rel_tol=self._rel, abs_tol=self._abs)  # type: ignore[arg-type]
        return type(wanted) is type(given) and wanted == given

    @staticmethod
    def _apart(wanted: object, given: object) -> str:
        if _is_number(wanted) and _is_number(given) and wanted:
            return f" ({(given / wanted - 1):+.3g} relative)"  # type: ignore[operator]
        return ""


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def show(value: object, most: int = 100) -> str:
    """A value as JSON in a line of at most `most` characters."""
    import json

    try:
        text = json.dumps(value, ensure_ascii=False)
    except (TypeError, ValueError):
        text = repr(value)
    return text if len(text) <= most else text[: most - 3] + "..."
