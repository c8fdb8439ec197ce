"""The contract of a power source: one test that every entry of the protocol's table passes.

An entry without a lab of its own below is tried on the machine as it is.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from harness.spec import PowerSource, load_protocol
from tests.lab import Const, FakePowercap, LabConfig, LabDevice, Zone, fails
from tests.lab.fixtures import lab_environ

SOURCES = load_protocol().sources

# argv: source, argument or "", and Python that makes the zones `broken` fail.
CHILD = """
import json, os, sys, time
from dataclasses import asdict
from harness.errors import KitError
from harness.meter.clocks import mono_us
from harness.meter.process_tree import MeasuredTree
from harness.meter.sources.base import Device, Found, Reading, Wanted, Zone, load_source

name, argument, breaks = sys.argv[1], sys.argv[2] or None, sys.argv[3]
module = load_source(name)
tree = MeasuredTree(os.getpid(), True) if getattr(module, "OWN_PROCESS", False) else None

def look(thing):
    before = mono_us()
    reading = thing.read()
    assert type(reading) is Reading and before <= reading.mono_us <= mono_us(), reading
    return asdict(reading)

found = module.discover(Wanted(argument=argument, tree=tree))
assert type(found) is Found
assert all(isinstance(one, Device) for one in found.devices)
assert all(isinstance(one, Zone) for one in found.zones)
things = []
for one in found.everything():
    readings = []
    for _ in range(4):
        readings.append(look(one))
        time.sleep(0.12)
    things.append({"name": getattr(one, "label", None) or one.index, "measures": asdict(one.measures),
                   "methods": getattr(one, "methods", None), "readings": readings})
for one in found.devices:
    row, energy, _ = one.sample(0, 0)
    described = one.describe()
    assert described["device_id"] == one.index and described["vendor"] and described["model"]
    again = module.discover(Wanted(known=[[one.index, one.uuid]], argument=argument))
    assert [other.index for other in again.devices] == [one.index]
exec(breaks)
broken = {str(getattr(one, "label", None) or one.index): look(one) for one in found.everything()}
found.close()
found.close()
refused = None
if found.devices:
    try:
        module.discover(Wanted(devices=["no-such-device"], argument=argument))
    except KitError as error:
        refused = error.message
