"""CPU and memory energy: RAPL zones against the closed form, CodeCarbon against what processes used."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import psutil
import pytest

from harness.accounting import rapl
from harness.meter import watchers
from harness.meter.foreign import foreign_pids
from harness.meter.process_tree import MeasuredTree
from harness.meter.sources.base import ZONE_UNCERTAINTY_US
from harness.meter.sources.rapl import find_zones
from tests.lab import Const, FakePowercap, Ramp, Sine, Zone, mono_us, obey_file_modes
from tests.lab.fixtures import ROOT
from tests.meter.runs import Sealed, environment, kit, run_program, write_pipeline

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


CARBON = """
import glob, json, os, resource, subprocess, sys, time
from harness import Meter
burn = "import time\\nuntil = time.process_time() + {}\\nwhile time.process_time() < until: pass"
figures = {}
begun = time.monotonic()
with Meter(out=sys.argv[1], devices=[], cpu="codecarbon") as meter:
    figures["start_s"] = time.monotonic() - begun
    with meter.stage("prerun"):
        entered = time.monotonic()
        time.sleep(0.5)
    for name, own_s, child_s in (("preprocess", 0.8, 0.0), ("evaluate", 0.0, 1.2)):
        own, child = resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN)
        with meter.stage(name):
            until = time.process_time() + own_s
            while time.process_time() < until:
                pass
            if child_s:
                subprocess.run([sys.executable, "-c", burn.format(child_s)], check=True)
        figures[name] = sum(
            now - before
            for which, was in ((resource.RUSAGE_SELF, own), (resource.RUSAGE_CHILDREN, child))
            for now, before in zip(resource.getrusage(which)[:2], was[:2])
        )
json.dump(figures, open(sys.argv[2], "w"))
"""


@pytest.fixture(scope="module")
def carbon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Sealed, dict[str, float], Path]]:
    """One run with CodeCarbon's estimate, in a folder and a home of its own."""
    folder = tmp_path_factory.mktemp("carbon")
    home = folder / "home"
    home.mkdir()
    additions = {
        "KIT_POWERCAP_ROOT": str(folder / "none"),
        "HOME": str(home),
        "CODECARBON_OUTPUT_DIR": str(home),
        "CODECARBON_SAVE_TO_FILE": "true",
        "CODECARBON_FORCE_CPU_POWER": "999",
    }
    figures = folder / "figures.json"
    env = environment(None, folder, additions)
    run = run_program(folder / "run", CARBON, str(figures), env=env, cwd=str(home))
    yield run, json.loads(figures.read_text()), folder


def test_codecarbon_stands_in_for_rapl(carbon: tuple[Sealed, dict[str, float], Path]) -> None:
    run, used, _ = carbon
    assert [row["name"] for row in run.stages] == ["prerun", "preprocess", "evaluate"]
    for row in run.stages:
        assert row["cpu_energy_method"] == row["dram_energy_method"] == "codecarbon_process"
        assert "cpu_estimated" in row["flags"]
        assert row["cpu_energy_j_low"] <= row["cpu_energy_j"] <= row["cpu_energy_j_high"]
    for name in ("preprocess", "evaluate"):
        # The kernel counts a process's time in ticks of 10 ms; the boundary itself takes a few milliseconds.
        assert run.stage(name)["process_cpu_s"] == pytest.approx(used[name], abs=0.15)
        assert run.stage(name)["cpu_energy_j"] > 5 * run.stage("prerun")["cpu_energy_j"]
    per_second = [run.stage(n)["cpu_energy_j"] / used[n] for n in ("preprocess", "evaluate")]
    assert per_second[0] == pytest.approx(per_second[1], rel=0.3)
    assert run.manifest["boundary"]["cpu"] == "estimated"
    assert "cpu_estimated" in run.manifest["labels"]


def test_codecarbon_starts_outside_of_every_stage(carbon: tuple[Sealed, dict[str, float], Path]) -> None:
    run, used, _ = carbon
    first = run.stage("prerun")
    assert used["start_s"] > 0.5, "its import and first look take longer than this"
    assert first["work_end_us"] - first["work_start_us"] < 900_000
    assert first["process_cpu_s"] < 0.3
    readings = [row["mono_us"] for row in run.rows("counters") if row["source"] == "codecarbon"]
    assert min(readings) < first["mono_start_us"]


def test_codecarbon_leaves_no_file_of_its_own(carbon: tuple[Sealed, dict[str, float], Path]) -> None:
    _, _, folder = carbon
    names = [path.name for path in folder.rglob("*") if path.is_file()]
    assert not [name for name in names if "emission" in name or "codecarbon" in name.lower()]


def test_processes_of_a_pipeline_are_estimated_and_the_runner_is_not(tmp_path: Path) -> None:
    burn = "import time\nuntil = time.process_time() + 1.0\nwhile time.process_time() < until: pass"
    stages = [{"command": ["python", "-c", burn]}, {"command": "sleep 0.6"}]
    env = environment(None, tmp_path, {"KIT_POWERCAP_ROOT": str(tmp_path / "none")})
    done = kit("audit", write_pipeline(tmp_path, stages), "--out", tmp_path / "run", env=env)
    assert done.returncode == 0, done.stdout + done.stderr
    busy, idle = Sealed(tmp_path / "run").stages
    assert busy["process_cpu_s"] == pytest.approx(1.05, abs=0.2)
    assert idle["process_cpu_s"] < 0.1
    assert busy["cpu_energy_method"] == "codecarbon_process"
    assert busy["cpu_energy_j"] > 5 * idle["cpu_energy_j"]


