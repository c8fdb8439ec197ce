"""NVIDIA GPUs through pynvml: one field query a tick for counter, instant and average power, with recorded
fall-backs.

A failed read is None, never 0; so is a power of exactly 0 mW, which a powered card does not draw but drivers
return in bursts. What a card cannot tell is found out once, at start, and remembered in `GpuSource.methods`.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from time import monotonic_ns
from typing import Any, NamedTuple

import pynvml

from harness.errors import KitError
from harness.journal.records import POWER_ROW
from harness.meter.clocks import mono_us
from harness.meter.identity import scale_id
from harness.meter.nvml_calls import MISSING, UNKNOWN_TYPE, FieldQuery, Gauges
from harness.meter.sources.base import Device, Found, Measure, Reading, Wanted
from harness.meter.visible import ORDER_IN_DOUBT, GpuIdentity, Selection, select_listed, select_visible

FIELD_ENERGY = 83  # NVML_FI_DEV_TOTAL_ENERGY_CONSUMPTION, mJ since the driver was loaded
FIELD_AVERAGE = 185  # NVML_FI_DEV_POWER_AVERAGE, mW over 1 s on Ampere and later
FIELD_INSTANT = 186  # NVML_FI_DEV_POWER_INSTANT, mW
_SLOW_EVERY = 20  # power limit and MIG mode are read every 20th tick: they change by hand only
_MAX_POWER_MW = 1 << 30
_NO_NVIDIA = {
    str(pynvml.NVMLError(code))
    for code in (pynvml.NVML_ERROR_LIBRARY_NOT_FOUND, pynvml.NVML_ERROR_DRIVER_NOT_LOADED)
}
"""Why NVML does not start on a machine without an NVIDIA GPU."""
_ANSWERED_ZERO = -1  # stands for a code where a field answered, but with a power of 0


def nvml_unavailable() -> str | None:
    """Initialise NVML; None when it works, else NVML's own reason why not."""
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError as error:
        return str(error)
    return None


def driver_version() -> str | None:
    """The driver's version, None when it does not say."""
    return _text(lambda: pynvml.nvmlSystemGetDriverVersion())


def cuda_driver_version() -> str | None:
    """The CUDA version that the driver supports, such as "13.0"."""
    version = _try(lambda: pynvml.nvmlSystemGetCudaDriverVersion())
    return None if version is None else f"{version // 1000}.{version % 1000 // 10}"