json.dump({"things": things, "broken": broken, "refused": refused, "reason": found.reason}, sys.stdout)
"""


@dataclass(frozen=True)
class Lab:
    """Where a source is tried.

    Attributes:
        breaks: Python that makes reads of what was `found` fail.
        failing: What cannot be read after it, and without it what never can.
        watts: What each of the others draws.
        finds: Whether the source must find something.
    """

    env: dict[str, str] = field(default_factory=dict)
    argument: str = ""
    breaks: str = ""
    failing: tuple[str, ...] = ()
    watts: float | None = None
    finds: bool = True


@contextmanager
def nvml_lab(lab_dir: Path, folder: Path) -> Iterator[Lab]:
    broken = tuple(fails(f"field:{number}", 999) for number in (83, 185, 186))
    config = LabConfig((LabDevice((Const(200.0),)), LabDevice(faults=broken)))
    yield Lab(config.env(lab_dir), failing=("1",), watts=200.0)


@contextmanager
def rapl_lab(lab_dir: Path, folder: Path) -> Iterator[Lab]:
    zones = [
        Zone("package-0"),
        Zone("dram", parent="package-0"),
        Zone("core", parent="package-0"),
        Zone("psys"),
    ]
    with FakePowercap(folder / "powercap", zones) as powercap:
        breaks = "for zone in found.zones: zone.energy_file.unlink()"
        failing = ("package-0", "dram-0", "core-0", "psys")
        yield Lab(powercap.env(), breaks=breaks, failing=failing, watts=60.0)


@contextmanager
def scripted_lab(lab_dir: Path, folder: Path) -> Iterator[Lab]:
    rows = [f"{k / 10},{device},{power},{energy}" for k in range(1200) for device, power, energy in lines(k)]
    (folder / "script.csv").write_text("time_s,device,power_mw,energy_mj\n" + "\n".join(rows))
    yield Lab(argument=str(folder / "script.csv"), failing=("1",), watts=200.0)


def lines(k: int) -> list[tuple[int, int | str, int | str]]:
    """Device 0 draws 200 W; device 1 gave values once, a minute from now."""
    return [(0, 200_000, 20_000 * k), (1, 1 if k > 600 else "", 1 if k > 600 else "")]


@contextmanager
def this_machine(lab_dir: Path, folder: Path) -> Iterator[Lab]:
    yield Lab()


LABS = {"nvml": nvml_lab, "rapl": rapl_lab, "codecarbon": this_machine, "scripted": scripted_lab}


@pytest.fixture
def tried(source: PowerSource, lab_dir: Path, tmp_path: Path) -> Iterator[tuple[Lab, dict[str, Any]]]:
    @contextmanager
    def bare(lab_dir: Path, folder: Path) -> Iterator[Lab]:
        yield Lab(finds=False)

    with LABS.get(source.name, bare)(lab_dir, tmp_path) as lab:
        done = subprocess.run(
            [sys.executable, "-c", CHILD, source.name, lab.argument, lab.breaks],
            env=lab_environ(lab.env),
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
    assert done.returncode == 0, done.stderr
    yield lab, json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("source", SOURCES, ids=lambda source: source.name)
def test_contract(source: PowerSource, tried: tuple[Lab, dict[str, Any]]) -> None:
    lab, found = tried
    assert found["things"] or (not lab.finds and found["reason"]), "nothing found, and no reason why"
    assert all(part in {thing["measures"]["part"] for thing in found["things"]} for part in source.parts) or (
        source.name not in LABS
    )
    scales = [thing["measures"]["shared_scale"] for thing in found["things"]]
    assert all(scales)
    for thing in found["things"]:
        measures, readings = thing["measures"], thing["readings"]
        assert measures["source"] == source.name and measures["scope"]
        assert (measures["unit"], measures["state"]) == (source.unit, source.state)
        assert set(measures["reads"]) <= set(source.reads)
        prefix = source.parts.get(measures["part"])
        if thing["methods"] is None and prefix is not None:
            assert str(thing["name"]).startswith(prefix)
        times = [reading["mono_us"] for reading in readings]
        assert times == sorted(set(times)) and all(reading["read_us"] >= 0 for reading in readings)
        if str(thing["name"]) in lab.failing and not lab.breaks:
            assert all(reading["energy"] is None and reading["power_mw"] is None for reading in readings)
            continue
        values = [reading["energy"] for reading in readings]
        assert ("counter" in measures["reads"]) == all(isinstance(value, int) for value in values)
        assert values == sorted(values)
        if lab.watts is not None:
            # A counter that is renewed every 100 ms is off by so much at each end.
            per_second = {"mJ": 1e3, "uJ": 1e6}[measures["unit"]] * lab.watts
            assert values[-1] - values[0] == pytest.approx(
                per_second * (times[-1] - times[0]) / 1e6, abs=0.2 * per_second
            )
        if "power" in measures["reads"]:
            assert all(reading["power_mw"] > 0 for reading in readings)
        else:
            assert all(reading["power_mw"] is None for reading in readings)
    for name in lab.failing:
        assert found["broken"][name]["energy"] is None and found["broken"][name]["power_mw"] is None
    if any(thing["methods"] for thing in found["things"]):
        assert "no-such-device" in found["refused"]


def test_the_accounting_knows_the_same_sources() -> None:
    from harness.accounting.series import ZONE_SOURCES
    from harness.bundle.derive import zone_sources

    declared = {source.name: source for source in zone_sources(load_protocol())}
    for ours in ZONE_SOURCES:
        its = declared[ours.name]
        assert (its.method, its.measured) == (ours.method, ours.measured)
        assert ours.parts.items() <= its.parts.items()
    order = [name for name in declared if name in {ours.name for ours in ZONE_SOURCES}]
    assert order == [ours.name for ours in ZONE_SOURCES]
