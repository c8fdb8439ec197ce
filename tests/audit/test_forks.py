"""Stages forked from a process that has imported what they need: like any other, only sooner."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from harness.audit.forks import Forks
from harness.audit.plan import load_plan
from harness.audit.process import StageProcess, adopting_orphans
from harness.audit.runner import run_plan
from harness.bundle import Bundle
from tests.audit.kit_process import alive, stage_rows, wait_for

SELF = """\
import json, os, signal, sys
import lab.preload
print(json.dumps({
    "leads": os.getpid() == os.getpgrp() == os.getsid(0),
    "parent": os.getppid(),
    "name": __name__,
    "argv": sys.argv,
    "package": __package__,
    "cwd": os.getcwd(),
    "path": sys.path,
    "env": dict(os.environ),
    "stdin": os.read(0, 1).decode(),
    "unbuffered": sys.stdout.write_through,
    "signals": [str(signal.getsignal(number)) for number in (1, 2, 13, 15, 20)],
    "descriptors": sorted(int(n) for n in os.listdir("/proc/self/fd")),
    "imported_here": lab.preload.PID == os.getpid(),
}))
"""
ENDS = """\
import atexit, os, signal, sys, threading, time
atexit.register(lambda: sys.stdout.closed or print("at exit"))
how = sys.argv[1]
sys.stdout.write("begun ")
if how == "raise":
    raise ValueError("what went wrong")
if how == "signal":
    sys.stdout.flush()
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(10)
if how == "wait":
    sys.stdout.flush()
    time.sleep(30)
if how == "closed":
    sys.stdout.close()
    how = "0"
if how == "thread":
    threading.Thread(target=lambda: (time.sleep(0.1), print("thread"))).start()
elif how != "return":
    sys.exit(int(how) if how.isdecimal() else how)
"""
BURN = """\
import time, os
begun = time.process_time()
while time.process_time() - begun < 0.4:
    pass
