"""CPU and memory energy estimated by CodeCarbon in process-tracking mode, where RAPL cannot be read.

CodeCarbon needs 1-2 s and pandas to start, so it is read by a process of its own (`harness.meter.estimator`).
No CodeCarbon output file is written, so runs cannot mix.

CodeCarbon's process mode multiplies the CPU's power rating by the CPU time of a process and its children, but
it looks at the children that are alive at each look: the CPU time of a command that ended since the last look
is lost, which for a stage of a few seconds is a large part of it. Here it is fed the cumulative CPU time of
the measured tree including children that have ended (`MeasuredTree`), so the estimate does not depend on when
one looks. The estimate is cumulative in uJ and is journalled like a counter.
"""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass, field
from typing import Any

from harness.meter.sources.base import Found, Measure, Wanted, Zone

OWN_PROCESS = True
_TICK_US = 10_000  # resolution of the kernel's CPU times (USER_HZ): 10 ms on every common build


@dataclass
class EstimatedZone(Zone):
    """One of CodeCarbon's models ("cpu", "ram"), asked for the energy since the last time."""

    model: Any = None
    energy_uj: int = 0
    watts: float = 0.0
    looked_s: float = field(default_factory=time.time)

    def value(self) -> int:
        """Energy since the start, uJ."""
        now = time.time()
        # CodeCarbon divides the CPU time by the wall clock's difference; multiplied by the same difference, a
        # step of the wall clock cancels.
        duration, self.looked_s = now - self.looked_s, now
        if self.label == "cpu":
            _, energy = self.model.measure_power_and_energy(duration)
            self.energy_uj += max(0, round(energy.kWh * 3.6e12))
        else:
            power, _ = self.model.measure_power_and_energy(0.0)
            # The model says 0 W of a process that was killed, whose stage is not over yet.
            self.watts = power.W or self.watts
            self.energy_uj += round(self.watts * max(0.0, duration) * 1e6)
        return self.energy_uj


def discover(wanted: Wanted) -> Found:
    """CodeCarbon's CPU and RAM models of this machine, over the processes of `wanted.tree`."""
    try:
        from codecarbon import OfflineEmissionsTracker
    except ImportError as error:
        return Found(reason=str(error), expected="the package codecarbon")
    logging.getLogger("codecarbon").setLevel(logging.CRITICAL)  # before the tracker sets the level itself
    tracker = OfflineEmissionsTracker(
        country_iso_code="USA",  # required; no emissions are taken from this tracker, only energy
        tracking_mode="process",
        save_to_file=False,
        allow_multiple_runs=True,
        log_level="critical",
        gpu_ids=[],
    )
    hardware = tracker.get_detected_hardware()
    models = {type(model).__name__: model for model in tracker._hardware}
    cpu, ram, tree = models.get("CPU"), models.get("RAM"), wanted.tree
    if cpu is None or cpu._mode != "cpu_load":
        return Found(reason="CodeCarbon offers no process-level CPU model on this machine")
    cpu._get_process_cpu_times = lambda: {tree.root_pid: tree.cpu_seconds()}
    cpu.measure_power_and_energy(0.0)  # the first look only sets the starting point
    zones: list[Zone] = [EstimatedZone("cpu", None, _measure("cpu"), _TICK_US, model=cpu)]
    if ram is not None:
        ram._pid = tree.root_pid
        zones.append(EstimatedZone("ram", None, _measure("dram"), _TICK_US, model=ram))
    return Found(zones=zones, facts={"cpu_model": hardware.get("cpu_model"), "tdp_w": cpu._tdp})


def _measure(part: str) -> Measure:
    return Measure("codecarbon", part, "uJ", "process tree", ("counter",), "estimated", f"codecarbon {part}")
