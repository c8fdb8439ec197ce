"""CPU and memory energy estimated by CodeCarbon's models of this machine, where RAPL cannot be read.

In process-tracking mode CodeCarbon multiplies the CPU's power rating by the CPU time of a process and its
children, but it looks at the children that are alive at each look: the CPU time of a command that ended since
the last look is lost, which for a stage of a few seconds is a large part of it. Here the model is applied to
the cumulative CPU time of the measured tree including children that have ended (`MeasuredTree`), so the
estimate does not depend on when one looks. The estimate is cumulative in uJ and is journalled like a counter.

CodeCarbon needs seconds and pandas to find out what the machine is; what its models need then is a few
numbers. So it runs once, in a process of its own and without an output file, and is asked for these numbers.
They are kept in the user's cache folder for as long as processor, memory and CodeCarbon's version are the
same.
"""

from __future__ import annotations

import contextlib
import json
import logging
import math
import os
import platform
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from harness import __version__
from harness.errors import KitError
from harness.files import cache_folder, package_version, write_json
from harness.meter.process_tree import MeasuredTree
from harness.meter.sources.base import Found, Measure, Wanted, Zone

OWN_PROCESS = True
_TICK_US = 10_000  # resolution of the kernel's CPU times (USER_HZ): 10 ms on every common build
_DETECT_TIMEOUT_S = 50.0
_GB = 1 << 30


@dataclass(kw_only=True)
class CpuZone(Zone):
    """CodeCarbon's CPU model: so many watts for each CPU second in a second."""

    tree: MeasuredTree
    watts_per_core: float
    begun_s: float

    def value(self) -> int:
        """Energy of the tree's CPU time since the start, uJ."""
        return round((self.tree.cpu_seconds() - self.begun_s) * self.watts_per_core * 1e6)


@dataclass(kw_only=True)
class RamZone(Zone):
    """CodeCarbon's memory model: watts by steps of memory in use, summed up over time."""

    tree: MeasuredTree
    steps: list[tuple[int, float]]
    energy_uj: float = 0.0
    looked_s: float = field(default_factory=time.monotonic)

    def value(self) -> int:
        """Energy since the start, uJ; the memory is that of the tree's last look."""
        now = time.monotonic()
        used_gb = self.tree.resident_bytes / _GB
        watts = next((watts for up_to_gb, watts in self.steps if used_gb <= up_to_gb), self.steps[-1][1])
        self.energy_uj += watts * (now - self.looked_s) * 1e6
        self.looked_s = now
        return round(self.energy_uj)


def discover(wanted: Wanted) -> Found:
    """CodeCarbon's CPU and RAM models of this machine, over the processes of `wanted.tree`."""
    try:
        known = _machine()
    except KitError as error:
        return Found(reason=error.message, expected=error.expected)
    tree: MeasuredTree = wanted.tree
    watts, steps, begun_s = known["watts_per_core"], known["ram_steps"], tree.cpu_seconds()
    cpu = CpuZone("cpu", None, _measure("cpu"), _TICK_US, tree=tree, watts_per_core=watts, begun_s=begun_s)
    ram = RamZone("ram", None, _measure("dram"), _TICK_US, tree=tree, steps=steps)
    return Found(zones=[cpu, ram], facts={name: known[name] for name in ("cpu_model", "tdp_w")})


def _measure(part: str) -> Measure:
    return Measure("codecarbon", part, "uJ", "process tree", ("counter",), "estimated", f"codecarbon {part}")


def _machine() -> dict[str, Any]:
    """What CodeCarbon found out about this machine, now or before.

    Raises:
        KitError: It has no model of process CPU time here, or it failed.
    """
    key = {
        "kit": __version__,
        "codecarbon": package_version("codecarbon"),
        "cpu_model": _cpu_model(),
        "cpu_count": os.cpu_count(),
        "memory_bytes": os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"),
        "machine": platform.machine(),
    }
    try:
        # What a Slurm job may use is that job's own; of an unknown CodeCarbon nothing is kept.
        kept_here = "SLURM_JOB_ID" not in os.environ and key["codecarbon"] is not None
        path = cache_folder() / "cpu-estimate.json" if kept_here else None
        kept = json.loads(path.read_text()) if path else None
        if kept and kept["key"] == key and _is_sound(kept["found"]):
            return dict(kept["found"])
    except (OSError, ValueError, LookupError, TypeError):
        pass  # not there, or not ours: it is written anew
    except RuntimeError:  # no home folder
        path = None
    found = _ask_codecarbon()
    if path:
        with contextlib.suppress(OSError):  # where nothing can be kept, it is asked each time
            write_json(path, {"key": key, "found": found})
    return found


