"""RAPL zones: which are found, and what the meter makes of them against the closed form."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from itertools import pairwise
from pathlib import Path

import pytest

from harness.accounting import rapl
from harness.meter import watchers
from harness.meter.sources.base import ZONE_UNCERTAINTY_US
from harness.meter.sources.rapl import find_zones
from tests.lab import Const, FakePowercap, Ramp, Sine, Zone, mono_us, obey_file_modes
from tests.lab.fixtures import ROOT
from tests.meter.runs import environment, kit, run_program

ZONES = (
    Zone("package-0", (Const(60.0), Sine(40.0, 35.0, 900_000)), range_uj=130_000_000, offset_uj=129_000_000),
    Zone("core", (Const(45.0),), parent="package-0", range_uj=130_000_000),
    Zone("dram", (Const(9.0), Ramp(0.0, 6.0, 0, 8_000_000)), parent="package-0", range_uj=20_000_000),
    Zone("package-1", (Const(31.0),), range_uj=40_000_000),
    Zone("dram", (Const(4.0),), parent="package-1", range_uj=9_000_000, offset_uj=8_900_000),
    Zone("psys", (Const(250.0),), range_uj=500_000_000),
    Zone("package-0", (Const(60.0),), control="intel-rapl-mmio", range_uj=40_000_000),
)


def test_zones_of_both_layouts_are_found_once(tmp_path: Path) -> None:
    found = find_zones(FakePowercap(tmp_path / "powercap", ZONES).root)
    labels = [zone.label for zone in found.zones]
    assert sorted(labels) == ["core-0", "dram-0", "dram-1", "package-0", "package-1", "psys"]
    ranges = {zone.label: zone.range for zone in found.zones}
    assert ranges["dram-0"] == 20_000_000 and ranges["dram-1"] == 9_000_000
    assert found.measures("cpu") and not found.denied
    # A container often mounts the nested directories without the links beside them.
    for link in (tmp_path / "powercap").iterdir():
        if link.is_symlink():
            link.unlink()
    assert sorted(zone.label for zone in find_zones(tmp_path / "powercap").zones) == sorted(labels)


def test_a_flat_layout_is_read_too(tmp_path: Path) -> None:
    for name, label in (
        ("intel-rapl:0", "package-0"),
        ("intel-rapl:0:0", "dram"),
        ("intel-rapl:1", "package-1"),
    ):
        (tmp_path / name).mkdir()
        (tmp_path / name / "name").write_text(label + "\n")
        (tmp_path / name / "energy_uj").write_text("17\n")
    found = find_zones(tmp_path)
    assert [(zone.label, zone.range, zone.value()) for zone in found.zones] == [
        ("package-0", None, 17),
        ("dram-0", None, 17),
        ("package-1", None, 17),
    ]


def test_nothing_there_is_nothing_found(tmp_path: Path) -> None:
    assert not find_zones(tmp_path / "missing").zones
    (tmp_path / "intel-rapl:0").mkdir()
    assert not find_zones(tmp_path).zones
    (tmp_path / "intel-rapl:0" / "name").write_text("package-0\n")
    assert find_zones(tmp_path).denied == ("package-0",)
    (tmp_path / "intel-rapl:0" / "energy_uj").write_text("garbage\n")
    assert not find_zones(tmp_path).measures("cpu")


def test_odd_trees_are_read_for_what_they_are(tmp_path: Path) -> None:
    """Two packages of one name, a range of nothing, a number no counter holds, a name that is no text."""

    def zone(folder: str, name: bytes, energy: str, wraps_at: str) -> None:
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "name").write_bytes(name)
        (tmp_path / folder / "energy_uj").write_text(energy)
        (tmp_path / folder / "max_energy_range_uj").write_text(wraps_at)

    zone("intel-rapl:0", b"package-0\n", "5\n", "0\n")
    zone("intel-rapl:1", b"package-0\n", "6", "\u00b2\n")
    zone("intel-rapl:2", b"package-2\n", "9" * 30, "262143328850\n")
    zone("intel-rapl:3", b"\xff\n", "-7\n", "9" * 30)
    found = find_zones(tmp_path)
    read = [(zone.label, zone.range, zone.value()) for zone in found.zones]
    # The third is kept, unread: package energy lacks it, and its rows say so.
    assert read == [("package-0", None, 5), ("package-0-1", None, 6), ("package-2", 262143328850, None)]
    assert found.denied[0] == "package-2" and len(found.denied) == 2


def test_denied_zones_are_named(tmp_path: Path) -> None:
    with FakePowercap(tmp_path / "powercap", ZONES[:3]) as cpu:
        cpu.deny("dram")
        code = (
            "import json\nfrom harness.meter.sources.rapl import find_zones\nfound = find_zones()\n"
            "print(json.dumps([[z.label for z in found.zones], list(found.denied)]))"
        )
        env = {**os.environ, **cpu.env(), "PYTHONPATH": str(ROOT)}
        text = subprocess.check_output([sys.executable, "-c", code], env=env, preexec_fn=obey_file_modes)
    # Once, though the tree shows the zone in its package and beside it.
    assert json.loads(text) == [["package-0", "core-0"], ["dram-0"]]


RAPL_STAGES = """
import sys, time
from harness import Meter
with Meter(out=sys.argv[1], devices=[]) as meter:
    for seconds in (0.4, 2.5, 1.2):
        with meter.stage("evaluate"):
            time.sleep(seconds)
        time.sleep(0.1)
