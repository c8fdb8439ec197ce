"""What the fake NVML plays: devices, sensors and faults, as the C side reads it, and the exact truth."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from .waveforms import AnyWaveform, Const, lab_hash

FOREVER = -1
ERROR_NOT_SUPPORTED, ERROR_NO_PERMISSION, ERROR_DRIVER_NOT_LOADED = 3, 4, 9
ERROR_GPU_IS_LOST, ERROR_UNKNOWN = 15, 999


def mono_us() -> int:
    """CLOCK_MONOTONIC in microseconds, the time base of the lab."""
    return time.monotonic_ns() // 1000


@dataclass(frozen=True)
class Fault:
    """Something that goes wrong from `start_us` until `end_us`, both relative to the lab's origin.

    Use the functions below; they name what each kind means.
    """

    kind: str
    start_us: int = -(10**15)
    end_us: int = FOREVER
    value: int = 0
    extra: int = 0
    target: str = "*"

    def line(self) -> str:
        """The fault as the fake library's config spells it."""
        return f"{self.kind} {self.start_us} {self.end_us} {self.value} {self.extra} {self.target}"


_EVER = -(10**15)


def fails(target: str, code: int, start_us: int = _EVER, end_us: int = FOREVER) -> Fault:
    """Calls of `target` return `code`: a C symbol without its version suffix, `field:83`, or `*` for all."""
    return Fault("fail", start_us, end_us, code, target=target)


def not_supported(target: str, start_us: int = _EVER, end_us: int = FOREVER) -> Fault:
    """`target` (see `fails`) is not supported."""
    return fails(target, ERROR_NOT_SUPPORTED, start_us, end_us)


def error_burst(start_us: int, end_us: int, target: str = "*") -> Fault:
    """NVML_ERROR_UNKNOWN for a while."""
    return fails(target, ERROR_UNKNOWN, start_us, end_us)


def gpu_lost(start_us: int, end_us: int = FOREVER) -> Fault:
    """The device has fallen off the bus: GPU_IS_LOST from every call that names it."""
    return fails("*", ERROR_GPU_IS_LOST, start_us, end_us)


def counter_reset(at_us: int) -> Fault:
    """The energy counter restarts from 0, as after a driver reload."""
    return Fault("reset", at_us)


def counter_stuck(start_us: int, end_us: int = FOREVER) -> Fault:
    """The energy counter keeps the value it had at `start_us`; afterwards it shows the truth again."""
    return Fault("stuck", start_us, end_us)


def counter_shows(value_mj: int, start_us: int, end_us: int) -> Fault:
    """The energy counter reads this value; afterwards it shows the truth again."""
    return Fault("show", start_us, end_us, value_mj, target="counter")


def counter_jump(more_mj: int, start_us: int, end_us: int = FOREVER) -> Fault:
    """The energy counter reads so much more."""
    return Fault("jump", start_us, end_us, more_mj)


def power_shows(value_mw: int, start_us: int, end_us: int) -> Fault:
    """Every power reads this value."""
    return Fault("show", start_us, end_us, value_mw, target="power")


def zero_power(start_us: int, end_us: int, target: str = "*") -> Fault:
    """Power reads 0 mW: `nvmlDeviceGetPowerUsage`, `field:185`, `field:186`, or `*` for all three."""
    return Fault("zero", start_us, end_us, target=target)


def stall(start_us: int, end_us: int, call_us: int, target: str = "*") -> Fault:
    """Each call begun in the window takes `call_us` longer."""
    return Fault("stall", start_us, end_us, call_us, target=target)


def process(
    pid: int, start_us: int = _EVER, end_us: int = FOREVER, kind: str = "compute", mib: int = 1024
) -> Fault:
    """A process on the device; `kind` is compute, graphics or mps."""
    return Fault("process", start_us, end_us, pid, mib, kind)


def override(gauge: str, value: int, start_us: int, end_us: int = FOREVER) -> Fault:
    """A gauge (`temp_c`, `sm_clock_mhz`, `throttle_bits`, `power_limit_mw`, ...) differs for a while."""
    return Fault("override", start_us, end_us, value, target=gauge)


