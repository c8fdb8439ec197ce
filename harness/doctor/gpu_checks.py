"""Checks of NVML and of each GPU."""

from __future__ import annotations

from harness.doctor.checks import Verdict, gpu_check, machine_check
from harness.doctor.inventory import GpuFacts
from harness.doctor.observe import Machine
from harness.doctor.torch_build import too_old, torch_cuda

_DRIVER_NOT_LOADED, _NO_PERMISSION, _LIBRARY_NOT_FOUND, _FUNCTION_NOT_FOUND = 9, 4, 12, 13
_MISMATCH = 18
_VOLTA = 5
_NEWER_DRIVER = (
    "sudo apt-get install --only-upgrade 'nvidia-driver-*'  # then reboot; any way to a newer driver"
)
# Bits of the throttle reasons that change the relation of work to energy: power caps, heat, external brakes.
_THROTTLES = {
    0x4: "software power cap",
    0x8: "hardware slowdown",
    0x20: "software thermal slowdown",
    0x40: "hardware thermal slowdown",
    0x80: "hardware power brake",
}


@machine_check(
    "NVIDIA driver (NVML)",
    "gpu",
    "GPU energy is read through NVML; without it a run has no GPU figure at all, and says so.",
)
def nvml(machine: Machine) -> Verdict:
    """Whether NVML can be asked."""
    facts = machine.nvml
    data = {"driver": facts.driver, "cuda": facts.cuda, "nvidia_pci_devices": machine.nvidia_on_pci}
    if facts.error is None:
        said = f"driver {facts.driver or 'of unknown version'}, CUDA {facts.cuda or '?'}"
        if least := too_old(facts.driver, torch_cuda()):
            said += f"; torch here has CUDA {torch_cuda()} and needs driver {least}: it would use the CPU"
            return Verdict("warn", said, _NEWER_DRIVER, data)
        return Verdict("ok", said, data=data)
    hardware = machine.nvidia_module or bool(machine.nvidia_on_pci)
    what = facts.error
    if facts.code == _LIBRARY_NOT_FOUND:
        what = "libnvidia-ml.so.1 was not found"
    if not hardware:
        what += "; no NVIDIA device is visible here"
    return Verdict("missing", what, _nvml_fix(machine, hardware), {**data, "nvml_code": facts.code})


def _nvml_fix(machine: Machine, hardware: bool) -> str | None:
    code = machine.nvml.code
    if code == _LIBRARY_NOT_FOUND or (machine.container and not hardware):
        if machine.container == "kubernetes":
            return "kubectl set resources deployment NAME --limits=nvidia.com/gpu=1"
        if machine.container == "apptainer":
            return "apptainer exec --nv IMAGE COMMAND"
        if machine.container:
            # The library belongs to the driver: the container runtime brings it in, no package does.
            return "docker run --gpus all IMAGE  # the host needs a GPU and nvidia-container-toolkit"
        return "sudo apt-get install nvidia-driver-580-server  # or newer; then reboot" if hardware else None
    if not hardware:
        return None
    return {
        _DRIVER_NOT_LOADED: "sudo modprobe nvidia",
        _NO_PERMISSION: "sudo chmod a+rw /dev/nvidiactl /dev/nvidia[0-9]*",
        _FUNCTION_NOT_FOUND: _NEWER_DRIVER,
        _MISMATCH: "sudo reboot  # the driver was upgraded under a running kernel module",
    }.get(code or 0, "sudo dmesg | grep -i -E 'nvrm|xid'  # says what the driver ran into")


@machine_check(
    "GPUs selected",
    "gpu",
    "Only the GPUs that the job may use are metered; CUDA and NVML number them differently.",
)
def selection(machine: Machine) -> Verdict | None:
    """What CUDA_VISIBLE_DEVICES selects."""
    facts = machine.nvml
    if facts.error is not None:
        return None
    chosen = [gpu.index for gpu in facts.selected]
    data = {
        "cuda_visible_devices": facts.visible,
        "selected": chosen,
        "gpus": len(facts.gpus),
        "doubts": list(facts.doubts),
    }
    if not facts.gpus:
        fix = "docker run --gpus all IMAGE" if machine.container else "lspci -d 10de:  # is a GPU plugged in?"
        return Verdict("missing", "NVML works but shows no GPU", fix, data)
    said = (
        "CUDA_VISIBLE_DEVICES is not set"
        if facts.visible is None
        else f"CUDA_VISIBLE_DEVICES={facts.visible}"
    )
    listed = ", ".join(map(str, chosen)) or "none"
    observed = f"{len(chosen)} of {len(facts.gpus)}: NVML index {listed} ({said})"
    if "device_order_ambiguous" in facts.doubts:
        observed += "; the GPUs differ in model, so CUDA's numbers may mean other cards"
        return Verdict("warn", observed, "export CUDA_DEVICE_ORDER=PCI_BUS_ID", data)
    if not chosen:
        why = (
            "a device is named twice"
            if "duplicate_visible_device" in facts.doubts
            else "it names no GPU here"
        )
        return Verdict("missing", f"{observed}: {why}", "unset CUDA_VISIBLE_DEVICES", data)
    return Verdict("ok", observed, data=data)


