"""What the authors' harness left on disk, as frozen records in its own units (seconds, watts, joules, kWh).

`None` is a value the file does not give. A literal 0 stays 0 here: whether it means "zero" or "unknown" is
a doubt, decided in `doubts`, not while reading.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from harness.interop.log_files import MAX_UNIX_S, MIN_UNIX_S

if TYPE_CHECKING:
    from harness.interop.codecarbon import Emission
    from harness.interop.imported import Host, Samples

RecordKind = Literal["final", "snapshot", "reconstructed", "summary"]


@dataclass(frozen=True, slots=True)
class ReferenceStage:
    """One stage record: a stage JSON, a partial record, a rebuilt one, or an entry of
    experiment_summary.json.

    Attributes:
        path: File it was read from.
        kind: `final` (written by end_stage), `snapshot` (written while running), `reconstructed` (made by a
            script from power_log.csv), `summary` (only found inside an experiment summary).
        watts: `gpu_power_samples`: watts summed over GPUs, without times; empty when the record has none.
        old_schema: 19-key layout with one CodeCarbon energy instead of four.
    """

    path: Path
    kind: RecordKind
    stage_id: str
    stage_name: str
    start_s: float | None
    end_s: float | None
    duration_s: float | None
    tokens: int | None
    gpu_energy_j: float | None
    gpu_avg_w: float | None
    gpu_peak_w: float | None
    watts: tuple[float, ...]
    cpu_energy_j: float | None
    total_energy_j: float | None
    total_energy_kwh: float | None
    codecarbon_total_kwh: float | None
    codecarbon_cpu_kwh: float | None
    codecarbon_gpu_kwh: float | None
    codecarbon_ram_kwh: float | None
    poll_ms: float | None
    snapshot_step: int | None
    old_schema: bool

    @property
    def closed(self) -> bool:
        """Whether the harness itself ended the stage."""
        return self.kind in ("final", "summary")

    @property
    def window(self) -> tuple[float, float] | None:
        """(start, end) in unix seconds, or None when the record does not place itself in time."""
        if self.start_s is None or self.end_s is None:
            return None
        if not MIN_UNIX_S < self.start_s <= self.end_s < MAX_UNIX_S:
            return None
        return self.start_s, self.end_s

    @property
    def poll_s(self) -> float | None:
        """Poll period in seconds, or None where none or none possible is on record."""
        return self.poll_ms / 1000 if self.poll_ms is not None and 1 <= self.poll_ms <= 60_000 else None

    @property
    def codecarbon_block(self) -> tuple[float | None, ...]:
        """The four CodeCarbon energies: what must move between two partial records of a running stage."""
        return (
            self.codecarbon_total_kwh,
            self.codecarbon_cpu_kwh,
            self.codecarbon_gpu_kwh,
            self.codecarbon_ram_kwh,
        )


@dataclass(frozen=True, slots=True)
class PowerLog:
    """A power_log.csv.

    Attributes:
        blocks: Consecutive rows with the same columns, from one header to the next; times may run back.
        header_missing: The first line is already a sample.
        truncated_line: Number of an incomplete last line (the process died while writing), or None.
        unusable_readings: Readings that are empty, not finite, not positive or beyond any board.
        total_mismatch: Rows whose total differs from the sum of the GPUs by more than 0.1 W.
    """

    blocks: tuple[Samples, ...]
    header_missing: bool
    truncated_line: int | None
    unusable_readings: int
    total_mismatch: int


@dataclass(frozen=True, slots=True)
class RunConfig:
    """config_*.json: the merged configuration a stage was started with."""

    stage_id: str
    stage_name: str
    values: Mapping[str, Any]

    def get(self, dotted: str) -> Any:
        """Value at `a.b.c`, or None."""
        node: Any = self.values
        for key in dotted.split("."):
            if not isinstance(node, Mapping) or key not in node:
                return None
            node = node[key]
        return node


@dataclass(slots=True)
class StageFolder:
    """Everything that belongs to one stage id of one run directory; `discover` fills it.

    Attributes:
        side_files: Environments and configurations that were read.
    """

    run_dir: Path
    name: str
    records: tuple[ReferenceStage, ...] = ()
    power_log: PowerLog | None = None
    environment: Host | None = None
    config: RunConfig | None = None
    side_files: int = 0


@dataclass(slots=True)
class LogTree:
    """What was found below a path; `discover` fills it.

    Attributes:
        emissions: Rows of every emissions.csv, with the run directory they belong to.
        ignored: Number of other files below the path (model outputs, prerun reports, ...), not read.
    """

    root: Path
    folders: list[StageFolder] = field(default_factory=list)
    emissions: list[tuple[Path, Emission]] = field(default_factory=list)
    ignored: int = 0
