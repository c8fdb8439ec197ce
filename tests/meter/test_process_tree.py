"""CPU time of the measured processes, alive and ended; who is foreign to them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import psutil
import pytest

from harness.meter import process_tree
from harness.meter.foreign import foreign_pids
from harness.meter.process_tree import MeasuredTree

BURN = """import sys, time
until = time.process_time() + float(sys.argv[1])
while time.process_time() < until: pass
"""


def burning(seconds: float, wait: bool = False) -> subprocess.Popen[bytes]:
    code = BURN + ("sys.stdin.read()\n" if wait else "")
    return subprocess.Popen([sys.executable, "-c", code, str(seconds)], stdin=subprocess.PIPE)


def finished(child: subprocess.Popen[bytes]) -> None:
    child.communicate()


def burnt(child: subprocess.Popen[bytes], seconds: float) -> None:
    process = psutil.Process(child.pid)
    while process.cpu_times().user + process.cpu_times().system < seconds:
        time.sleep(0.02)


@pytest.mark.parametrize("lists", [True, False])
def test_children_that_ended_are_counted(lists: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the kernel lists the children of a thread, and where the table of processes has to do."""
    monkeypatch.setattr(process_tree, "_LISTS_CHILDREN", lists and process_tree._LISTS_CHILDREN)
    tree = MeasuredTree(os.getpid(), include_root=False)
    before = tree.cpu_seconds()
    finished(burning(0.4))
    middle = tree.cpu_seconds()
    assert middle - before == pytest.approx(0.43, abs=0.12)
    shell = f"{sys.executable} -c '{BURN}' 0.3 & {sys.executable} -c '{BURN}' 0.2; wait"
    subprocess.run(["sh", "-c", shell], check=True)
    assert tree.cpu_seconds() - middle == pytest.approx(0.56, abs=0.15)


def test_the_root_counts_only_where_it_is_measured() -> None:
    trees = [MeasuredTree(os.getpid(), include_root=flag) for flag in (False, True)]
    before = [tree.cpu_seconds() for tree in trees]
    until = time.process_time() + 0.3
    while time.process_time() < until:
        pass
    without, with_root = (tree.cpu_seconds() - was for tree, was in zip(trees, before, strict=True))
    assert without < 0.05
    assert with_root == pytest.approx(0.3, abs=0.08)


def test_helpers_of_the_meter_do_not_count_alive_or_dead() -> None:
    helper = burning(0.5, wait=True)
    burnt(helper, 0.4)
    tree = MeasuredTree(os.getpid(), False, [helper.pid])
    before = tree.cpu_seconds()
    burnt(helper, 0.5)
    assert tree.cpu_seconds() - before < 0.03
    finished(helper)  # the kernel adds its time to this process's children now
    assert tree.cpu_seconds() - before < 0.06
    finished(burning(0.3))
    assert tree.cpu_seconds() - before == pytest.approx(0.33, abs=0.12)


def test_a_helper_that_is_named_late_hides_nothing_of_what_follows() -> None:
    """What it had used until then was counted; no work after it may be swallowed to make up for that."""
    helper = burning(0.6, wait=True)
    burnt(helper, 0.55)
    tree = MeasuredTree(os.getpid(), False)
    before = tree.cpu_seconds()
    tree.add_helpers([helper.pid])
    assert tree.cpu_seconds() == pytest.approx(before, abs=0.03)
    finished(burning(0.3))
    assert tree.cpu_seconds() - before == pytest.approx(0.33, abs=0.12)
    finished(helper)
    assert tree.cpu_seconds() - before == pytest.approx(0.33, abs=0.12)


def test_what_a_killed_root_leaves_running_counts_on() -> None:
    words = f"{sys.executable} -c '{BURN}' 0.2; {sys.executable} -c '{BURN}' 0.6; read end"
    root = subprocess.Popen(
        [sys.executable, "-c", f"import subprocess; subprocess.run(['sh', '-c', {words!r}])"],
        stdin=subprocess.PIPE,
    )
    tree = MeasuredTree(root.pid, include_root=False)
    until = time.monotonic() + 30
    while tree.cpu_seconds() < 0.3 and time.monotonic() < until:
        time.sleep(0.02)
    root.kill()
    root.wait()
    tree.root_lost()
    shell = next(iter(tree._members))
    while tree.cpu_seconds() < 0.8 and time.monotonic() < until:
        time.sleep(0.02)
    assert tree.cpu_seconds() == pytest.approx(0.85, abs=0.1)
    os.kill(shell, signal.SIGKILL)
    root.communicate()


def test_a_process_whose_parent_ended_counts_on() -> None:
    tree = MeasuredTree(os.getpid(), include_root=False)
    before = tree.cpu_seconds()
    child = f"subprocess.Popen([sys.executable, '-c', {BURN!r}, '0.5']).pid"
    code = f"import subprocess, sys\nprint({child}, flush=True)\nsys.stdin.read()"
    parent = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert parent.stdout is not None
    orphan = int(parent.stdout.readline())
    tree.cpu_seconds()
    parent.communicate()
    own = tree.cpu_seconds()
    while process_tree.lives(orphan):
        own = tree.cpu_seconds()
        time.sleep(0.005)
    assert own - before == pytest.approx(0.55, abs=0.15)
    finished(burning(0.2))
    assert tree.cpu_seconds() - own == pytest.approx(0.23, abs=0.1), "its time is not made up for by others"


def test_the_sum_never_falls() -> None:
    tree = MeasuredTree(os.getpid(), include_root=True)
    seen = []
    children = [burning(0.15) for _ in range(4)]
    while any(child.poll() is None for child in children):
        seen.append(tree.cpu_seconds())
    for child in children:
        finished(child)
    seen.append(tree.cpu_seconds())
    assert seen == sorted(seen)


def test_foreign_is_who_does_not_descend_from_the_owner() -> None:
    child = subprocess.Popen(["sh", "-c", "sleep 30 & wait"])
    try:
        grandchildren: list[int] = []
        while not grandchildren:
            time.sleep(0.02)
            grandchildren = [process.pid for process in psutil.Process(child.pid).children()]
        mine = [os.getpid(), child.pid, *grandchildren]
        assert foreign_pids(mine) == []
        assert foreign_pids([1, os.getppid(), *mine]) == [1, os.getppid()]
        assert foreign_pids([4_194_305]) == [4_194_305], "a pid that nobody has here is another's"
        assert foreign_pids([os.getpid()], owner_pid=child.pid) == [os.getpid()]
        assert foreign_pids([]) == []
    finally:
        for pid in grandchildren:
            psutil.Process(pid).kill()
        child.wait()
