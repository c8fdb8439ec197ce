"""A Python process that has imported what stages need and forks one for each of them.

    python -m harness.audit.fork_server MODULE

imports MODULE, says so on standard output, and starts a stage for every request, a line of JSON on standard
input: `python -m PROGRAM WORDS` without the seconds that its imports take. A stage is forked twice, so that
its parent is the runner, which adopts orphans. It has a session, environment, signal handlers and standard
streams of its own before it names its process id, and runs only if the runner still listens.
It ends without taking its memory apart: what it writes it closes itself.

Ends when the runner closes its side or dies. `harness.audit.forks` is the other side.
"""

from __future__ import annotations

import ctypes
import gc
import importlib
import json
import os
import runpy
import signal
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any, TextIO

from harness.ending import leave

READY = "ready"
_IGNORED = (signal.SIGINT, signal.SIGHUP, signal.SIGTSTP, signal.SIGUSR1, signal.SIGUSR2)
_PR_SET_PDEATHSIG = 1


def _serve(requests: TextIO, answers: int, own_signals: dict[int, Any]) -> dict[str, Any] | None:
    """Fork for every request; in a forked child what it is to run, None once the runner has gone."""
    for line in requests:
        middle = os.fork()
        if middle:
            os.waitpid(middle, 0)
            continue
        try:
            middle = os.getpid()
            if os.fork():
                os._exit(0)
            request: dict[str, Any] = json.loads(line)
            _become(request, middle, own_signals)
            # Only now: a signal sent from here on reaches a session and handlers of its own.
            os.write(answers, f"{os.getpid()}\n".encode())
        except OSError as error:
            with suppress(OSError):  # the runner listens no more and has started the stage itself
                os.write(answers, f"it could not be forked: {error}\n".encode())
            os._exit(1)
        requests.close()
        os.close(answers)
        return request
    return None


def _become(request: dict[str, Any], middle: int, own_signals: dict[int, Any]) -> None:
    """Make this fork what exec would have made of it."""
    os.setsid()
    while os.getppid() == middle:
        time.sleep(0.0002)
    # As for any stage: the sampler ends it when the runner is killed, this covers the case that both are.
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
    if os.getppid() != request["runner"]:
        os._exit(128 + signal.SIGTERM)
    for number, handler in own_signals.items():
        signal.signal(number, handler)
    for number, path in ((1, request["out"]), (2, request["err"])):
        stream = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
        os.dup2(stream, number)
        os.close(stream)
    os.environ.clear()
    os.environ.update(request["env"])


def _import(module: str) -> str:
    """Import it; READY, or why nothing can be forked from this process."""
    try:
        importlib.import_module(module)
    except ImportError as error:
        return f"{module} cannot be imported: {' '.join(str(error).split())}"
    threads = len(list(Path("/proc/self/task").iterdir()))
    # A lock that another thread holds at a fork stays locked in the child for ever.
    return READY if threads == 1 else f"importing it left {threads} threads"


def main() -> int:
    """Entry point; in a forked child it runs the stage's program instead of returning."""
    own_signals = {int(number): signal.signal(number, signal.SIG_IGN) for number in _IGNORED}
    requests, answers = os.fdopen(os.dup(0), encoding="utf-8"), os.dup(1)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    os.dup2(2, 1)  # what imports print is no answer
    # What imports make stays: collecting meanwhile would take a second for nothing, and a collection in a
    # child must not touch, and so copy, all of it.
    gc.disable()
    answer = _import(sys.argv[1])
    gc.collect()
    gc.freeze()
    gc.enable()
    os.write(answers, f"{answer}\n".encode())
    request = _serve(requests, answers, own_signals) if answer == READY else None
    if request is None:
        return 0
    module = request["module"]
    sys.argv = [module, *request["words"]]
    # As with `python -m`: the program is not the module of the same name that others may have imported.
    sys.modules.pop(module, None)
    try:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    except SystemExit as end:
        if end.code is not None and not isinstance(end.code, int):
            raise
        # Taking apart what was imported, and so copying it first, would take as long as many a stage.
        leave(end.code or 0)
    return 0


if __name__ == "__main__":
    sys.exit(main())
