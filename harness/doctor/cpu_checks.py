"""Checks of RAPL and of CodeCarbon, which estimates where RAPL cannot be read."""

from __future__ import annotations

from typing import Any

from harness.doctor.checks import Verdict, machine_check
from harness.doctor.observe import Machine, package_watts

_MOUNT = "docker run -v /sys/class/powercap/intel-rapl:/powercap:ro -e KIT_POWERCAP_ROOT=/powercap IMAGE"
_OPEN = "sudo chmod -R a+r /sys/class/powercap/intel-rapl*"


@machine_check(
    "RAPL",
    "cpu",
    "The processor's own energy counters measure CPU and memory; without them CPU energy is an estimate "
    "between nothing and twice as much.",
)
def rapl(machine: Machine) -> Verdict:
    """Whether RAPL package counters can be read."""
    probe = machine.rapl
    labels = [zone.label for zone in probe.zones]
    data: dict[str, Any] = {"zones": labels, "denied": list(probe.denied)}
    if probe.measures("cpu"):
        watts = {name: round(value, 3) for name, value in package_watts(probe.zones).items()}
        data["watts"] = watts
        denied = f"; denied: {', '.join(probe.denied)}" if probe.denied else ""
        observed = f"readable: {', '.join(labels)}{denied}"
        return Verdict(
            "warn" if probe.denied else "ok", observed, _open(machine) if probe.denied else None, data
        )
    if probe.denied:
        return Verdict("missing", f"permission denied for {', '.join(probe.denied)}", _open(machine), data)
    if machine.powercap_exists:
        return Verdict("missing", "zones are there, but no package counter among them", None, data)
    if machine.virtual:
        return Verdict(
            "missing",
            "no RAPL zones: this is a virtual machine, and its hypervisor passes none on",
            None,
            data,
        )
    if machine.container:
        return Verdict("missing", "no RAPL zones inside this container", _MOUNT, data)
    return Verdict(
        "missing", "no RAPL zones: the kernel module is not loaded", "sudo modprobe intel_rapl_msr", data
    )


def _open(machine: Machine) -> str:
    """Opens the counters; inside a container that is the host's to do, whose root this one's may not be."""
    return f"{_OPEN}  # on the host" if machine.container else _OPEN


@machine_check(
    "memory (DRAM)", "cpu", "Where memory has a counter its energy is measured, else estimated or absent."
)
def dram(machine: Machine) -> Verdict:
    """Where memory energy comes from."""
    zones = [zone.label for zone in machine.rapl.zones if zone.label.startswith("dram")]
    if zones:
        return Verdict("ok", f"RAPL: {', '.join(zones)}", data={"method": "rapl"})
    if machine.rapl.measures("cpu"):
        return Verdict(
            "info", "no counter on this processor; the column says absent", data={"method": "absent"}
        )
    if machine.estimator.error is None:
        return Verdict("info", "estimated by CodeCarbon's model", data={"method": "codecarbon_process"})
    return Verdict("missing", "neither counted nor estimated", data={"method": "absent"})


@machine_check(
    "CodeCarbon",
    "cpu",
    "Stands in for RAPL: a model of the processor times the job's CPU time. Such a figure is labelled "
    "estimated and never ranked beside a measured one.",
)
def codecarbon(machine: Machine) -> Verdict:
    """Whether the estimate would be used, and from what it is made."""
    facts = machine.estimator
    data = {"version": facts.version, "tdp_w": facts.tdp_w, "cpu_model": facts.cpu_model}
    if machine.counted:
        return Verdict(
            "info", f"{facts.version or 'not installed'}; not used, a counter is better", data=data
        )
    if facts.error is not None:
        installed = facts.version is not None
        fix = None if installed else "python3 -m pip install 'codecarbon>=3.3.2,<3.4'"
        return Verdict("missing", f"{facts.version or ''} {facts.error}".strip(), fix, data)
    tdp = "an unknown rating" if facts.tdp_w is None else f"a rating of {facts.tdp_w:.0f} W"
    observed = (
        f"{facts.version}, would be used: {tdp} ({facts.cpu_model or 'unknown CPU'}) x CPU time of the job"
    )
    return Verdict("warn", observed, None, data)
