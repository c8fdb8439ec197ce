"""What the checks look at besides NVML: kernel, container, RAPL, CodeCarbon, clocks and scheduling.

Everything is looked at once, the slow parts side by side, and everything may be absent: no /sys, no
permission, no CodeCarbon.
"""

from __future__ import annotations

import os
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from harness.doctor.inventory import Nvml, run_helper, take_inventory
from harness.errors import KitError
from harness.files import existing, free_bytes, package_version
from harness.meter.clocks import mono_us, utc_us
from harness.meter.helper import Helper
from harness.meter.sources.base import Found, Wanted, Zone, load_source, own_process
from harness.meter.sources.rapl import powercap_root
from harness.spec import load_protocol

_HELPER_TIMEOUT_S = 40.0


@dataclass(frozen=True)
class EstimatorFacts:
    """CodeCarbon as the meter would use it: what it estimates from, or why it cannot be used."""

    version: str | None = None
    cpu_model: str | None = None
    tdp_w: float | None = None
    error: str | None = None


@dataclass(frozen=True)
class Clocks:
    """The machine's clocks.

    Attributes:
        source: The kernel's clock source ("tsc"), None where the kernel does not show it.
        available: The others it could use.
        resolution_ns: What the kernel states for CLOCK_MONOTONIC.
        step_ns: The smallest step seen between two reads.
        wall_shift_us: How far the wall clock moved against the monotonic one while the doctor looked.
        watched_s: For how long that was watched.
    """

    source: str | None = None
    available: tuple[str, ...] = ()
    resolution_ns: float = 0.0
    step_ns: int = 0
    wall_shift_us: int = 0
    watched_s: float = 0.0


@dataclass(frozen=True)
class Disk:
    """The folder that runs go to, or its nearest parent that exists."""

    target: str
    free_bytes: int | None
    writable: bool


@dataclass(frozen=True)
class Machine:
    """Everything the checks judge."""

    nvml: Nvml = field(default_factory=Nvml)
    nvidia_on_pci: int | None = None
    nvidia_module: bool = False
    container: str | None = None
    virtual: bool = False
    root: bool = False
    powercap_exists: bool = False
    zones: Mapping[str, Found] = field(default_factory=dict)
    estimator: EstimatorFacts = field(default_factory=EstimatorFacts)
    scheduling: str | None = None
    clocks: Clocks = field(default_factory=Clocks)
    disk: Disk = field(default_factory=lambda: Disk("runs", None, True))
    cpu_count: int | None = None

    @property
    def rapl(self) -> Found:
        """What RAPL shows."""
        return self.zones.get("rapl", Found())

    @property
    def counted(self) -> bool:
        """Whether some source counts the processor's energy here."""
        return any(found.measures("cpu") for found in self.zones.values())


def observe(target: str = "runs") -> Machine:
    """Look at everything once."""
    offset_us, begin_us = utc_us() - mono_us(), mono_us()
    with ThreadPoolExecutor(max_workers=2) as pool:
        asked_nvml = pool.submit(take_inventory)
        zones = _zones()
        counted = any(found.measures("cpu") for found in zones.values())
        # As `harness.meter.choice` decides: an estimate only where no counter can be read.
        asked_estimator = None if counted else pool.submit(_try_estimator)
        root = powercap_root()
        clocks = _look_at_clocks()
        facts = {
            "nvidia_on_pci": _nvidia_on_pci(),
            "nvidia_module": Path("/proc/driver/nvidia/version").exists() or Path("/dev/nvidiactl").exists(),
            "container": _container(),
            "virtual": _virtual(),
            "root": hasattr(os, "geteuid") and os.geteuid() == 0,
            "powercap_exists": _has_zones(root),
            "zones": zones,
            "scheduling": _scheduling(),
            "disk": _disk(target),
            "cpu_count": os.cpu_count(),
        }
        estimator = EstimatorFacts(version=package_version("codecarbon"))
        if asked_estimator is not None:
            estimator = asked_estimator.result()
        nvml = asked_nvml.result()
    shift_us = utc_us() - mono_us() - offset_us
    watched_s = (mono_us() - begin_us) / 1e6
    return Machine(
        nvml=nvml,
        estimator=estimator,
        clocks=Clocks(*clocks, wall_shift_us=shift_us, watched_s=watched_s),
        **facts,  # type: ignore[arg-type]
    )


def _read(path: Path) -> str | None:
    try:
        return path.read_text(errors="replace").strip()
    except OSError:
        return None


