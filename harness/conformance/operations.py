"""Every operation of the vectors by name, as this kit does it.

Each is an adapter: it lays a vector's input out as the meter, the accounting, the bundle, the report or the
protocol reader take it, calls the kit's own function and names the results. What several functions of the kit
give is put together here, in sums and ratios; how anything is integrated, unwrapped or counted is not.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from harness.conformance import documents, readings, results
from harness.errors import KitError

Operation = Callable[[Mapping[str, Any]], Mapping[str, Any]]

OPERATIONS: dict[str, Operation] = {
    "integrate_power": readings.integrate_power,
    "counter_energy": readings.counter_energy,
    "zone_energy": readings.zone_energy,
    "account": readings.account,
    "stage_interval": readings.stage_interval,
    "clock_steps": readings.clock_steps,
    "last_snapshot": readings.last_snapshot,
    "totals": results.totals,
    "joules_per_token": results.joules_per_token,
    "convert": results.convert_units,
    "amortize": results.amortize,
    "break_even": results.break_even,
    "shared_ratio": results.shared_ratio,
    "shared_break_even": results.shared_break_even,
    "serving_break_even": results.serving_break_even,
    "quality": results.quality,
    "check_score": results.check_score,
    "item_score": results.item_score,
    "paired_quality": results.paired_quality,
    "above_idle": results.above_idle,
    "facility": results.facility,
    "inherited_energy": results.inherited_energy,
    "pareto": results.pareto,
    "canonical_json": documents.canonical_json,
    "logical_digest": documents.logical_digest,
    "key_order": documents.key_order,
    "protocol_version": documents.protocol_version,
}


@dataclass(frozen=True)
class Answer:
    """What an implementation made of one input: exactly one of the four.

    Attributes:
        output: figures by name.
        refused: why the input was refused, in its words.
        unsupported: the operation is not offered.
        broken: it neither answered nor refused: what happened instead.
    """

    output: Mapping[str, Any] | None = None
    refused: str | None = None
    unsupported: bool = False
    broken: str | None = None


Implementation = Callable[[str, str, Mapping[str, Any]], Answer]
"""(vector id, operation, input) -> answer."""


def answer(identifier: str, op: str, given: Mapping[str, Any]) -> Answer:
    """This kit's own answer."""
    operation = OPERATIONS.get(op)
    if operation is None:
        return Answer(unsupported=True)
    try:
        return Answer(output=operation(given))
    except (KitError, ValueError) as error:
        return Answer(refused=" ".join(str(error).split()))
    except Exception as error:
        # Anything else is neither an answer nor a refusal, and a vector that expects a refusal must not pass.
        return Answer(broken=f"{type(error).__name__}: {error}")
