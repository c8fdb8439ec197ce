"""CodeCarbon's estimate of CPU and memory energy against what processes used."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness.meter.process_tree import MeasuredTree
from harness.meter.sources import codecarbon
from harness.meter.sources.base import Wanted
from harness.meter.sources.codecarbon import CpuZone, RamZone, discover
from tests.meter.runs import Sealed, environment, kit, run_program, write_pipeline

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
    assert first["mono_end_us"] - first["mono_start_us"] < 900_000
    assert first["process_cpu_s"] < 0.3
    readings = [row["mono_us"] for row in run.rows("counters") if row["source"] == "codecarbon"]
    assert min(readings) < first["mono_start_us"]


def test_codecarbon_leaves_no_file_of_its_own(carbon: tuple[Sealed, dict[str, float], Path]) -> None:
    _, _, folder = carbon
    names = [path.name for path in folder.rglob("*") if path.is_file()]
    assert not [name for name in names if "emission" in name or "codecarbon" in name.lower()]


def test_the_estimate_is_what_codecarbons_own_model_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The live model, given the same CPU time, and the numbers that are kept of it."""
    code = """
    import json, sys
    from codecarbon import OfflineEmissionsTracker
    tracker = OfflineEmissionsTracker(
        country_iso_code="USA", tracking_mode="process", save_to_file=False, allow_multiple_runs=True,
        log_level="critical", gpu_ids=[],
    )
    tracker.get_detected_hardware()
    models = {type(model).__name__: model for model in tracker._hardware}
    cpu, energies = models["CPU"], []
    for used in (0.0, 0.02, 0.05, 0.05, 3.0):
        cpu._get_process_cpu_times = lambda: {1: used}
        before = cpu._last_measurement_time
        watts = cpu._get_power_from_cpu_load().W
        energies.append(0.0 if before is None else watts * (cpu._last_measurement_time - before))
    memories = [0.1, 1.0, 3.9, 4.0, 4.1, 15.9, 16.1, 23.0]
    print(json.dumps([energies, [(gb, models["RAM"]._calculate_ram_power(gb)) for gb in memories]]))
    """
    home = tmp_path / "home"
    home.mkdir()
    env = {**os.environ, "HOME": str(home)}
    text = subprocess.check_output([sys.executable, "-c", textwrap.dedent(code)], env=env, cwd=home)
    energies, memories = json.loads(text.splitlines()[-1])
    monkeypatch.setenv("KIT_CACHE", str(tmp_path))

    class Tree:
        root_pid, resident_bytes, seen_s = os.getpid(), 0, 0.0

        def cpu_seconds(self) -> float:
            return self.seen_s

    tree = Tree()
    cpu, ram = discover(Wanted(tree=tree)).zones
    total_j = 0.0
    for used, energy_j in zip((0.0, 0.02, 0.05, 0.05, 3.0), energies, strict=True):
        total_j += energy_j
        tree.seen_s = used
        assert cpu.value() == pytest.approx(total_j * 1e6, rel=1e-3, abs=1)
    assert total_j > 0
    assert isinstance(ram, RamZone)
    for used_gb, watts in memories:
        if used_gb <= ram.steps[-1][0]:
            tree.resident_bytes = int(used_gb * (1 << 30))
            before_uj, before_s = ram.value(), ram.looked_s
            after_uj, after_s = ram.value(), ram.looked_s
            assert after_uj - before_uj == pytest.approx(watts * (after_s - before_s) * 1e6, abs=2)


def test_what_is_kept_of_codecarbon_serves_this_machine_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def watts() -> float:
        zone = discover(Wanted(tree=MeasuredTree(os.getpid(), True))).zones[0]
        assert isinstance(zone, CpuZone)
        return zone.watts_per_core

    monkeypatch.setenv("KIT_CACHE", str(tmp_path))
    true_w = watts()
    path = tmp_path / "cpu-estimate.json"
    kept = json.loads(path.read_text())
    assert kept["key"]["codecarbon"] and kept["found"]["watts_per_core"] == true_w
    marked = {**kept["found"], "watts_per_core": 2 * true_w}
    path.write_text(json.dumps({**kept, "found": marked}))
    assert watts() == 2 * true_w, "it is used without asking again"
    monkeypatch.setenv("SLURM_JOB_ID", "1")
    monkeypatch.setattr(codecarbon, "_ask_codecarbon", lambda: kept["found"])
    assert watts() == true_w and json.loads(path.read_text())["found"] == marked
    monkeypatch.delenv("SLURM_JOB_ID")
    no_watts = {"key": kept["key"], "found": {**marked, "watts_per_core": 0}}
    another = {"key": {**kept["key"], "cpu_model": "another"}, "found": marked}
    newer = {"key": {**kept["key"], "codecarbon": "3.3.9"}, "found": marked}
    for text in (*map(json.dumps, (another, newer, no_watts, {"key": kept["key"]}, [])), "{", ""):
        path.write_text(text)
        assert watts() == true_w, text
        assert json.loads(path.read_text()) == kept


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
