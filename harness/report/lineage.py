"""What a run cost by what it was for: its own stages by kind, and what others paid for artifacts it uses."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from harness.accounting import Interval
from harness.accounting.shared_scales import Energy, added, at
from harness.accounting.stage_scales import Sharing, from_records, ranges, row_parts, stated
from harness.accounting.totals import roots
from harness.bundle.reader import event_detail

Row = Mapping[str, Any]


class Paid(NamedTuple):
    """Energy that another run paid for one stage of its own.

    Attributes:
        artifacts: digests of what that stage made and this run consumes.
        kind: of that stage; None where the log does not say.
        stated: what it cost there, the range of an estimate included; a sensor's gain stands beside it (4.4).
        energy: the same by its scales.
    """

    artifacts: frozenset[str]
    kind: str | None
    stated: Interval
    energy: Energy


class Costs(NamedTuple):
    """Energies of a run with the scales that they share.

    Attributes:
        own: kind of stage -> energy of this run, `unattributed` included.
        paid: what others paid.
        consumed: digests of all artifacts that the run consumes.
        gpu: GPU energy from the first boundary to the last. Its interval is the narrower one: the doubt of a
            boundary between two stages is in both of them and cancels in their sum.
    """

    own: Mapping[str, Energy]
    paid: Sequence[Paid]
    consumed: frozenset[str]
    gpu: Interval | None = None

    def of(self, kinds: Collection[str]) -> Energy | None:
        """Energy of some kinds of this run's own stages; None without any."""
        found = [energy for kind, energy in self.own.items() if kind in kinds]
        return added(found) if found else None

    @property
    def whole(self) -> Energy:
        """Everything, what others paid included."""
        own = _end_to_end(added(self.own.values()), self.gpu)
        return added([own, *(paid.energy for paid in self.paid)])

    def teachers(self, kinds: Collection[str], direct: Costs | None = None) -> list[Paid]:
        """What others paid for a teacher's output.

        Where a log does not say which kind of stage made an artifact, one that direct training consumes too
        is no teacher's output.

        Args:
            kinds: kinds of stages whose energy is the teacher's.
            direct: costs of direct training, where it is known.
        """
        common = direct.consumed if direct is not None else frozenset()
        return [
            paid
            for paid in self.paid
            if (paid.kind in kinds if paid.kind is not None else not paid.artifacts & common)
        ]

    def teacher(self, kinds: Collection[str], direct: Costs | None = None) -> Energy | None:
        """T: energy of the teacher's output alone, wherever it was made; None without any."""
        own = self.of(kinds)
        found = [paid.energy for paid in self.teachers(kinds, direct)] + ([] if own is None else [own])
        return added(found) if found else None


def _end_to_end(own: Energy, gpu: Interval | None) -> Energy:
    """Energy of all stages with the interval of the GPUs from end to end; all devices shrink alike."""
    of_gpu = {key: joules for key, joules in own.items() if key and key[0].startswith("gain ")}
    if gpu is None or not of_gpu:
        return own
    loose = at(of_gpu, {})
    below, above = loose.best - loose.low, loose.high - loose.best
    down = min(1.0, (gpu.best - gpu.low) / below) if below > 0 else 1.0
    up = min(1.0, (gpu.high - gpu.best) / above) if above > 0 else 1.0
    tight = {
        key: Interval(j.best, j.best - down * (j.best - j.low), j.best + up * (j.high - j.best))
        for key, j in of_gpu.items()
    }
    return {**own, **tight}


def costs(
    rows: Iterable[Row],
    artifacts: Iterable[Row],
    events: Iterable[Row],
    shared: Sharing,
    gpu: Interval | None = None,
) -> Costs:
    """Costs of a run from its tables.

    Args:
        rows: of `stages`, recomputed.
        artifacts: rows of `artifacts`; what another run paid without saying how much is left out.
        events: rows of `events`.
        shared: scales of the bundle.
        gpu: GPU energy of these rows together.
    """
    own: dict[str, list[Energy]] = {}
    for row in roots(rows):
        energy = row_parts(row, shared)
        if energy is not None:
            own.setdefault(str(row["stage"]), []).append(energy)
    told = {}
    for event in events:
        if event["kind"] == "x-artifact_origin":
            detail = event_detail(event)
            told[str(detail.get("artifact_id"))] = detail
    consumed = [row for row in artifacts if row["role"] == "consumed"]
    # Two outputs of one stage carry its energy both: one run, the very same joules (`inherited_energy`).
    stages: dict[tuple[str, float], set[str]] = {}
    for row in consumed:
        if row.get("origin_energy_j") is not None:
            run = str(row.get("origin_run_id") or row["artifact_id"])
            stages.setdefault((run, float(row["origin_energy_j"])), set()).add(str(row["artifact_id"]))
    paid = []
    for (run, joules), ids in stages.items():
        details = [told[name] for name in sorted(ids) if name in told]
        kinds = {detail.get("origin_stage") for detail in details} - {None}
        parts = next((e for d in details if (e := from_records(d.get("origin_parts")))), None)
        energy = parts or {(f"paid {run}",): Interval.exact(joules)}
        alone = stated(energy, ranges([energy], shared.bars))
        paid.append(Paid(frozenset(ids), kinds.pop() if len(kinds) == 1 else None, alone, energy))
    return Costs(
        {kind: added(energies) for kind, energies in own.items()},
        paid,
        frozenset(str(row["artifact_id"]) for row in consumed),
        gpu,
    )


def gpu_costs(
    rows: Iterable[Row],
    artifacts: Iterable[Row],
    events: Iterable[Row],
    shared: Sharing,
    gpu: Interval | None = None,
) -> Costs | None:
    """The same of the GPUs alone; None where none was metered.

    Of what another run paid the GPU's part is known where the log names the scales of every part: those of a
    GPU are a device's gain. Where it does not, there is no such figure.
    """
    blank = {f"{part}_energy_j": None for part in ("cpu", "dram")}
    found = costs([{**row, **blank} for row in rows], artifacts, events, shared, gpu)
    if not found.own:
        return None
    paid = []
    for item in found.paid:
        words = {key: {name.split()[0] for name in key} for key in item.energy}
        if any(not (names == {"gain"} or names & {"estimate", "program"}) for names in words.values()):
            return None
        part = {key: joules for key, joules in item.energy.items() if words[key] == {"gain"}}
        if part:
            paid.append(Paid(item.artifacts, item.kind, at(part, {}), part))
    return Costs(found.own, paid, found.consumed, gpu)
