"""Figures that a program gets back while it is metered: those of the log, within their intervals."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.lab import Const, FakePowercap, LabConfig, LabDevice, Sine, Zone
from tests.meter.runs import environment, run_program

PROGRAM = """
import dataclasses, json, sys, time
from harness import Meter
from harness.errors import KitError

meter = Meter(out=sys.argv[1])

@meter.stage("evaluate")
def evaluate(seconds):
    time.sleep(seconds)
    return seconds

with meter:
    with meter.stage("student_train") as train:
        time.sleep(1.0)
        try:
            train.energy
        except KitError as error:
            assert "after the with block" in str(error)
        else:
            raise SystemExit(3)
    first = train.energy
    asked = time.monotonic()
    train.energy
    took_s = time.monotonic() - asked
    assert evaluate(0.4) == 0.4 and evaluate(0.3) == 0.3
    live = meter.summary()
sealed = meter.summary()
shown = {"first": first, "after": train.energy, "took_s": took_s, "live": live, "sealed": sealed}
json.dump(shown, open(sys.argv[2], "w"), default=dataclasses.asdict)
"""


def test_figures_come_back(lab_dir: Path, tmp_path: Path) -> None:
    config = LabConfig((LabDevice(waves=(Const(300.0), Sine(80.0, 0.0, 700_000))),))
    with FakePowercap(tmp_path / "powercap", [Zone("package-0", (Const(50.0),))]) as cpu:
        env = environment(config, lab_dir, cpu.env())
        run = run_program(tmp_path / "run", PROGRAM, str(tmp_path / "shown.json"), env=env)
    shown = json.loads((tmp_path / "shown.json").read_text())
    first, row = shown["first"], run.stage("student_train")
    assert (first["name"], first["kind"], first["attempt"], first["status"]) == (
        "student_train",
        "student_train",
        1,
        "completed",
    )
    assert first["gpu"]["best"] == row["gpu_energy_j"]
    assert first["cpu"]["best"] == pytest.approx(row["cpu_energy_j"], abs=0.5)
    assert first["seconds"] == (row["mono_end_us"] - row["mono_start_us"]) / 1e6
    truth_j = cpu.true_energy_j(0, row["mono_start_us"], row["mono_end_us"])
    assert first["total"]["best"] == first["gpu"]["best"] + first["cpu"]["best"]
    assert first["cpu"]["low"] - 0.5 <= truth_j <= first["cpu"]["high"] + 0.5
    assert first["dram"] is None and first["total"]["low"] < first["total"]["best"] < first["total"]["high"]
    assert shown["after"] == shown["sealed"][0]
    names = [("student_train", 1), ("evaluate", 1), ("evaluate", 2)]
    for figures in (shown["live"], shown["sealed"]):
        assert [(f["name"], f["attempt"]) for f in figures if f["name"] != "unattributed"] == names
    assert sum(f["gpu"]["best"] for f in shown["sealed"]) == pytest.approx(
        sum(r["gpu_energy_j"] for r in run.all_stages)
    )
    assert shown["took_s"] < 0.5


def test_under_an_audit_the_log_has_them(tmp_path: Path) -> None:
    code = """
    from harness import Meter
    with Meter(out="ignored") as meter:
        with meter.stage("evaluate") as stage:
            pass
        assert stage.energy is None and meter.summary() == []
    """
    env = environment(None, tmp_path, {"KIT_EVENTS": str(tmp_path / "events.jsonl")})
    run_program(Path("unused"), code, env=env, cwd=str(tmp_path))
    assert not (tmp_path / "ignored").exists()