print(time.process_time())
"""


@pytest.fixture
def lab(tmp_path: Path) -> Path:
    package = tmp_path / "lab"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "preload.py").write_text("import os\nPID = os.getpid()\n")
    for name, text in {"self": SELF, "ends": ENDS, "burn": BURN}.items():
        (package / f"{name}.py").write_text(text)
    return tmp_path


@pytest.fixture
def forks() -> Iterator[Forks]:
    with adopting_orphans(), Forks("lab.preload") as forks:
        yield forks


def environment(**more: str) -> dict[str, str]:
    return {**os.environ, "PYTHONUNBUFFERED": "1", **more}


def begin(forks: Forks, folder: Path, *words: str, **env: str) -> str | None:
    with (folder / "imports.err").open("ab") as stderr:
        return forks.start((sys.executable, "-m", *words), folder, environment(**env), stderr)


def run(forks: Forks | None, folder: Path, *words: str, **env: str) -> tuple[int, str, str]:
    """Exit code, standard output and standard error of a stage, forked or not."""
    out, err = folder / "out", folder / "err"
    for path in (out, err):
        path.unlink(missing_ok=True)
    argv = (sys.executable, "-m", *words)
    with StageProcess(argv, folder, environment(**env), out, err, forks) as stage:
        assert stage.forked == (forks is not None)
        outcome = stage.wait(timeout_s=20, interrupted=lambda: None, watch=lambda: None)
        assert stage.end_leftovers() == 0
    return outcome.exit_code, out.read_text(), err.read_text()


def test_a_forked_stage_finds_what_a_fresh_one_finds(forks: Forks, lab: Path) -> None:
    words = ("lab.self", "--a", "b c", "")
    code, said, err = run(None, lab, *words, KIT_STAGE="one", OWN="x")
    assert begin(forks, lab, "lab.self", OWN="x") is None
    forked = run(forks, lab, *words, KIT_STAGE="one", OWN="x")
    assert (code, err) == (forked[0], forked[2]) == (0, "")
    expected: dict[str, Any] = json.loads(said)
    found: dict[str, Any] = json.loads(forked[1])
    assert expected.pop("imported_here") and not found.pop("imported_here")
    assert found == expected
    assert expected["leads"] and expected["parent"] == os.getpid()
    assert expected["env"]["KIT_STAGE"] == "one"


@pytest.mark.parametrize(
    "how", ["0", "3", "said", "raise", "return", "signal", "thread", "closed", "2147483648"]
)
def test_it_ends_as_a_fresh_one_ends(forks: Forks, lab: Path, how: str) -> None:
    fresh = run(None, lab, "lab.ends", how)
    assert begin(forks, lab, "lab.ends") is None
    forked = run(forks, lab, "lab.ends", how)
    assert forked[:2] == fresh[:2]
    # Of a traceback the last lines; above them stand the frames that called it.
    assert forked[2].splitlines()[-2:] == fresh[2].splitlines()[-2:]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_it_and_not_what_it_was_forked_from(
    forks: Forks, lab: Path, number: signal.Signals
) -> None:
    assert begin(forks, lab, "lab.ends") is None
    argv, codes = (sys.executable, "-m", "lab.ends", "wait"), []
    for source in (None, forks):
        (lab / "out").unlink(missing_ok=True)
        with StageProcess(argv, lab, environment(), lab / "out", lab / "err", source) as stage:
            wait_for(lambda: "begun" in (lab / "out").read_text())
            outcome = stage.wait(timeout_s=None, interrupted=lambda: number, watch=lambda: None)
        codes.append((outcome.exit_code, outcome.reason))
    assert codes[0] == codes[1]
    assert run(forks, lab, "lab.ends", "5")[0] == 5


def test_a_signal_reaches_it_from_the_moment_its_number_is_known(forks: Forks, lab: Path) -> None:
    assert begin(forks, lab, "lab.ends") is None
    argv = (sys.executable, "-m", "lab.ends", "wait")
    for _ in range(10):
        with StageProcess(argv, lab, environment(), lab / "out", lab / "err", forks) as stage:
            status = Path(f"/proc/{stage.pgid}/status").read_text()
            assert os.getsid(stage.pgid) == os.getpgid(stage.pgid) == stage.pgid
            ignored = int(status.partition("SigIgn:")[2].split()[0], 16)
            assert not ignored & 1 << (signal.SIGINT - 1)


def test_it_runs_once_when_the_answer_comes_too_late(
    forks: Forks, lab: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (lab / "lab/ends.py").write_text("open('ran', 'a').write('x')")
    assert begin(forks, lab, "lab.ends") is None
    server = forks._process
    assert server is not None
    monkeypatch.setattr("harness.audit.forks._FORK_TIMEOUT_S", 0.2)
    os.kill(server.pid, signal.SIGSTOP)
    # Popen.send_signal knows whether the process has been reaped; a number alone may be another's by then.
    waking = threading.Timer(1.0, server.send_signal, [signal.SIGCONT])
    waking.start()
    argv = (sys.executable, "-m", "lab.ends")
    with StageProcess(argv, lab, environment(), lab / "out", lab / "err", forks) as stage:
        assert not stage.forked
        stage.wait(timeout_s=20, interrupted=lambda: None, watch=lambda: None)
        waking.join()
        time.sleep(0.5)
    assert (lab / "ran").read_text() == "x"


def test_it_does_not_run_if_nobody_listens_any_more(forks: Forks, lab: Path) -> None:
    assert begin(forks, lab, "lab.ends") is None
    server = forks._process
    assert server is not None and server.stdin is not None and server.stdout is not None
    request = {"module": "lab.ends", "words": ["0"], "env": environment(), "runner": os.getpid()}
    request |= {"out": str(lab / "out"), "err": str(lab / "err")}
    server.stdout.close()
    server.stdin.write(json.dumps(request).encode() + b"\n")
    server.stdin.close()
    assert server.wait(20) == 0
    codes = [os.waitstatus_to_exitcode(os.wait()[1])]
    assert codes == [1] and (lab / "out").read_bytes() == b""


def test_its_cpu_time_is_its_own(forks: Forks, lab: Path) -> None:
    (lab / "lab/preload.py").write_text(BURN)
    assert begin(forks, lab, "lab.burn") is None

    def children_s() -> float:
        usage = resource.getrusage(resource.RUSAGE_CHILDREN)
        return usage.ru_utime + usage.ru_stime

    before_s = children_s()
    said = run(forks, lab, "lab.burn")[1]
    # Neither the imports' 0.4 s nor less than its own, as far as the process could see itself.
    own_s = float(said.split()[-1])
    assert 0.4 <= own_s <= children_s() - before_s < own_s + 0.3


def test_one_process_serves_stages_of_one_environment(forks: Forks, lab: Path) -> None:
    argv = (sys.executable, "-m", "lab.ends", "0")

    for other in (("sh", "-c", "true"), (sys.executable, "-m", "json.tool"), (sys.executable, "x.py")):
        assert not forks.needs_start(other, lab)
    assert not forks.needs_start(argv, lab / "no such folder")
    assert forks.needs_start(argv, lab)
    assert begin(forks, lab, "lab.ends", KIT_EVENTS="a") is None
    assert not forks.needs_start(argv, lab)
    (lab / "sub").mkdir()
    for cwd, env, forked in (
        (lab, environment(KIT_EVENTS="b", KIT_STATUS="c"), True),
        (lab, environment(OMP_NUM_THREADS="3"), False),
        (lab / "sub", environment(PYTHONPATH=str(lab)), False),
    ):
        with StageProcess(argv, cwd, env, lab / "o", lab / "e", forks) as stage:
            assert stage.forked == forked
            other_folder = "its interpreter, folder or environment is another"
            assert stage.not_forked == (None if forked else other_folder)
            assert stage.wait(timeout_s=20, interrupted=lambda: None, watch=lambda: None).exit_code == 0


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("import no_such_module", "lab.preload cannot be imported: No module named 'no_such_module'"),
        (
            "import threading, time\nthreading.Thread(target=time.sleep, args=(60,), daemon=True).start()",
            "2 threads",
        ),
        ("import os\nos._exit(7)", "it ended"),
    ],
)
def test_what_cannot_be_forked_from_is_not_tried_again(
    forks: Forks, lab: Path, text: str, words: str
) -> None:
    (lab / "lab/preload.py").write_text(text)
    problem = begin(forks, lab, "lab.ends")
    assert problem is not None and words in problem
    argv = (sys.executable, "-m", "lab.ends", "4")
    assert not forks.needs_start(argv, lab)
    with StageProcess(argv, lab, environment(), lab / "out", lab / "err", forks) as stage:
        assert not stage.forked and stage.not_forked == problem
        assert stage.wait(timeout_s=20, interrupted=lambda: None, watch=lambda: None).exit_code == 4
    with StageProcess(("true",), lab, environment(), lab / "out", lab / "err", forks) as stage:
        assert not stage.forked and stage.not_forked is None  # nor was it to be


def test_a_long_command_is_forked(forks: Forks, lab: Path) -> None:
    assert begin(forks, lab, "lab.ends") is None
    # Linux takes 128 KiB in one word; together these are more than a pipe holds.
    assert run(forks, lab, "lab.ends", "6", *["x" * 100_000] * 10)[0] == 6
    assert run(forks, lab, "lab.ends", "5")[0] == 5


def test_stages_go_on_without_a_process_that_died(forks: Forks, lab: Path) -> None:
    assert begin(forks, lab, "lab.ends") is None
    assert forks._process is not None
    forks._process.kill()
    argv = (sys.executable, "-m", "lab.ends", "4")
    for _ in range(2):
        with StageProcess(argv, lab, environment(), lab / "out", lab / "err", forks) as stage:
            assert not stage.forked and stage.not_forked
            assert stage.wait(timeout_s=20, interrupted=lambda: None, watch=lambda: None).exit_code == 4


def test_both_end_with_a_runner_that_is_killed(lab: Path) -> None:
    runner = """\
