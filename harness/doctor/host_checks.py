"""Checks of clocks, scheduling, disk and the software around."""

from __future__ import annotations

import platform

from harness import __version__
from harness.doctor.checks import Verdict, machine_check
from harness.doctor.observe import Machine
from harness.meter.clocks import CLOCK_STEP_EVENT_US

_GOOD_SOURCES = (
    "tsc",
    "kvm-clock",
    "arch_sys_counter",
    "timebase",
    "stp",
    "tod",
    "riscv_clocksource",
    "hyperv",
)
_COARSE_NS = 10_000
_GB = 1_000_000_000
_LOW_DISK_BYTES = 1 * _GB
_GPU_DAY_BYTES = 1_500_000  # a GPU's day at 2 Hz: 172,800 rows of some 9 bytes


@machine_check(
    "clock source", "time", "Every sample and boundary is stamped with CLOCK_MONOTONIC, which rests on it."
)
def clock_source(machine: Machine) -> Verdict:
    """Which hardware clock the kernel uses."""
    clocks = machine.clocks
    data = {
        "source": clocks.source,
        "available": list(clocks.available),
        "resolution_ns": clocks.resolution_ns,
        "smallest_step_ns": clocks.step_ns,
    }
    read = f"CLOCK_MONOTONIC resolves {clocks.resolution_ns:.0f} ns, steps of {clocks.step_ns} ns seen"
    if clocks.resolution_ns > _COARSE_NS or clocks.step_ns > _COARSE_NS:
        return Verdict("warn", f"{clocks.source or 'unknown'}, coarse: {read}", None, data)
    if clocks.source is None:
        return Verdict("info", f"the kernel does not name it; {read}", data=data)
    if clocks.source.startswith(_GOOD_SOURCES):
        return Verdict("ok", f"{clocks.source}; {read}", data=data)
    fix = None
    if "tsc" in clocks.available:
        target = "/sys/devices/system/clocksource/clocksource0/current_clocksource"
        fix = f"echo tsc | sudo tee {target}"
    return Verdict("warn", f"{clocks.source}, slow to read; {read}", fix, data)


@machine_check(
    "wall clock", "time", "UTC stands beside the monotonic clock; a step of it is recorded, never billed."
)
def wall_clock(machine: Machine) -> Verdict:
    """Whether the wall clock was stepped while the doctor looked."""
    shift_us, watched_s = machine.clocks.wall_shift_us, machine.clocks.watched_s
    data = {"shift_us": shift_us, "watched_s": round(watched_s, 3)}
    if abs(shift_us) >= CLOCK_STEP_EVENT_US:
        fix = "timedatectl timesync-status  # what is setting this clock"
        return Verdict("warn", f"stepped by {shift_us / 1000:+.0f} ms within {watched_s:.1f} s", fix, data)
    return Verdict("ok", f"no step of 50 ms or more in the {watched_s:.1f} s watched", data=data)


@machine_check(
    "sampler scheduling",
    "time",
    "When the job keeps every core busy, a sampler without priority wakes late and stage boundaries blur.",
)
def scheduling(machine: Machine) -> Verdict:
    """Which priority the sampler gets."""
    got = machine.scheduling
    data = {"scheduling": got, "cpu_count": machine.cpu_count}
    if got == "fifo":
        return Verdict("ok", "real-time (FIFO) is allowed", data=data)
    what = {
        "nice -10": "no real-time scheduling, but a better nice value",
        "normal": "no priority of any kind",
    }
    observed = what.get(got or "", "could not be tried out")
    if machine.container:
        fix = "docker run --cap-add SYS_NICE IMAGE"
    elif machine.root:
        fix = "sysctl -w kernel.sched_rt_runtime_us=-1"
    else:
        fix = 'echo "$USER - rtprio 1" | sudo tee /etc/security/limits.d/kit.conf  # then log in again'
    return Verdict("warn" if got == "normal" else "info", observed, fix, data)


@machine_check("disk", "host", "A full disk is survived (samples wait in memory), but not for ever.")
def disk(machine: Machine) -> Verdict:
    """Whether the target folder can take a log."""
    facts = machine.disk
    data = {"target": facts.target, "free_bytes": facts.free_bytes, "writable": facts.writable}
    if not facts.writable:
        return Verdict(
            "missing", f"{facts.target} cannot be written to", "kit audit PIPELINE --out DIR", data
        )
    if facts.free_bytes is None:
        return Verdict("info", f"free space of {facts.target} is not known", data=data)
    days = facts.free_bytes / _GPU_DAY_BYTES / max(1, len(machine.nvml.selected))
    room = "years" if days > 3650 else f"{days:.0f} days"
    observed = f"{facts.free_bytes / _GB:.1f} GB free for {facts.target}: room for {room} of log"
    if facts.free_bytes < _LOW_DISK_BYTES:
        return Verdict("warn", observed, f"df -h {facts.target}  # and make room", data)
    return Verdict("ok", observed, data=data)


@machine_check("container", "host", "Inside a container some instruments need to be let in from the host.")
def container(machine: Machine) -> Verdict:
    """Whether this is a container or a virtual machine."""
    data = {"container": machine.container, "virtual": machine.virtual, "root": machine.root}
    inside = f"{machine.container} container" if machine.container else "no container"
    return Verdict("info", inside + (", on a virtual machine" if machine.virtual else ""), data=data)


@machine_check("software", "host", "Recorded with every run.")
def software(machine: Machine) -> Verdict:
    """Kernel, Python and kit."""
    kernel, python = platform.release(), platform.python_version()
    data = {"kernel": kernel, "python": python, "kit": __version__, "cpu_count": machine.cpu_count}
    return Verdict("info", f"kit {__version__}, Python {python}, Linux {kernel}", data=data)
