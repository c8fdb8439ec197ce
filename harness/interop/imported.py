"""What an importer hands to `write`: stages with samples or totals, the machines they ran on, every doubt."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

US_PER_S = 1_000_000
TOTAL_ONLY = -1
"""Index of a column of samples that is already the sum over GPUs."""
MAX_BOARD_W = 10_000.0
"""A reading or a limit beyond this is not one of a single board, W."""


def seconds_to_us(seconds: float) -> int:
    """Unix seconds (float) as integer microseconds."""
    return round(seconds * US_PER_S)


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


def info(flag: str, **observed: Any) -> Doubt:
    """A doubt that explains a figure."""
    return Doubt(flag, "info", observed)


def warning(flag: str, **observed: Any) -> Doubt:
    """A doubt that weakens a figure."""
    return Doubt(flag, "warning", observed)


def error(flag: str, **observed: Any) -> Doubt:
    """A doubt for which a figure was dropped or stands in contradiction."""
    return Doubt(flag, "error", observed)


@dataclass(frozen=True, slots=True)
class LoggedGpu:
    """One card as a log describes it; `index` is NVML's on its node."""

    index: int
    name: str | None = None
    mem_mib: int | None = None
    power_limit_w: float | None = None


@dataclass(frozen=True, slots=True)
class Host:
    """A machine and its software as a log describes them.

    Attributes:
        key: Tells two nodes apart; never stored.
    """

    key: str
    gpus: tuple[LoggedGpu, ...] = ()
    cpu_model: str | None = None
    cpu_count: int | None = None
    mem_mib: int | None = None
    driver: str | None = None
    cuda: str | None = None
    python: str | None = None
    torch: str | None = None
    git_commit: str | None = None
    git_dirty: bool | None = None


@dataclass(frozen=True, slots=True)
class ImportedDevice:
    """One metered device; ids are unique over the bundle, not only on their node."""

    device_id: int
    node_id: str
    model: str | None
    mem_mib: int | None
    power_limit_mw: int | None

    def manifest_entry(self) -> dict[str, Any]:
        """Entry of manifest hardware.devices, for a tool that reads power and no energy counter."""
        vendor = "nvidia" if self.model is None or "NVIDIA" in self.model.upper() else "unknown"
        return {
            "device_id": self.device_id,
            "vendor": vendor,
            "model": self.model or "unknown",
            "mem_mib": self.mem_mib,
            "power_limit_mw": self.power_limit_mw,
            "default_power_limit_mw": None,
            "mig": None,
            "persistence": None,
            "counter_supported": False,
            "instant_supported": False,
            "average_supported": None,
            "counter_scope": None,
        }


class Machines:
    """Numbers nodes and devices by order of appearance, so that no host name is needed to tell them apart."""

    def __init__(self) -> None:
        self._nodes: dict[str, str] = {}
        self._devices: dict[tuple[str, int], ImportedDevice] = {}

    @property
    def devices(self) -> list[ImportedDevice]:
        """Every device, by device_id."""
        return sorted(self._devices.values(), key=lambda device: device.device_id)

    def place(
        self, key: str, gpus: Sequence[LoggedGpu], indices: Sequence[int] | None = None
    ) -> tuple[str, tuple[ImportedDevice, ...]]:
        """Node id and devices of a stage.

        Args:
            key: What tells its node from others.
            gpus: Cards of the node as far as they are described.
            indices: Cards of its samples, in the order of the columns; all described ones if None.
        """
        node_id = self._nodes.setdefault(key, f"node-{len(self._nodes):02d}")
        described = {gpu.index: gpu for gpu in gpus}
        every = tuple(described) or (0,)
        if indices is None or (tuple(indices) == (TOTAL_ONLY,) and len(described) == 1):
            indices = every
        return node_id, tuple(self._device(node_id, index, described.get(index)) for index in indices)

    def _device(self, node_id: str, index: int, gpu: LoggedGpu | None) -> ImportedDevice:
        device = self._devices.get((node_id, index))
        if device is not None and (device.model is not None or gpu is None):
            return device
        gpu = gpu or LoggedGpu(index)
        limit_w = gpu.power_limit_w
        device = ImportedDevice(
            device_id=len(self._devices) if device is None else device.device_id,
            node_id=node_id,
            model="sum of the node's GPUs" if index == TOTAL_ONLY else gpu.name,
            mem_mib=gpu.mem_mib,
            power_limit_mw=round(limit_w * 1000) if limit_w and 0 < limit_w < MAX_BOARD_W else None,
        )
        self._devices[(node_id, index)] = device
        return device


@dataclass(frozen=True, slots=True)
class Samples:
    """Power over time.

    Attributes:
        gpus: NVML index of each column of `watts`; `(TOTAL_ONLY,)` when only the sum is known.
        t_us: int64 [n], unix microseconds, strictly increasing.
        watts: float64 [n, g], NaN where a reading cannot be used.
        steps_back: Times the wall clock ran backwards inside the run; the overlapped samples are dropped.
    """

    gpus: tuple[int, ...]
    t_us: NDArray[np.int64]
    watts: NDArray[np.float64]
    steps_back: int = 0

    @property
    def total_w(self) -> NDArray[np.float64]:
        """Watts over all GPUs [n]; NaN where any GPU has none."""
        return np.asarray(self.watts.sum(axis=1), dtype=np.float64)

    def between(self, start_us: int, end_us: int) -> Samples:
        """The samples with start_us <= t <= end_us."""
        keep = (self.t_us >= start_us) & (self.t_us <= end_us)
        return Samples(self.gpus, self.t_us[keep], self.watts[keep], self.steps_back)


