"""Runs that are stopped, killed and gone on with: nothing is lost, nothing is run or counted twice."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from harness.bundle import Bundle
from tests.audit.kit_process import KIT, Kit, alive, events, pipeline, stage_rows, wait_for, wait_for_record
from tests.audit.terminal import Terminal
from tests.lab import Const, LabConfig, LabDevice, Refresh, Square
from tests.lab.fixtures import lab_dir  # noqa: F401

SLOW = """
trap 'echo asked >> asked' INT TERM
echo $$ > slow.pid
echo '{"tokens_trained": 8}' >> "$KIT_EVENTS"
while [ ! -e go ]; do sleep 0.02; [ -e stubborn ] || [ ! -e asked ] || exit 9; done
echo trained > "$1"
"""
THREE = pipeline(
    "{name: first, kind: preprocess, command: 'echo one >> runs.txt; cp source.txt ${outputs.o}',"
    " inputs: [source.txt], outputs: {o: '${run_dir}/first.txt'}}",
    "{name: slow, kind: student_train, command: [sh, slow.sh, '${outputs.o}'],"
    " inputs: ['${stages.first.o}'], outputs: {o: '${run_dir}/slow.txt'}}",
    "{name: last, kind: evaluate, command: 'echo last >> runs.txt', inputs: ['${stages.slow.o}']}",
)


@pytest.fixture
def kit(tmp_path: Path) -> Kit:
    kit = Kit(tmp_path)
    kit.write("p.yaml", THREE)
    kit.write("slow.sh", SLOW)
    kit.write("source.txt", "hello\n")
    return kit


def go(kit: Kit) -> None:
    (kit.cwd / "asked").unlink(missing_ok=True)
    (kit.cwd / "go").touch()


def slow_pid(kit: Kit) -> int:
    path = kit.cwd / "slow.pid"
    wait_for(lambda: path.exists() and path.read_text().endswith("\n"))
    return int(path.read_text())


def attempts(bundle: Bundle) -> list[tuple[Any, ...]]:
    rows = stage_rows(bundle)
    return [(row["name"], row["attempt"], row["status"], row["session"]) for row in rows]


def figures(row: dict[str, Any]) -> dict[str, Any]:
    """Everything a row says but its number."""
    return {name: value for name, value in row.items() if name != "stage_uid"}


def test_stop_resume_kill_resume_with_a_gpu(kit: Kit, lab_dir: Path) -> None:  # noqa: F811
    config = LabConfig((LabDevice((Const(80.0), Square(0.0, 300.0, 370_000)), counter=Refresh(20_000)),))
    kit.env |= config.env(lab_dir)
    process = kit.start("audit", "p.yaml", "--cpu", "none")
    stage = slow_pid(kit)
    wait_for_record(kit.cwd / "runs/p", '"tokens_trained":8')
    time.sleep(0.6)  # for a sample to be taken
    process.send_signal(signal.SIGINT)
    _, shown = process.communicate(timeout=30)
    assert process.returncode == 130, shown
    assert not alive(stage) and (kit.cwd / "asked").read_text() == "asked\n"
    assert "go on: kit audit p.yaml --cpu none --out runs/p --resume" in shown
    bundle = kit.bundle()
    assert attempts(bundle) == [("first", 1, "completed", 0), ("slow", 1, "interrupted", 0)]
    assert bundle.manifest["status"] == "partial" and not (kit.cwd / "runs/p/journal").exists()
    earlier = bundle.table("stages").to_pylist()
    stopped = stage_rows(bundle)[1]
    assert stopped["tokens_trained"] == 8 and stopped["exit_code"] == 9
    true_j = config.true_energy_j(0, stopped["device_start_us"][0], stopped["device_end_us"][0])
    assert stopped["gpu_energy_j"] == pytest.approx(true_j, rel=0.005)

    # Gone on with, and killed without a chance to say anything.
    (kit.cwd / "asked").unlink()
    (kit.cwd / "slow.pid").unlink()
    process = kit.start("audit", "p.yaml", "--cpu", "none", "--resume")
    stage = slow_pid(kit)
    wait_for_record(kit.cwd / "runs/p", '"tokens_trained":8')
    time.sleep(0.6)
    process.kill()
    process.communicate()
    # At once: the sampler is still ending the stage and taking its last boundary. Nothing is sealed under it.
    go(kit)
    shown = kit.audit("p.yaml", "--resume")
    assert not alive(stage)
    bundle = kit.bundle()
    assert attempts(bundle) == [
        ("first", 1, "completed", 0),
        ("slow", 1, "interrupted", 0),
        ("slow", 2, "interrupted", 1),
        ("slow", 3, "completed", 2),
        ("last", 1, "completed", 2),
    ]
    assert (kit.cwd / "runs.txt").read_text() == "one\nlast\n"
    killed = stage_rows(bundle)[2]
    assert set(killed["flags"]) >= {"end_not_recorded", "runner_lost"} and killed["tokens_trained"] == 8
    true_j = config.true_energy_j(0, killed["device_start_us"][0], killed["device_end_us"][0])
    assert killed["gpu_energy_j"] == pytest.approx(true_j, rel=0.005)
    # The earlier session's rows are what they were, bit for bit.
    now = bundle.table("stages").to_pylist()
    kept = [figures(row) for row in now if row["session"] == 0]
    assert sorted(map(repr, kept)) == sorted(repr(figures(row)) for row in earlier)
    assert [row["stage_uid"] for row in stage_rows(bundle)] == [0, 1, 2, 3, 4]
    assert bundle.manifest["status"] == "complete"
    assert [entry["session"] for entry in bundle.manifest["sampling"]["sessions"]] == [0, 1, 2]
    assert len(events(bundle, "session_start")) == 3 and len(events(bundle, "runner_lost")) == 1
    assert [key.session for key, _ in bundle.iter_power()] == [0, 1, 2]
    assert " 1 first" in shown and "completed earlier" in shown

    files = {path.name: path.read_bytes() for path in (kit.cwd / "runs/p").glob("*.parquet")}
    shown = kit.audit("p.yaml", "--resume")
    assert "nothing to do: every stage completed earlier" in shown
    assert {path.name: path.read_bytes() for path in (kit.cwd / "runs/p").glob("*.parquet")} == files


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_a_run_stopped_in_its_last_wait_is_completed(kit: Kit, number: signal.Signals) -> None:
    def with_wait(after: str) -> None:
        head = f"devices: none\nidle_baseline: {{before: 0.1, after: {after}}}\n"
        stage = "{name: work, kind: x-w, command: 'echo done >> done'}"
        kit.write("p.yaml", pipeline(stage, head=head))

    with_wait("60")
    process = kit.start("audit", "p.yaml", "--cpu", "none")
    journals = kit.cwd / "runs/p/journal"
    wait_for(lambda: any(b"idle_after" in path.read_bytes() for path in journals.glob("*")))
    process.send_signal(number)
    process.communicate(timeout=30)
    assert process.returncode in (130, -signal.SIGKILL)
    with_wait("0.2")
    shown = kit.audit("p.yaml", "--resume")
    assert "nothing to do" not in shown
    bundle = kit.bundle()
    assert bundle.manifest["status"] == "complete"
    assert attempts(bundle) == [
        ("idle_before", 1, "completed", 0),
        ("work", 1, "completed", 0),
        ("idle_after", 1, "interrupted", 0),
        ("idle_after", 2, "completed", 1),
    ]
    assert "nothing to do" in kit.audit("p.yaml", "--resume")
    assert len(stage_rows(kit.bundle())) == 4


def test_what_changed_runs_again_with_what_depends_on_it(kit: Kit) -> None:
    go(kit)
    kit.audit("p.yaml")

    def resumed(*options: str) -> list[tuple[str, int]]:
        kit.audit("p.yaml", "--resume", *options)
        rows = stage_rows(kit.bundle())
        last = max(row["session"] for row in rows)
        return [(row["name"], row["attempt"]) for row in rows if row["session"] == last]

    (kit.cwd / "runs/p/work/slow.txt").unlink()
    assert resumed() == [("slow", 2), ("last", 2)]
    (kit.cwd / "source.txt").write_text("other\n")
    assert resumed() == [("first", 2), ("slow", 3), ("last", 3)]
    (kit.cwd / "p.yaml").write_text(THREE.replace("echo last", "echo changed"))
    assert resumed() == [("last", 4)]
    manifest = kit.bundle().manifest
    assert [stage["name"] for stage in manifest["pipeline"]["stages"]] == ["first", "slow", "last"]
    (kit.cwd / "p.yaml").write_text(THREE)
    assert resumed("--only", "last") == [("last", 5)]
    # What was left out this time is in the manifest all the same: the rows of the bundle are the whole run's.
    again = kit.bundle().manifest
    assert [stage["name"] for stage in again["pipeline"]["stages"]] == ["first", "slow", "last"]
    assert again["status"] == "complete" and again["run_id"] == manifest["run_id"]

    error = kit.run("audit", "p.yaml", "--out", "runs/p", code=2)[1]
    assert "holds a run already" in error and "--resume" in error
    (kit.cwd / "p.yaml").write_text(THREE.replace("name: p\n", "name: q\n"))
    error = kit.run("audit", "p.yaml", "--out", "runs/p", "--resume", code=2)[1]
    assert "holds run 'p', the pipeline file describes 'q'" in error and "fix:" in error
    (kit.cwd / "p.yaml").write_text(THREE.replace("stages:", "sampling: {period_ms: 100}\nstages:"))
    error = kit.run("audit", "p.yaml", "--out", "runs/p", "--resume", code=2)[1]
    assert "sampling changed" in error and "period_ms: 500" in error
    assert kit.bundle().manifest["run_id"] == manifest["run_id"]


@pytest.mark.parametrize("how", ["ctrl-c", "ctrl-c twice", "hang up", "SIGTERM"])
def test_a_stop_from_the_terminal_ends_the_stage_and_seals(kit: Kit, how: str) -> None:
    if how == "ctrl-c twice":
        kit.write("stubborn", "")
    terminal = Terminal([*KIT, "audit", "p.yaml", "--cpu", "none", "-v"], kit.cwd, kit.env)
    stage = slow_pid(kit)
    terminal.read_until("tokens trained")
    terminal.type(b"\x1a")  # Ctrl-Z must not stop the runner or the sampler while the stage goes on
    begun = time.monotonic()
    if how == "SIGTERM":
        os.kill(terminal.pid, signal.SIGTERM)
    elif how == "hang up":
        terminal.hang_up()
    else:
        terminal.type(b"\x03")
        if how == "ctrl-c twice":
            wait_for(lambda: (kit.cwd / "asked").exists())
            terminal.type(b"\x03")
    code = terminal.wait()
    assert code == {"SIGTERM": 143, "hang up": 129}.get(how, 130)
    assert time.monotonic() - begun < 9.0, "the stage was not asked, or had its whole grace period"
    assert not alive(stage)
    _, slow = stage_rows(kit.bundle())
    expected = 137 if how == "ctrl-c twice" else 9
    assert (slow["status"], slow["exit_code"], slow["tokens_trained"]) == ("interrupted", expected, 8)
    # The key reached the runner alone; the stage, in a session of its own, was asked by the runner.
    assert (kit.cwd / "asked").read_text() == "asked\n"
    assert slow["flags"] == []
    assert "Traceback" not in terminal.shown.decode(errors="replace")


def test_a_run_that_goes_on_is_not_sealed_under_its_meter(kit: Kit) -> None:
    process = kit.start("audit", "p.yaml", "--cpu", "none")
    slow_pid(kit)
    code = (
        "import sys; from harness.journal import reading; reading._PATIENCE_S = 0.5\n"
        "reading.await_writers.__defaults__ = (0.5,)\n"
        "from harness.cli.main import main; sys.exit(main(sys.argv[1:]))"
    )
    for call in (["recover", "runs/p"], ["audit", "p.yaml", "--cpu", "none", "--out", "runs/p", "--resume"]):
        done = subprocess.run(
            [KIT[0], "-c", code, *call], cwd=kit.cwd, env=kit.env, capture_output=True, text=True, check=False
        )
        assert done.returncode == 2 and "still going on" in done.stderr, done.stderr
    go(kit)
    assert process.communicate(timeout=30)[1]
    assert process.returncode == 0
    assert kit.bundle().manifest["status"] == "complete"


def test_a_seal_that_was_cut_short_is_finished(kit: Kit) -> None:
    """The crash came after the new bundle was in place and before the journals were gone."""
    process = kit.start("audit", "p.yaml", "--cpu", "none")
    slow_pid(kit)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=30)
    (kit.cwd / "asked").unlink()
    (kit.cwd / "slow.pid").unlink()
    process = kit.start("audit", "p.yaml", "--cpu", "none", "--resume")
    slow_pid(kit)
    journal = kit.cwd / "runs/p/journal"
    process.send_signal(signal.SIGSTOP)
    shutil.copytree(journal, kit.cwd / "saved")
    process.send_signal(signal.SIGCONT)
    go(kit)
    process.communicate(timeout=30)
    sealed = kit.bundle().manifest
    shutil.copytree(kit.cwd / "saved", journal)
    kit.run("recover", "runs/p")
    assert kit.bundle().manifest == sealed and not journal.exists()


def test_an_edit_that_one_log_cannot_hold_is_refused_and_one_that_comes_too_late_is_said(
    tmp_path: Path,
) -> None:
    kit = Kit(tmp_path)
    stage = "{name: a, kind: prerun, command: 'true'}"
    kit.write("p.yaml", pipeline(stage))
    kit.audit("p.yaml")
    sealed = kit.bundle().manifest

    def resumed(text: str, code: int = 0) -> str:
        kit.write("p.yaml", text)
        return " ".join(kit.audit("p.yaml", "--resume", code=code).split())

    found = resumed(pipeline(stage.replace("prerun", "preprocess")), 2)
    assert "stage 'a' is of kind preprocess, and was prerun when it ran" in found
    assert "the method changed" in resumed(pipeline(stage).replace("method: sft", "method: kd"), 2)
    assert "reference_tokens changed" in resumed(pipeline(stage, head="reference_tokens: 7\n"), 2)
    assert "says otherwise: pue" in resumed(pipeline(stage, head="pue: 1.2\n"))
    counted = stage.replace("'true'", "'true', tokens: {trained: 5}")
    assert "completed earlier, with other `tokens`: those stay" in resumed(pipeline(counted))
    found = resumed(pipeline(stage))
    assert "completed earlier" in found and "stay" not in found and "otherwise" not in found
    assert kit.bundle().manifest == sealed