@gpu_check("model", "Figures compare only between equal cards.", "any gpu")
def gpu(machine: Machine, gpu: GpuFacts) -> Verdict:
    """Which card it is, or that it cannot be talked to."""
    data = {"model": gpu.model, "memory_mib": gpu.mem_mib, "uuid": gpu.uuid, "selected": gpu.selected}
    if gpu.error is not None:
        lost = "lost" in gpu.error.lower()
        fix = f"sudo nvidia-smi --gpu-reset -i {gpu.index}  # or reboot" if lost else _dmesg(gpu)
        return Verdict("missing", f"it does not answer: {gpu.error}", fix, data)
    memory = "? MiB" if gpu.mem_mib is None else f"{gpu.mem_mib / 1024:.0f} GiB"
    chosen = "" if gpu.selected else ", not selected"
    return Verdict("info", f"{gpu.model or 'unnamed'}, {memory}, {gpu.uuid}{chosen}", data=data)


def _dmesg(gpu: GpuFacts) -> str:
    return f"sudo dmesg | grep -i xid  # what happened to GPU {gpu.index}"


@gpu_check(
    "energy counter",
    "Stage energy comes from this counter, to 0.1 % of what it counts; power samples at 2 Hz alone are off "
    "by up to 40 % a stage.",
)
def energy_counter(machine: Machine, gpu: GpuFacts) -> Verdict | None:
    """Whether the energy counter is there and moves."""
    method = gpu.methods.get("energy", "absent")
    data = {"method": method, "refresh_us": gpu.refresh_us, "ticks_seen": gpu.ticks}
    if method == "absent":
        if gpu.architecture is not None and gpu.architecture < _VOLTA:
            return Verdict("missing", "not on this card: it came with Volta", None, data)
        return Verdict("missing", "not supported by this card and driver", _NEWER_DRIVER, data)
    if "energy" in gpu.read_errors:
        return Verdict(
            "missing", f"reading it fails (NVML error {gpu.read_errors['energy']})", _dmesg(gpu), data
        )
    if gpu.ticks == 0:
        return Verdict("missing", "it answers but stood still for 0.6 s", _dmesg(gpu), data)
    how = "field 83" if method == "field" else "the older call"
    refresh = "" if gpu.refresh_us is None else f", refreshed about every {gpu.refresh_us / 1000:.0f} ms"
    return Verdict("ok", f"works ({how}{refresh})", data=data)


@gpu_check(
    "INSTANT power",
    "The power integral beside the counter is made of it; the older reading is a mean over 1 s on recent "
    "cards and moves energy between stages.",
)
def instant_power(machine: Machine, gpu: GpuFacts) -> Verdict | None:
    """Whether INSTANT power can be read."""
    method = gpu.methods.get("instant", "absent")
    data = {"method": method, "power_mw": gpu.power_mw}
    if method == "field" and gpu.power_mw is not None:
        return Verdict("ok", f"works (field 186): {gpu.power_mw / 1000:.1f} W now", data=data)
    if method == "call":
        return Verdict("warn", "not supported; the older PowerUsage takes its place", _NEWER_DRIVER, data)
    if method == "field":
        return Verdict("warn", _failing(gpu, "instant"), _dmesg(gpu), data)
    return Verdict(
        "missing" if gpu.average_mw is None else "warn",
        "no instantaneous power of any kind",
        _NEWER_DRIVER,
        data,
    )


@gpu_check("AVERAGE power", "A second view of the same sensor; the probe measures its lag.")
def average_power(machine: Machine, gpu: GpuFacts) -> Verdict | None:
    """Whether AVERAGE power can be read."""
    method = gpu.methods.get("average", "absent")
    data = {"method": method, "power_mw": gpu.average_mw}
    if method == "absent":
        return Verdict("warn", "not supported; the log's column stays empty", _NEWER_DRIVER, data)
    if gpu.average_mw is None:
        return Verdict("warn", _failing(gpu, "average"), _dmesg(gpu), data)
    return Verdict("ok", "works (field 185)", data=data)


