"""Any part of a run killed at any moment: the run goes on with `--resume`, becomes complete and validates."""

from __future__ import annotations

import json
import os
import random
import time
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from harness.bundle import Bundle
from tests.audit.kit_process import Kit, pipeline, stage_rows, wait_for_record

KILLS = int(os.environ.get("KIT_KILLS", "10"))
"""Seeded moments that are tried; `KIT_KILLS=50` for all of the grid."""

PARTS = ("runner", "sampler", "estimator", "stage")
TWO = pipeline(
    "{name: first, kind: preprocess, command: 'sleep 0.3; echo x > ${outputs.o}',"
    " outputs: {o: '${run_dir}/first'}}",
    "{name: second, kind: student_train, command: 'while [ ! -e go ]; do :; done; echo y > ${outputs.o}',"
    " inputs: ['${stages.first.o}'], outputs: {o: '${run_dir}/second'}}",
)


def parts_of(runner: int) -> dict[str, psutil.Process]:
    found = {"runner": psutil.Process(runner)}
    for child in found["runner"].children():
        with suppress(psutil.Error):
            words = " ".join(child.cmdline())
            name = next((part for part in PARTS if f"harness.meter.{part}" in words), "stage")
            found[name] = child
    return found


def kill(runner: int, names: tuple[str, ...]) -> None:
    found = parts_of(runner)
    for name in names:
        with suppress(psutil.Error, KeyError):
            found[name].kill()


def resumed(kit: Kit) -> Bundle:
    (kit.cwd / "go").touch()
    kit.run("audit", "p.yaml", "--resume")
    bundle = kit.bundle()
    assert bundle.manifest["status"] == "complete"
    last = {row["name"]: row["status"] for row in stage_rows(bundle)}
    assert last == {"first": "completed", "second": "completed"}
    return bundle


@pytest.fixture
def kit(tmp_path: Path) -> Kit:
    kit = Kit(tmp_path)
    kit.write("p.yaml", TWO)
    return kit


@pytest.mark.slow
def test_the_runner_alone_is_killed_in_a_stage(kit: Kit) -> None:
    process = kit.start("audit", "p.yaml")
    wait_for_record(kit.cwd / "runs/p", '"name":"second","stage"')
    time.sleep(2.2)
    kill(process.pid, ("runner",))
    process.communicate()
    bundle = resumed(kit)
    killed = next(row for row in stage_rows(bundle) if row["status"] == "interrupted")
    assert set(killed["flags"]) >= {"end_not_recorded", "runner_lost"}
    # Nobody asked the estimator for the end of this stage, and its looks go on until then: RAM alone is 10 W.
    seconds = (killed["mono_end_us"] - killed["mono_start_us"]) / 1e6
    assert killed["dram_energy_j"] == pytest.approx(10 * seconds, rel=0.2)
    assert killed["cpu_energy_j"] > 0
    events = bundle.table("events").to_pylist()
    (gap,) = [e for e in events if e["kind"] == "gap" and '"of":"runner"' in (e["detail"] or "")]
    (lost,) = [e for e in events if e["kind"] == "runner_lost"]
    assert (gap["session"], gap["stage_uid"], gap["severity"]) == (0, killed["stage_uid"], "warning")
    # From its last record, the beginning of the stage, until the sampler had ended what it left.
    assert gap["mono_us"] + json.loads(gap["detail"])["length_us"] == lost["mono_us"]
    assert killed["mono_start_us"] <= gap["mono_us"] < lost["mono_us"]


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(KILLS))
def test_any_parts_are_killed_at_any_moment(kit: Kit, seed: int) -> None:
    draw = random.Random(seed)
    names = tuple(draw.sample(PARTS, draw.randint(1, len(PARTS))))
    process = kit.start("audit", "p.yaml")
    word = draw.choice(["type", "sampler_start", '"name":"first","stage"', '"name":"second","stage"'])
    wait_for_record(kit.cwd / "runs/p", word)
    time.sleep(draw.uniform(0.0, 1.0))
    kill(process.pid, names)
    (kit.cwd / "go").touch()
    process.communicate(timeout=60)
    resumed(kit)


@pytest.mark.parametrize("when", ["before the session is closed", "before the seal"])
def test_a_run_killed_before_its_seal_becomes_complete(kit: Kit, when: str) -> None:
    where = "runner.MeterSession.close" if when == "before the session is closed" else "runner.seal"
    code = (
        "import os, signal; from harness.audit import runner\n"
        f"{where} = lambda *words: os.kill(os.getpid(), signal.SIGKILL)\n"
        "from harness.cli.main import main; main(['audit', 'p.yaml', '--cpu', 'none'])"
    )
    (kit.cwd / "go").touch()
    process = kit.start_python(code)
    process.communicate(timeout=60)
    assert process.returncode == -9
    assert "nothing to do" in kit.audit("p.yaml", "--resume")
    bundle = kit.bundle()
    assert bundle.manifest["status"] == "complete" and len(stage_rows(bundle)) == 2
    assert len(bundle.manifest["sampling"]["sessions"]) == 1
