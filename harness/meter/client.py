"""Starting the meter's processes and asking them for stage boundaries, from the runner or from a measured
program.

A helper that dies is started again at once: the counter then still gives the right energy, and the hole in
    the samples
is in the log.
"""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from harness.errors import KitError
from harness.meter.clocks import mono_us
from harness.meter.rapl import find_zones

_READY_TIMEOUT_S = 60.0
_ANSWER_TIMEOUT_S = 30.0
_MAX_RESTARTS = 20

Warn = Callable[[str], None]


@dataclass(frozen=True)
class MeterConfig:
    """How a run is metered.

    Attributes:
        period_us: Sampling period; the protocol's is 500,000.
        boundary_mode: "tick" waits for the counter (at most one refresh), "interpolate" does not.
        devices: None follows CUDA_VISIBLE_DEVICES; an empty tuple meters no GPU; else NVML indices and UUIDs.
        cpu: "auto" (RAPL, else CodeCarbon), "rapl", "codecarbon" or "none".
        include_self: Whether the calling process is itself the measured program (API) or only its children
            are.
    """

    period_us: int = 500_000
    boundary_mode: str = "tick"
    devices: tuple[str, ...] | None = None
    cpu: str = "auto"
    include_self: bool = True


@dataclass(frozen=True)
class Boundary:
    """A stage boundary as the meter took it: its number in the log and where each device was cut."""

    number: int
    mono_us: int
    device_us: dict[int, int] = field(default_factory=dict)
    compute_pids: dict[int, list[int]] = field(default_factory=dict)
    process_cpu_s: float | None = None

    def window_end_us(self) -> int:
        """The last cut of this boundary."""
        return max(self.device_us.values(), default=self.mono_us)

    def window_start_us(self) -> int:
        """The first cut of this boundary."""
        return min(self.device_us.values(), default=self.mono_us)


class _Lost(Exception):
    """The helper process is gone."""


