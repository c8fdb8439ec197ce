"""A fake /sys/class/powercap: RAPL zones moved by a process of their own, and their exact joules.

The writer updates every counter each millisecond with one write in place, so a reader that keeps the file
open sees it move as it does in sysfs. What it writes is the exact integral at a whole multiple of the
update period after the origin.
"""

from __future__ import annotations

import ctypes
import errno
import os
import pickle
import select
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from .config import Fault, mono_us
from .waveforms import AnyWaveform, Const

_PR_CAPBSET_DROP = 24
_CAP_DAC_OVERRIDE, _CAP_DAC_READ_SEARCH = 1, 2
_FILE_WIDTH = 21


@dataclass(frozen=True)
class Zone:
    """One RAPL zone.

    `parent` names the zone it lies in (dram and core lie in their package); `control` is the control type,
    with `intel-rapl-mmio` for the mirror of a package. `range_uj` is the modulus of the counter, small to
    force wraps (262_143_328_850 on real machines). Faults are `counter_reset` and `counter_stuck`.
    """

    name: str
    waves: tuple[AnyWaveform, ...] = (Const(60.0),)
    parent: str | None = None
    control: str = "intel-rapl"
    range_uj: int = 262_143_328_850
    offset_uj: int = 0
    faults: tuple[Fault, ...] = ()

    def energy_uj(self, tau_us: float) -> float:
        """Antiderivative of the true power in microjoules, `tau_us` after the origin."""
        return sum(wave.energy_uj(tau_us) for wave in self.waves)

    def counter_uj(self, tau_us: int) -> int:
        """What the counter shows if it is brought up to date at `tau_us` after the origin."""
        for fault in self.faults:
            if fault.kind == "stuck" and fault.start_us <= tau_us and not 0 <= fault.end_us <= tau_us:
                tau_us = fault.start_us
        resets = [f.start_us for f in self.faults if f.kind == "reset" and f.start_us <= tau_us]
        origin, offset = (max(resets), 0) if resets else (0, self.offset_uj)
        return int(offset + self.energy_uj(tau_us) - self.energy_uj(origin)) % self.range_uj


