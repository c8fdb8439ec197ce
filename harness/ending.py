"""The end of a process: of one whose reader has gone, and of one that has nothing left to do."""

from __future__ import annotations

import atexit
import os
import sys
import threading
from typing import NoReturn, TextIO


def silence(stream: TextIO) -> None:
    """Point a stream at nothing, or the interpreter's last flush would fail where there is no reader."""
    devnull = os.open(os.devnull, os.O_WRONLY)
    os.dup2(devnull, stream.fileno())
    os.close(devnull)


def leave(code: int) -> NoReturn:
    """End as `sys.exit` does, but leave its memory to the system: taking it apart is a tenth of a run's CPU.

    What was registered for the end is done first. Where a thread still works, or a profiler or debugger looks
    on, the end is the ordinary one.
    """
    working = [thread for thread in threading.enumerate() if not thread.daemon]
    looked_on = sys.getprofile() is not None or sys.gettrace() is not None
    # A closed or replaced output and a code that no C int holds are the interpreter's to deal with, too.
    odd = not 0 <= code <= 255 or getattr(sys.stdout, "closed", True)
    if len(working) > 1 or looked_on or odd:
        sys.exit(code)
    atexit._run_exitfuncs()
    try:
        sys.stdout.flush()
    except OSError:
        sys.exit(code)  # the interpreter has words and a code of its own for that
    os._exit(code)
