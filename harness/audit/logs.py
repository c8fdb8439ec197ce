"""Logs of stages are bounded: of one that grows beyond its limit, the beginning and the end are kept.

A stage writes its log itself, so that no program stands between them. While it runs, the space of the middle
is given back to the file system (as a hole); when it has ended, the file is written without the middle.
"""

from __future__ import annotations

import ctypes
import os
from contextlib import suppress
from pathlib import Path

_BLOCK = 512
_LINE = 4096  # a cut moves to the end of a line that is no longer than this
_PUNCH_HOLE = 1 | 2  # FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE


def free_middle(log: Path, limit: int) -> None:
    """Free the middle of a growing log that takes twice its limit; nothing is done where that cannot be.

    Args:
        log: A file that is only appended to.
        limit: Bytes to keep.
    """
    with suppress(OSError, AttributeError):
        if log.stat().st_blocks * _BLOCK <= 2 * limit:
            return
        with log.open("r+b") as stream:
            first = limit // 2
            length = os.fstat(stream.fileno()).st_size - limit
            offsets = ctypes.c_int64(first), ctypes.c_int64(length)
            ctypes.CDLL(None).fallocate64(stream.fileno(), _PUNCH_HOLE, *offsets)


def cut(log: Path, limit: int) -> int:
    """Leave the middle out of a finished log; whole lines are kept where they are short.

    Args:
        log: Nobody writes it any more.
        limit: Bytes to keep, half of them from each end.

    Returns:
        How many bytes were left out; 0 where it is within its limit or cannot be written.
    """
    waiting = log.with_name(f".{log.name}.cut")
    try:
        size = log.stat().st_size
        if size <= limit:
            return 0
        with log.open("rb") as whole, waiting.open("wb") as kept:
            head = whole.read(limit // 2)
            head = head[: head.rfind(b"\n", -_LINE) + 1] or head
            whole.seek(size - limit // 2)
            tail = whole.read(limit // 2)
            tail = tail[tail.find(b"\n", 0, _LINE) + 1 :]
            left_out = size - len(head) - len(tail)
            line_break = b"" if head.endswith(b"\n") else b"\n"
            kept.write(head + line_break + b"... %d bytes were cut here ...\n" % left_out + tail)
        waiting.replace(log)
    except OSError:
        with suppress(OSError):
            waiting.unlink(missing_ok=True)
        return 0
    return left_out