class FakePowercap:
    """A powercap tree under `directory` that moves while the context is open.

    Top-level zones become `intel-rapl:0`, `intel-rapl:1`, ...; a zone with a parent becomes
    `intel-rapl:0:0` inside its parent's directory. As in sysfs, every zone is also reachable directly below
    the root. Point a meter at it with `env()`.
    """

    def __init__(
        self, directory: Path, zones: Sequence[Zone] = (Zone("package-0"),), t0_us: int | None = None
    ) -> None:
        """Lay out the tree; `t0_us` (CLOCK_MONOTONIC, by default now) is the origin of waves and faults."""
        self.root = directory
        self.zones = tuple(zones)
        self.t0_us = mono_us() if t0_us is None else t0_us
        self.update_us = 1000
        self._writer: subprocess.Popen[bytes] | None = None
        self._paths = self._create()

    def _create(self) -> list[Path]:
        paths: list[Path] = []
        children: dict[Path, int] = {}
        for zone in self.zones:
            parent = self.root
            if zone.parent is not None:
                parent = paths[next(i for i, z in enumerate(self.zones) if z.name == zone.parent)]
            prefix = parent.name if zone.parent is not None else zone.control
            group = parent / prefix
            number = children[group] = children.get(group, -1) + 1
            path = parent / f"{prefix}:{number}"
            path.mkdir(parents=True)
            if parent != self.root:
                (self.root / path.name).symlink_to(path.relative_to(self.root))
            (self.root / zone.control).mkdir(exist_ok=True)
            (self.root / zone.control / "enabled").write_text("1\n")
            (path / "name").write_text(f"{zone.name}\n")
            (path / "enabled").write_text("1\n")
            (path / "max_energy_range_uj").write_text(f"{zone.range_uj}\n")
            (path / "energy_uj").write_bytes(_spelled(zone.counter_uj(0)))
            (path / "energy_uj").chmod(0o600)
            paths.append(path)
        return paths

    def zone_index(self, zone: str | int) -> int:
        """Number of a zone given by number or by the first zone's name."""
        return zone if isinstance(zone, int) else [z.name for z in self.zones].index(zone)

    def path(self, zone: str | int) -> Path:
        """Directory of a zone."""
        return self._paths[self.zone_index(zone)]

    def env(self) -> dict[str, str]:
        """Environment additions for a process that is to meter this tree."""
        return {"KIT_POWERCAP_ROOT": str(self.root)}

    def true_energy_j(self, zone: str | int, start_us: float, end_us: float) -> float:
        """Joules a zone really used between two instants of CLOCK_MONOTONIC."""
        z = self.zones[self.zone_index(zone)]
        return (z.energy_uj(end_us - self.t0_us) - z.energy_uj(start_us - self.t0_us)) / 1e6

    def counter_uj(self, zone: str | int, t_us: int) -> int:
        """What the writer puts into a zone's counter at an instant of CLOCK_MONOTONIC, if it is in time."""
        tau_us = (t_us - self.t0_us) // self.update_us * self.update_us
        return self.zones[self.zone_index(zone)].counter_uj(tau_us)

    def deny(self, zone: str | int) -> None:
        """Take the permission to read a zone's counter away; call it inside the context.

        A process of root notices only if it was started with `obey_file_modes`.
        """
        (self.path(zone) / "energy_uj").chmod(0o000)

    def allow(self, zone: str | int) -> None:
        """Give it back."""
        (self.path(zone) / "energy_uj").chmod(0o600)

    @property
    def pid(self) -> int:
        """The writer's process id."""
        if self._writer is None:
            raise RuntimeError("the writer runs only inside the context")
        return self._writer.pid

    def __enter__(self) -> FakePowercap:
        package = __package__ or ""
        top = Path(__file__).resolve().parents[package.count(".") + 1]
        code = f"import sys; sys.path.insert(0, sys.argv[1]); from {package}.powercap import write; write()"
        self._writer = subprocess.Popen(
            [sys.executable, "-c", code, str(top)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        assert self._writer.stdin is not None and self._writer.stdout is not None
        files = [str(path / "energy_uj") for path in self._paths]
        pickle.dump((self.t0_us, self.update_us, self.zones, files), self._writer.stdin)
        self._writer.stdin.flush()
        if self._writer.stdout.readline() != b"ready\n":
            self.__exit__(None, None, None)
            raise RuntimeError("the powercap writer did not start")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        writer, self._writer = self._writer, None
        if writer is None:
            return
        assert writer.stdin is not None and writer.stdout is not None
        writer.stdin.close()
        try:
            writer.wait(timeout=5)
        except subprocess.TimeoutExpired:
            writer.kill()
            writer.wait()
        writer.stdout.close()


def _spelled(value: int) -> bytes:
    """A counter as sysfs spells it, padded after the newline to one width, so that one write replaces it."""
    return f"{value}\n".encode().ljust(_FILE_WIDTH)


def write() -> None:
    """The writer process: moves the counters until its standard input closes, also by its parent's death."""
    t0_us, update_us, zones, files = pickle.load(sys.stdin.buffer)
    targets = [(os.open(path, os.O_WRONLY), zone) for path, zone in zip(files, zones, strict=True)]
    announced = False
    while True:
        tau_us = (mono_us() - t0_us) // update_us * update_us
        for fd, zone in targets:
            os.pwrite(fd, _spelled(zone.counter_uj(tau_us)), 0)
        if not announced:
            sys.stdout.write("ready\n")
            sys.stdout.flush()
            announced = True
        left_s = (t0_us + tau_us + update_us) / 1e6 - time.monotonic()
        if select.select([sys.stdin], [], [], max(left_s, 0.0))[0]:
            return


def obey_file_modes() -> None:
    """`preexec_fn` for a child that is to be refused by file modes even if it runs as root.

    Drops CAP_DAC_OVERRIDE and CAP_DAC_READ_SEARCH from the bounding set, so the exec that follows loses
    them. Does nothing for other users, who are refused anyway.

    Raises:
        OSError: the process may not drop capabilities.
    """
    if os.geteuid() != 0:
        return
    libc = ctypes.CDLL(None, use_errno=True)
    for capability in (_CAP_DAC_OVERRIDE, _CAP_DAC_READ_SEARCH):
        if libc.prctl(_PR_CAPBSET_DROP, capability, 0, 0, 0) != 0:
            code = ctypes.get_errno() or errno.EPERM
            raise OSError(code, os.strerror(code))
