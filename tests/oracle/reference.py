"""Every operation of the vectors, and how it is asked."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from fractions import Fraction
from typing import Any

from tests.oracle.counters import counter_energy, zone_energy
from tests.oracle.documents import canonical_json, key_order, logical_digest, protocol_version
from tests.oracle.energies import above_idle, convert, facility, inherited_energy, joules_per_token, totals
from tests.oracle.faults import Refused, making
from tests.oracle.intervals import stage_interval
from tests.oracle.power import Json, clock_steps, integrate_power
from tests.oracle.runs import account, last_snapshot
from tests.oracle.scales import shared_break_even, shared_ratio
from tests.oracle.worth import (
    amortize,
    break_even,
    check_score,
    item_score,
    paired_quality,
    pareto,
    quality,
    serving_break_even,
)

DOCUMENTS: dict[str, Callable[[Json], Json]] = {
    f.__name__: f for f in (canonical_json, key_order, logical_digest, protocol_version)
}
"""Take their input as it is written: -0.0 is not 0 there."""

OPERATIONS = DOCUMENTS | {
    function.__name__: function
    for function in (
        *(integrate_power, counter_energy, zone_energy, account, clock_steps, last_snapshot),
        *(totals, joules_per_token, above_idle, convert, facility, inherited_energy),
        *(amortize, break_even, serving_break_even, quality, check_score, item_score),
        *(paired_quality, pareto),
        *(shared_ratio, shared_break_even, stage_interval),
    )
}


def exact(value: Any) -> Any:
    """Binary numbers as the decimal figures that they were written as."""
    if isinstance(value, float):
        return Fraction(repr(value))
    if isinstance(value, dict):
        return {key: exact(item) for key, item in value.items()}
    return [exact(item) for item in value] if isinstance(value, list | tuple) else value


def plain(value: Any) -> Any:
    """Fractions as the nearest binary numbers, everything else as it is."""
    if isinstance(value, Fraction):
        return float(value)
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    return [plain(item) for item in value] if isinstance(value, list | tuple) else value


def answer(op: str, given: Json, faults: Iterable[str] = ()) -> Json:
    """The answer to one question of `kit conformance --cmd`, without its id.

    Args:
        op: name of the operation.
        given: its input, as JSON has it.
        faults: mistakes to make.

    Returns:
        One member: output, error, or unsupported.
    """
    if op not in OPERATIONS:
        return {"unsupported": True}
    with making(faults):
        try:
            return {"output": plain(OPERATIONS[op](given if op in DOCUMENTS else exact(given)))}
        except Refused as refused:
            return {"error": str(refused)}
