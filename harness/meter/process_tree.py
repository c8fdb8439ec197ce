"""CPU time and memory of the measured processes, those that have ended included.

Straight from /proc: one file for each process. psutil would read the table of all processes of the machine at
each look, which was most of what the meter cost.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

_TICKS_PER_S = os.sysconf("SC_CLK_TCK")
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
_LISTS_CHILDREN = Path(f"/proc/self/task/{os.getpid()}/children").exists()


class ProcessStat(NamedTuple):
    """What /proc/PID/stat says.

    Attributes:
        state: One letter; Z for a zombie.
        parent: Process id of the parent.
        own: User and system time, clock ticks.
        ended: That of children that ended and were waited for, clock ticks.
        born: Start of the process, clock ticks since boot; with the id it names one process for good.
        pages: Resident memory.
    """

    state: str
    parent: int
    own: int
    ended: int
    born: int
    pages: int


def process_stat(pid: int) -> ProcessStat | None:
    """The process's figures; None where there is no such process."""
    try:
        text = _content(f"/proc/{pid}/stat")
    except OSError:
        return None
    # The name stands in brackets and may hold anything; after it comes field 3 of proc(5).
    fields = text[text.rindex(b")") + 2 :].split()
    own, ended = int(fields[11]) + int(fields[12]), int(fields[13]) + int(fields[14])
    return ProcessStat(fields[0].decode(), int(fields[1]), own, ended, int(fields[19]), int(fields[21]))


def _content(path: str) -> bytes:
    """A small file; ten times as fast as pathlib, which counts at this rate."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        text = os.read(descriptor, 1 << 16)
        while more := os.read(descriptor, 1 << 16):
            text += more
        return text
    finally:
        os.close(descriptor)


def lives(pid: int) -> bool:
    """Whether the process is there and has not ended."""
    stat = process_stat(pid)
    return stat is not None and stat.state != "Z"


class MeasuredTree:
    """CPU time of a process tree, counting children that have ended.

    Args:
        root_pid: The measured program (API) or the runner whose children are the stages.
        include_root: Whether the root's own CPU time counts; not so for the runner.
        helper_pids: Processes of the meter itself, children of the root, left out.

    Attributes:
        seen_s: CPU seconds at the last look.
        resident_bytes: Memory of the root and the tree at the last look.
    """

    def __init__(self, root_pid: int, include_root: bool, helper_pids: Iterable[int] = ()) -> None:
        self.root_pid = root_pid
        self.seen_s = 0.0
        self.resident_bytes = 0
        self._include_root = include_root
        self._helpers: dict[int, int] = {}  # pid -> clock ticks when last seen
        self._members: dict[int, ProcessStat] = {}  # below the root, as last seen
        self._forgotten = 0  # clock ticks that no living process and no parent shows any more
        self._orphaned = False
        self.add_helpers(helper_pids)

    def add_helpers(self, pids: Iterable[int]) -> None:
        """Leave out further processes of the meter; what they used up to now does not count either."""
        before_s = self.cpu_seconds()
        self._helpers.update(dict.fromkeys(pids, 0))
        # The sum falls by what they had used: it goes on from where it was, instead of standing still until
        # the measured program has made up for it.
        self.seen_s = 0.0
        self._forgotten = 0
        self._forgotten = round((before_s - self.cpu_seconds()) * _TICKS_PER_S)
        self.seen_s = before_s

    def cpu_seconds(self) -> float:
        """User + system seconds so far; never falls, also when a process disappears while it is read."""
        root = None if self._orphaned else process_stat(self.root_pid)
        if root is None and not self._orphaned:
            return self.seen_s
        members = self._look()
        for pid, last in self._members.items():
            # What a process used goes to its parent when that waits for it: to one of ours, or out of sight.
            ours = last.parent in self._members or (last.parent == self.root_pid and not self._orphaned)
            if pid not in members and pid not in self._helpers and not ours:
                self._forgotten += last.own + last.ended
        self._members = members
        total = self._forgotten + sum(stat.own + stat.ended for stat in members.values())
        if root is not None:
            total += root.ended + (root.own if self._include_root else 0)
            for pid, used in self._helpers.items():
                helper = process_stat(pid)
                if helper is None:
                    total -= used  # it ended, and the root's children's time now contains it
                else:
                    self._helpers[pid] = helper.own + helper.ended
        pages = sum(stat.pages for stat in members.values()) + (0 if root is None else root.pages)
        self.resident_bytes = pages * _PAGE_BYTES
        self.seen_s = max(self.seen_s, total / _TICKS_PER_S)
        return self.seen_s

    def root_lost(self) -> None:
        """The root was killed: go on with the processes that were last seen below it."""
        self._orphaned = True
        used = sum(stat.own + stat.ended for stat in self._members.values())
        self._forgotten = round(self.seen_s * _TICKS_PER_S) - used

    def _look(self) -> dict[int, ProcessStat]:
        """The living processes below the root, and those of the last look that have another parent now."""
        by_parent = None if _LISTS_CHILDREN else _children_by_parent()
        found: dict[int, ProcessStat] = {}

        def walk(pids: Iterable[int]) -> None:
            # Parents before children: one that ends in between is missed once, and not counted twice.
            waiting = deque(pids)
            while waiting:
                pid = waiting.popleft()
                stat = None if pid in found or pid in self._helpers else process_stat(pid)
                if stat is None or (pid in self._members and self._members[pid].born != stat.born):
                    continue
                found[pid] = stat
                waiting += _children(pid, by_parent)

        if not self._orphaned:
            walk(_children(self.root_pid, by_parent))
        walk(self._members)  # the kernel may leave one out of a list of children that changes meanwhile
        return found


def _children(pid: int, by_parent: dict[int, list[int]] | None) -> list[int]:
    if by_parent is not None:
        return by_parent.get(pid, [])
    found: list[int] = []
    try:
        threads = os.listdir(f"/proc/{pid}/task")  # noqa: PTH208
    except OSError:
        return found
    for thread in threads:
        try:
            found += map(int, _content(f"/proc/{pid}/task/{thread}/children").split())
        except OSError:  # it has ended
            continue
    return found


def _children_by_parent() -> dict[int, list[int]]:
    """For a kernel without lists of children: from the table of all processes."""
    found: dict[int, list[int]] = {}
    for name in os.listdir("/proc"):  # noqa: PTH208
        stat = process_stat(int(name)) if name.isdigit() else None
        if stat is not None:
            found.setdefault(stat.parent, []).append(int(name))
    return found