"""


def test_rapl_across_wraps(tmp_path: Path) -> None:
    """Ranges so small that every zone wraps within the run; psys, core and the mirror are never added."""
    with FakePowercap(tmp_path / "powercap", ZONES) as cpu:
        run = run_program(tmp_path / "run", RAPL_STAGES, env=environment(None, tmp_path, cpu.env()))
        rows = run.rows("counters")
        assert {row["source"] for row in rows} == {"rapl"}
        wraps = 0
        for zone in ("package-0", "dram-0", "package-1", "dram-1"):
            values = [row["value"] for row in rows if row["zone"] == zone]
            wraps += sum(b < a for a, b in pairwise(values))
            ranges = {row["range"] for row in rows if row["zone"] == zone}
            assert len(ranges) == 1 and None not in ranges
        assert wraps >= 4
        for row in run.all_stages:
            window = (row["mono_start_us"], row["mono_end_us"])
            for part, zones in (("cpu", (0, 3)), ("dram", (2, 4))):
                truth_j = sum(cpu.true_energy_j(zone, *window) for zone in zones)
                doubt_j = 0.01 * truth_j + 1.0  # the reads are milliseconds from the window's ends
                assert row[f"{part}_energy_j"] == pytest.approx(truth_j, abs=doubt_j)
                assert row[f"{part}_energy_method"] == "rapl"
                assert row[f"{part}_energy_j_low"] <= row[f"{part}_energy_j"] <= row[f"{part}_energy_j_high"]
    assert run.manifest["boundary"] == {"gpu": "absent", "cpu": "measured", "dram": "measured"}
    total = sum(row["cpu_energy_j"] for row in run.all_stages)
    whole = (run.all_stages[0]["mono_start_us"], max(r["mono_end_us"] for r in run.all_stages))
    truth_j = sum(cpu.true_energy_j(zone, *whole) for zone in (0, 3))
    assert total == pytest.approx(truth_j, rel=0.01)


def test_a_range_that_may_wrap_unseen_is_flagged(tmp_path: Path) -> None:
    """A server's package at 400 W between two samples wraps this counter an unknown number of times."""
    zones = [Zone("package-0", (Const(400.0),), range_uj=120_000_000)]
    with FakePowercap(tmp_path / "powercap", zones) as cpu:
        run = run_program(tmp_path / "run", RAPL_STAGES, env=environment(None, tmp_path, cpu.env()))
    assert "rapl_wrap_ambiguous" in run.stages[1]["flags"]


def test_a_zone_without_a_readable_range_that_wraps_is_on_record(tmp_path: Path) -> None:
    zones = [Zone("package-0", (Const(60.0),), range_uj=120_000_000, offset_uj=30_000_000)]
    with FakePowercap(tmp_path / "powercap", zones) as cpu:
        (cpu.path(0) / "max_energy_range_uj").unlink()
        env = environment(None, tmp_path, cpu.env())
        run = run_program(tmp_path / "run", RAPL_STAGES, env=env)
    assert {event["detail"]["zone"] for event in run.events("counter_reset")} == {"package-0"}
    flagged = [row for row in run.all_stages if "rapl_reset" in row["flags"]]
    assert flagged
    for row in flagged:
        truth_j = cpu.true_energy_j(0, row["mono_start_us"], row["mono_end_us"])
        assert row["cpu_energy_j_low"] <= truth_j <= row["cpu_energy_j_high"]
    verdict = json.loads(kit("validate", "--format", "json", run.folder, env=env).stdout)
    assert verdict["valid"] and "W313" not in {finding["id"] for finding in verdict["findings"]}


def test_the_sampler_knows_a_reset_as_the_reader_does(tmp_path: Path) -> None:
    assert (watchers.ZONE_MAX_W, ZONE_UNCERTAINTY_US) == (rapl.ZONE_MAX_W, rapl.ZONE_REFRESH_US)
    watch = watchers.ZoneWatch(find_zones(FakePowercap(tmp_path, [Zone("package-0")]).root).zones[0])
    readings = (262_143_000_000, 10_000_000, 5_000_000, 64_857_000_000, 64_858_000_000)
    noticed = [watch.notice(second * 1_000_000, value) for second, value in enumerate(readings)]
    assert [detail is not None for detail in noticed] == [False, False, True, True, False]
    assert noticed[2] == {"zone": "package-0", "before": 10_000_000, "after": 5_000_000}


def test_rapl_was_asked_for_but_is_not_there(tmp_path: Path) -> None:
    code = """
    import sys
    from harness import Meter
    from harness.errors import KitError
    try:
        Meter(out=sys.argv[1], devices=[], cpu="rapl").start()
    except KitError as error:
        sys.exit(9)
    """
    env = environment(None, tmp_path, {"KIT_POWERCAP_ROOT": str(tmp_path / "none")})
    run_program(tmp_path / "run", code, env=env, code_wanted=9)


def test_the_time_base_is_the_labs() -> None:
    assert abs(mono_us() - time.monotonic_ns() // 1000) < 1_000_000
