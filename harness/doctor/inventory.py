"""What NVML says of this machine, asked for in a process of its own.

A broken libnvidia-ml can hang or crash whoever loads it; the doctor must be able to say so.
`take_inventory` starts `python -m harness.doctor.inventory`, which prints one JSON object.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from subprocess import CompletedProcess
from typing import Any

from harness.meter.helper import package_environ

_TIMEOUT_S = 30.0
_TICKS = 2
_MODULE_SCOPE = 1
_SHORT_UUID = re.compile(r"((?:MIG-)?(?:GPU-)?[0-9a-fA-F]{8})-[0-9a-fA-F-]{9,}")


def shorten_uuids(text: str) -> str:
    """The text with every UUID cut to its first eight digits, enough to tell cards apart."""
    return _SHORT_UUID.sub(r"\1...", text)


@dataclass(frozen=True)
class GpuFacts:
    """One GPU as NVML describes it; None for what it does not say.

    Attributes:
        error: NVML's reason when the card cannot be talked to at all.
        selected: Whether the measured job may use it (CUDA_VISIBLE_DEVICES).
        methods: How counter, INSTANT and AVERAGE power are read: "field", "call" or "absent".
        read_errors: NVML codes of quantities that are known to the card but failed when asked.
        ticks: How many times the energy counter moved while it was watched, at most 2.
        foreign_pids: Processes on the card that are not ours; None when NVML does not list them.
    """

    index: int
    error: str | None = None
    model: str | None = None
    uuid: str = ""
    mem_mib: int | None = None
    architecture: int | None = None
    selected: bool = True
    mig_selected: bool = False
    methods: dict[str, str] = field(default_factory=dict)
    read_errors: dict[str, int] = field(default_factory=dict)
    ticks: int = 0
    refresh_us: float | None = None
    power_mw: int | None = None
    average_mw: int | None = None
    module_scope: bool = False
    power_limit_mw: int | None = None
    default_power_limit_mw: int | None = None
    persistence: bool | None = None
    mig: bool | None = None
    mig_instances: int = 0
    throttle_bits: int | None = None
    foreign_pids: list[int] | None = None

    def counter_works(self) -> bool:
        """Whether the energy counter is there and was seen to move."""
        return self.error is None and self.methods.get("energy") != "absent" and self.ticks > 0

    def power_works(self) -> bool:
        """Whether any power reading succeeded."""
        return self.power_mw is not None or self.average_mw is not None


@dataclass(frozen=True)
class Nvml:
    """NVML on this machine.

    Attributes:
        error: Why it does not work, None when it does.
        code: NVML's error code, when it was NVML that said so.
        visible: CUDA_VISIBLE_DEVICES with shortened UUIDs, None when unset.
        doubts: What is doubtful about the choice of GPUs (`harness.meter.visible`).
    """

    error: str | None = None
    code: int | None = None
    driver: str | None = None
    cuda: str | None = None
    gpus: tuple[GpuFacts, ...] = ()
    visible: str | None = None
    doubts: tuple[str, ...] = ()

    @property
    def selected(self) -> tuple[GpuFacts, ...]:
        """The GPUs the job may use."""
        return tuple(gpu for gpu in self.gpus if gpu.selected)


def run_helper(arguments: Sequence[str], timeout_s: float, **environ: str) -> CompletedProcess[str]:
    """Run this interpreter with our package and no input; what it prints is captured.

    Raises:
        OSError: It could not be started.
        subprocess.TimeoutExpired: It took too long.
    """
    return subprocess.run(
        [sys.executable, "-P", *arguments],
        env=package_environ(**environ),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="replace",
        timeout=timeout_s,
        check=False,
    )


def take_inventory(timeout_s: float = _TIMEOUT_S) -> Nvml:
    """Ask NVML in a child process; whatever happens to the child becomes `error`."""
    try:
        done = run_helper(["-m", "harness.doctor.inventory", str(os.getpid())], timeout_s)
    except subprocess.TimeoutExpired:
        return Nvml(error=f"NVML did not answer within {timeout_s:.0f} s")
    except OSError as error:
        return Nvml(error=f"the process that asks NVML could not be started: {error.strerror}")
    if done.returncode < 0:
        return Nvml(error=f"NVML crashed the process that asked it ({_signal_name(-done.returncode)})")
    try:
        answer = json.loads(done.stdout.strip().splitlines()[-1])
        gpus = tuple(GpuFacts(**entry) for entry in answer.pop("gpus"))
        return Nvml(**{**answer, "gpus": gpus, "doubts": tuple(answer["doubts"])})
    except (IndexError, ValueError, TypeError, KeyError, AttributeError):
        tail = done.stderr.strip().splitlines()[-1:] or [f"exit code {done.returncode}"]
        return Nvml(error=f"the process that asks NVML failed: {tail[0]}")


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def _ask(owner_pid: int) -> dict[str, Any]:
    """The inventory as JSON; runs in the child."""
    import pynvml

    from harness.meter.sources import nvml

    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    found: dict[str, Any] = {
        "visible": None if visible is None else shorten_uuids(visible),
        "gpus": [],
        "doubts": [],
    }
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError as error:
        return {**found, "error": str(error), "code": error.value}
    found["driver"], found["cuda"] = nvml.driver_version(), nvml.cuda_driver_version()
    selection = nvml.choose_gpus(None)
    found["doubts"] = list(selection.doubts)
    sources: dict[int, nvml.GpuSource] = {}
    try:
        count = int(pynvml.nvmlDeviceGetCount())
    except pynvml.NVMLError as error:
        return {**found, "error": f"the GPUs cannot be counted: {error}", "code": error.value}
    for index in range(count):
        entry: dict[str, Any] = {
            "index": index,
            "selected": index in selection.indices,
            "mig_selected": index in selection.mig_indices,
        }
        try:
            handle = pynvml.nvmlDeviceGetHandleByIndex(index)
            uuid = pynvml.nvmlDeviceGetUUID(handle)
            entry["uuid"] = shorten_uuids(
                uuid.decode(errors="replace") if isinstance(uuid, bytes) else str(uuid)
            )
            sources[index] = nvml.GpuSource(index)
            entry |= _describe(sources[index], owner_pid)
        except pynvml.NVMLError as error:
            # A lost card is left out of the selection; CUDA would not have got it either.
            entry |= {"error": str(error), "selected": entry["selected"] or visible is None}
        found["gpus"].append(entry)
    _watch_counters(sources, found["gpus"])
    return found


def _describe(source: Any, owner_pid: int) -> dict[str, Any]:
    import pynvml

    from harness.meter.foreign import foreign_pids
    from harness.meter.nvml_calls import FieldQuery

    def ask(call: Any, *arguments: Any) -> Any:
        try:
            return call(source.handle, *arguments)
        except pynvml.NVMLError:
            return None

    entry = source.describe()
    reading = source.read()
    pids = source.compute_pids()
    graphics = ask(pynvml.nvmlDeviceGetGraphicsRunningProcesses)
    if pids is not None and graphics is not None:
        pids = sorted({*pids, *(int(process.pid) for process in graphics)})
    code, _ = FieldQuery(source.handle, [186]).read()
    mig = ask(pynvml.nvmlDeviceGetMigMode)
    return {
        "model": entry["model"],
        "mem_mib": entry["mem_mib"],
        "architecture": ask(pynvml.nvmlDeviceGetArchitecture),
        "methods": dict(source.methods),
        "read_errors": dict(reading.errors or {}),
        "power_mw": reading.power_mw,
        "average_mw": reading.average_mw,
        "module_scope": code == 0 and module_power_mw(source.handle) is not None,
        "power_limit_mw": entry["power_limit_mw"],
        "default_power_limit_mw": entry["default_power_limit_mw"],
        "persistence": entry["persistence"],
        "mig": None if mig is None else bool(mig[0]),
        "mig_instances": _mig_instances(source.handle) if mig and mig[0] else 0,
        "throttle_bits": ask(pynvml.nvmlDeviceGetCurrentClocksThrottleReasons),
        "foreign_pids": None if pids is None else foreign_pids(pids, owner_pid),
    }


def module_power_mw(handle: Any) -> int | None:
    """INSTANT power of the module that a GPU is part of, as on superchips; None for other cards."""
    import pynvml

    field: Any = [(pynvml.NVML_FI_DEV_POWER_INSTANT, _MODULE_SCOPE)]
    try:
        value = pynvml.nvmlDeviceGetFieldValues(handle, field)[0]
    except pynvml.NVMLError:
        return None
    return int(value.value.uiVal) or None if value.nvmlReturn == 0 else None


def _mig_instances(handle: Any) -> int:
    import pynvml

    count = 0
    for position in range(int(pynvml.nvmlDeviceGetMaxMigDeviceCount(handle))):
        try:
            pynvml.nvmlDeviceGetMigDeviceHandleByIndex(handle, position)
        except pynvml.NVMLError:
            continue
        count += 1
    return count


def _watch_counters(sources: dict[int, Any], entries: list[dict[str, Any]]) -> None:
    """See whether the counters move: a counter that stands still measures nothing."""
    from harness.meter.ticks import TickModel, watch_ticks

    able = [source for source in sources.values() if source.methods["energy"] != "absent"]
    models = {source.index: TickModel() for source in able}
    seen = watch_ticks(able, models, count=_TICKS) if able else {}
    for entry in entries:
        ticks = seen.get(entry["index"], [])
        entry["ticks"] = len(ticks)
        if len(ticks) == _TICKS:
            entry["refresh_us"] = float(ticks[1].mono_us - ticks[0].mono_us)


def main() -> int:
    """Entry point of the child."""
    answers = os.dup(1)
    os.dup2(2, 1)  # whatever a library prints must not mix with the answer
    os.write(answers, json.dumps(_ask(int(sys.argv[1]))).encode() + b"\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
