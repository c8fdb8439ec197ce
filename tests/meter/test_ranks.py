"""Several processes with one run folder: one meters, the counts of all are in its log."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from harness.validate import validate
from tests.lab import LabConfig
from tests.meter.runs import Sealed, environment, kit, run_program, write_pipeline

RANK = """
import os, sys, time
from harness import Meter

name = os.environ.get("RANK", "")
with Meter(out=sys.argv[1], cpu="none") as meter:
    with meter.stage("student_train") as stage:
        stage.add_tokens(trained=1000)
        open(os.path.join(sys.argv[2], f"in-{os.getpid()}"), "w").close()
        until = time.monotonic() + 60
        while sum(f.startswith("in-") for f in os.listdir(sys.argv[2])) < 4 and time.monotonic() < until:
            time.sleep(0.01)
        stage.add_tokens(trained=10, processed=2000)
        stage.event("saved", rank=name)
"""


def ranks(folder: Path, env: dict[str, str], names: list[dict[str, str]]) -> list[tuple[int, str]]:
    """Exit codes and errors of four processes that one parent starts, as torchrun does."""
    folder.mkdir()
    started = [
        subprocess.Popen(
            [sys.executable, "-c", RANK, str(folder / "run"), str(folder)],
            env={**env, **own},
            stderr=subprocess.PIPE,
            text=True,
        )
        for own in names
    ]
    return [(process.returncode, err) for process in started for err in [process.communicate(timeout=120)[1]]]


@pytest.mark.parametrize("numbered", ["LOCAL_RANK", "RANK", ""])
def test_four_ranks_are_one_run(lab_dir: Path, tmp_path: Path, numbered: str) -> None:
    env = environment(LabConfig(), lab_dir)
    names = [{} if not numbered else {"RANK": str(i), numbered: str(i)} for i in range(4)]
    ends = ranks(tmp_path / "job", env, names)
    assert [code for code, _ in ends] == [0, 0, 0, 0], ends
    assert not any("Traceback" in err or "kit recover" in err for _, err in ends), ends
    run = Sealed(tmp_path / "job" / "run")
    (row,) = run.stages
    assert (row["tokens_trained"], row["tokens_processed"], row["status"]) == (4040, 8000, "completed")
    saved = [event["detail"]["report"]["rank"] for event in run.events("stage_event")]
    assert sorted(saved) == sorted(name.get("RANK", "") for name in names)
    assert not [f for f in validate(run.folder, threads=1).findings if f.severity == "error"]
    assert not run.events("x-reports_late") and not run.events("x-reports_unused")
    assert not (run.folder / "logs").exists()


def test_under_an_audit_the_ranks_are_one_part_of_the_stage(lab_dir: Path, tmp_path: Path) -> None:
    program = tmp_path / "rank.py"
    program.write_text(RANK)
    launcher = f"""
import os, subprocess, sys
started = [subprocess.Popen([sys.executable, {str(program)!r}, "ignored", {str(tmp_path)!r}],
                            env={{**os.environ, "LOCAL_RANK": str(i), "RANK": str(i)}}) for i in range(4)]
sys.exit(max(process.wait() for process in started))
"""
    pipeline = write_pipeline(tmp_path, [{"command": [sys.executable, "-c", launcher]}])
    env = environment(LabConfig(), lab_dir)
    done = kit("audit", pipeline, "--out", tmp_path / "run", "--cpu", "none", env=env)
    assert done.returncode == 0, done.stderr
    run = Sealed(tmp_path / "run")
    assert run.stage("stage0")["tokens_trained"] == 4040
    (part,) = [row for row in run.stages if row["parent_uid"] is not None]
    assert part["name"] == "student_train"
    assert not run.events("x-bad_report")


WORKERS = """
import multiprocessing, sys
from harness import Meter

def work(stage):
    stage.add_tokens(processed=7)
    stage.event("batch")

