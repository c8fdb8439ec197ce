"""CPU and memory energy from RAPL through the powercap files of Linux.

The sampler reads every zone at every tick and stores the counters as read: they wrap after 65-262 kJ, and a
total of packages cannot be unwrapped any more. They are renewed about every millisecond. Which zones are
added up is the reader's business (packages and memory; never `psys` or `core`, which contain or are contained
in a package).
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from harness.meter.sources.base import Found, Measure, Wanted, Zone

_PARTS = {"package": "cpu", "dram": "dram", "psys": "machine"}
DEFAULT_ROOT = Path("/sys/class/powercap")


def powercap_root() -> Path:
    """The powercap tree: KIT_POWERCAP_ROOT, for containers that mount it elsewhere, else the kernel's."""
    return Path(os.environ.get("KIT_POWERCAP_ROOT") or DEFAULT_ROOT)


@dataclass
class RaplZone(Zone):
    """One RAPL counter ("package-0", "dram-0", "psys", ...) and its file."""

    energy_file: Path = Path()

    def value(self) -> int | None:
        """The counter in uJ, None when it cannot be read."""
        try:
            handle = os.open(self.energy_file, os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            return None
        try:
            text = os.read(handle, 64).strip().decode(errors="replace")
        except OSError:
            return None
        finally:
            os.close(handle)
        return _count(text)


def discover(wanted: Wanted) -> Found:
    """All `intel-rapl` zones that can be read; one package at least, or the processor is not measured."""
    found = find_zones()
    if not found.measures("cpu"):
        found.reason = "no readable RAPL package counter"
        found.expected = "readable /sys/class/powercap/intel-rapl:*/energy_uj"
    return found


def find_zones(root: Path | None = None) -> Found:
    """All `intel-rapl` zones (AMD's too: the kernel files them under that name) under the powercap root.

    `intel-rapl-mmio` shows a package a second time and is left out. A zone that cannot be read stays among
    the zones where others of its part can: its readings, all null, tell that joules are missing.
    """
    root = root or powercap_root()
    zones: list[Zone] = []
    denied: list[Zone] = []
    seen: set[str] = set()
    for folder in _zone_folders(root):
        name = _read(folder / "name")
        if name is None:
            continue
        energy_file = folder / "energy_uj"
        if folder.name in seen:
            continue  # the same zone, in its package and beside it
        seen.add(folder.name)
        label = _label(folder, name)
        if label in {zone.label for zone in [*zones, *denied]}:
            label = f"{label}-{folder.name.partition(':')[2]}"
        wraps_at = _count(_read(folder / "max_energy_range_uj"))
        zone = RaplZone(label, wraps_at or None, _measure(label), energy_file=energy_file)
        (zones if zone.value() is not None else denied).append(zone)
    parts = {zone.measures.part for zone in zones}
    missing = [zone for zone in denied if zone.measures.part in parts]
    return Found(zones=[*zones, *missing], denied=tuple(zone.label for zone in denied))


def _count(text: str | None) -> int | None:
    """A whole number that a row of a journal can hold."""
    known = text is not None and text.isascii() and text.isdigit() and len(text) < 19
    return int(text) if known and text else None


def _measure(label: str) -> Measure:
    """A label says whose energy it is; core and uncore lie inside their package."""
    scope = label.split("-")[0]
    return Measure("rapl", _PARTS.get(scope, scope), "uJ", scope, ("counter",), "measured", f"rapl {label}")


def _zone_folders(root: Path) -> list[Path]:
    try:
        top = sorted(folder for folder in root.iterdir() if folder.name.startswith("intel-rapl:"))
    except OSError:
        return []
    folders: list[Path] = []
    for folder in top:
        folders.append(folder)
        # The kernel links sub-zones both beside their package and below it; a mounted tree may have only the
        # latter.
        try:
            folders += sorted(sub for sub in folder.iterdir() if sub.name.startswith("intel-rapl:"))
        except OSError:
            continue
    return folders


def _label(folder: Path, name: str) -> str:
    if name.startswith("package") or name == "psys":
        return name
    package = folder.name.split(":")[1]
    parent = _read(folder.parent / "name") if folder.parent.name.startswith("intel-rapl:") else None
    if parent is None:
        parent = _read(folder.parent / f"intel-rapl:{package}" / "name")
    number = parent.removeprefix("package-") if parent and parent.startswith("package-") else package
    return f"{name}-{number}"


def _read(path: Path) -> str | None:
    try:
        return path.read_text(errors="replace").strip()
    except OSError:
        return None
