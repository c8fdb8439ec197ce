"""Sweeps: the combinations of a stage's matrix, in the order of the file, and the stable name of each."""

from __future__ import annotations

import hashlib
import itertools
import math
import re
from collections.abc import Mapping

from harness.audit.problems import PipelineProblem, show
from harness.audit.yaml_source import Node, number_or_text

MAX_COMBINATIONS = 1000
_FIRST_AXES = ("method", "student", "size", "T", "temperature", "alpha")

Combination = dict[str, Node]
"""Value by axis; empty for a stage without a matrix."""


def named(base: str, combination: Combination) -> str:
    """`train-size=1b-alpha=0.5`: the same for the same values, in whatever order the file lists the axes.

    Short enough for a file name.
    """
    ordered = sorted(combination, key=_rank)
    name = "-".join([base, *(f"{axis}={_file_safe(canonical(combination[axis]))}" for axis in ordered)])
    return name if len(name) <= 150 else f"{name[:141]}~{_digest(name, 8)}"


def canonical(node: Node) -> str:
    """A value's text for comparing and naming: 0.50 is 0.5, 2.0 is 2."""
    if isinstance(node.value, bool):
        return "true" if node.value else "false"
    return _number_text(node.value)


def canonical_text(text: str) -> str:
    """As `canonical`, for a value written inside a reference."""
    return _number_text(number_or_text(text))


def combinations(matrix: Node | None, path: str) -> tuple[list[Combination], list[PipelineProblem]]:
    """All combinations of a matrix, the last axis varying fastest; a single empty one without a matrix."""
    if matrix is None or matrix.value is None:
        return [{}], []
    axes: Mapping[str, Node] = matrix.value
    problems = [problem for axis, values in axes.items() for problem in _odd_values(values, f"{path}.{axis}")]
    if math.prod(len(values.value) for values in axes.values()) > MAX_COMBINATIONS:
        message = f"the matrix has more than {MAX_COMBINATIONS} combinations. Split it over several files."
        problems.append(PipelineProblem(matrix.mark, path, message))
    if problems:
        return [], problems
    points = itertools.product(*(values.value for values in axes.values()))
    return [dict(zip(axes, point, strict=True)) for point in points], []


def _odd_values(values: Node, where: str) -> list[PipelineProblem]:
    problems = []
    seen: dict[str, Node] = {}
    for node in values.value:
        first = seen.setdefault(canonical(node), node)
        if isinstance(node.value, str) and "${" in node.value:
            message = f"{show(node.value)}: matrix values are literal; put the rest into the stage."
        elif first is not node:
            message = f"{show(node.value)} stands here a second time (first at {first.mark})."
        else:
            continue
        problems.append(PipelineProblem(node.mark, where, message))
    return problems


def _number_text(value: object) -> str:
    return repr(value).removesuffix(".0") if isinstance(value, float) else str(value)


def _rank(axis: str) -> tuple[int, int, str]:
    if axis in _FIRST_AXES:
        return 0, _FIRST_AXES.index(axis), axis
    return (2 if axis == "seed" else 1), 0, axis


def _file_safe(text: str) -> str:
    safe = re.sub(r"[^A-Za-z0-9._+-]", "_", text)[:40]
    # Two values that look alike once made safe must still give two names.
    return safe if safe == text and safe.strip(".") else f"{safe}~{_digest(text, 6)}"


def _digest(text: str, length: int) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:length]
