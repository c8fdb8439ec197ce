"""CPU time of the measured processes, those that have ended included."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable

import psutil


class MeasuredTree:
    """CPU time of a process tree, counting children that have ended.

    Args:
        root_pid: The measured program (API) or the runner whose children are the stages.
        include_root: Whether the root's own CPU time counts; not so for the runner.
        helper_pids: Processes of the meter itself, children of the root, left out.
    """

    def __init__(self, root_pid: int, include_root: bool, helper_pids: Iterable[int] = ()) -> None:
        self.root_pid = root_pid
        self._root = psutil.Process(root_pid)
        self._include_root = include_root
        self._helpers: dict[int, float] = {}  # pid -> CPU seconds when last seen
        self._forgotten_s = 0.0
        self._seen_s = 0.0
        self._children: dict[int, tuple[psutil.Process, float]] = {}  # as last seen, with their CPU seconds
        self._orphaned = False
        self.add_helpers(helper_pids)

    def add_helpers(self, pids: Iterable[int]) -> None:
        """Leave out further processes of the meter; what they used up to now does not count either."""
        before_s = self.cpu_seconds()
        self._helpers.update(dict.fromkeys(pids, 0.0))
        # The sum falls by what they had used: it goes on from where it was, instead of standing still until
        # the measured program has made up for it.
        self._seen_s = 0.0
        self._forgotten_s = 0.0
        self._forgotten_s = before_s - self.cpu_seconds()
        self._seen_s = before_s

    def cpu_seconds(self) -> float:
        """User + system seconds so far; never falls, also when a process disappears while it is read."""
        if self._orphaned:
            return self._orphans_seconds()
        total = 0.0
        try:
            own = self._root.cpu_times()
            total += own.children_user + own.children_system
            if self._include_root:
                total += own.user + own.system
            children = {child.pid: child for child in self._root.children(recursive=True)}
        except psutil.Error:
            return self._seen_s
        for pid in self._helpers:
            helper = children.pop(pid, None)
            if helper is not None:
                with contextlib.suppress(psutil.Error):
                    self._helpers[pid] = _cpu_time(helper)
            else:
                total -= self._helpers[pid]  # it ended, and the root's children's time now contains it
        self._children = {}
        for pid, child in children.items():
            with contextlib.suppress(psutil.Error):
                used_s = _cpu_time(child)
                total += used_s
                self._children[pid] = child, used_s
        self._seen_s = max(self._seen_s, total + self._forgotten_s)
        return self._seen_s

    def root_lost(self) -> None:
        """The root was killed: go on with the processes that were last seen below it."""
        self._orphaned = True
        self._forgotten_s = self._seen_s - sum(used_s for _, used_s in self._children.values())

    def _orphans_seconds(self) -> float:
        living: dict[int, psutil.Process] = {}
        for pid, (process, _) in self._children.items():
            with contextlib.suppress(psutil.Error):
                living |= {pid: process, **{child.pid: child for child in process.children(recursive=True)}}
        total = self._forgotten_s
        for process in living.values():
            with contextlib.suppress(psutil.Error):
                total += _cpu_time(process)
        self._seen_s = max(self._seen_s, total)
        return self._seen_s


def _cpu_time(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system + times.children_user + times.children_system)