with Meter(out=sys.argv[1], cpu="none") as meter:
    with meter.stage("preprocess") as stage:
        workers = [multiprocessing.get_context("fork").Process(target=work, args=(stage,)) for _ in range(3)]
        for worker in workers: worker.start()
        for worker in workers: worker.join()
        assert [worker.exitcode for worker in workers] == [0, 0, 0]
"""


def test_workers_of_a_data_loader_report_to_their_parent(lab_dir: Path, tmp_path: Path) -> None:
    run = run_program(tmp_path / "run", WORKERS, env=environment(LabConfig(), lab_dir))
    assert run.stages[0]["tokens_processed"] == 21
    assert len(run.events("stage_event")) == 3


STARTED = """
import subprocess, sys
from harness import Meter

child = '''
import os, sys
os.environ["KIT_METER_OUT"] = sys.argv[1]
from harness import Meter
with Meter.from_env(cpu="none") as meter, meter.stage("preprocess") as stage:
    stage.add_tokens(processed=5)
assert stage.energy is None and meter.summary() == []
'''
with Meter(out=sys.argv[1], cpu="none") as meter:
    with meter.stage("preprocess") as stage:
        stage.add_tokens(processed=1)
        subprocess.run([sys.executable, "-c", child, sys.argv[1]], check=True)
"""


def test_a_program_that_the_metered_one_starts_reports_to_it(lab_dir: Path, tmp_path: Path) -> None:
    run = run_program(tmp_path / "run", STARTED, env=environment(LabConfig(), lab_dir))
    assert run.stages[0]["tokens_processed"] == 6


def test_from_env_meters_where_nobody_else_does(lab_dir: Path, tmp_path: Path) -> None:
    code = """
    from harness import Meter
    with Meter.from_env(out="elsewhere", cpu="none") as meter, meter.stage("preprocess") as stage:
        pass
    assert stage.energy.gpu is not None
    """
    env = environment(LabConfig(), lab_dir, {"KIT_METER_OUT": str(tmp_path / "run")})
    assert run_program(tmp_path / "run", code, env=env).stages


LIVE = """
import sys
from harness import Meter
with Meter(out=sys.argv[1], cpu="none") as meter, meter.stage("evaluate"):
    print("ready", flush=True)
    sys.stdin.readline()
"""


def test_another_program_does_not_join_a_run_that_goes_on(lab_dir: Path, tmp_path: Path) -> None:
    env, out = environment(LabConfig(), lab_dir), tmp_path / "run"
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen([sys.executable, "-c", LIVE, str(out)], env=env, text=True, **pipes) as live:
        assert live.stdout is not None and live.stdout.readline() == "ready\n"
        done = subprocess.run(
            [sys.executable, "-c", LIVE.replace("evaluate", "judge"), str(out)],
            env={name: value for name, value in env.items() if name not in ("LOCAL_RANK", "RANK")},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode != 0
        assert f"process {live.pid} meters it" in done.stderr
        live.communicate("\n")
    assert [row["name"] for row in Sealed(out).stages] == ["evaluate"]


def test_what_a_killed_run_left_in_the_file_is_not_counted_again(lab_dir: Path, tmp_path: Path) -> None:
    code = """
    import glob, json, os, sys
    from harness.meter import ranks
    from pathlib import Path
    from harness import Meter
    out = Path(sys.argv[1])
    dead = os.fork()
    if dead == 0:
        os._exit(0)
    os.waitpid(dead, 0)
    (out / "logs").mkdir(parents=True)
    line = {"pid": dead, "stage": ["preprocess", 1], "tokens_processed": 1000}
    (out / "logs" / ranks._file_of(os.getpid())).write_text(json.dumps(line) + "\\n")
    with Meter(out=out, cpu="none") as meter, meter.stage("preprocess") as stage:
        stage.add_tokens(processed=2)
    """
    run = run_program(tmp_path / "run", code, env=environment(LabConfig(), lab_dir))
    assert run.stages[0]["tokens_processed"] == 2


FORKED = """
import os, sys
from harness import Meter

def fork(work):
    if (pid := os.fork()) == 0:
        try:
            work()
        except SystemExit:
            raise
        except BaseException as error:
            print(repr(error), file=sys.stderr)
            os._exit(1)
        os._exit(0)
    assert os.waitpid(pid, 0)[1] == 0

