"""Known work as the stages of one metered run, and what the bundle then says of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.accounting import UNATTRIBUTED
from harness.gpucheck.check import Bench, Table, percent, shown

Piece = tuple[str, str, float, dict[str, float]]
"""A stage: its name, the load's kind, nominal seconds, the load's shape."""

_KEPT = (
    *("name", "mono_start_us", "mono_end_us", "samples", "missed_samples"),
    *("device_ids", "device_energy_j", "flags", "gpu_energy_j", "gpu_energy_j_low", "gpu_energy_j_high"),
    *("gpu_energy_counter_j", "gpu_energy_integral_j", "gpu_energy_method", "gpu_energy_boundary_j"),
    "gpu_counter_vs_integral",
)
_HEADER = ("stage", "billed s", "J", "mean W", "+- J", "integral J", "counter / integral - 1")


@dataclass(frozen=True)
class MeteredRun:
    """A sealed run.

    Attributes:
        stages: Rows of the stages table, `unattributed` ones left out.
        gaps: The `unattributed` rows.
        counters: NVML rows of the counters table.
        sampler: The manifest's figures of the only session.
    """

    stages: list[dict[str, Any]]
    gaps: list[dict[str, Any]]
    counters: list[dict[str, Any]]
    sampler: dict[str, Any]

    @classmethod
    def read(cls, folder: Path) -> MeteredRun:
        """Read the bundle of a run."""
        from harness.bundle import Bundle

        bundle = Bundle.open(folder)
        rows = bundle.table("stages").to_pylist()
        counters = [row for row in bundle.table("counters").to_pylist() if row["device_id"] is not None]
        return cls(
            stages=[row for row in rows if row["stage"] != UNATTRIBUTED],
            gaps=[row for row in rows if row["stage"] == UNATTRIBUTED],
            counters=sorted(counters, key=lambda row: row["mono_us"]),
            sampler=bundle.manifest["sampling"]["sessions"][0],
        )

    def counter_span_mj(self) -> tuple[int, int] | None:
        """What the counters themselves say of the time between the first and the last boundary, mJ.

        A boundary lies between two refreshes, so these are bounds: the refreshes inside, and those around.
        All devices together; None where a boundary has no refresh on both sides.
        """
        least = most = 0
        for device in {row["device_id"] for row in self.counters}:
            rows = [row for row in self.counters if row["device_id"] == device]
            moments = [row["mono_us"] for row in rows if row["boundary"] is not None]
            read = [(row["mono_us"], row["value"]) for row in rows if row["value"] is not None]
            first, last = min(moments), max(moments)
            inside = [value for t, value in read if first <= t <= last]
            before = [value for t, value in read if t <= first]
            after = [value for t, value in read if t >= last]
            if not (inside and before and after):
                return None
            least += inside[-1] - inside[0]
            most += after[0] - before[-1]
        return least, most

    def data(self) -> list[dict[str, Any]]:
        """What the result file keeps of each stage."""
        return [{name: row[name] for name in _KEPT} for row in self.stages]

    def table(self, caption: str) -> Table:
        """The stages for the readable report."""
        rows = []
        for row in self.stages:
            half, energy = half_width_j(row), row["gpu_energy_j"]
            numbers = map(shown, (energy, mean_w(row), half, row["gpu_energy_integral_j"]))
            apart = percent(row["gpu_counter_vs_integral"])
            rows.append((row["name"], f"{billed_s(row):.3f}", *numbers, apart))
        return caption, _HEADER, rows


def meter_pieces(bench: Bench, name: str, pieces: Sequence[Piece]) -> MeteredRun:
    """Meter the pieces one after another."""
    from harness import Meter

    labels = ("rehearsal",) if bench.rehearsal else ()
    out = bench.folder / name
    with Meter(out=out, name=name, cpu="none", labels=labels) as meter:
        for stage, kind, seconds, shape in pieces:
            with meter.stage(stage, kind=f"x-{kind}"):
                bench.load.work(kind, bench.seconds(seconds), **shape)
    return MeteredRun.read(out)


def billed_s(row: dict[str, Any]) -> float:
    """Length of a stage's billed window."""
    return float(row["mono_end_us"] - row["mono_start_us"]) / 1e6


def mean_w(row: dict[str, Any]) -> float | None:
    """Mean power of a stage over its billed window, all devices."""
    return None if row["gpu_energy_j"] is None else float(row["gpu_energy_j"]) / billed_s(row)


def half_width_j(row: dict[str, Any]) -> float | None:
    """Half of the stage's interval."""
    low, high = row["gpu_energy_j_low"], row["gpu_energy_j_high"]
    return None if low is None or high is None else float(high - low) / 2