@dataclass(frozen=True)
class Refresh:
    """When a sensor refreshes: tick k at `phase_us + k * period_us` after the origin, jittered by seed."""

    period_us: int = 100_000
    phase_us: int = 0
    jitter_us: int = 0
    seed: int = 0

    def __post_init__(self) -> None:
        if self.period_us < 1 or not 0 <= 2 * self.jitter_us < self.period_us:
            raise ValueError("a refresh needs a period of at least 1 us and a jitter below half of it")

    def tick_us(self, k: int) -> int:
        """Time of tick k after the origin."""
        at = self.phase_us + k * self.period_us
        if self.jitter_us:
            at += lab_hash(self.seed, k) % (2 * self.jitter_us + 1) - self.jitter_us
        return at

    def last(self, tau_us: int) -> int:
        """Number of the last tick at or before `tau_us`."""
        k = (tau_us - self.phase_us) // self.period_us + 1
        while self.tick_us(k) > tau_us:
            k -= 1
        return k


@dataclass(frozen=True)
class Mig:
    """A MIG instance of a device."""

    uuid: str
    gpu_instance: int = 7
    compute_instance: int = 0
    memory_mib: int = 9_984


@dataclass(frozen=True)
class LabDevice:
    """One GPU. The defaults are the model of an H100 of reference/energy_measurement.md, section 1.

    `waves` add up to the true power. `average_us` is the trailing window of PowerUsage and field 185,
    `instant_us` that of field 186 (0 = the value at the refresh). `usage_is_instant` gives PowerUsage
    its meaning before Ampere. `counter_gain`, `power_gain`, `noise_mw` and `counter_extra_w` (a counter
    of a wider scope) are errors of the instruments; the truth knows nothing of them. `module_extra_w` >
    0 makes scope 1 of fields 185 and 186 answer, with that much more. `util_pct` -1 follows power.
    `process_file` names a file of pids that are compute processes of this device, read at each call.
    `latency_us` is the cost of a call.
    """

    waves: tuple[AnyWaveform, ...] = (Const(300.0),)
    counter: Refresh = Refresh()
    sensor: Refresh = Refresh()
    faults: tuple[Fault, ...] = ()
    mig: tuple[Mig, ...] = ()
    mig_mode: int = 0
    name: str = "NVIDIA H100 80GB HBM3"
    uuid: str | None = None
    pci_bus: int | None = None
    process_file: str = ""
    memory_mib: int = 81_559
    architecture: int = 9
    cc_major: int = 9
    cc_minor: int = 0
    persistence: int = 1
    ecc: int = 1
    limit_default_mw: int = 700_000
    limit_min_mw: int = 200_000
    limit_max_mw: int = 700_000
    sm_clock_max_mhz: int = 1980
    util_pct: int = -1
    mem_used_mib: int = 1024
    temp_c: int = 45
    sm_clock_mhz: int = 1980
    throttle_bits: int = 0
    power_limit_mw: int = 700_000
    counter_offset_mj: int = 600_000_000
    average_us: int = 1_000_000
    instant_us: int = 25_000
    usage_is_instant: int = 0
    counter_gain: float = 1.0
    power_gain: float = 1.0
    counter_extra_w: float = 0.0
    module_extra_w: float = 0.0
    noise_mw: int = 0
    noise_seed: int = 0
    latency_us: int = 0

    def __post_init__(self) -> None:
        if sum(wave.bounds_w()[0] for wave in self.waves) < 0:
            raise ValueError("the waveforms of a device may add up to less than 0 W")

    def energy_uj(self, tau_us: float) -> float:
        """Antiderivative of the true power in microjoules, `tau_us` after the origin."""
        return sum(wave.energy_uj(tau_us) for wave in self.waves)

    def power_w(self, tau_us: float) -> float:
        """True power in watts, `tau_us` after the origin."""
        return sum(wave.power_w(tau_us) for wave in self.waves)


_TYPED_LINES = ("waves", "counter", "sensor", "faults", "mig")


