"""Reports that a stage wrote just before everything was killed count all the same."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.audit.late_reports import take_late_reports
from harness.journal.reading import journal_files
from tests.audit.kit_process import Kit, events, pipeline, stage_rows

STAGE = """\
import os, signal, time
from pathlib import Path
def report(text):
    with open(os.environ["KIT_EVENTS"], "a") as stream:
        stream.write(text)
report('{"tokens_trained": 5, "tokens_processed": 15}\\n')
if not os.path.exists("killed"):
    journal = Path("runs/p/journal")
    while not any(b'"tokens_trained":5' in path.read_bytes() for path in journal.glob("*.jnl")):
        time.sleep(0.05)
    open("killed", "w").close()
    report('{"tokens_trained": 7}\\n{"event": "step"}\\n{"tokens_positions": 20}\\n{"tokens_trained": 1')
    # Nobody may get to read that: runner and meter at once.
    os.killpg(os.getppid(), signal.SIGKILL)
    time.sleep(30)
"""


@pytest.mark.parametrize("way", ["resume", "recover"])
def test_what_the_runner_did_not_live_to_read(tmp_path: Path, way: str) -> None:
    kit = Kit(tmp_path)
    kit.write("stage.py", STAGE)
    kit.write("p.yaml", pipeline("{name: train, kind: student_train, command: [python, stage.py]}"))
    run = kit.cwd / "runs/p"
    process = kit.start("audit", "p.yaml", "--cpu", "none", start_new_session=True)
    process.communicate(timeout=30)
    assert process.returncode == -9 and journal_files(run)
    if way == "recover":
        kit.run("recover", "runs/p")
    kit.audit("p.yaml", "--resume")
    bundle = kit.bundle()
    first, second = (row for row in stage_rows(bundle) if row["name"] == "train")
    assert [first["status"], second["status"]] == ["interrupted", "completed"]
    # A line that the kill cut short is none.
    counts = [first[f"tokens_{name}"] for name in ("trained", "processed", "positions", "generated")]
    assert counts == [12, 15, 20, None]
    assert [second[f"tokens_{name}"] for name in ("trained", "processed", "positions")] == [5, 15, None]
    told = [row["detail"] for row in events(bundle, "stage_tokens") if row["stage_uid"] == first["stage_uid"]]
    assert sum(detail.get("tokens_trained", 0) for detail in told) == 12


def test_a_run_that_ended_is_left_alone(tmp_path: Path) -> None:
    kit = Kit(tmp_path)
    kit.write("p.yaml", pipeline("{name: a, kind: x-a, command: 'true'}"))
    kit.audit("p.yaml")
    before = (kit.cwd / "runs/p/manifest.json").read_bytes()
    take_late_reports(kit.cwd / "runs/p")
    take_late_reports(kit.cwd / "no such run")
    assert (kit.cwd / "runs/p/manifest.json").read_bytes() == before
    assert not (kit.cwd / "runs/p/journal").exists()