@dataclass(frozen=True, slots=True)
class StatedEnergy:
    """A total that a log states, with the interval it deserves, joules.

    Attributes:
        boundary_j: Half-width of the edge term.
        gap_j: Half-width of the term for time that was not sampled.
        in_gaps_j: Part of the total that stands for time that was not sampled.
        samples: Readings behind the total; 0 when unknown.
        missed: Readings that are missing.
        unsampled_us: Time that the readings cannot have covered.
    """

    energy_j: float
    low_j: float
    high_j: float
    boundary_j: float = 0.0
    gap_j: float = 0.0
    in_gaps_j: float = 0.0
    samples: int = 0
    missed: int = 0
    unsampled_us: int = 0


@dataclass(frozen=True, slots=True)
class ImportedStage:
    """One run of one stage.

    Attributes:
        kind: Stage kind of the protocol.
        start_us: Unix microseconds of the stage's window; `end_us` is its end.
        tail_end_us: Last sample of a run that went on after its window; the tail becomes `unattributed`.
        samples: Power with times, a column for each of `devices`; None when only a total is left.
        tokens: Count by column of `stages`; a column that is absent is unknown.
        gpu: Total over all devices; None where samples speak or nothing is known.
        config: What was run, for the manifest: values that name no person and no path.
    """

    name: str
    kind: str
    status: Literal["completed", "partial"]
    node_id: str
    devices: tuple[ImportedDevice, ...]
    start_us: int
    end_us: int
    tail_end_us: int | None = None
    samples: Samples | None = None
    tokens: Mapping[str, int] = field(default_factory=dict)
    gpu: StatedEnergy | None = None
    cpu: StatedEnergy | None = None
    dram: StatedEnergy | None = None
    doubts: tuple[Doubt, ...] = ()
    config: Mapping[str, str | int | float | bool] = field(default_factory=dict)
    host: Host | None = None


@dataclass(frozen=True, slots=True)
class ImportedRun:
    """All that one import found.

    Attributes:
        source: Whose logs they are, for the manifest.
        sampler: Which program read the power, and `scheduling` where it ran.
        method: Method of the pipeline in the protocol's words.
        stages: In time order, at least one.
        copies: Stages that were found again elsewhere and dropped.
        unplaced: One doubt for each record that gives an energy but no time; they become events, not stages.
        ignored_files: Files that are no logs of the format.
    """

    source: str
    sampler: str
    scheduling: str
    method: str
    stages: Sequence[ImportedStage]
    devices: Sequence[ImportedDevice]
    region: str | None = None
    copies: int = 0
    unplaced: tuple[Doubt, ...] = ()
    ignored_files: int = 0


def with_overlaps(stages: Sequence[ImportedStage]) -> list[ImportedStage]:
    """The stages, with a doubt on each that shares a device and more than a second with another.

    Two meters that ran at once saw the same card, or the log does not tell two cards apart: then joules may
    be in both stages.
    """
    shared_us = [0] * len(stages)
    ids = [{device.device_id for device in stage.devices} for stage in stages]
    for number, stage in enumerate(stages):
        for other, before in enumerate(stages[:number]):
            common = ids[number] & ids[other] or not (ids[number] or ids[other])
            both_us = min(stage.end_us, before.end_us) - max(stage.start_us, before.start_us)
            if stage.node_id == before.node_id and common and both_us > US_PER_S:
                shared_us[number], shared_us[other] = (
                    max(shared_us[number], both_us),
                    max(shared_us[other], both_us),
                )
    return [
        replace(stage, doubts=(*stage.doubts, warning("overlaps_another", longest_s=both_us / US_PER_S)))
        if both_us
        else stage
        for stage, both_us in zip(stages, shared_us, strict=True)
    ]


UNCLASSIFIED = "x-unclassified"

_PATTERNS = {
    "prerun": re.compile(r"prerun|burn_?in|idle_baseline|smoke"),
    "preprocess": re.compile(r"preprocess|tokeni[sz]e"),
    "teacher_logits": re.compile(r"logit_?cach|logprob"),
    "judge": re.compile(r"judge"),
    "evaluate": re.compile(r"benchmark|gsm8k|mmlu|ifeval|alpaca|mt_?bench|(^|_)eval"),
    "teacher_generate": re.compile(r"generat|synthetic_gen|^synthetic_|_gen$"),
    "student_train": re.compile(r"(^|_)(kd|sft|train|distill)(_|$)"),
}


def guess_kind(names: Iterable[str]) -> tuple[str, str]:
    """The stage kind that names hint at, the most telling name first, and the name it was read from.

    Returns:
        `(UNCLASSIFIED, "")` if none tells anything.
    """
    for name in dict.fromkeys(names):
        for kind, pattern in _PATTERNS.items():
            if pattern.search(name.lower()):
                return kind, name
    return UNCLASSIFIED, ""


def safe_name(text: str) -> str:
    """A stage name fit for a bundle: no path, no address, at most 120 characters."""
    last = re.split(r"[\\/]", text.rstrip("\\/"))[-1]
    return re.sub(r"[^A-Za-z0-9_.:+-]+", "_", last).strip("_.")[:120] or "stage"