BURN = """import sys, time
until = time.process_time() + float(sys.argv[1])
while time.process_time() < until: pass
"""


def burning(seconds: float, wait: bool = False) -> subprocess.Popen[bytes]:
    code = BURN + ("sys.stdin.read()\n" if wait else "")
    return subprocess.Popen([sys.executable, "-c", code, str(seconds)], stdin=subprocess.PIPE)


def finished(child: subprocess.Popen[bytes]) -> None:
    child.communicate()


def burnt(child: subprocess.Popen[bytes], seconds: float) -> None:
    process = psutil.Process(child.pid)
    while process.cpu_times().user + process.cpu_times().system < seconds:
        time.sleep(0.02)


def test_children_that_ended_are_counted() -> None:
    tree = MeasuredTree(os.getpid(), include_root=False)
    before = tree.cpu_seconds()
    finished(burning(0.4))
    middle = tree.cpu_seconds()
    assert middle - before == pytest.approx(0.43, abs=0.12)
    shell = f"{sys.executable} -c '{BURN}' 0.3 & {sys.executable} -c '{BURN}' 0.2; wait"
    subprocess.run(["sh", "-c", shell], check=True)
    assert tree.cpu_seconds() - middle == pytest.approx(0.56, abs=0.15)


def test_the_root_counts_only_where_it_is_measured() -> None:
    trees = [MeasuredTree(os.getpid(), include_root=flag) for flag in (False, True)]
    before = [tree.cpu_seconds() for tree in trees]
    until = time.process_time() + 0.3
    while time.process_time() < until:
        pass
    without, with_root = (tree.cpu_seconds() - was for tree, was in zip(trees, before, strict=True))
    assert without < 0.05
    assert with_root == pytest.approx(0.3, abs=0.08)


def test_helpers_of_the_meter_do_not_count_alive_or_dead() -> None:
    helper = burning(0.5, wait=True)
    burnt(helper, 0.4)
    tree = MeasuredTree(os.getpid(), False, [helper.pid])
    before = tree.cpu_seconds()
    burnt(helper, 0.5)
    assert tree.cpu_seconds() - before < 0.03
    finished(helper)  # the kernel adds its time to this process's children now
    assert tree.cpu_seconds() - before < 0.06
    finished(burning(0.3))
    assert tree.cpu_seconds() - before == pytest.approx(0.33, abs=0.12)


def test_a_helper_that_is_named_late_hides_nothing_of_what_follows() -> None:
    """What it had used until then was counted; no work after it may be swallowed to make up for that."""
    helper = burning(0.6, wait=True)
    burnt(helper, 0.55)
    tree = MeasuredTree(os.getpid(), False)
    before = tree.cpu_seconds()
    tree.add_helpers([helper.pid])
    assert tree.cpu_seconds() == pytest.approx(before, abs=0.03)
    finished(burning(0.3))
    assert tree.cpu_seconds() - before == pytest.approx(0.33, abs=0.12)
    finished(helper)
    assert tree.cpu_seconds() - before == pytest.approx(0.33, abs=0.12)


def test_what_a_killed_root_leaves_running_counts_on() -> None:
    words = f"{sys.executable} -c '{BURN}' 0.2; {sys.executable} -c '{BURN}' 0.6; read end"
    root = subprocess.Popen(
        [sys.executable, "-c", f"import subprocess; subprocess.run(['sh', '-c', {words!r}])"],
        stdin=subprocess.PIPE,
    )
    tree = MeasuredTree(root.pid, include_root=False)
    until = time.monotonic() + 30
    while tree.cpu_seconds() < 0.3 and time.monotonic() < until:
        time.sleep(0.02)
    root.kill()
    root.wait()
    tree.root_lost()
    shell = next(iter(tree._children))
    while tree.cpu_seconds() < 0.8 and time.monotonic() < until:
        time.sleep(0.02)
    assert tree.cpu_seconds() == pytest.approx(0.85, abs=0.1)
    os.kill(shell, signal.SIGKILL)
    root.communicate()


def test_the_sum_never_falls() -> None:
    tree = MeasuredTree(os.getpid(), include_root=True)
    seen = []
    children = [burning(0.15) for _ in range(4)]
    while any(child.poll() is None for child in children):
        seen.append(tree.cpu_seconds())
    for child in children:
        finished(child)
    seen.append(tree.cpu_seconds())
    assert seen == sorted(seen)


def test_foreign_is_who_does_not_descend_from_the_owner() -> None:
    child = subprocess.Popen(["sh", "-c", "sleep 30 & wait"])
    try:
        grandchildren: list[int] = []
        while not grandchildren:
            time.sleep(0.02)
            grandchildren = [process.pid for process in psutil.Process(child.pid).children()]
        mine = [os.getpid(), child.pid, *grandchildren]
        assert foreign_pids(mine) == []
        assert foreign_pids([1, os.getppid(), *mine]) == [1, os.getppid()]
        assert foreign_pids([4_194_305]) == [4_194_305], "a pid that nobody has here is another's"
        assert foreign_pids([os.getpid()], owner_pid=child.pid) == [os.getpid()]
        assert foreign_pids([]) == []
    finally:
        for pid in grandchildren:
            psutil.Process(pid).kill()
        child.wait()


def test_the_time_base_is_the_labs() -> None:
    assert abs(mono_us() - time.monotonic_ns() // 1000) < 1_000_000