import os, sys, time
from pathlib import Path
from harness.audit.forks import Forks
from harness.audit.process import StageProcess, adopting_orphans
folder = Path(sys.argv[1])
argv = (sys.executable, "-m", "lab.ends", "wait")
with adopting_orphans(), Forks("lab.preload") as forks:
    with open(os.devnull, "wb") as nowhere:
        assert forks.start(argv, folder, os.environ, nowhere) is None
    with StageProcess(argv, folder, os.environ, folder / "out", folder / "err", forks) as stage:
        print(stage.pgid, forks._process.pid, flush=True)
        time.sleep(60)
"""
    with subprocess.Popen(
        [sys.executable, "-c", runner, str(lab)], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        stage, server = map(int, process.stdout.readline().split())
        assert alive(stage) and alive(server)
        process.kill()
    wait_for(lambda: not alive(stage) and not alive(server), 10.0)


class Silent:
    """A display that remembers the names of what ended."""

    def __init__(self) -> None:
        self.names: list[tuple[str, str]] = []

    def ended(self, stage: Any, result: Any) -> None:
        self.names.append((stage.name, result.status))

    def __getattr__(self, name: str) -> Any:
        return lambda *args, **kwargs: None


PIPELINE = """\
protocol: "1.0"
name: p
method: sft
stages:
  - {name: shell, kind: preprocess, command: "true"}
  - {name: one, kind: student_train, command: [python, -m, lab.burn]}
  - {name: two, kind: evaluate, command: [python, -m, lab.ends, "0"]}