def _cpu_model() -> str:
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")


def _is_sound(found: dict[str, Any]) -> bool:
    numbers = [
        found["watts_per_core"],
        found["tdp_w"],
        *(number for step in found["ram_steps"] for number in step),
    ]
    return len(found["ram_steps"]) > 0 and all(math.isfinite(x) and x > 0 for x in numbers)


def _ask_codecarbon() -> dict[str, Any]:
    """Run `main` where nothing that CodeCarbon reads or prints can be mistaken for ours."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("CODECARBON_")}
    with tempfile.TemporaryDirectory(prefix="kit-codecarbon-") as empty_home:
        try:
            asked = subprocess.run(
                [sys.executable, "-P", "-m", __name__],
                env={**clean, "HOME": empty_home},
                cwd=empty_home,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                errors="replace",
                timeout=_DETECT_TIMEOUT_S,
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise KitError(
                f"CodeCarbon did not find out what this machine is in {_DETECT_TIMEOUT_S:g} s"
            ) from None
    if asked.returncode != 0:
        raise KitError(next(reversed(asked.stderr.strip().splitlines()), "CodeCarbon failed"))
    found: dict[str, Any] = json.loads(asked.stdout.splitlines()[-1])
    if "reason" in found:
        raise KitError(found["reason"], expected=found.get("expected"))
    if not _is_sound(found):
        raise KitError(f"CodeCarbon's model of this machine makes no sense: {json.dumps(found)[:200]}")
    return found


def main() -> None:
    """Ask CodeCarbon for its models of this machine and print what they come to, as JSON."""
    try:
        from codecarbon import OfflineEmissionsTracker
    except ImportError as error:
        print(json.dumps({"reason": str(error), "expected": "the package codecarbon"}))
        return
    logging.getLogger("codecarbon").setLevel(logging.CRITICAL)  # before the tracker sets the level itself
    tracker = OfflineEmissionsTracker(
        country_iso_code="USA",  # required; no emissions are taken from this tracker, only its models
        tracking_mode="process",
        save_to_file=False,
        allow_multiple_runs=True,
        log_level="critical",
        gpu_ids=[],
    )
    hardware = tracker.get_detected_hardware()  # which looks for it, too
    models = {type(model).__name__: model for model in tracker._hardware}
    cpu, ram = models.get("CPU"), models.get("RAM")
    if cpu is None or ram is None or cpu._mode != "cpu_load":
        print(json.dumps({"reason": "CodeCarbon offers no process-level CPU model on this machine"}))
        return
    top_gb = math.ceil(ram.machine_memory_GB)
    watts = [(gb, ram._calculate_ram_power(gb)) for gb in range(1, top_gb + 1)]
    steps = [
        here
        for here, after in zip(watts, [*watts[1:], None], strict=True)
        if not after or here[1] != after[1]
    ]
    found = {
        "cpu_model": hardware.get("cpu_model"),
        "tdp_w": cpu._tdp,
        "watts_per_core": watts_per_core(cpu),
        "ram_steps": steps,
    }
    print(json.dumps(found))


def watts_per_core(cpu: Any) -> float:
    """What CodeCarbon's CPU model says of a process that keeps one core busy, W."""
    cpu_s = 0.0
    cpu._get_process_cpu_times = lambda: {0: cpu_s}
    cpu._get_power_from_cpu_load()  # the first look only sets the starting point
    cpu._last_measurement_time -= 1.0
    begun, cpu_s = cpu._last_measurement_time, 1.0
    power = cpu._get_power_from_cpu_load()
    return float(power.W * (cpu._last_measurement_time - begun))


if __name__ == "__main__":
    main()
