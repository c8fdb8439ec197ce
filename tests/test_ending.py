"""A process that leaves at once has done what `sys.exit` would have done."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

LEAVE = "from harness.ending import leave\nprint('out')\nleave(3)"


def ended(code: str, *options: str) -> tuple[int, list[str]]:
    done = subprocess.run([sys.executable, *options, "-c", code], capture_output=True, text=True)
    assert not done.stderr
    return done.returncode, done.stdout.splitlines()


def test_what_was_printed_and_registered_is_done_and_nothing_is_taken_apart() -> None:
    cycle = "class Cycle:\n    def __del__(self): print('apart')\nkept = Cycle()\nkept.me = kept\n"
    assert ended(cycle + "import sys; print('out'); sys.exit(3)") == (3, ["out", "apart"])
    assert ended("import atexit; atexit.register(print, 'last')\n" + cycle + LEAVE) == (3, ["out", "last"])


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("import threading, time\nthreading.Timer(0.2, print, ['worked']).start()\n", "worked"),
        ("import cProfile, sys\np = cProfile.Profile()\np.enable()\n", ""),
        ("import sys\nsys.settrace(lambda *_: None)\n", ""),
    ],
    ids=["thread", "profiler", "debugger"],
)
def test_a_thread_that_works_is_waited_for_and_who_looks_on_sees_the_end(before: str, after: str) -> None:
    caught = "\ntry:\n    leave(3)\nexcept SystemExit as end:\n    print(end.code)\n    raise\n"
    code, lines = ended(before + LEAVE.removesuffix("leave(3)") + caught)
    assert (code, lines) == (3, ["out", "3", *after.split()])


def test_output_that_nobody_takes_is_told_as_the_interpreter_tells_it() -> None:
    for code in (LEAVE, "import sys; print('out'); sys.exit(3)"):
        with Path("/dev/full").open("wb") as full:
            words = [sys.executable, "-c", code]
            buffered = {**os.environ, "PYTHONUNBUFFERED": ""}
            done = subprocess.run(words, stdout=full, stderr=subprocess.PIPE, env=buffered)
        assert done.returncode == 120
        assert b"No space left on device" in done.stderr
