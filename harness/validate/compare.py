"""Stored derived columns against their recomputation: the comparison that validate and report share."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from harness.accounting import UNATTRIBUTED
from harness.spec import Protocol

Row = Mapping[str, Any]


class Difference(NamedTuple):
    """One derived value that is not what the raw rows give.

    Attributes:
        number: row in stages.
        row: the stored row.
        joules: by how much an energy is off; None for other columns.
    """

    number: int
    row: Row
    column: str
    stored: object
    expected: object
    joules: float | None


def stage_key(row: Row) -> tuple[object, ...]:
    """What a row is matched by: derived rows by where they lie, the others by their number."""
    if row["stage"] == UNATTRIBUTED:
        where = row["node_id"], row["session"], row["boundary_start"], row["boundary_end"]
        return UNATTRIBUTED, *where, tuple(row["device_ids"])
    return (row["stage_uid"],)


def differences(stored: Sequence[Row], fresh: Sequence[Row], protocol: Protocol) -> Iterator[Difference]:
    """Every derived value of `stored` that differs from `fresh` by more than rounding.

    Args:
        stored: rows of stages as they lie in the bundle.
        fresh: rows as recomputed; rows without a partner are left to the caller.
        protocol: names the derived columns and the tolerance.
    """
    table = protocol.tables["stages"]
    tolerance = protocol.tolerances.closure_rel
    by_key = {stage_key(row): row for row in fresh}
    for number, row in enumerate(stored):
        other = by_key.get(stage_key(row))
        if other is None:
            continue
        for name in table.derived:
            a, b = row[name], other[name]
            if name == "flags":
                a, b = sorted(a), sorted(b)
            if same(a, b, tolerance):
                continue
            joules = None
            if name.endswith("_energy_j") and isinstance(a, float) and isinstance(b, float):
                joules = abs(a - b)
            yield Difference(number, row, name, a, b, joules)


def same(a: object, b: object, tolerance: float) -> bool:
    """Equality with a relative tolerance for floats (absolute near zero), item by item in lists."""
    if isinstance(a, list) and isinstance(b, list):
        return len(a) == len(b) and all(same(x, y, tolerance) for x, y in zip(a, b, strict=True))
    if isinstance(a, float) and isinstance(b, float):
        return math.isclose(a, b, rel_tol=tolerance, abs_tol=tolerance)
    return a == b


def short(value: object) -> str:
    """A value in at most 80 characters."""
    text = f"{value:.6g}" if isinstance(value, float) else repr(value)
    return text if len(text) <= 80 else text[:77] + "..."
