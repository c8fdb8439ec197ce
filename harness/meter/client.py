"""Starting the meter's processes and telling them of stage boundaries, from the runner or from a measured
program.

A boundary is a moment that the caller stamps. It is told in one message a helper, and no answer is awaited.
A helper that dies is started again at once: the counter then still gives the right energy, and the hole in
the samples is in the log.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.errors import KitError
from harness.meter.choice import SourceChoice, choose
from harness.meter.helper import Helper, Lost
from harness.meter.sources.base import with_full_path

_ANSWER_TIMEOUT_S = 30.0
_MAX_RESTARTS = 20

Warn = Callable[[str], None]


Visibility = tuple[str | None, str | None]
"""CUDA_VISIBLE_DEVICES and CUDA_DEVICE_ORDER of an environment."""


@dataclass(frozen=True)
class MeterConfig:
    """How a run is metered.

    Attributes:
        period_us: Sampling period; the protocol's is 500,000.
        devices: None follows CUDA_VISIBLE_DEVICES; an empty tuple meters no GPU; else NVML indices and UUIDs.
        cpu: "auto" (the best source that can be read here), the name of a source, or "none".
        sources: Sources to use whatever their rank, as NAME or NAME:ARGUMENT.
        visible: CUDA_VISIBLE_DEVICES and CUDA_DEVICE_ORDER of each environment that stages run in, where
            `devices` is None; none given: the calling process's own.
        include_self: Whether the calling process is itself the measured program (API) or only its children
            are.
    """

    period_us: int = 500_000
    devices: tuple[str, ...] | None = None
    cpu: str = "auto"
    sources: tuple[str, ...] = ()
    visible: tuple[Visibility, ...] = ()
    include_self: bool = True

    def __post_init__(self) -> None:
        """Files are those of the folder that the caller is in now."""
        object.__setattr__(self, "sources", tuple(map(with_full_path, self.sources)))


def visibility(env: Mapping[str, str]) -> Visibility:
    """What decides which GPUs a process with this environment can use."""
    return env.get("CUDA_VISIBLE_DEVICES"), env.get("CUDA_DEVICE_ORDER")


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
        self._dir = journal_dir.absolute()  # a helper may work in another folder
        self._session = session
        self._config = config
        self._on_event = on_event
        self._warn = warn
        self._lock = threading.RLock()
        self._number_lock = threading.Lock()
        self._serial = 0
        self._request = 0
        self._next_boundary = 0
        self._restarts = 0
        self._stopping = False
        self._group: tuple[int, int] | None = None
        self._sampler: Helper | None = None
        self._estimator: Helper | None = None
        self._known_devices: list[list[Any]] | None = None
        self._choice: SourceChoice | None = None
        self._visible: list[list[int]] | None = None
        self.greeting: dict[str, Any] = {}
        self.cpu_method = "absent"
        self.cpu_absent_reason: str | None = None

    def start(self) -> None:
        """Start the helpers and wait until both are warm.

        Raises:
            KitError: The chosen devices or CPU method cannot be metered.
        """
        choice = self._choice = choose(self._config.cpu, self._config.sources)
        self.cpu_method, self.cpu_absent_reason = choice.cpu_method, choice.cpu_absent_reason
        with self._lock:
            self._sampler = self._launch("sampler", self._sampler_config())
            if choice.estimator is not None:
                self._estimator = self._launch("estimator", self._estimator_config(choice.estimator))
            ready = self._sampler.wait_ready(self._warn)
            self.greeting, self._known_devices = ready["greeting"], ready["devices"]
            self._visible = ready["visible"]
            if ready["broken"]:
                self._tell_absent(choice.devices[0], self.greeting["no_gpu_reason"])
            if self._estimator is not None:
                self._await_estimator(choice)
        threading.Thread(target=self._watch, name="kit-meter-watch", daemon=True).start()
        if self._estimator is not None:
            threading.Thread(target=self._watch_estimator, name="kit-estimator-watch", daemon=True).start()

    def _await_estimator(self, choice: SourceChoice) -> None:
        assert self._estimator is not None
        try:
            self._estimator.wait_ready(self._warn)
        except KitError as error:
            if choice.cpu_required:
                raise
            self.cpu_method, self.cpu_absent_reason = "absent", error.message
            self._tell_absent(str(choice.estimator), error.message)
            self._estimator.close()
            self._estimator = None

    def _tell_absent(self, source: str, reason: str) -> None:
        """A source that was expected did not start: the run goes on without it, and everyone is told."""
        self._on_event("source_absent", "warning", {"source": source, "reason": reason})
        self._warn(f"{source} did not start, what it measures is missing: {reason}")

    def measures_nothing(self) -> str | None:
        """In words, why nothing at all is measured; None where something is, or where that was asked for."""
        if self._config.cpu == "none" or self._config.devices == ():
            return None
        if self.greeting["devices"] or self.greeting["zones"] or self._estimator is not None:
            return None
        cpu = self.cpu_absent_reason or "no source"
        return f"nothing is measured. GPU: {self.greeting['no_gpu_reason']}. CPU: {cpu}"

    def visible_devices(self, seen: Iterable[Visibility]) -> list[int] | None:
        """Numbers of the metered devices that processes which see these can use; None for all."""
        if self._visible is None:
            return None
        lists = [self._visible[self._config.visible.index(one)] for one in seen]
        return list(dict.fromkeys(device for devices in lists for device in devices))

    def _launch(self, name: str, config: dict[str, Any]) -> Helper:
        self._serial += 1
        stem = f"{self._session:03d}-{self._serial:03d}-{name}"
        config["journal"] = str(self._dir / f"{stem}.jnl")
        return Helper(f"harness.meter.{name}", config, self._dir / f"{stem}.stderr")

    def _sampler_config(self) -> dict[str, Any]:
        devices, choice = self._config.devices, self._choice
        assert choice is not None
        return {
            "session": self._session,
            "period_us": self._config.period_us,
            "devices": None if devices is None else list(devices),
            "device_source": choice.devices,
            "zone_sources": choice.zones,
            "known_devices": self._known_devices,
            "visible": [list(pair) for pair in self._config.visible] or None,
            "owner_pid": os.getpid(),
            "next_boundary": self._next_boundary,
        }

    def _estimator_config(self, source: str) -> dict[str, Any]:
        assert self._sampler is not None
        return {
            "source": source,
            "session": self._session,
            "owner_pid": os.getpid(),
            "root_pid": os.getpid(),
            "include_root": self._config.include_self,
            "helper_pids": [self._sampler.process.pid],
        }

    @property
    def sampler_pid(self) -> int | None:
        """Process id of the sampler."""
        return None if self._sampler is None else self._sampler.process.pid

    def helper_pids(self) -> list[int]:
        """Process ids of the meter's own processes."""
        return [helper.process.pid for helper in (self._sampler, self._estimator) if helper is not None]

    @property
    def stage_group(self) -> int | None:
        """Process group of the running stage."""
        return None if self._group is None else self._group[0]

    def boundary(self, at_us: int, ends: int | None = None) -> int:
        """Tell the helpers of a stage boundary, a moment that has just been stamped.

        Args:
            at_us: The moment, CLOCK_MONOTONIC.
            ends: The stage that ends there, if one does.

        Returns:
            Its number.
        """
        number = self._number()
        message = {"op": "boundary", "boundary": number, "at_us": at_us, "ends": ends}
        for helper in (self._sampler, self._estimator):
            if helper is not None:
                with contextlib.suppress(Lost):  # noticed by those who wait for its end
                    helper.send(message)
        return number

    def moment(self) -> int:
        """Number of a boundary that lies in the past, between two samples."""
        number = self._number()
        if self._sampler is not None:
            with contextlib.suppress(Lost):  # a new one is told the next number when it starts
                self._sampler.send({"op": "numbered", "next": number + 1})
        return number

    def _number(self) -> int:
        with self._number_lock:
            self._next_boundary += 1
            return self._next_boundary - 1

    def settle(self) -> None:
        """Wait until all boundaries so far are in the journals: one refresh of the counters at most."""
        with self._lock:
            with contextlib.suppress(Lost):
                if self._sampler is not None:
                    self._ask(self._sampler, {"op": "settle"})
            with contextlib.suppress(Lost):
                if self._estimator is not None:
                    self._ask(self._estimator, {"op": "settle"})

    def _ask(self, helper: Helper, message: dict[str, Any]) -> dict[str, Any]:
        self._request += 1
        helper.send({**message, "id": self._request})
        while True:
            answer = helper.receive(_ANSWER_TIMEOUT_S)
            if "warning" in answer:
                self._warn(answer["warning"])
            elif answer.get("id") == self._request:
                return answer

    def _lose_estimator(self) -> None:
        """A new estimator would count from zero: CPU energy is unknown from here on, and the log says so."""
        assert self._estimator is not None
        self._estimator.close()
        self._estimator = None
        assert self._choice is not None
        self._on_event(f"x-{self._choice.estimator}_lost", "error", {})
        self._warn("the CPU energy estimator died; CPU energy is unknown from here on")

    def register_group(self, pgid: int | None, stage_uid: int) -> None:
        """Tell the sampler which process group to end should this process be killed (None: none)."""
        with self._lock:
            self._group = None if pgid is None else (pgid, stage_uid)
            try:
                self._send_group()
            except Lost:
                self._restart_sampler()

    def _send_group(self) -> None:
        if self._sampler is not None:
            pgid, stage_uid = self._group or (None, -1)
            self._sampler.send({"op": "group", "pgid": pgid, "stage_uid": stage_uid})

    def _restart_sampler(self) -> None:
        """Put a new sampler in the place of one that died; go on without one when that cannot be done."""
        while self._sampler is not None:
            self._restarts += 1
            dead_pid, code = self._sampler.process.pid, self._sampler.process.poll()
            self._sampler.close()
            self._on_event("sampler_lost", "error", {"exit_code": code, "restart": self._restarts})
            if self._restarts > _MAX_RESTARTS:
                self._give_up("it died too often")
                return
            try:
                self._sampler = self._launch("sampler", self._sampler_config())
                if self._estimator is not None:
                    with contextlib.suppress(Lost):  # noticed when it is asked for its next figure
                        self._estimator.send({"op": "helpers", "pids": [self._sampler.process.pid]})
                self._sampler.wait_ready(self._warn)
                self._send_group()
            except Lost:
                continue
            except (KitError, OSError) as error:
                self._sampler.close()
                self._give_up(str(error))
                return
            self._warn(f"the sampler (pid {dead_pid}) died and was started again; the gap is in the log")
            return

    def _give_up(self, reason: str) -> None:
        self._sampler = None
        self._on_event("sampler_lost", "error", {"final": True, "reason": reason})
        self._warn(
            f"the sampler died and cannot be started again ({reason}); nothing is measured from here on"
        )

    def _watch(self) -> None:
        """Restart the sampler when it dies between two requests."""
        while True:
            with self._lock:
                watched = self._sampler
            if watched is None:
                return
            _await_end(watched)
            with self._lock:
                if self._stopping:
                    return
                if self._sampler is watched:
                    self._restart_sampler()

    def _watch_estimator(self) -> None:
        watched = self._estimator
        assert watched is not None
        _await_end(watched)
        with self._lock:
            if not self._stopping and self._estimator is watched:
                self._lose_estimator()

    def stop(self) -> None:
        """End the helpers; their journals are then complete."""
        with self._lock:
            self._stopping = True
            if self._sampler is not None:
                try:
                    unwritten = int(self._ask(self._sampler, {"op": "stop"})["pending_bytes"])
                    if unwritten:
                        self._on_event("journal_error", "error", {"lost_bytes": unwritten})
                        self._warn(f"{unwritten} bytes of samples could not be written and are lost")
                except Lost:
                    self._on_event("sampler_lost", "error", {"at": "stop"})
                self._sampler.close()
                self._sampler = None
            if self._estimator is not None:
                try:
                    self._ask(self._estimator, {"op": "stop"})
                except Lost:
                    assert self._choice is not None
                    self._on_event(f"x-{self._choice.estimator}_lost", "error", {"at": "stop"})
                self._estimator.close()
                self._estimator = None


def _await_end(helper: Helper) -> None:
    with contextlib.suppress(ChildProcessError):  # reaped already by whoever noticed first
        os.waitid(os.P_PID, helper.process.pid, os.WEXITED | os.WNOWAIT)