def part():
    with meter.stage("evaluate") as own:
        own.add_tokens(processed=5)
    assert own.energy is None and meter.summary() == []

with Meter(out=sys.argv[1], cpu="none") as meter:
    fork(part)
    with meter.stage("preprocess") as stage:
        fork(part)
        fork(sys.exit)  # leaves the `with` block of a stage that is not its own
        stage.add_tokens(processed=1)
    assert meter.summary() == [] or meter.summary()[0].name == "preprocess"
"""


def test_a_stage_of_a_fork_is_no_stage_of_the_run_and_what_it_counts_is_its_parents(
    lab_dir: Path, tmp_path: Path
) -> None:
    run = run_program(tmp_path / "run", FORKED, env=environment(LabConfig(), lab_dir))
    assert [(row["name"], row["tokens_processed"]) for row in run.stages] == [("preprocess", 6)]
    (unused,) = run.events("x-reports_unused")
    assert unused["detail"]["reports"] == 2, "the count and the stage of the first fork"


def test_a_fork_that_leaves_a_stage_of_its_parent_ends_no_part_of_an_audited_stage(
    lab_dir: Path, tmp_path: Path
) -> None:
    program = tmp_path / "program.py"
    program.write_text(FORKED)
    pipeline = write_pipeline(tmp_path, [{"command": [sys.executable, str(program), "ignored"]}])
    env = environment(LabConfig(), lab_dir)
    done = kit("audit", pipeline, "--out", tmp_path / "run", "--cpu", "none", env=env)
    assert done.returncode == 0, done.stderr
    run = Sealed(tmp_path / "run")
    parts = [
        (row["name"], row["status"], row["tokens_processed"])
        for row in run.stages
        if row["parent_uid"] is not None
    ]
    assert sorted(parts) == [
        ("evaluate", "completed", 5),
        ("evaluate", "completed", 5),
        ("preprocess", "completed", 6),
    ]


def test_a_meter_closed_inside_a_stage_ends_it_there(lab_dir: Path, tmp_path: Path) -> None:
    code = """
    import sys
    from harness import Meter
    meter = Meter(out=sys.argv[1], cpu="none")
    meter.start()
    with meter.stage("preprocess") as stage:
        meter.close()
    assert stage.energy.status == "interrupted"
    """
    run = run_program(tmp_path / "run", code, env=environment(LabConfig(), lab_dir))
    assert [row["status"] for row in run.stages] == ["interrupted"]


LATE = """
import os, sys, time
from harness import Meter
with Meter(out=sys.argv[1], cpu="none") as meter:
    with meter.stage("student_train") as stage:
        stage.add_tokens(trained=10)
        if os.environ["LOCAL_RANK"] == "1":
            open(sys.argv[2], "w").close()
            while os.path.exists(sys.argv[1] + "/logs"):
                time.sleep(0.05)
            stage.add_tokens(trained=10)
            stage.event("saved")
        else:
            while not os.path.exists(sys.argv[2]):
                time.sleep(0.05)
    if os.environ["LOCAL_RANK"] == "1":
        with meter.stage("evaluate") as stage:
            stage.add_tokens(processed=1)
print("saved its weights")
"""


def test_a_rank_that_outlives_the_run_is_told_and_goes_on(lab_dir: Path, tmp_path: Path) -> None:
    env = environment(LabConfig(), lab_dir)
    started = [
        subprocess.Popen(
            [sys.executable, "-c", LATE, str(tmp_path / "run"), str(tmp_path / "in")],
            env={**env, "LOCAL_RANK": rank, "RANK": rank},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in ("0", "1")
    ]
    told = [process.communicate(timeout=120) for process in started]
    assert [out for out, _ in told] == ["saved its weights\n"] * 2, told
    assert told[1][1].count("has ended: what this process reports is not counted any more") == 1
    assert Sealed(tmp_path / "run").stages[0]["tokens_trained"] == 20
