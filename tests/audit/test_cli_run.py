"""`kit run`: the command behaves as without it, and its joules are told apart from its output."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.audit.kit_process import KIT, Kit, alive, events, stage_rows, wait_for
from tests.audit.terminal import Terminal


@pytest.fixture
def kit(tmp_path: Path) -> Kit:
    return Kit(tmp_path)


def test_output_input_and_exit_code_are_the_commands_own(kit: Kit) -> None:
    script = "read word; echo got $word; echo oops >&2; exit 3"
    out, err = kit.run("run", "--cpu", "none", "sh", "-c", script, code=3, input="hello\n")
    assert out == "got hello\n"
    assert "oops" in err and "GPU: none metered" in err and "CPU: not measured" in err
    assert "total" in err  # the report's table
    # The laboratory's secret (7) is made once; of the run nothing stays.
    left = [path.name for path in kit.cwd.rglob("*") if path.is_file()]
    assert kit.left_in_tmp() == [] and set(left) <= {"scale.key"}


def test_the_log_is_kept_where_it_is_asked_for(kit: Kit) -> None:
    kit.env |= {"HOME": "/home/jdoe", "USER": "jdoe", "LOGNAME": "jdoe"}
    script = "cd /; echo '{\"tokens_generated\": 4}' >> $KIT_EVENTS; echo bad >> $KIT_EVENTS; sleep 0.4"
    out, err = kit.run(
        "run", "--cpu", "none", "--out", "log", "--kind", "teacher_generate", "--name", "gen",
        "--record-command", "--",
        "sh", "-c", script, "/home/jdoe/data", "--api-key", "abcdefgh1234",
    )  # fmt: skip
    assert out == "" and "could not be used" in err
    bundle = kit.bundle("log")
    (row,) = stage_rows(bundle)
    assert (row["name"], row["stage"], row["status"], row["exit_code"]) == (
        "gen",
        "teacher_generate",
        "completed",
        0,
    )
    assert row["tokens_generated"] == 4 and row["flags"] == ["bad_report"]
    assert row["mono_end_us"] - row["mono_start_us"] > 400_000
    assert len(events(bundle, "x-bad_report")) == 1
    manifest = json.dumps(bundle.manifest)
    assert "tokens_generated" in manifest and "--api-key <secret>" in bundle.manifest["pipeline"]["command"]
    assert (
        "jdoe" not in manifest and "abcdefgh1234" not in manifest and bundle.manifest["status"] == "complete"
    )
    error = kit.run("run", "--cpu", "none", "--out", "log", "true", code=2)[1]
    assert "holds a run already" in error and "fix: choose another folder\n" in error


@pytest.mark.parametrize(
    ("command", "code", "words"), [("no-such-program", 127, "not found"), ("./text", 126, "denied")]
)
def test_a_command_that_cannot_start(kit: Kit, command: str, code: int, words: str) -> None:
    kit.write("text", "no program")
    _, err = kit.run(
        "run", "--cpu", "none", "--out", "log", "--name", "odd\x1b", command, "hidden-word", code=code
    )
    assert f"kit: {command}: " in err and words in err
    (row,) = stage_rows(kit.bundle("log"))
    assert (row["name"], row["status"], row["exit_code"]) == ("odd\\x1b", "failed", code)
    recorded = kit.bundle("log").manifest["pipeline"]["command"]
    assert "hmac-sha256:" in recorded and "hidden-word" not in recorded


def test_wrong_use_is_said_before_anything_starts(kit: Kit) -> None:
    assert "is not a stage kind" in kit.run("run", "--kind", "cooking", "true", code=2)[1]
    assert "Missing argument" in kit.run("run", code=2)[1]
    kit.write("file", "")
    assert "cannot be written" in kit.run("run", "--cpu", "none", "--out", "file/log", "true", code=2)[1]
    assert kit.left_in_tmp() == []


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_sent_to_the_kit_reaches_the_command(kit: Kit, number: signal.Signals) -> None:
    script = "trap 'echo asked; exit 5' INT TERM; touch ready; while :; do sleep 0.02; done"
    process = kit.start("run", "--cpu", "none", "--out", "log", "sh", "-c", script, start_new_session=True)
    wait_for((kit.cwd / "ready").exists)
    process.send_signal(number)
    out, err = process.communicate(timeout=30)
    assert (process.returncode, out) == (5, "asked\n"), err
    (row,) = stage_rows(kit.bundle("log"))
    assert (row["status"], row["exit_code"]) == ("interrupted", 5)


def test_a_signal_while_the_meter_starts_runs_nothing_and_leaves_nothing(kit: Kit) -> None:
    process = kit.start("run", "--cpu", "none", "touch", "ran")
    wait_for(lambda: bool(kit.left_in_tmp()))
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=30)
    assert process.returncode == 143 and "Traceback" not in err
    assert not (kit.cwd / "ran").exists() and kit.left_in_tmp() == []


def test_ctrl_c_reaches_the_command_once_and_the_table_is_still_shown(kit: Kit) -> None:
    script = (
        "trap 'echo asked >> asked' INT; echo $$ > pid; until [ -e asked ]; do sleep 0.02; done; sleep 0.2"
    )
    terminal = Terminal([*KIT, "run", "--cpu", "none", "sh", "-c", script], kit.cwd, kit.env)
    wait_for(lambda: (kit.cwd / "pid").exists() and (kit.cwd / "pid").read_text().endswith("\n"))
    terminal.type(b"\x03")
    assert terminal.wait() == 0
    assert (kit.cwd / "asked").read_text() == "asked\n"
    assert "total" in terminal.shown.decode() and not alive(int((kit.cwd / "pid").read_text()))
    assert kit.left_in_tmp() == []


def test_what_the_caller_ignores_the_command_ignores(kit: Kit) -> None:
    """As under nohup: the signal means nothing, neither to the kit nor to the command."""
    code = "import os, signal as s, sys; s.signal(s.SIGHUP, s.SIG_IGN); os.execv(sys.argv[1], sys.argv[1:])"
    script = "touch ready; sleep 0.5; echo done"
    process = subprocess.Popen(
        [sys.executable, "-c", code, *KIT, "run", "--cpu", "none", "sh", "-c", script],
        cwd=kit.cwd, env=kit.env, stdout=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    wait_for((kit.cwd / "ready").exists)
    os.killpg(process.pid, signal.SIGHUP)
    time.sleep(0.05)
    out, _ = process.communicate(timeout=30)
    assert (process.returncode, out) == (0, "done\n")
