"""`kit recover`: dead runs are sealed, everything else is left alone and named."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path

import pytest

from tests.audit.kit_process import Kit, alive, pipeline, stage_rows, wait_for, wait_for_record


@pytest.fixture
def kit(tmp_path: Path) -> Kit:
    return Kit(tmp_path)


def kill_all(kit: Kit, process: subprocess.Popen[str]) -> None:
    """Runner and sampler at once, as the machine's memory killer or a container's end does it."""
    pid = kit.cwd / "pid"
    wait_for(lambda: pid.exists() and pid.read_text().endswith("\n"))
    helpers = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    for victim in [process.pid, *(int(helper) for helper in helpers if helper != pid.read_text().strip())]:
        os.kill(victim, signal.SIGKILL)
    process.communicate()
    wait_for(lambda: not alive(int(pid.read_text())))


def test_a_dead_run_is_sealed_once(kit: Kit) -> None:
    kit.write(
        "p.yaml",
        pipeline(
            "{name: a, kind: x-a, command: 'true'}",
            '{name: b, kind: x-b, command: \'echo "{\\"tokens_trained\\": 3}" >> $KIT_EVENTS; echo $$ > pid;'
            " exec sleep 300'}",
        ),
    )
    process = kit.start("audit", "p.yaml", "--cpu", "none")
    pid = kit.cwd / "pid"
    wait_for(lambda: pid.exists() and pid.read_text().endswith("\n"))
    wait_for_record(kit.cwd / "runs/p", '"tokens_trained":3')
    kill_all(kit, process)
    out, _ = kit.run("recover", "runs/p")
    assert "a attempt 1: completed" in out and "b attempt 1: interrupted" in out
    bundle = kit.bundle()
    _, row = stage_rows(bundle)
    assert bundle.manifest["status"] == "recovered"
    assert (row["status"], row["exit_code"], row["tokens_trained"]) == ("interrupted", None, 3)
    assert row["flags"] == ["end_not_recorded"]
    # With neither GPU nor CPU readings nothing shows how long it went on.
    assert row["mono_start_us"] < row["mono_end_us"]
    before = (kit.cwd / "runs/p/manifest.json").read_bytes()
    out, _ = kit.run("recover", "runs/p")
    assert "sealed already (status recovered), nothing to recover" in out
    assert (kit.cwd / "runs/p/manifest.json").read_bytes() == before


def test_what_holds_no_run_is_named(kit: Kit) -> None:
    (kit.cwd / "empty").mkdir()
    (kit.cwd / "empty/journal").mkdir()
    kit.write("file", "text")
    kit.write("empty/journal/000-000-runner.jnl", "")
    for name in ("nothing", "file"):
        error = kit.run("recover", name, code=2)[1]
        assert name in error and "expected:" in error
    error = kit.run("recover", "empty", code=2)[1]
    assert "hold no run" in error and "fix:" in error
    (kit.cwd / "empty/journal/000-000-runner.jnl").unlink()
    assert "expected:" in kit.run("recover", "empty", code=2)[1]


def test_a_live_run_is_refused_at_once(kit: Kit) -> None:
    kit.write("p.yaml", pipeline("{name: a, kind: x-a, command: 'echo $$ > pid; exec sleep 300'}"))
    process = kit.start("audit", "p.yaml", "--cpu", "none")
    pid = kit.cwd / "pid"
    wait_for(lambda: pid.exists() and pid.read_text().endswith("\n"))
    error = kit.run("recover", "runs/p", code=2)[1]
    assert f"still going on: process {process.pid} is writing" in error
    process.send_signal(signal.SIGINT)
    process.communicate()


def test_damage_costs_its_record_and_keeps_the_journal(kit: Kit) -> None:
    stages = [f"{{name: {name}, kind: x-{name}, command: 'true'}}" for name in "ab"]
    kit.write("p.yaml", pipeline(*stages, "{name: c, kind: x-c, command: 'echo $$ > pid; exec sleep 300'}"))
    process = kit.start("audit", "p.yaml", "--cpu", "none")
    kill_all(kit, process)
    journal = kit.cwd / "runs/p/journal/000-000-runner.jnl"
    content = bytearray(journal.read_bytes())
    content[content.index(b'"stage_end"') + 3] ^= 1
    journal.write_bytes(content)
    out, error = kit.run("recover", "runs/p", code=1)
    assert "a attempt 1: interrupted" in out and "b attempt 1: completed" in out
    assert f"kept: journal/{journal.name}.damaged" in error
    assert journal.with_name(journal.name + ".damaged").read_bytes() == content
    assert [e for e in kit.bundle().table("events").to_pylist() if "damaged_bytes" in (e["detail"] or "")]
