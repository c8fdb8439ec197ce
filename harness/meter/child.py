"""What the meter's processes do about themselves: answers, CPU time, a place in the schedule."""

from __future__ import annotations

import ctypes
import json
import os
import resource
import signal
from typing import Any


def say(message: dict[str, Any], descriptor: int = 1) -> None:
    """Answer the owner: one JSON line, on standard output unless that was given away."""
    data = json.dumps(message, separators=(",", ":")).encode() + b"\n"
    try:
        while data:
            data = data[os.write(descriptor, data) :]
    except BrokenPipeError:
        return  # the owner is gone; standard input says so too, and that is where it is handled


def ignore_signals() -> None:
    """The owner decides when measuring ends: what a whole group is sent is not for its helpers."""
    for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGTSTP", "SIGUSR1", "SIGUSR2"):
        signal.signal(getattr(signal, name), signal.SIG_IGN)


def cpu_s() -> float:
    """CPU time that this process has used, seconds."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def raise_priority() -> str:
    """Ask for punctual wake-ups: real-time scheduling, else a better nice value, else what there is.

    The sampler sleeps but for a fraction of a millisecond a tick, so this takes nothing from the measured
    job; it is what keeps a boundary sharp when the job keeps every core busy.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(29, 1, 0, 0, 0)  # PR_SET_TIMERSLACK: 1 ns instead of 50 us
    try:
        os.sched_setscheduler(0, os.SCHED_FIFO | os.SCHED_RESET_ON_FORK, os.sched_param(1))
        return "fifo"
    except (OSError, AttributeError):
        pass
    try:
        os.setpriority(os.PRIO_PROCESS, 0, -10)
        return "nice -10"
    except OSError:
        return "normal"