@dataclass(frozen=True)
class LabConfig:
    """A machine with fake GPUs; `t0_us` (CLOCK_MONOTONIC) is the origin of all waveforms, refreshes, faults.

    `calls_path` names a file in which all processes count their calls (`read_calls`); `init_error` is what
    nvmlInit returns.
    """

    devices: Sequence[LabDevice] = (LabDevice(),)
    t0_us: int = field(default_factory=mono_us)
    driver: str = "550.54.15"
    nvml_version: str = "12.550.54.15"
    cuda_version: int = 12040
    init_error: int = 0
    calls_path: str = ""

    def uuid(self, device: int) -> str:
        """UUID of a device, made up from its index unless given."""
        made_up = f"GPU-{lab_hash(device, 0) & 0xFFFFFFFF:08x}-0000-4000-8000-{device:012x}"
        return self.devices[device].uuid or made_up

    def pci_bus(self, device: int) -> int:
        """PCI bus number of a device."""
        given = self.devices[device].pci_bus
        return 0x10 + 8 * device if given is None else given

    def text(self) -> str:
        """The config file."""
        lines = [f"t0_us {self.t0_us}", f"driver {self.driver}", f"nvml_version {self.nvml_version}"]
        lines += [f"cuda_version {self.cuda_version}", f"init_error {self.init_error}"]
        lines += [f"calls_path {self.calls_path}"] if self.calls_path else []
        for index, device in enumerate(self.devices):
            lines += ["device", f"uuid {self.uuid(index)}", f"pci_bus {self.pci_bus(index)}"]
            for key, value in vars(device).items():
                if key not in (*_TYPED_LINES, "uuid", "pci_bus") and value != "":
                    lines.append(f"{key} {value}")
            for key, refresh in (("counter", device.counter), ("sensor", device.sensor)):
                parts = (refresh.period_us, refresh.phase_us, refresh.jitter_us, refresh.seed)
                lines.append(" ".join(map(str, (key, *parts))))
            for m in device.mig:
                lines.append(f"mig {m.uuid} {m.gpu_instance} {m.compute_instance} {m.memory_mib}")
            lines += ["wave " + wave.line() for wave in device.waves]
            lines += [fault.line() for fault in device.faults]
        return "\n".join(lines) + "\n"

    def write(self, path: Path) -> Path:
        """Write the config file in one step, so that no reader sees half of it."""
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_name(path.name + ".part")
        part.write_text(self.text(), encoding="ascii")
        return part.replace(path)

    def env(self, directory: Path, config: Path | None = None) -> dict[str, str]:
        """Environment additions for a child; `directory` holds the built library and gets the config file."""
        digest = hashlib.sha256(self.text().encode()).hexdigest()[:16]
        path = config or self.write(directory / f"lab-{digest}.conf")
        return {"LD_LIBRARY_PATH": str(directory), "KIT_LAB_NVML": str(path)}

    def true_energy_j(self, device: int, start_us: float, end_us: float) -> float:
        """Joules a device really used between two instants of CLOCK_MONOTONIC."""
        d = self.devices[device]
        return (d.energy_uj(end_us - self.t0_us) - d.energy_uj(start_us - self.t0_us)) / 1e6

    def true_power_w(self, device: int, t_us: float) -> float:
        """Watts a device really draws at an instant of CLOCK_MONOTONIC."""
        return self.devices[device].power_w(t_us - self.t0_us)

    def tick_times(self, device: int, start_us: int, end_us: int) -> list[int]:
        """CLOCK_MONOTONIC of every refresh of the energy counter in [start, end]."""
        return _ticks(self.devices[device].counter, self.t0_us, start_us, end_us)

    def sensor_times(self, device: int, start_us: int, end_us: int) -> list[int]:
        """CLOCK_MONOTONIC of every refresh of the power sensor in [start, end]."""
        return _ticks(self.devices[device].sensor, self.t0_us, start_us, end_us)


def _ticks(refresh: Refresh, t0_us: int, start_us: int, end_us: int) -> list[int]:
    first, last = refresh.last(start_us - t0_us - 1) + 1, refresh.last(end_us - t0_us)
    return [t0_us + refresh.tick_us(k) for k in range(first, last + 1)]


def true_energy_j(config: LabConfig, device: int, start_us: float, end_us: float) -> float:
    """`LabConfig.true_energy_j` as a function."""
    return config.true_energy_j(device, start_us, end_us)


def true_power_w(config: LabConfig, device: int, t_us: float) -> float:
    """`LabConfig.true_power_w` as a function."""
    return config.true_power_w(device, t_us)


def tick_times(config: LabConfig, device: int, start_us: int, end_us: int) -> list[int]:
    """`LabConfig.tick_times` as a function."""
    return config.tick_times(device, start_us, end_us)