class GpuSource(Device):
    """One metered GPU.

    Attributes:
        methods: How each quantity is read: "field", "call" (an older NVML function) or "absent".
    """

    def __init__(self, index: int, handle: Any = None) -> None:
        self.index = index
        self.handle: Any = pynvml.nvmlDeviceGetHandleByIndex(index) if handle is None else handle
        self.uuid = _text(lambda: pynvml.nvmlDeviceGetUUID(self.handle)) or ""
        self.methods = {"energy": "field", "instant": "field", "average": "field"}
        self._fields = FieldQuery(self.handle, [FIELD_ENERGY, FIELD_INSTANT, FIELD_AVERAGE])
        self._energy_field = FieldQuery(self.handle, [FIELD_ENERGY])
        self._gauges = Gauges(self.handle)
        self._all_fields = True
        self._limit_mw = MISSING
        self._known_limit_mw = MISSING
        self._ticks = 0
        self._settle_methods()
        self.measures = Measure(
            source="nvml",
            part="gpu",
            unit="mJ",
            scope="unknown",  # board, module or die: only a measurement tells (kit doctor --probe)
            reads=("counter", "power") if self.methods["energy"] != "absent" else ("power",),
            state="measured",
            shared_scale=f"nvml {index}",
        )

    def _settle_methods(self) -> None:
        """Decide per quantity how this card gives it, allowing for the odd failing read."""
        verdicts: dict[str, set[int]] = {"energy": set(), "instant": set(), "average": set()}
        for _ in range(5):
            reading = self.read()
            for name, value in (
                ("energy", reading.energy),
                ("instant", reading.power_mw),
                ("average", reading.average_mw),
            ):
                verdicts[name].add(
                    0 if value is not None else (reading.errors or {}).get(name, _ANSWERED_ZERO)
                )
        unsupported = {
            pynvml.NVML_ERROR_NOT_SUPPORTED,
            pynvml.NVML_ERROR_FUNCTION_NOT_FOUND,
            pynvml.NVML_ERROR_INVALID_ARGUMENT,
            UNKNOWN_TYPE,
            _ANSWERED_ZERO,
        }
        calls: dict[str, Callable[[], Any]] = {
            "energy": lambda: pynvml.nvmlDeviceGetTotalEnergyConsumption(self.handle),
            "instant": lambda: pynvml.nvmlDeviceGetPowerUsage(self.handle),
        }
        for name, seen in verdicts.items():
            if 0 in seen or not seen <= unsupported:
                continue
            answer = _try(calls[name]) if name in calls else None
            works = answer is not None and (name == "energy" or answer > 0)
            if works or _ANSWERED_ZERO not in seen:
                self.methods[name] = "call" if works else "absent"
        self._all_fields = set(self.methods.values()) == {"field"}

    def read(self) -> Reading:
        """Counter and powers in one NVML call, plus the older call for what is no field of this card."""
        before = mono_us()
        flat = self._fields.read() if "field" in self.methods.values() else None
        reading = self._reading(before, flat)
        if self.methods["energy"] == "call":
            reading.energy = self._call(reading, "energy", pynvml.nvmlDeviceGetTotalEnergyConsumption)
        if self.methods["instant"] == "call":
            reading.power_mw = _power(self._call(reading, "instant", pynvml.nvmlDeviceGetPowerUsage))
        after = mono_us()
        reading.mono_us, reading.read_us = (before + after) // 2, after - before
        return reading

    def _reading(self, at_us: int, flat: tuple[int, ...] | None) -> Reading:
        """What a field query says; failures are noted."""
        reading = Reading(at_us, 0)
        if flat is None:
            return reading
        energy_code, energy, power_code, power, average_code, average = flat
        reading.energy = energy if self._settle(reading, "energy", energy_code) else None
        reading.power_mw = _power(power if self._settle(reading, "instant", power_code) else None)
        reading.average_mw = _power(average if self._settle(reading, "average", average_code) else None)
        return reading

    def _settle(self, reading: Reading, quantity: str, code: int) -> bool:
        """Whether a field's value counts; a failure is noted unless the quantity is read in another way."""
        if self.methods[quantity] != "field":
            return False
        if code:
            reading.fail(quantity, code)
        return code == 0

    def read_energy(self) -> int | None:
        """The counter alone, mJ; the quick read for bursts around a counter tick."""
        if self.methods["energy"] == "call":
            energy_mj = _try(partial(pynvml.nvmlDeviceGetTotalEnergyConsumption, self.handle))
            return None if energy_mj is None else int(energy_mj)
        code, energy = self._energy_field.read()
        return None if code else energy

    def _call(self, reading: Reading, name: str, function: Callable[[Any], int]) -> int | None:
        try:
            return int(function(self.handle))
        except pynvml.NVMLError as error:
            reading.fail(name, error.value)
            return None

    def sample(self, session: int, wall_offset_us: int) -> tuple[bytes, int, Reading | None]:
        """As `Device.sample`; the reading is left out where nothing about it is out of the ordinary."""
        if self._ticks % _SLOW_EVERY == 0:
            self._read_limit()
        self._ticks += 1
        if self._all_fields:
            # The way that nearly every sample goes touches as little as possible: after half a second asleep
            # each line of code is a cache miss.
            before = monotonic_ns()
            code = self._fields.call()
            after = monotonic_ns()
            values = None if code else self._fields.values()
            if values is not None and 0 < values[1] < _MAX_POWER_MW and 0 < values[2] < _MAX_POWER_MW:
                at_us = (before + after) // 2000
                row = POWER_ROW.pack(
                    self.index,
                    session,
                    at_us + wall_offset_us,
                    at_us,
                    values[1],
                    values[2],
                    values[0],
                    *self._gauges.read(),
                    self._limit_mw,
                    (after - before) // 1000,
                )
                return row, values[0], None
            flat = (code, 0) * 3 if code else self._fields.parse()
            reading = self._reading(before // 1000, flat)
            reading.mono_us, reading.read_us = (before + after) // 2000, (after - before) // 1000
        else:
            reading = self.read()
        row = self.pack(reading, session, wall_offset_us, self._gauges.read(), self._limit_mw)
        return row, MISSING if reading.energy is None else reading.energy, reading

    def _read_limit(self) -> None:
        limit_mw = _try(partial(pynvml.nvmlDeviceGetPowerManagementLimit, self.handle))
        self._limit_mw = MISSING if limit_mw is None else int(limit_mw)
        if limit_mw is None:
            return
        if self._known_limit_mw not in (MISSING, self._limit_mw):
            self.limit_change = (self._known_limit_mw, self._limit_mw)
        self._known_limit_mw = self._limit_mw

    def compute_pids(self) -> list[int] | None:
        """Processes with a CUDA context on this GPU; slow and locking, so asked for at stage ends only."""
        processes = _try(lambda: list(pynvml.nvmlDeviceGetComputeRunningProcesses(self.handle)))
        return None if processes is None else [int(process.pid) for process in processes]

    def describe(self) -> dict[str, Any]:
        """The manifest's entry for this device; None for what the card does not say."""
        handle = self.handle
        mig = _try(lambda: pynvml.nvmlDeviceGetMigMode(handle)[0])
        persistence = _try(lambda: pynvml.nvmlDeviceGetPersistenceMode(handle))
        return super().describe() | {
            "vendor": "nvidia",
            "model": _text(lambda: pynvml.nvmlDeviceGetName(handle)) or "unknown",
            "mem_mib": _try(lambda: int(pynvml.nvmlDeviceGetMemoryInfo(handle).total) >> 20),
            "power_limit_mw": _try(lambda: int(pynvml.nvmlDeviceGetPowerManagementLimit(handle))),
            "default_power_limit_mw": _try(
                lambda: int(pynvml.nvmlDeviceGetPowerManagementDefaultLimit(handle))
            ),
            "mig": None if mig is None else bool(mig),
            "persistence": None if persistence is None else bool(persistence),
            "scale_id": scale_id("gpu", self.uuid),
        }


def discover(wanted: Wanted) -> Found:
    """Open the GPUs asked for, in the order CUDA numbers them.

    Raises:
        KitError: A listed device is not there.
    """
    if wanted.devices == [] or wanted.known == []:
        return Found(reason="not asked for (devices: none)")
    reason = nvml_unavailable()
    if wanted.known is not None:
        found = _reopen(wanted.known, reason)
    elif reason is not None:
        if wanted.devices:
            raise KitError(
                f"devices {', '.join(wanted.devices)} were asked for, but NVML fails: {reason}",
                where="devices",
                fix="kit doctor",
            )
        found = Found(reason=reason, broken=reason not in _NO_NVIDIA)
    else:
        found = _open(wanted.devices, wanted.visible)
    if found.devices:
        found.facts = {"driver": driver_version(), "cuda": cuda_driver_version()}
    return found


def _open(devices: list[str] | None, environments: list[list[str | None]] | None) -> Found:
    """The devices of a list, or else those that any of the environments shows."""
    survey = survey_gpus()
    if devices is not None or environments is None:
        selections = [choose_gpus(devices, survey)]
    else:
        selections = [select_visible(list(survey.gpus), *environment) for environment in environments]
    indices = dict.fromkeys(index for one in selections for index in one.indices)
    doubts = dict.fromkeys(doubt for one in selections for doubt in one.doubts)
    if len(indices) == len(survey.gpus):
        doubts.pop(ORDER_IN_DOUBT, None)  # whatever the numbers mean, all cards are metered
    return Found(
        devices=[GpuSource(index) for index in indices],
        visible=[list(one.indices) for one in selections] if devices is None and environments else None,
        reason=None if indices else "no GPU is visible (CUDA_VISIBLE_DEVICES)",
        doubts=(
            *doubts,
            *(["gpu_lost"] if survey.lost else []),
            *(["gpu_unidentified"] if survey.unidentified else []),
        ),
        mig_devices=tuple(dict.fromkeys(index for one in selections for index in one.mig_indices)),
        lost=survey.lost,
        unidentified=survey.unidentified,
    )


def _reopen(known: list[list[Any]], reason: str | None) -> Found:
    """The devices of the sampler that this one replaces, under their numbers; one may be lost by now."""
    found, lost = Found(reason=reason), []
    for device_id, uuid in known:
        handle = None if reason else _try(partial(pynvml.nvmlDeviceGetHandleByUUID, str(uuid)))
        if handle is None:
            lost.append(int(device_id))
        else:
            found.devices.append(GpuSource(int(device_id), handle))
    found.lost = tuple(lost)
    return found


class Survey(NamedTuple):
    """The GPUs NVML shows.

    Attributes:
        gpus: Those that can be told apart.
        lost: NVML indices of those that have fallen off the bus and cannot be metered.
        unidentified: NVML indices of those that give neither UUID nor PCI id: which one a job means by its
            number, or which it is after a restart of the sampler, nobody can say.
    """

    gpus: tuple[GpuIdentity, ...]
    lost: tuple[int, ...] = ()
    unidentified: tuple[int, ...] = ()


def survey_gpus() -> Survey:
    """Look at all GPUs once."""
    gpus: list[GpuIdentity] = []
    lost: list[int] = []
    unidentified: list[int] = []
    for index in range(_try(pynvml.nvmlDeviceGetCount) or 0):
        handle = _try(partial(pynvml.nvmlDeviceGetHandleByIndex, index))
        if handle is None or _is_lost(handle):
            lost.append(index)
            continue
        uuid = _text(partial(pynvml.nvmlDeviceGetUUID, handle)) or ""
        pci = _text(lambda handle=handle: pynvml.nvmlDeviceGetPciInfo(handle).busId) or ""  # type: ignore[misc]
        if not uuid and not pci:
            unidentified.append(index)
            continue
        name = _text(partial(pynvml.nvmlDeviceGetName, handle)) or ""
        gpus.append(GpuIdentity(index, uuid, pci, name, tuple(_mig_uuids(handle))))
    return Survey(tuple(gpus), tuple(lost), tuple(unidentified))


def choose_gpus(devices: list[str] | None, survey: Survey | None = None) -> Selection:
    """The GPUs to meter: the explicit list, or what CUDA_VISIBLE_DEVICES shows when `devices` is None."""
    gpus = list((survey or survey_gpus()).gpus)
    if devices is not None:
        return select_listed(gpus, devices)
    return select_visible(gpus, os.environ.get("CUDA_VISIBLE_DEVICES"), os.environ.get("CUDA_DEVICE_ORDER"))


def _is_lost(handle: Any) -> bool:
    try:
        pynvml.nvmlDeviceGetUUID(handle)
    except pynvml.NVMLError as error:
        return bool(error.value == pynvml.NVML_ERROR_GPU_IS_LOST)
    return False


def _mig_uuids(handle: Any) -> list[str]:
    mode = _try(lambda: pynvml.nvmlDeviceGetMigMode(handle)[0])
    if not mode:
        return []
    uuids = []
    for position in range(_try(lambda: pynvml.nvmlDeviceGetMaxMigDeviceCount(handle)) or 0):
        instance = _try(partial(pynvml.nvmlDeviceGetMigDeviceHandleByIndex, handle, position))
        uuid = None if instance is None else _text(partial(pynvml.nvmlDeviceGetUUID, instance))
        if uuid:
            uuids.append(uuid)
    return uuids


def _power(milliwatts: int | None) -> int | None:
    return milliwatts if milliwatts is not None and 0 < milliwatts < _MAX_POWER_MW else None


def _try(call: Callable[[], Any]) -> Any:
    try:
        return call()
    except pynvml.NVMLError:
        return None


def _text(call: Callable[[], Any]) -> str | None:
    text = _try(call)
    return text.decode(errors="replace") if isinstance(text, bytes) else text
