"""Runs the probe: ticks, rest, cost of calls, and a stretch under a square-wave load."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from typing import Any

from harness import __version__
from harness.errors import KitError
from harness.gpucheck.loader import Load, start_torch
from harness.gpucheck.probe.analyse import HONESTY, DeviceProbe, Observed, analyse
from harness.gpucheck.probe.record import Recording, record
from harness.meter.child import raise_priority
from harness.meter.clocks import mono_us
from harness.meter.foreign import foreign_pids
from harness.meter.sources import nvml
from harness.meter.ticks import Tick, TickModel, watch_ticks

_TICK_SHARE, _IDLE_SHARE, _CONTEXT_SHARE = 0.15, 0.2, 0.05
_FIRST_TICKS, _LEAST_TICKS, _MOST_TICKS = 6, 20, 400
# Longer than any averaging window in use (1 s), unequal so that no lag is mistaken for another, and in no
# simple ratio to any refresh period.
_HIGH_S, _LOW_S = 2.31, 1.83
_COST_CALLS, _LIST_CALLS = 100, 3

Say = Callable[[str], None]


@dataclass(frozen=True)
class ProbeResult:
    """One probe of the selected GPUs.

    Attributes:
        scheduling: The priority that the process got.
        load: What made the load ("torch 2.11.0"), None without.
        no_load_reason: Why there was none.
    """

    driver: str | None
    cuda: str | None
    seconds: float
    scheduling: str
    load: str | None
    no_load_reason: str | None
    notes: tuple[str, ...]
    devices: tuple[DeviceProbe, ...]

    def as_json(self) -> dict[str, Any]:
        """The result as a JSON object."""
        values = asdict(self) | {"notes": [HONESTY, *self.notes]}
        return {"kind": "kit-doctor-probe/1", "kit_version": __version__, **values}


def run_probe(
    seconds: float = 30.0,
    *,
    load: bool = True,
    load_python: str | None = None,
    say: Say = lambda text: None,
) -> ProbeResult:
    """Probe the instruments of every GPU that the job may use.

    Args:
        seconds: About how long; with load, the start of torch comes on top.
        load: Whether to make a load if torch with CUDA is found.
        load_python: The interpreter with torch, None for this one or `python3`.
        say: Told what is going on.

    Raises:
        KitError: There is no GPU to probe.
    """
    sources, notes = _open()
    reason: str | None = "not asked for (--no-load)"
    program: Load | None = None
    if load:
        say("looking for torch with CUDA, to make a load")
        try:
            program, reason = start_torch(load_python), None
        except KitError as error:
            if load_python is not None:
                raise
            reason = error.message.removeprefix("no load can be made: ")
    with program or nullcontext():
        scheduling = raise_priority()
        processes = {source.index: _processes(source) for source in sources}
        say(f"counter ticks ({seconds * _TICK_SHARE:.0f} s)")
        ticks = _ticks(sources, seconds * _TICK_SHARE)
        say(f"at rest ({seconds * _IDLE_SHARE:.0f} s)")
        idle = record(sources, seconds * _IDLE_SHARE)
        costs = {source.index: _costs(source) for source in sources}
        context, busy = _under_load(sources, seconds, program, say)
    devices = [
        analyse(
            Observed(
                at,
                source.describe()["model"],
                ticks[at],
                idle[at],
                busy[at],
                None if context is None else context[at],
                costs[at],
                processes[at],
                loaded=program is not None,
            )
        )
        for at, source in ((source.index, source) for source in sources)
    ]
    return ProbeResult(
        driver=nvml.driver_version(),
        cuda=nvml.cuda_driver_version(),
        seconds=seconds,
        scheduling=scheduling,
        devices=tuple(devices),
        load=None if program is None else program.name,
        no_load_reason=reason,
        notes=tuple(notes),
    )


def _open() -> tuple[list[nvml.GpuSource], list[str]]:
    reason = nvml.nvml_unavailable()
    if reason is not None:
        raise KitError(f"there is no GPU to probe: {reason}", fix="kit doctor")
    selection = nvml.choose_gpus(None)
    sources, notes = [], [f"doubt about the choice of GPUs: {doubt}" for doubt in selection.doubts]
    for index in selection.indices:
        try:
            sources.append(nvml.GpuSource(index))
        except Exception as error:  # any of NVML's, whose classes are made when it is imported
            notes.append(f"GPU {index} was left out: {error}")
    readable = [source for source in sources if set(source.methods.values()) != {"absent"}]
    if not readable:
        raise KitError("there is no GPU to probe: none is visible and readable", fix="kit doctor")
    return readable, notes


def _processes(source: nvml.GpuSource) -> int | None:
    pids = source.compute_pids()
    return None if pids is None else len(foreign_pids(pids))


def _ticks(sources: Sequence[nvml.GpuSource], seconds: float) -> dict[int, list[Tick]]:
    """Ticks of every counter for about so long: first a few to learn the periods, then as many as fit."""
    able = [source for source in sources if source.methods["energy"] != "absent"]
    models = {source.index: TickModel() for source in able}
    begin_us = mono_us()
    ticks: dict[int, list[Tick]] = {source.index: [] for source in sources}
    ticks |= watch_ticks(able, models, count=_FIRST_TICKS) if able else {}
    left_us = seconds * 1e6 - (mono_us() - begin_us)
    moving = {source: period for source in able if (period := models[source.index].period_us)}
    if moving:
        fitting = int(left_us / max(moving.values()))
        # These replace the first ones: across the pause between them the ticks could be miscounted.
        count = max(_LEAST_TICKS, min(_MOST_TICKS, fitting))
        ticks |= watch_ticks(list(moving), models, count=count)
    return ticks


def _costs(source: nvml.GpuSource) -> dict[str, list[int]]:
    calls: dict[str, tuple[Callable[[], object], int]] = {
        "read_all": (source.read, _COST_CALLS),
        "read_counter": (source.read_energy, _COST_CALLS),
        "list_processes": (source.compute_pids, _LIST_CALLS),
    }
    costs: dict[str, list[int]] = {}
    for name, (call, count) in calls.items():
        costs[name] = []
        for _ in range(count):
            before = time.monotonic_ns()
            call()
            costs[name].append((time.monotonic_ns() - before) // 1000)
            time.sleep(0.001)
    return costs


def _under_load(
    sources: Sequence[nvml.GpuSource], seconds: float, program: Load | None, say: Say
) -> tuple[dict[int, Recording] | None, dict[int, Recording]]:
    share = 1.0 - _TICK_SHARE - _IDLE_SHARE
    if program is None:
        say(f"watching ({seconds * share:.0f} s)")
        return None, record(sources, seconds * share)
    program.open()
    time.sleep(1.0)  # the warm-up's power has to leave the averages
    context_s = seconds * _CONTEXT_SHARE
    context = record(sources, context_s)
    busy_s = seconds * share - context_s
    say(f"under a square-wave load ({busy_s:.0f} s)")
    program.start("square", busy_s, high_s=_HIGH_S, low_s=_LOW_S)
    busy = record(sources, busy_s)
    program.finish()
    return context, busy
