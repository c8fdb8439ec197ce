"""Stages of a Meter inside a stage of `kit audit`: children of its row, at the moments that they stamped."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.lab import Const, FakePowercap, LabConfig, LabDevice, Zone
from tests.meter.runs import Sealed, environment, kill_tree, kit, write_pipeline

INSIDE = """
import time
from harness import Meter
with Meter(out="runs/ignored") as meter:
    for name, seconds in (("student_train", 1.3), ("evaluate", 0.7), ("evaluate", 0.5)):
        with meter.stage(name) as stage:
            time.sleep(seconds)
            if name == "student_train":
                stage.add_tokens(trained=10)
        time.sleep(0.2)
"""


def test_they_are_children(lab_dir: Path, tmp_path: Path) -> None:
    config = LabConfig((LabDevice(waves=(Const(300.0),)),))
    stages = [{"name": "t", "kind": "student_train", "command": ["python", "-c", INSIDE]}]
    with FakePowercap(tmp_path / "powercap", [Zone("package-0", (Const(50.0),))]) as cpu:
        env = environment(config, lab_dir, cpu.env())
        done = kit("audit", write_pipeline(tmp_path, stages), "--out", tmp_path / "run", env=env)
        assert done.returncode == 0, done.stderr
    run = Sealed(tmp_path / "run")
    parent, *children = run.stages
    assert parent["name"] == "t" and parent["parent_uid"] is None
    assert [(c["name"], c["attempt"], c["status"]) for c in children] == [
        ("student_train", 1, "completed"),
        ("evaluate", 1, "completed"),
        ("evaluate", 2, "completed"),
    ]
    for child, seconds in zip(children, (1.3, 0.7, 0.5), strict=True):
        assert child["parent_uid"] == parent["stage_uid"]
        assert (child["mono_end_us"] - child["mono_start_us"]) / 1e6 == pytest.approx(seconds, abs=0.15)
        window = (child["mono_start_us"], child["mono_end_us"])
        for part, watts in (("gpu", 300.0), ("cpu", 50.0)):
            truth_j = watts * (window[1] - window[0]) / 1e6
            low, high = child[f"{part}_energy_j_low"], child[f"{part}_energy_j_high"]
            assert low <= truth_j <= high, (part, low, truth_j, high)
            assert high - low < truth_j or seconds < 1, "between samples 0.5 s apart"
    assert [row["tokens_trained"] for row in run.stages] == [10, 10, None, None]
    assert sum(c["gpu_energy_j"] for c in children) < parent["gpu_energy_j"]
    verdict = json.loads(kit("validate", "--format", "json", run.folder, env=env).stdout)
    assert verdict["valid"], verdict["findings"]
    report = json.loads(kit("report", "--format", "json", run.folder, env=env).stdout)
    assert report["tokens"] == {"trained": 10}, "once, though parent and child both have them"
    again = kit("audit", tmp_path / "pipeline.yaml", "--out", run.folder, "--resume", env=env)
    assert again.returncode == 0 and "nothing to do" in again.stderr


def test_a_runner_that_is_killed_leaves_them_inside_their_parent(lab_dir: Path, tmp_path: Path) -> None:
    stages = [{"name": "t", "kind": "student_train", "command": ["python", "-c", INSIDE]}]
    env = environment(LabConfig(), lab_dir)
    words = [sys.executable, "-m", "harness.cli.main", "audit", str(write_pipeline(tmp_path, stages))]
    out = tmp_path / "run"
    runner = subprocess.Popen([*words, "--cpu", "none", "--out", str(out)], env=env)
    events = out / "logs" / "t.1.events.jsonl"
    until = time.monotonic() + 60
    while time.monotonic() < until and not (events.exists() and events.read_text().count("begin") >= 2):
        time.sleep(0.05)
    time.sleep(0.5)
    kill_tree(runner.pid)
    assert runner.wait() == -signal.SIGKILL
    assert kit("recover", out, env=env).returncode == 0
    run = Sealed(out)
    assert [row["status"] for row in run.stages] == ["interrupted", "completed", "interrupted"]
    assert json.loads(kit("validate", "--format", "json", out, env=env).stdout)["valid"]


def test_a_moment_outside_the_stage_is_refused(lab_dir: Path, tmp_path: Path) -> None:
    lines = [
        {"event": "substage_begin", "name": "a", "kind": "evaluate", "mono_us": 1},
        {"event": "substage_begin", "name": "a", "kind": "nonsense", "mono_us": 1},
        {"event": "substage_end", "name": "a", "status": "completed", "mono_us": 1},
        {"event": "substage_begin", "name": "a"},
    ]
    text = "\n".join(map(json.dumps, lines))
    code = f"import os; open(os.environ['KIT_EVENTS'], 'a').write({text!r})"
    pipeline = write_pipeline(tmp_path, [{"command": ["python", "-c", code]}])
    env = environment(LabConfig(), lab_dir)
    done = kit("audit", pipeline, "--cpu", "none", "--out", tmp_path / "run", env=env)
    assert done.returncode == 0, done.stderr
    run = Sealed(tmp_path / "run")
    assert len(run.stages) == 1 and len(run.events("x-bad_report")) == 4