def _nvidia_on_pci() -> int | None:
    """NVIDIA functions on the PCI bus that are display or 3D controllers; None where the bus is not shown."""
    try:
        folders = list(Path("/sys/bus/pci/devices").iterdir())
    except OSError:
        return None
    return sum(
        _read(folder / "vendor") == "0x10de" and (_read(folder / "class") or "").startswith("0x03")
        for folder in folders
    )


def _container() -> str | None:
    """The kind of container this runs in, None outside one."""
    if os.environ.get("KUBERNETES_SERVICE_HOST"):
        return "kubernetes"
    for marker, kind in (("/.dockerenv", "docker"), ("/run/.containerenv", "podman")):
        if Path(marker).exists():
            return kind
    if os.environ.get("SINGULARITY_CONTAINER") or os.environ.get("APPTAINER_CONTAINER"):
        return "apptainer"
    groups = _read(Path("/proc/1/cgroup")) or ""
    for word, kind in (
        ("docker", "docker"),
        ("kubepods", "kubernetes"),
        ("libpod", "podman"),
        ("lxc", "lxc"),
    ):
        if word in groups:
            return kind
    return os.environ.get("container") or None  # noqa: SIM112  (systemd spells it so)


def _virtual() -> bool:
    """Whether a hypervisor runs this kernel."""
    flags = [line for line in (_read(Path("/proc/cpuinfo")) or "").splitlines() if line.startswith("flags")]
    return bool(flags) and "hypervisor" in flags[0].split()


def _has_zones(root: Path) -> bool:
    try:
        return any(entry.name.startswith("intel-rapl:") for entry in root.iterdir())
    except OSError:
        return False


def _zones() -> dict[str, Found]:
    """What every source of CPU energy finds that needs no process of its own."""
    modules = {source.name: load_source(source.name) for source in load_protocol().sources_of("cpu")}
    return {name: module.discover(Wanted()) for name, module in modules.items() if not own_process(module)}


def package_watts(zones: Sequence[Zone]) -> dict[str, float]:
    """Mean power of each zone over a moment, as a sign of life; a zone that wrapped or failed is left out."""
    begin_us = mono_us()
    first = {zone.label: zone.read().energy for zone in zones}
    time.sleep(0.05)
    elapsed_us = mono_us() - begin_us
    watts = {}
    for zone in zones:
        before, after = first[zone.label], zone.read().energy
        if before is not None and after is not None and after >= before:
            watts[zone.label] = (after - before) / elapsed_us
    return watts


def _try_estimator() -> EstimatorFacts:
    """Start the meter's CPU estimator as a run would, hear what it found, and end it."""
    version = package_version("codecarbon")
    if version is None:
        return EstimatorFacts(error="the package codecarbon is not installed")
    with tempfile.TemporaryDirectory(prefix="kit-doctor-") as folder:
        config = {
            "source": "codecarbon",
            "session": 0,
            "owner_pid": os.getpid(),
            "root_pid": os.getpid(),
            "include_root": True,
            "helper_pids": [],
            "journal": str(Path(folder) / "estimator.jnl"),
        }
        helper = Helper("harness.meter.estimator", config, Path(folder) / "estimator.stderr")
        try:
            ready = helper.wait_ready()
        except KitError as error:
            return EstimatorFacts(version, error=error.message)
        finally:
            helper.close()
    return EstimatorFacts(version, cpu_model=ready.get("cpu_model"), tdp_w=ready.get("tdp_w"))


def _scheduling() -> str | None:
    """The scheduling a sampler gets here ("fifo", "nice -10", "normal"), tried out in a child."""
    code = "from harness.meter.child import raise_priority as ask; print(ask())"
    try:
        done = run_helper(["-c", code], _HELPER_TIMEOUT_S)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() or None


def _look_at_clocks() -> tuple[str | None, tuple[str, ...], float, int]:
    folder = Path("/sys/devices/system/clocksource/clocksource0")
    available = (_read(folder / "available_clocksource") or "").split()
    steps = []
    for _ in range(200):
        before = time.monotonic_ns()
        after = time.monotonic_ns()
        if after > before:
            steps.append(after - before)
    return (
        _read(folder / "current_clocksource"),
        tuple(available),
        time.get_clock_info("monotonic").resolution * 1e9,
        min(steps, default=0),
    )


def _disk(target: str) -> Disk:
    folder = existing(Path(target))
    try:
        free: int | None = free_bytes(folder)
    except OSError:
        free = None
    return Disk(target, free, folder.is_dir() and os.access(folder, os.W_OK))
