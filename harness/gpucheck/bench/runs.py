"""Runs a list of stages through the meter and reads back what the bundle says of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from harness.gpucheck.bench.model import Bench


@dataclass(frozen=True)
class Piece:
    """A stage of known work: its name, the load's kind and how long."""

    name: str
    kind: str
    seconds: float
    shape: dict[str, float] = field(default_factory=dict)


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

    def counter_span_mj(self) -> int | None:
        """The counters' own difference between the first and last boundary, all devices, mJ."""
        total = 0
        for device in {row["device_id"] for row in self.counters}:
            values = [row["value"] for row in self.counters if row["device_id"] == device]
            if values[0] is None or values[-1] is None:
                return None
            total += values[-1] - values[0]
        return total


def meter_pieces(bench: Bench, name: str, pieces: Sequence[Piece], *, boundary: str = "tick") -> MeteredRun:
    """Meter the pieces one after another.

    Args:
        bench: The bench.
        name: The run's name.
        pieces: The stages.
        boundary: How stage boundaries are taken: "tick" or "interpolate".
    """
    from harness import Meter
    from harness.bundle import Bundle

    labels = ("rehearsal",) if bench.rehearsal else ()
    out = bench.folder / name
    with Meter(out=out, name=name, boundary=boundary, cpu="none", labels=labels) as meter:
        for piece in pieces:
            with meter.stage(piece.name, kind=f"x-{piece.kind}"):
                bench.load.work(piece.kind, piece.seconds, **piece.shape)
    bundle = Bundle.open(out)
    rows = bundle.table("stages").to_pylist()
    counters = [row for row in bundle.table("counters").to_pylist() if row["device_id"] is not None]
    return MeteredRun(
        stages=[row for row in rows if row["stage"] != "unattributed"],
        gaps=[row for row in rows if row["stage"] == "unattributed"],
        counters=sorted(counters, key=lambda row: row["boundary"]),
        sampler=bundle.manifest["sampling"]["sessions"][0],
    )


_KEPT = (
    "name",
    "mono_start_us",
    "mono_end_us",
    "work_start_us",
    "work_end_us",
    "gpu_energy_j",
    "gpu_energy_j_low",
    "gpu_energy_j_high",
    "gpu_energy_counter_j",
    "gpu_energy_integral_j",
    "gpu_energy_method",
    "gpu_energy_boundary_j",
    "gpu_counter_vs_integral",
    "samples",
    "missed_samples",
    "device_ids",
    "device_energy_j",
    "flags",
)


def stage_data(run: MeteredRun) -> list[dict[str, Any]]:
    """What the result file keeps of each stage."""
    return [{name: row[name] for name in _KEPT} for row in run.stages]


def billed_s(row: dict[str, Any]) -> float:
    """Length of a stage's billed window."""
    return float(row["mono_end_us"] - row["mono_start_us"]) / 1e6


def mean_w(row: dict[str, Any]) -> float | None:
    """Mean power of a stage over its billed window, all devices."""
    return None if row["gpu_energy_j"] is None else float(row["gpu_energy_j"]) / billed_s(row)


def half_width_share(row: dict[str, Any]) -> float | None:
    """Half of the stage's interval over its energy."""
    energy, low, high = (row[f"gpu_energy_j{end}"] for end in ("", "_low", "_high"))
    return None if not energy or low is None or high is None else float(high - low) / 2 / float(energy)
