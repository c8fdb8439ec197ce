"""A Python process that has imported what stages need and forks one for each of them.

    python -m harness.audit.fork_server SOCKET MODULE

imports MODULE, says on the socket (a file descriptor of its own) that it is ready, and then starts a stage
for every request: `python -m PROGRAM WORDS` without the seconds that its imports take. The stage is a child
of the runner like any other: it is forked twice, and the runner, which adopts orphans, is its parent as soon
as this process's own child has ended. It gets a session, environment and standard streams of its own before
the runner learns its number, and ends as an interpreter ends.

Ends when the runner closes the socket or dies. `harness.audit.forks` is the other side.
"""

from __future__ import annotations

import ctypes
import gc
import importlib
import json
import os
import runpy
import signal
import socket
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

MESSAGE_BYTES = 1 << 17
"""Of one packet: less than what Linux lets a socket hold unasked (212,992 bytes)."""
_IGNORED = (signal.SIGINT, signal.SIGHUP, signal.SIGTSTP)
_PR_SET_PDEATHSIG = 1


@dataclass(frozen=True)
class Program:
    """What a forked child runs: `python -m module words`."""

    module: str
    words: list[str]


def serve(link: socket.socket, own_signals: dict[int, Any]) -> Program | None:
    """Answer requests; in a forked child the program it is to run, None once the runner has gone.

    Args:
        link: Packets of JSON; a request carries the descriptors of standard output and error, and of a pipe
            on which the runner says that it has the answer.
        own_signals: What this process did with the signals that it ignores by now.
    """
    while True:
        packet, sent, _, _ = socket.recv_fds(link, MESSAGE_BYTES, 3)
        if not packet:
            return None
        request = json.loads(packet)
        *streams, heard = sent
        answers, answer = os.pipe()
        middle = os.fork()
        if middle == 0:
            os.close(answers)
            middle = os.getpid()
            if os.fork():
                os._exit(0)
            link.close()
            _become(request, streams, middle, own_signals)
            # Only now: a signal that the runner sends from here on reaches a session and handlers of its own.
            os.write(answer, str(os.getpid()).encode())
            os.close(answer)
            if not os.read(heard, 1):
                os._exit(1)  # the runner waits no more and starts the stage itself: it must not run twice
            os.close(heard)
            return Program(request["module"], request["words"])
        os.close(answer)
        for descriptor in sent:
            os.close(descriptor)
        os.waitpid(middle, 0)
        pid = os.read(answers, 32)
        os.close(answers)
        link.send(json.dumps({"pid": int(pid)} if pid else {"error": "it could not be forked"}).encode())


def _become(request: dict[str, Any], streams: list[int], middle: int, own_signals: dict[int, Any]) -> None:
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
    for number, stream in enumerate(streams, start=1):
        os.dup2(stream, number)
        os.close(stream)
    os.environ.clear()
    os.environ.update(request["env"])


def _ready(threads: int) -> dict[str, Any]:
    if threads > 1:
        # A lock that another thread holds at a fork stays locked in the child for ever.
        return {"error": f"importing it left {threads} threads"}
    return {"ready": True}


def main() -> int:
    """Entry point; in a forked child it runs the stage's program instead of returning."""
    own_signals = {int(number): signal.signal(number, signal.SIG_IGN) for number in _IGNORED}
    link = socket.socket(fileno=int(sys.argv[1]))
    try:
        importlib.import_module(sys.argv[2])
    except ImportError as error:
        link.send(json.dumps({"error": f"{sys.argv[2]} cannot be imported: {error}"}).encode())
        return 1
    # What is there now stays: a collection in a child must not touch, and so copy, all of it.
    gc.collect()
    gc.freeze()
    link.send(json.dumps(_ready(len(list(Path("/proc/self/task").iterdir())))).encode())
    program = serve(link, own_signals)
    if program is None:
        return 0
    sys.argv = [program.module, *program.words]
    # As with `python -m`: the program is not the module of the same name that others may have imported.
    sys.modules.pop(program.module, None)
    runpy.run_module(program.module, run_name="__main__", alter_sys=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
