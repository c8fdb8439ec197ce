"""CPU and memory energy estimated by CodeCarbon in process-tracking mode, where RAPL cannot be read.

A process of its own, started and warm before the first stage: CodeCarbon needs 1-2 s and pandas to start,
    which belongs
in no stage. No CodeCarbon output file is written, so runs cannot mix.

CodeCarbon's process mode multiplies the CPU's power rating by the CPU time of a process and its children, but
it looks at the children that are alive at each look: the CPU time of a command that ended since the last look
    is lost, which for
a stage of a few seconds is a large part of it. Here it is fed the cumulative CPU time of the measured tree
including children that have ended (`MeasuredTree`), so the estimate does not depend on when one looks. The
estimate is cumulative in uJ and is journalled like a counter.

Run as `python -m harness.meter.codecarbon_worker CONFIG-JSON`; commands and answers are JSON lines.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import select
import signal
import sys
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import psutil

from harness.journal.records import JournalWriter
from harness.meter.clocks import mono_us, utc_us

_PERIOD_S = 1.0
_TICK_US = 10_000  # resolution of the kernel's CPU times (USER_HZ): 10 ms on every common build


class MeasuredTree:
    """CPU time of a process tree, counting children that have ended.

    Args:
        root_pid: The measured program (API) or the runner whose children are the stages.
        include_root: Whether the root's own CPU time counts; not so for the runner.
        helper_pids: Processes of the meter itself, children of the root, left out.
    """

    def __init__(self, root_pid: int, include_root: bool, helper_pids: Iterable[int] = ()) -> None:
        self._root = psutil.Process(root_pid)
        self._include_root = include_root
        self._helpers: dict[int, float] = {}  # pid -> CPU seconds when last seen
        self._forgotten_s = 0.0
        self._seen_s = 0.0
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
        for child in children.values():
            with contextlib.suppress(psutil.Error):
                total += _cpu_time(child)
        self._seen_s = max(self._seen_s, total + self._forgotten_s)
        return self._seen_s


def _cpu_time(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system + times.children_user + times.children_system)


class Estimator:
    """CodeCarbon's CPU and RAM models, asked for the energy since the last time.

    Raises:
        RuntimeError: CodeCarbon found no CPU model that depends on the process's load.
    """

    def __init__(self, tree: MeasuredTree, root_pid: int) -> None:
        from codecarbon import OfflineEmissionsTracker

        logging.getLogger("codecarbon").setLevel(logging.CRITICAL)  # before the tracker sets the level itself
        tracker = OfflineEmissionsTracker(
            country_iso_code="USA",  # required; no emissions are taken from this tracker, only energy
            tracking_mode="process",
            save_to_file=False,
            allow_multiple_runs=True,
            log_level="critical",
            gpu_ids=[],
        )
        hardware = tracker.get_detected_hardware()
        parts = {type(part).__name__: part for part in tracker._hardware}
        cpu, self._ram = parts.get("CPU"), parts.get("RAM")
        if cpu is None or cpu._mode != "cpu_load":
            raise RuntimeError("CodeCarbon offers no process-level CPU model on this machine")
        self._cpu: Any = cpu
        self._tree = tree
        self._cpu._get_process_cpu_times = lambda: {root_pid: tree.cpu_seconds()}
        if self._ram is not None:
            self._ram._pid = root_pid
        self.cpu_model = hardware.get("cpu_model")
        self.tdp_w = self._cpu._tdp
        self.cpu_uj = 0
        self.ram_uj = 0
        self._last_s = time.time()
        self._cpu.measure_power_and_energy(0.0)  # the first look only sets the starting point

    def read(self) -> tuple[int, int | None, float]:
        """(CPU uJ, RAM uJ or None, CPU seconds), all cumulative."""
        now = time.time()
        # CodeCarbon divides the CPU time by the wall clock's difference; multiplied by the same difference, a
        # step of the wall clock cancels.
        duration, self._last_s = now - self._last_s, now
        _, energy = self._cpu.measure_power_and_energy(duration)
        self.cpu_uj += max(0, round(energy.kWh * 3.6e12))
        if self._ram is not None:
            _, energy = self._ram.measure_power_and_energy(max(0.0, duration))
            self.ram_uj += max(0, round(energy.kWh * 3.6e12))
        return self.cpu_uj, (self.ram_uj if self._ram is not None else None), self._tree.cpu_seconds()


class Worker:
    """The loop: one look a second, and one at every stage boundary."""

    def __init__(self, config: dict[str, Any], answers: int) -> None:
        self._session = int(config["session"])
        self._owner_pid = int(config["owner_pid"])
        self._answers = answers
        helpers = [os.getpid(), *config["helper_pids"]]
        self._tree = MeasuredTree(int(config["root_pid"]), bool(config["include_root"]), helpers)
        self._estimator = Estimator(self._tree, int(config["root_pid"]))
        self._journal = JournalWriter(Path(config["journal"]))

    def run(self) -> int:
        """Look until told to stop or left alone."""
        greeting = {
            "type": "codecarbon_start",
            "session": self._session,
            "cpu_model": self._estimator.cpu_model,
            "tdp_w": self._estimator.tdp_w,
            "mono_us": mono_us(),
            "t_us": utc_us(),
        }
        self._journal.append_record(greeting)
        self._look(None)
        self._say({"ready": greeting})
        buffer = b""
        while True:
            readable, _, _ = select.select([0], [], [], _PERIOD_S)
            if readable:
                chunk = os.read(0, 1 << 16)
                if not chunk:
                    break
                buffer += chunk
                while b"\n" in buffer:
                    line, _, buffer = buffer.partition(b"\n")
                    if not self._obey(json.loads(line)):
                        return 0
            else:
                if os.getppid() != self._owner_pid:
                    break
                self._look(None)
        self._look(None)
        self._journal.close()
        return 3

    def _obey(self, command: dict[str, Any]) -> bool:
        if command["op"] == "stop":
            self._look(None)
            self._journal.close()
            self._say({"id": command["id"], "stopped": True})
            return False
        if command["op"] == "helpers":
            self._tree.add_helpers(command["pids"])
            return True
        self._say({"id": command["id"], **self._look(int(command["boundary"]))})
        return True

    def _look(self, boundary: int | None) -> dict[str, Any]:
        cpu_uj, ram_uj, cpu_s = self._estimator.read()
        reading = {
            "type": "codecarbon",
            "session": self._session,
            "boundary": boundary,
            "mono_us": mono_us(),
            "t_us": utc_us(),
            "uncertainty_us": _TICK_US,
            "cpu_uj": cpu_uj,
            "ram_uj": ram_uj,
            "process_cpu_s": round(cpu_s, 3),
        }
        self._journal.append_record(reading)
        return reading

    def _say(self, message: dict[str, Any]) -> None:
        try:
            os.write(self._answers, json.dumps(message, separators=(",", ":")).encode() + b"\n")
        except BrokenPipeError:
            return  # the owner is gone; standard input closes too, which ends the loop


def main() -> int:
    """Entry point of the estimator process."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGTSTP):
        signal.signal(number, signal.SIG_IGN)
    # Nothing that CodeCarbon or its imports print may reach the answers, and no user setting of its may
    # change them.
    answers = os.dup(1)
    os.dup2(2, 1)
    for name in [name for name in os.environ if name.startswith("CODECARBON_")]:
        del os.environ[name]
    config = json.loads(sys.argv[1])
    with tempfile.TemporaryDirectory(prefix="kit-codecarbon-") as empty_home:
        os.environ["HOME"] = empty_home
        os.chdir(empty_home)
        try:
            worker = Worker(config, answers)
        except (ImportError, RuntimeError, psutil.Error) as error:
            os.write(answers, json.dumps({"error": str(error)}).encode() + b"\n")
            return 2
        code = worker.run()
        os.chdir("/")
        return code


if __name__ == "__main__":
    sys.exit(main())
