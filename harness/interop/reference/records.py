"""What the authors' harness left on disk, as frozen records in its own units (seconds, watts, joules, kWh).

`None` is a value the file does not give. A literal 0 stays 0 here: whether it means "zero" or "unknown" is
a doubt, decided in `doubts`, not while reading.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

J_PER_KWH = 3_600_000.0
US_PER_S = 1_000_000
MIN_UNIX_S, MAX_UNIX_S = 1e9, 4_102_444_800.0
"""2001 .. 2100: a stamp outside lost digits or has another unit."""

RecordKind = Literal["final", "snapshot", "reconstructed", "summary"]


def seconds_to_us(seconds: float) -> int:
    """Unix seconds as the harness writes them (float) to integer microseconds."""
    return round(seconds * US_PER_S)


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
class PowerBlock:
    """Consecutive rows of power_log.csv with the same columns.

    Attributes:
        first_line: 1-based line number of the first row.
        gpus: NVML index of each column of `watts`; `(-1,)` when the file has only the total.
        t_s: float64 [n], unix seconds.
        watts: float64 [n, g], NaN where a reading cannot be used.
        new_header: The block starts at a header line written inside the file.
    """

    first_line: int
    gpus: tuple[int, ...]
    t_s: NDArray[np.float64]
    watts: NDArray[np.float64]
    new_header: bool


@dataclass(frozen=True, slots=True)
class PowerLog:
    """A power_log.csv.

    Attributes:
        header_missing: The first line is already a sample.
        truncated_line: Number of an incomplete last line (the process died while writing), or None.
        unusable_readings: Readings that are empty, not finite, not positive or beyond any board.
        total_mismatch: Rows whose total differs from the sum of the GPUs by more than 0.1 W.
    """

    path: Path
    blocks: tuple[PowerBlock, ...]
    header_missing: bool
    truncated_line: int | None
    unusable_readings: int
    total_mismatch: int

    @property
    def rows(self) -> int:
        """Samples in the file."""
        return sum(len(block.t_s) for block in self.blocks)


@dataclass(frozen=True, slots=True)
class Emission:
    """One row of CodeCarbon's emissions.csv (energies in kWh, `ended_local` without a time zone)."""

    path: Path
    line: int
    project: str
    ended_local: str
    duration_s: float | None
    cpu_kwh: float | None
    gpu_kwh: float | None
    ram_kwh: float | None
    total_kwh: float | None
    cpu_power_w: float | None
    version: str | None
    tracking_mode: str | None
    cpu_model: str | None
    cpu_count: int | None
    gpu_count: int | None
    gpu_model: str | None
    python: str | None


@dataclass(frozen=True, slots=True)
class Gpu:
    """One card as environment_*.json describes it."""

    index: int
    name: str | None
    memory_total_mib: int | None
    memory_free_mib: int | None
    power_limit_w: float | None


@dataclass(frozen=True, slots=True)
class Environment:
    """environment_*.json without host name, job and network address (`host_key` only tells two nodes
    apart)."""

    path: Path
    host_key: str
    gpus: tuple[Gpu, ...]
    cpu_model: str | None
    cpu_count: int | None
    mem_mib: int | None
    driver: str | None
    cuda: str | None
    python: str | None
    torch: str | None
    transformers: str | None
    git_commit: str | None
    git_dirty: bool | None


@dataclass(frozen=True, slots=True)
class RunConfig:
    """config_*.json: the merged configuration a stage was started with."""

    path: Path
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


@dataclass(frozen=True, slots=True)
class StageFolder:
    """Everything that belongs to one stage id of one run directory."""

    run_dir: Path
    name: str
    records: tuple[ReferenceStage, ...] = ()
    power_log: PowerLog | None = None
    environment: Environment | None = None
    config: RunConfig | None = None


@dataclass(frozen=True, slots=True)
class LogTree:
    """What was found below a path.

    Attributes:
        emissions: Rows of every emissions.csv, with the run directory they belong to.
        ignored: Number of other files below the path (model outputs, prerun reports, ...), not read.
    """

    root: Path
    folders: tuple[StageFolder, ...]
    emissions: tuple[tuple[Path, Emission], ...]
    ignored: int


@dataclass(frozen=True, slots=True)
class Doubt:
    """One reason not to take a stage's figures at face value.

    Attributes:
        flag: Short name, stored in the stage's `flags`.
        severity: `info` (explains), `warning` (weakens), `error` (a figure was dropped).
        observation: What was seen, in numbers with units in the keys; becomes the event's detail.
    """

    flag: str
    severity: Literal["info", "warning", "error"]
    observation: Mapping[str, Any] = field(default_factory=dict)
