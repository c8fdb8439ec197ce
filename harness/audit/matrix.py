"""Sweeps: the combinations of a matrix, in the order of the file, and the stable name of each."""

from __future__ import annotations

import hashlib
import itertools
import math
import re
from dataclasses import dataclass, field

from harness.audit.problems import Problem, guess, show
from harness.audit.yaml_source import Node, number_or_text

MAX_COMBINATIONS = 1000
FIRST_AXES = ("method", "student", "size", "T", "temperature", "alpha")
LAST_AXES = ("seed",)
_AXIS = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,31}\Z")


@dataclass(frozen=True, slots=True)
class Combination:
    """One point of a sweep.

    Args:
        values: Value by axis, and what `include` adds.
        axes: The axes proper, which make up the name.
    """

    values: dict[str, Node] = field(default_factory=dict)
    axes: tuple[str, ...] = ()

    @property
    def label(self) -> str:
        """`size=1b-alpha=0.5`: the same for the same values, in whatever order the file lists them."""
        ordered = sorted(self.axes, key=_rank)
        return "-".join(f"{axis}={_file_safe(canonical(self.values[axis]))}" for axis in ordered)


def named(base: str, *labels: str) -> str:
    """A run's or a stage's name with the labels of its combinations, short enough for a file name."""
    name = "-".join([base, *(label for label in labels if label)])
    return name if len(name) <= 150 else f"{name[:141]}~{_digest(name, 8)}"


def canonical(node: Node) -> str:
    """A value's text for comparing and naming: 0.50 is 0.5, 2.0 is 2."""
    value = node.value
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        return repr(value).removesuffix(".0")
    return str(value)


def canonical_text(text: str) -> str:
    """As `canonical`, for a value written inside a reference."""
    value = number_or_text(text)
    return repr(value).removesuffix(".0") if isinstance(value, float) else str(value)


def combinations(matrix: Node | None, path: str) -> tuple[list[Combination], list[Problem]]:
    """All combinations of a matrix, the last axis varying fastest; a single empty one without a matrix.

    Args:
        matrix: The `matrix` mapping, already of the right shape.
        path: Its field path, for messages.
    """
    if matrix is None or matrix.value is None:
        return [Combination()], []
    problems = _odd_values(matrix, path)
    axes = {key: node.value for key, node in matrix.value.items() if key not in ("include", "exclude")}
    if problems or not axes:
        message = "a matrix needs at least one axis, such as 'size: [1b, 7b]'."
        return [], problems or [Problem(matrix.mark, path, message)]
    if math.prod(len(values) for values in axes.values()) > MAX_COMBINATIONS:
        message = f"the matrix has more than {MAX_COMBINATIONS} combinations. Split it over several files."
        return [], [Problem(matrix.mark, path, message)]
    points = [dict(zip(axes, values, strict=True)) for values in itertools.product(*axes.values())]
    points = _exclude(points, matrix, path, problems)
    _include(points, matrix, path, tuple(axes), problems)
    if not points and not problems:
        problems.append(Problem(matrix.mark, path, "'exclude' leaves no combination."))
    return [Combination(point, tuple(axes)) for point in points], problems


def _odd_values(matrix: Node, path: str) -> list[Problem]:
    problems = []
    for axis, values in matrix.value.items():
        where = f"{path}.{axis}"
        if axis in ("include", "exclude"):
            scalars = [node for entry in values.value or () for node in entry.value.values()]
        else:
            scalars = list(values.value)
            problems += _odd_axis(axis, values, path)
        for node in scalars:
            if isinstance(node.value, str) and "${" in node.value:
                message = f"{show(node.value)}: matrix values are literal; put the rest into the stage."
                problems.append(Problem(node.mark, where, message))
    return problems


def _odd_axis(axis: str, values: Node, path: str) -> list[Problem]:
    where = f"{path}.{axis}"
    problems = []
    if not _AXIS.match(axis):
        message = f"{show(axis)} cannot name an axis. Allowed: letters, digits and '_', first a letter."
        problems.append(Problem(values.key_mark or values.mark, path, message))
    if not values.value:
        problems.append(Problem(values.mark, where, "the list is empty, at least one value is expected."))
    seen: dict[str, Node] = {}
    for node in values.value:
        first = seen.setdefault(canonical(node), node)
        if first is not node:
            message = f"{show(node.value)} stands here a second time (first at {first.mark})."
            problems.append(Problem(node.mark, where, message))
    return problems


def _agrees(point: dict[str, Node], entry: dict[str, Node]) -> bool:
    return all(key in point and canonical(point[key]) == canonical(value) for key, value in entry.items())


def _exclude(
    points: list[dict[str, Node]], matrix: Node, path: str, problems: list[Problem]
) -> list[dict[str, Node]]:
    exclude = matrix.get("exclude")
    for entry in exclude.value if exclude else ():
        for key, value in entry.value.items():
            if points and key not in points[0]:
                listed = f"Axes: {', '.join(points[0])}.{guess(key, points[0])}"
                message = f"{show(key)} is no axis of this matrix. {listed}"
                problems.append(Problem(value.key_mark or value.mark, f"{path}.exclude", message))
        kept = [point for point in points if not _agrees(point, entry.value)]
        if len(kept) == len(points) and not problems:
            message = "this leaves out nothing: no combination agrees. Check the values, or remove the entry."
            problems.append(Problem(entry.mark, f"{path}.exclude", message))
        points = kept
    return points


def _include(
    points: list[dict[str, Node]], matrix: Node, path: str, axes: tuple[str, ...], problems: list[Problem]
) -> None:
    include = matrix.get("include")
    crossed = len(points)
    for entry in include.value if include else ():
        on_axes = {key: value for key, value in entry.value.items() if key in axes}
        bad = next((key for key in entry.value if not _AXIS.match(key)), None)
        # Only the crossed combinations are extended: entries must not depend on their order.
        matching = [point for point in points[:crossed] if _agrees(point, on_axes)]
        if bad is not None:
            message = f"{show(bad)} cannot be a name here. Allowed: letters, digits and '_'."
            problems.append(Problem(entry.mark, f"{path}.include", message))
        elif matching and len(on_axes) < len(entry.value):
            for point in matching:
                point.update(entry.value)
        elif matching or any(_agrees(point, on_axes) for point in points[crossed:]):
            message = "this adds nothing: the combination is there. Add a further value, or remove the entry."
            problems.append(Problem(entry.mark, f"{path}.include", message))
        elif len(on_axes) < len(axes):
            missing = ", ".join(axis for axis in axes if axis not in on_axes)
            message = f"no combination agrees with this, and a new one needs every axis. Missing: {missing}."
            problems.append(Problem(entry.mark, f"{path}.include", message))
        else:
            points.append(dict(entry.value))


def _rank(axis: str) -> tuple[int, int, str]:
    if axis in FIRST_AXES:
        return 0, FIRST_AXES.index(axis), axis
    return (2, LAST_AXES.index(axis), axis) if axis in LAST_AXES else (1, 0, axis)


def _file_safe(text: str) -> str:
    safe = re.sub(r"[^A-Za-z0-9._+-]", "_", text)[:40]
    # Two values that look alike once made safe must still give two names.
    return safe if safe == text and safe.strip(".") else f"{safe}~{_digest(text, 6)}"


def _digest(text: str, length: int) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:length]
