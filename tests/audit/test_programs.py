"""The shell of a command given as text, the `python` that commands mean, signals handed on, bounded logs."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

from harness.audit import programs
from harness.audit.logs import cut, free_middle
from harness.audit.plan import describe, load_plan
from harness.audit.programs import (
    devices_seen,
    find_python,
    hides_devices,
    lacks_pipefail,
    shell,
    to_exec,
)
from tests.audit.kit_process import Kit, events, pipeline, stage_rows, wait_for, wait_for_record


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("(exit 3) | tee /dev/null", 3),
        ("true | (exit 4)", 4),
        ("yes | head -1", 0),
        ("yes | cat | head -1", 0),
        ("for i in 1; do yes | head -1; done", 0),
        ("false | yes | head -1", 141),
        ("yes | (head -1; exit 5)", 5),
        ("(exit 3) | cat; true", 0),
        # What follows was left out, so these are failures.
        ("yes | head -1 && echo next", 141),
        ("set -e; yes | head -1; echo next", 141),
        ("(yes || [ $? = 141 ]) | head -1 && echo next", 0),
        ("exit 141", 141),
        ("sh -c 'kill -PIPE $$'", 141),
        ("trap 'echo mine' EXIT; exit 6", 6),
    ],
)
def test_a_pipeline_fails_with_any_member(text: str, code: int) -> None:
    done = subprocess.run(to_exec((*shell(), text)), capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (code, "")


def test_without_bash_the_plan_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = programs.shell
    monkeypatch.setattr(programs, "shell", lambda: programs._PLAIN)
    path = tmp_path / "p.yaml"
    path.write_text(pipeline("{name: a, kind: x-a, command: 'false | true'}"))
    assert "without pipefail" in programs.shell_words()
    assert lacks_pipefail((*programs.shell(), "false | true"))
    assert not lacks_pipefail((*programs.shell(), "false"))
    monkeypatch.setattr(programs, "shell", plain)
    head = describe(load_plan(path)).renderables[0]  # type: ignore[attr-defined]
    assert programs.shell_words() in str(head) and "bash with pipefail" in str(head)


@pytest.mark.parametrize(
    ("argv", "name"),
    [
        (("python", "x.py"), "python"),
        (("python3.11", "x.py"), "python3.11"),
        ((*shell(), "cd x; python3 y.py"), "python3"),
        ((*shell(), "/opt/python3 y.py; ./python; python-config; my.python"), None),
        (("./python", "x.py"), None),
        (("echo", "python"), None),
    ],
)
def test_the_python_that_commands_name(tmp_path: Path, argv: tuple[str, ...], name: str | None) -> None:
    assert find_python([(argv, str(tmp_path))]) == (name and (name, None, None))
    if name is not None:
        (tmp_path / name).write_text("#!/bin/sh\necho Python 3.99.1\n")
        (tmp_path / name).chmod(0o755)
        found = find_python([(argv, str(tmp_path))])
        assert str(found) == f"{name}: {tmp_path}/{name} (3.99.1)"


def test_python_is_the_callers(kit: Kit) -> None:
    """An activated environment's, not the kit's own."""
    folder = kit.cwd / "env/bin"
    folder.mkdir(parents=True)
    (folder / "python").write_text("#!/bin/sh\necho Python 9.9.9 >> said; echo Python 9.9.9\n")
    (folder / "python").chmod(0o755)
    kit.env["PATH"] = f"{folder}{os.pathsep}{kit.env['PATH']}"
    kit.write("p.yaml", pipeline("{name: a, kind: x-a, command: 'python x.py'}"))
    assert f"python: {folder}/python (9.9.9)" in kit.audit("p.yaml")
    assert (kit.cwd / "runs/p/logs/a.1.out").read_text() == "Python 9.9.9\n"
    (event,) = events(kit.bundle(), "x-python")
    assert event["detail"]["version"] == "9.9.9" and str(kit.cwd) not in event["detail"]["path"]
    shown = kit.run("run", "--cpu", "none", "--", "python", "x.py")[1]
    assert f"python: {folder}/python (9.9.9)" in shown


def test_a_failing_pipeline_fails_its_stage(kit: Kit) -> None:
    stage = "{name: a, kind: x-a, command: \"sh -c 'exit 3' | tee ${run_dir}/log\"}"
    kit.write("p.yaml", pipeline(stage))
    kit.audit("p.yaml", code=1)
    assert stage_rows(kit.bundle())[0]["exit_code"] == 3


@pytest.mark.parametrize("number", [signal.SIGUSR1, signal.SIGUSR2])
def test_a_signal_that_ends_nothing_is_handed_on(kit: Kit, number: signal.Signals) -> None:
    wait = f"trap 'echo got it; touch got' {number.name[3:]}\n"
    kit.write("wait.sh", wait + "until [ -e got ]; do sleep 0.1; done\n")
    kit.write("p.yaml", pipeline("{name: a, kind: x-a, command: 'touch began; sh wait.sh; touch ended'}"))
    process = kit.start("audit", "p.yaml", "--cpu", "none", start_new_session=True)
    wait_for_record(kit.cwd / "runs/p", '"stage_start"')
    wait_for(lambda: (kit.cwd / "began").exists())
    time.sleep(0.3)
    os.killpg(process.pid, number)  # as a scheduler does: the meter's processes get it too
    assert process.wait(30) == 0, process.communicate()
    assert "got it\n" in (kit.cwd / "runs/p/logs/a.1.out").read_text() and (kit.cwd / "ended").exists()
    assert not events(kit.bundle(), "sampler_lost")
    for name in ("got", "began"):
        (kit.cwd / name).unlink()
    process = kit.start("run", "--cpu", "none", "--", "sh", "-c", "touch began; exec sh wait.sh")
    wait_for(lambda: (kit.cwd / "began").exists())
    time.sleep(0.3)
    process.send_signal(number)
    assert process.wait(30) == 0 and (kit.cwd / "got").exists()


def test_logs_are_bounded(kit: Kit) -> None:
    words = "head -c 3000000 /dev/zero | tr '\\\\0' x; for i in 1 2 3; do echo end $i; done"
    stage = f'{{name: a, kind: x-a, command: "echo begin; {words}; echo all >&2"}}'
    kit.write("p.yaml", pipeline(stage, head="log_mb: 1\n"))
    shown = kit.audit("p.yaml", "-v")
    log = (kit.cwd / "runs/p/logs/a.1.out").read_text()
    assert log.startswith("begin\n") and log.endswith("xend 1\nend 2\nend 3\n")
    assert 990_000 < len(log) < 1_000_100
    (event,) = events(kit.bundle(), "x-log_cut")
    assert f"\n... {event['detail']['bytes_cut']} bytes were cut here ...\n" in log
    assert "end 3" in shown and "(log_mb: 1)" in shown
    assert (kit.cwd / "runs/p/logs/a.1.err").read_text() == "all\n"


def test_a_growing_log_gives_its_middle_back(tmp_path: Path) -> None:
    log = tmp_path / "log"
    lines = b"".join(b"%07d\n" % number for number in range(500_000))
    log.write_bytes(lines)
    assert cut(tmp_path / "missing", 10) == 0 and cut(log, len(lines)) == 0
    free_middle(log, 1_000_000)
    assert log.stat().st_size == len(lines)
    if log.stat().st_blocks * 512 > 2_000_000:
        pytest.skip("this file system has no holes")
    left_out = cut(log, 1_000_000)
    head, said, tail = log.read_bytes().partition(b"... %d bytes were cut here ...\n" % left_out)
    assert said and lines.startswith(head) and lines.endswith(tail)
    assert len(head) + len(tail) + left_out == len(lines) and (len(head), len(tail)) == (500_000, 499_992)


@pytest.fixture
def kit(tmp_path: Path) -> Kit:
    return Kit(tmp_path)


@pytest.mark.parametrize(
    ("argv", "visible"),
    [
        (["sh", "-c", "python a.py"], ["0"]),
        (["sh", "-c", "CUDA_VISIBLE_DEVICES=1 python a.py"], ["0", "1"]),
        (["sh", "-c", "export CUDA_VISIBLE_DEVICES='1,2'; python a.py"], ["0", "1,2"]),
        (["sh", "-c", 'CUDA_VISIBLE_DEVICES="1" a & CUDA_VISIBLE_DEVICES=2 b; wait'], ["0", "1", "2"]),
        (["sh", "-c", "(CUDA_VISIBLE_DEVICES=1)"], ["0", "1"]),
        (["env", "CUDA_VISIBLE_DEVICES=GPU-1a", "python"], ["0", "GPU-1a"]),
        (["sh", "-c", "CUDA_VISIBLE_DEVICES= python a.py"], ["0", ""]),
        (["sh", "-c", "unset CUDA_VISIBLE_DEVICES; python a.py"], ["0", None]),
        (["env", "-u", "CUDA_VISIBLE_DEVICES", "python"], ["0", None]),
        (["sh", "-c", "OLD_CUDA_VISIBLE_DEVICES=1 python a.py"], ["0"]),
        (["sh", "-c", "CUDA_VISIBLE_DEVICES=$i python a.py"], ["0"]),
        (["sh", "-c", "unset -v FOO CUDA_VISIBLE_DEVICES; python a.py"], ["0", None]),
        (["env", "-i", "python"], ["0", None]),
        (["sh", "-c", 'bash -c "CUDA_VISIBLE_DEVICES=\\"1\\" python a.py"'], ["0", "1"]),
        (["sh", "-c", "echo CUDA_VISIBLE_DEVICES=$CUDA_VISIBLE_DEVICES"], ["0"]),
    ],
)
def test_what_a_command_shows_itself_counts_beside_its_environment(
    argv: list[str], visible: list[str | None]
) -> None:
    env = {"CUDA_VISIBLE_DEVICES": "0", "CUDA_DEVICE_ORDER": "PCI_BUS_ID"}
    assert devices_seen(argv, env) == [(one, "PCI_BUS_ID") for one in visible]


def test_the_order_that_a_command_sets_is_that_of_its_numbers() -> None:
    argv = ["sh", "-c", "CUDA_DEVICE_ORDER=PCI_BUS_ID CUDA_VISIBLE_DEVICES=1 python a.py"]
    assert devices_seen(argv, {}) == [(None, "PCI_BUS_ID"), ("1", "PCI_BUS_ID")]


@pytest.mark.parametrize("value", ["$i", '"$i"', '1"$X"', "${GPU:-1}", "$((i + 1))", "`pick`"])
def test_what_only_the_shell_knows_is_said_where_the_environment_hides_a_gpu(value: str) -> None:
    argv = ["sh", "-c", f"for i in 0 1; do CUDA_VISIBLE_DEVICES={value} python a.py; done"]
    assert hides_devices(argv, {"CUDA_VISIBLE_DEVICES": "0"})
    assert not hides_devices(argv, {}), "all are metered"
    for known in ("1", "$CUDA_VISIBLE_DEVICES", "${CUDA_VISIBLE_DEVICES:-0}"):
        argv = ["sh", "-c", f"export CUDA_VISIBLE_DEVICES={known}; a"]
        assert not hides_devices(argv, {"CUDA_VISIBLE_DEVICES": "0"})
