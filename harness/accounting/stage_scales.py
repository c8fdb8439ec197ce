"""Which scales a stage's energy is a multiple of, by its row: a device's gain, a machine's estimate.

A scale's name begins with the word that its range goes by: `gain DEVICE`, `estimate PART MACHINE`,
`program KIND MACHINE`, `paid RUN`. Devices and machines are named by the bundle (`scale_id`), else by the
run, which nothing outside it shares.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from harness.accounting.boundaries import Row
from harness.accounting.interval import Interval, total
from harness.accounting.shared_scales import Energy, Key, Scales, added
from harness.accounting.totals import part_interval


class Bars(NamedTuple):
    """The protocol's numbers (4.4).

    Attributes:
        sensor_rel: gain of a device, relative.
        estimate: least and largest multiple of an estimate.
        program_rel: watts per CPU second of a kind of stage, relative to the machine's.
        estimate_stage_rel: of one stage, relative to its kind's.
    """

    sensor_rel: float
    estimate: tuple[float, float]
    program_rel: float
    estimate_stage_rel: float


class Sharing(NamedTuple):
    """What the stages of one bundle share.

    Attributes:
        devices: device_id -> its name.
        machine: name of the machine; nodes of one run are told apart by theirs.
        estimated: methods of CPU and DRAM energy that are estimates.
        bars: ranges of the scales.
    """

    devices: Mapping[int, str]
    machine: str
    estimated: Collection[str]
    bars: Bars


def row_parts(row: Row, sharing: Sharing) -> Energy | None:
    """Energy of one row by its scales, as far as known; None if nothing is.

    An estimate's own low and high are left aside: they hold the whole range of its scale.

    Args:
        row: of `stages`, with derived columns.
        sharing: of its bundle.
    """
    parts: list[tuple[Key, Interval]] = []
    if row.get("gpu_energy_j") is not None:
        whole = part_interval(row, "gpu")
        each = row.get("device_energy_j") or []
        if whole.best > 0 and len(each) == len(row["device_ids"]) > 0:
            for device, joules in zip(row["device_ids"], each, strict=True):
                name = sharing.devices.get(int(device), f"{sharing.machine}/{device}")
                parts.append(((f"gain {name}",), whole.scale(joules / whole.best)))
        else:
            parts.append(((f"gain {sharing.machine}",), whole))
    for part in ("cpu", "dram"):
        if row.get(f"{part}_energy_j") is None:
            continue
        if row.get(f"{part}_energy_method") not in sharing.estimated:
            parts.append(((), part_interval(row, part)))
            continue
        machine = f"{sharing.machine}/{row.get('node_id', 0)}"
        best, rel = float(row[f"{part}_energy_j"]), sharing.bars.estimate_stage_rel
        key: Key = (f"estimate {part} {machine}",)
        if part == "cpu":
            key += (f"program {row['stage']} {machine}",)
        parts.append((key, Interval(best, best * (1 - rel), best * (1 + rel))))
    return added({key: interval} for key, interval in parts) if parts else None


def rows_parts(rows: Iterable[Row], sharing: Sharing) -> Energy | None:
    """Energy of rows together; None if nothing is known of any."""
    known = [energy for row in rows if (energy := row_parts(row, sharing)) is not None]
    return added(known) if known else None


def ranges(energies: Iterable[Energy], bars: Bars) -> Scales:
    """Least and largest value of every scale that energies name."""
    by_word = {
        "gain": (1 - bars.sensor_rel, 1 + bars.sensor_rel),
        "estimate": bars.estimate,
        "program": (1 - bars.program_rel, 1 + bars.program_rel),
    }
    names = {name for energy in energies for key in energy for name in key}
    # Of what another run paid a log may say no more than the joules: they may be an estimate.
    return {name: by_word.get(name.split()[0], by_word["estimate"]) for name in sorted(names)}


def stated(energy: Energy, scales: Scales) -> Interval:
    """The energy as a report states it, which is what the rows' own low and high add up to (4.4).

    An estimate has the range of its scale. A device's gain stands beside, and so does what kinds of stages
    differ by on one machine.
    """
    found = []
    for key, joules in energy.items():
        ends = [scales[name] for name in key if name.split()[0] not in ("gain", "program")]
        low, high = (math.prod(end[side] for end in ends) * joules.best for side in (0, 1))
        found.append(Interval(joules.best, low, high) if ends else joules)
    return total(found)


def as_records(energy: Energy) -> list[dict[str, Any]]:
    """An energy for a log."""
    return [
        {"scales": list(key), "best": joules.best, "low": joules.low, "high": joules.high}
        for key, joules in energy.items()
    ]


def from_records(records: object) -> Energy | None:
    """An energy from a log; None where it is none."""
    if not isinstance(records, Sequence) or isinstance(records, str):
        return None
    try:
        return added(
            {
                tuple(str(name) for name in record["scales"]): Interval(
                    *(float(record[end]) for end in ("best", "low", "high"))
                )
            }
            for record in records
        )
    except (KeyError, TypeError, ValueError):
        return None