"""


def test_a_stop_while_it_imports_is_a_stop_of_the_run(lab: Path) -> None:
    (lab / "p.yaml").write_text(PIPELINE)
    plan = load_plan(lab / "p.yaml", run_dir=lab / "run")
    (lab / "lab/preload.py").write_text("import time\nopen('here', 'w').close()\ntime.sleep(60)\n")

    def stop() -> None:
        wait_for((lab / "here").exists, 20.0)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=stop, daemon=True).start()
    with Forks("lab.preload") as forks:
        result = run_plan(plan, Silent(), cpu="none", forks=forks)
    assert (result.signal_number, result.failed) == (signal.SIGINT, None)
    (lab / "lab/preload.py").write_text("PID = 0\n")
    with Forks("lab.preload") as forks:
        assert run_plan(plan, Silent(), cpu="none", forks=forks, resume_run=True).exit_code == 0
    rows = stage_rows(Bundle.open(lab / "run"))
    assert [(row["name"], row["attempt"], row["status"]) for row in rows] == [
        ("shell", 1, "completed"),
        ("imports", 1, "interrupted"),
        ("imports", 2, "completed"),
        ("one", 1, "completed"),
        ("two", 1, "completed"),
    ]


def test_a_run_logs_the_start_as_a_stage_and_says_what_was_forked(lab: Path) -> None:
    (lab / "p.yaml").write_text(PIPELINE)
    plan = load_plan(lab / "p.yaml", run_dir=lab / "run")
    display = Silent()
    with Forks("lab.preload") as forks:
        assert run_plan(plan, display, cpu="none", forks=forks).exit_code == 0
    rows = {row["name"]: row for row in stage_rows(Bundle.open(lab / "run"))}
    assert list(rows) == ["shell", "imports", "one", "two"]
    assert [name for name, _ in display.names] == ["shell", "imports", "one", "two"]
    imports = rows["imports"]
    assert (imports["stage"], imports["status"], imports["attempt"]) == ("prerun", "completed", 1)
    assert rows["shell"]["mono_end_us"] <= imports["mono_start_us"] < imports["mono_end_us"]
    assert imports["mono_end_us"] <= rows["one"]["mono_start_us"]
    found = Bundle.open(lab / "run").table("events").to_pylist()
    forked = {row["stage_uid"] for row in found if row["kind"] == "x-forked"}
    assert forked == {rows["one"]["stage_uid"], rows["two"]["stage_uid"]}
    assert time.monotonic_ns() // 1000 > imports["mono_end_us"]


def test_every_stage_that_was_to_be_forked_says_why_it_was_not(lab: Path) -> None:
    (lab / "p.yaml").write_text(PIPELINE)
    (lab / "lab/preload.py").write_text("import no_such_module\n")
    with Forks("lab.preload") as forks:
        for name in ("first", "second"):
            plan = load_plan(lab / "p.yaml", run_dir=lab / name)
            assert run_plan(plan, Silent(), cpu="none", forks=forks).exit_code == 0
    for name, expected in (("first", ["imports", "one", "two"]), ("second", ["one", "two"])):
        bundle = Bundle.open(lab / name)
        names = {row["stage_uid"]: row["name"] for row in stage_rows(bundle)}
        told = [row for row in bundle.table("events").to_pylist() if row["kind"] == "x-not_forked"]
        assert [names[row["stage_uid"]] for row in told] == expected
        assert all("no_such_module" in row["detail"] for row in told)
