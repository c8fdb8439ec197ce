"""Which processes on a metered GPU are not part of the measured job."""

from __future__ import annotations

import os
from pathlib import Path


def foreign_pids(pids: list[int], owner_pid: int | None = None) -> list[int]:
    """Those of `pids` that are neither the owner (default: this process) nor descended from it.

    A process that this machine's /proc does not show (another container's, or its pid in another namespace)
    counts as
    foreign: nothing shows that it is ours.
    """
    owner = os.getpid() if owner_pid is None else owner_pid
    return [pid for pid in pids if not _descends(pid, owner)]


def _descends(pid: int, owner: int) -> bool:
    seen = set()
    while pid > 1 and pid not in seen:
        if pid == owner:
            return True
        seen.add(pid)
        try:
            status = Path(f"/proc/{pid}/stat").read_text()
        except OSError:
            return False
        pid = int(status.rpartition(")")[2].split()[1])
    return False