def _failing(gpu: GpuFacts, quantity: str) -> str:
    code = gpu.read_errors.get(quantity)
    return (
        "it read as 0 W, which no powered card draws"
        if code is None
        else f"reading it fails (NVML error {code})"
    )


@gpu_check("power limit", "Energy a token depends on the limit; runs under different limits do not compare.")
def power_limit(machine: Machine, gpu: GpuFacts) -> Verdict | None:
    """Whether the card runs under its default limit."""
    limit, default = gpu.power_limit_mw, gpu.default_power_limit_mw
    data = {"power_limit_mw": limit, "default_power_limit_mw": default}
    if limit is None:
        return Verdict("info", "the driver does not say", data=data)
    if default is None or limit == default:
        return Verdict("ok", f"{limit / 1000:.0f} W{'' if default is None else ', the default'}", data=data)
    fix = f"sudo nvidia-smi -i {gpu.index} -pl {default // 1000}"
    return Verdict("warn", f"{limit / 1000:.0f} W, while the default is {default / 1000:.0f} W", fix, data)


@gpu_check(
    "persistence mode",
    "When off, the driver unloads between programs: the counter restarts, the first call takes a second.",
)
def persistence(machine: Machine, gpu: GpuFacts) -> Verdict | None:
    """Whether the driver stays loaded."""
    data = {"persistence": gpu.persistence}
    if gpu.persistence is None:
        return Verdict("info", "the driver does not say", data=data)
    if gpu.persistence:
        return Verdict("ok", "on", data=data)
    return Verdict("warn", "off", "sudo nvidia-smi -pm 1", data)


@gpu_check(
    "MIG", "Power is measured for the whole card: a run on an instance is billed for its neighbours too."
)
def mig(machine: Machine, gpu: GpuFacts) -> Verdict | None:
    """Whether the card is split."""
    data = {"mig": gpu.mig, "instances": gpu.mig_instances, "instance_selected": gpu.mig_selected}
    if not gpu.mig:
        return Verdict("ok", "off" if gpu.mig is False else "not on this card", data=data)
    chosen = ", one of them selected" if gpu.mig_selected else ""
    fix = f"sudo nvidia-smi -i {gpu.index} -mig 0"
    return Verdict("warn", f"on, {gpu.mig_instances} instance(s){chosen}", fix, data)


@gpu_check("other processes", "Their energy is in every figure of the card; the run is flagged as shared.")
def foreign_processes(machine: Machine, gpu: GpuFacts) -> Verdict | None:
    """Who else uses the card."""
    pids = gpu.foreign_pids
    data = {"pids": pids}
    if pids is None:
        return Verdict(
            "info", "the driver does not list processes here (as inside some containers)", data=data
        )
    if not pids:
        return Verdict("ok", "none", data=data)
    shown = ", ".join(map(str, pids[:4])) + (", ..." if len(pids) > 4 else "")
    idle = [other.index for other in machine.nvml.gpus if other.foreign_pids == [] and other.error is None]
    fix = (
        f"export CUDA_DEVICE_ORDER=PCI_BUS_ID CUDA_VISIBLE_DEVICES={idle[0]}  # that one is free"
        if idle
        else f"ps -o pid,user,cmd -p {','.join(map(str, pids[:4]))}  # whose they are; wait or end them"
    )
    return Verdict("warn", f"{len(pids)} not started by you here (pid {shown})", fix, data)


@gpu_check("throttling now", "A capped or hot card does the same work in more time, for other energy.")
def throttling(machine: Machine, gpu: GpuFacts) -> Verdict | None:
    """Whether something holds the clocks down at this moment."""
    if gpu.throttle_bits is None:
        return None
    reasons = [name for bit, name in _THROTTLES.items() if gpu.throttle_bits & bit]
    data = {"throttle_bits": gpu.throttle_bits}
    if not reasons:
        return Verdict("ok", "none", data=data)
    return Verdict(
        "warn", ", ".join(reasons), f"nvidia-smi -q -d PERFORMANCE,TEMPERATURE -i {gpu.index}", data
    )


@gpu_check(
    "module power", "On a superchip the counter may count the whole module; the probe tells which it is."
)
def module_scope(machine: Machine, gpu: GpuFacts) -> Verdict | None:
    """Whether the card is part of a module whose power is shown too."""
    if not gpu.module_scope:
        return None
    return Verdict("warn", "the card is part of a module", "kit doctor --probe", {"module_scope": True})