class _Helper:
    """One meter process: JSON lines to its standard input, answers from its standard output."""

    def __init__(self, module: str, config: dict[str, Any], log: Path) -> None:
        environment = {**os.environ, "PYTHONPATH": _python_path(), "OMP_NUM_THREADS": "1"}
        with log.open("ab") as errors:
            self.process = subprocess.Popen(
                [sys.executable, "-P", "-m", module, json.dumps(config)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                env=environment,
            )
        self._log = log
        self._buffer = b""

    def wait_ready(self) -> dict[str, Any]:
        """The helper's greeting.

        Raises:
            KitError: It ended or said why it cannot work.
        """
        try:
            message = self.receive(_READY_TIMEOUT_S)
        except _Lost:
            tail = (
                self._log.read_text(errors="replace").strip().splitlines()[-1:] if self._log.exists() else []
            )
            raise KitError(
                "the meter process did not start" + (f": {tail[0]}" if tail else ""),
                where=str(self._log),
                fix="kit doctor",
            ) from None
        if "error" in message:
            raise KitError(
                message["error"],
                where=message.get("where"),
                expected=message.get("expected"),
                fix=message.get("fix"),
            )
        ready: dict[str, Any] = message["ready"]
        return ready

    def send(self, message: dict[str, Any]) -> None:
        assert self.process.stdin is not None
        try:
            os.write(self.process.stdin.fileno(), json.dumps(message).encode() + b"\n")
        except OSError:
            raise _Lost from None

    def receive(self, timeout_s: float) -> dict[str, Any]:
        assert self.process.stdout is not None
        deadline = mono_us() + timeout_s * 1e6
        descriptor = self.process.stdout.fileno()
        while b"\n" not in self._buffer:
            remaining_s = (deadline - mono_us()) / 1e6
            if remaining_s <= 0 or not select.select([descriptor], [], [], remaining_s)[0]:
                self.process.kill()  # it hangs: as good as gone, and its successor must not find it alive
                raise _Lost
            chunk = os.read(descriptor, 1 << 16)
            if not chunk:
                raise _Lost
            self._buffer += chunk
        line, _, self._buffer = self._buffer.partition(b"\n")
        message: dict[str, Any] = json.loads(line)
        return message

    def close(self) -> None:
        for stream in (self.process.stdin, self.process.stdout):
            if stream is not None:
                stream.close()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        if self._log.exists() and self._log.stat().st_size == 0:
            self._log.unlink()


class MeterClient:
    """Owns the sampler and, where needed, the CPU estimator of one session.

    Args:
        journal_dir: Where the helpers' journals go; must exist.
        session: Number of this session in the run.
        config: How to meter.
        on_event: Told (kind, severity, detail) about restarts, to be journalled by the caller.
        warn: Told in words what a person should know now.
    """

    def __init__(
        self,
        journal_dir: Path,
        session: int,
        config: MeterConfig,
        on_event: Callable[[str, str, dict[str, Any]], None],
        warn: Warn = lambda text: None,
    ) -> None:
        self._dir = journal_dir
        self._session = session
        self._config = config
        self._on_event = on_event
        self._warn = warn
        self._lock = threading.RLock()
        self._pid = os.getpid()
        self._serial = 0
        self._request = 0
        self._next_boundary = 0
        self._restarts = 0
        self._stopping = False
        self._group: tuple[int, int] | None = None
        self._sampler: _Helper | None = None
        self._estimator: _Helper | None = None
        self.greeting: dict[str, Any] = {}
        self.estimator_greeting: dict[str, Any] | None = None
        self.cpu_method = "absent"
        self.cpu_absent_reason: str | None = None

    def start(self) -> None:
        """Start the helpers and wait until both are warm.

        Raises:
            KitError: The chosen devices or CPU method cannot be metered.
        """
        rapl = self._config.cpu in ("auto", "rapl") and find_zones().has_package
        if self._config.cpu == "rapl" and not rapl:
            raise KitError(
                "no readable RAPL package counter",
                where="cpu: rapl",
                expected="readable /sys/class/powercap/intel-rapl:*/energy_uj",
                fix="kit doctor shows which files are denied and the command that opens them",
            )
        self.cpu_method = "rapl" if rapl else "absent"
        estimate = not rapl and self._config.cpu in ("auto", "codecarbon")
        with self._lock:
            if estimate:
                self._estimator = self._launch("codecarbon_worker", self._estimator_config())
            self._sampler = self._launch("sampler", self._sampler_config())
            self.greeting = self._sampler.wait_ready()
            if self._estimator is not None:
                self._await_estimator()
        threading.Thread(target=self._watch, name="kit-meter-watch", daemon=True).start()

    def _await_estimator(self) -> None:
        assert self._estimator is not None and self._sampler is not None
        try:
            self.estimator_greeting = self._estimator.wait_ready()
        except KitError as error:
            if self._config.cpu == "codecarbon":
                raise
            self.cpu_absent_reason = error.message
            self._on_event("x-codecarbon_absent", "warning", {"reason": error.message})
            self._estimator.close()
            self._estimator = None
            return
        self.cpu_method = "codecarbon_process"
        self._estimator.send({"op": "helpers", "pids": [self._sampler.process.pid]})

    def _launch(self, name: str, config: dict[str, Any]) -> _Helper:
        self._serial += 1
        stem = f"{self._session:03d}-{self._serial:03d}-{name}"
        config["journal"] = str(self._dir / f"{stem}.jnl")
        return _Helper(f"harness.meter.{name}", config, self._dir / f"{stem}.stderr")

    def _sampler_config(self) -> dict[str, Any]:
        devices = self._config.devices
        return {
            "session": self._session,
            "period_us": self._config.period_us,
            "boundary_mode": self._config.boundary_mode,
            "devices": None if devices is None else list(devices),
            "rapl": self.cpu_method == "rapl",
            "owner_pid": os.getpid(),
        }

    def _estimator_config(self) -> dict[str, Any]:
        return {
            "session": self._session,
            "owner_pid": os.getpid(),
            "root_pid": os.getpid(),
            "include_root": self._config.include_self,
            "helper_pids": [],
        }

    @property
    def sampler_pid(self) -> int | None:
        """Process id of the sampler."""
        return None if self._sampler is None else self._sampler.process.pid

    def boundary(self, share: bool) -> Boundary:
        """Take a stage boundary.

        Args:
            share: Whether the previous boundary may serve when it is less than one counter refresh old: true
                where a stage starts, false where one ends.
        """
        with self._lock:
            number = self._next_boundary
            self._next_boundary += 1
            # Both are asked at once: the CPU figure belongs to this moment, and the watch for the counter's
            # tick must not begin later for its sake.
            asked = self._send_estimator(number)
            taken = self._ask_sampler({"op": "boundary", "boundary": number, "share": share})
            estimate = self._receive_estimator() if asked else None
            self._next_boundary = max(self._next_boundary, int(taken["boundary"]) + 1)
            return Boundary(
                number=int(taken["boundary"]),
                mono_us=int(taken["mono_us"]),
                device_us={int(r["device_id"]): int(r["mono_us"]) for r in taken["readings"]},
                compute_pids={int(k): v for k, v in taken["compute_pids"].items() if v is not None},
                process_cpu_s=None if estimate is None else float(estimate["process_cpu_s"]),
            )

    def _ask_sampler(self, message: dict[str, Any]) -> dict[str, Any]:
        while True:
            assert self._sampler is not None
            self._request += 1
            try:
                self._sampler.send({**message, "id": self._request})
                while True:
                    answer = self._sampler.receive(_ANSWER_TIMEOUT_S)
                    if "warning" in answer:
                        self._warn(answer["warning"])
                    elif answer.get("id") == self._request:
                        return answer
            except _Lost:
                self._restart_sampler()

    def _send_estimator(self, boundary: int) -> bool:
        if self._estimator is None:
            return False
        try:
            self._estimator.send({"op": "boundary", "id": boundary, "boundary": boundary})
        except _Lost:
            self._lose_estimator()
            return False
        return True

    def _receive_estimator(self) -> dict[str, Any] | None:
        assert self._estimator is not None
        try:
            return self._estimator.receive(_ANSWER_TIMEOUT_S)
        except _Lost:
            self._lose_estimator()
            return None

    def _lose_estimator(self) -> None:
        """A new estimator would count from zero: CPU energy is unknown from here on, and the log says so."""
        assert self._estimator is not None
        self._estimator.close()
        self._estimator = None
        self._on_event("x-codecarbon_lost", "error", {})
        self._warn("the CPU energy estimator died; CPU energy is unknown from here on")

    def register_group(self, pgid: int | None, stage_uid: int) -> None:
        """Tell the sampler which process group to end should this process be killed (None: none)."""
        with self._lock:
            self._group = None if pgid is None else (pgid, stage_uid)
            assert self._sampler is not None
            try:
                self._sampler.send({"op": "group", "pgid": pgid, "stage_uid": stage_uid})
            except _Lost:
                self._restart_sampler()

    def _restart_sampler(self) -> None:
        assert self._sampler is not None
        self._restarts += 1
        if self._restarts > _MAX_RESTARTS:
            raise KitError("the sampler died too often to go on", where=str(self._dir), fix="kit doctor")
        dead_pid, code = self._sampler.process.pid, self._sampler.process.poll()
        self._sampler.close()
        self._on_event("sampler_lost", "error", {"exit_code": code, "restart": self._restarts})
        self._warn(f"the sampler (pid {dead_pid}) died and was started again; the gap is in the log")
        self._sampler = self._launch("sampler", self._sampler_config())
        self._sampler.wait_ready()
        if self._estimator is not None:
            self._estimator.send({"op": "helpers", "pids": [self._sampler.process.pid]})
        if self._group is not None:
            pgid, stage_uid = self._group
            self._sampler.send({"op": "group", "pgid": pgid, "stage_uid": stage_uid})

    def _watch(self) -> None:
        """Restart the sampler when it dies between two requests."""
        while True:
            with self._lock:
                watched = self._sampler
            if watched is None:
                return
            try:
                os.waitid(os.P_PID, watched.process.pid, os.WEXITED | os.WNOWAIT)
            except ChildProcessError:
                pass  # reaped already by whoever noticed first
            with self._lock:
                if self._stopping:
                    return
                if self._sampler is watched:
                    self._restart_sampler()

    def stop(self) -> None:
        """End the helpers; their journals are then complete."""
        with self._lock:
            self._stopping = True
            if self._sampler is not None:
                try:
                    self._request += 1
                    self._sampler.send({"op": "stop", "id": self._request})
                    while self._sampler.receive(_ANSWER_TIMEOUT_S).get("id") != self._request:
                        pass
                except _Lost:
                    self._on_event("sampler_lost", "error", {"at": "stop"})
                self._sampler.close()
                self._sampler = None
            if self._estimator is not None:
                try:
                    self._request += 1
                    self._estimator.send({"op": "stop", "id": self._request})
                    self._estimator.receive(_ANSWER_TIMEOUT_S)
                except _Lost:
                    self._on_event("x-codecarbon_lost", "error", {"at": "stop"})
                self._estimator.close()
                self._estimator = None


def _python_path() -> str:
    """The helper must find this very package, installed or not, whatever the measured program's path is."""
    package_parent = str(Path(__file__).resolve().parents[2])
    rest = os.environ.get("PYTHONPATH")
    return f"{package_parent}{os.pathsep}{rest}" if rest else package_parent
