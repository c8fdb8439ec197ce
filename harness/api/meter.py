"""`Meter` and the `with` block of a stage."""

from __future__ import annotations

import atexit
import inspect
import os
import sys
from collections.abc import Callable
from contextlib import ContextDecorator
from functools import partial, wraps
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar, cast

from harness.api.sinks import FileSink, SessionSink
from harness.api.stage import Stage, StageEnergy, stage_energy
from harness.api.waiting import synchronize_devices
from harness.errors import KitError
from harness.journal.ulid import new_ulid
from harness.meter.choice import cpu_choices
from harness.meter.client import MeterConfig
from harness.meter.clocks import mono_us
from harness.meter.ranks import BEGINS, ENDS, RankReports, join, nobody_meters, other_rank
from harness.meter.session import MeterSession, RunInfo
from harness.spec import load_protocol
from harness.text import as_name

Function = TypeVar("Function", bound=Callable[..., Any])


class StageContext(ContextDecorator):
    """The `with` block of one stage: device work is waited for, and a moment is stamped, at both ends.

    As a decorator it makes a stage of every call of a function, `async` ones too: `@meter.stage("evaluate")`.
    """

    def __init__(self, meter: Meter, name: str, kind: str) -> None:
        self._meter = meter
        self._name = name
        self._kind = kind
        self._entered: list[tuple[int, MeterSession | None]] = []  # by which process, and its session

    def __call__(self, func: Function) -> Function:
        """The function with each call a stage, until it returns or its coroutine has ended.

        Raises:
            KitError: It is a generator.
        """
        if inspect.isgeneratorfunction(func) or inspect.isasyncgenfunction(func):
            raise KitError(
                f"{func.__name__} is a generator: its work is done after the call",
                where=f"stage {self._name!r}",
                fix="use the stage as a `with` block inside it, or around what consumes it",
            )
        if not inspect.iscoroutinefunction(func):
            return super().__call__(func)

        @wraps(func)
        async def inner(*args: Any, **kwargs: Any) -> Any:
            with self:
                return await func(*args, **kwargs)

        return cast(Function, inner)

    def __enter__(self) -> Stage:
        synchronize_devices()
        session = self._meter._own_session()
        if session is None:
            self._meter._attempt(self._name)
            self._meter._tell_part(BEGINS, self._name, kind=self._kind)
            self._entered.append((os.getpid(), None))
            return Stage(self._name, self._kind, self._meter._file_sink(self._name))
        opened = session.begin(self._name, self._kind, attempt=self._meter._attempt(self._name))
        self._entered.append((os.getpid(), session))
        energy = partial(self._meter._energy_of, opened.uid, self._name)
        self._meter._ranks.begin(session, self._name)
        return Stage(
            self._name,
            self._kind,
            SessionSink(session, opened, self._meter._ranks, self._meter._run_ended),
            energy,
        )

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        pid, session = self._entered.pop()
        if pid != os.getpid() or session is not self._meter._own_session():
            return  # a fork of the process whose stage it is leaves; or the meter was closed, which ended it
        status = "completed"
        if kind is not None:
            status = "interrupted" if issubclass(kind, KeyboardInterrupt) else "failed"
        if kind is None or issubclass(kind, Exception):
            synchronize_devices(quiet=kind is not None)
        end_us = mono_us()
        if session is None:
            self._meter._tell_part(ENDS, self._name, status=status, mono_us=end_us)
            return
        if self._meter._ranks.inside():
            session.cut(end_us)  # nobody is billed for the wait
        self._meter._ranks.settle(session, _warn)
        session.end(status, at_us=end_us)


class Meter:
    """Meters stages of this program into a run folder and seals it into a bundle at the end.

    Args:
        out: The run folder; created. It must not hold a run already, unless `resume`.
        name: The run's name; the folder's by default.
        method: What the run distils with, a method of the protocol.
        devices: GPUs to meter: None follows CUDA_VISIBLE_DEVICES, [] none, else NVML indices or UUIDs.
        period_ms: Sampling period; the protocol's is 500.
        cpu: "auto" (a counter such as RAPL, else CodeCarbon's estimate), the name of a source, or "none".
        sources: Power sources to use, as NAME or NAME:ARGUMENT, such as "scripted:FILE.csv".
        reference_tokens: The declared denominator for J/token.
        labels: Labels for the manifest, such as "pocket".
        region: Grid region, and
        pue: power usage effectiveness: recorded as information; joules in the log never contain them.
        resume: Continue the run in `out`.

    Raises:
        KitError: `out` cannot be used, or what was asked for cannot be metered.
    """

    def __init__(
        self,
        out: str | os.PathLike[str] = "runs/meter",
        *,
        name: str | None = None,
        method: str = "other",
        devices: list[str | int] | None = None,
        period_ms: int = 500,
        cpu: str = "auto",
        sources: tuple[str, ...] = (),
        reference_tokens: int | None = None,
        labels: tuple[str, ...] = (),
        region: str | None = None,
        pue: float | None = None,
        resume: bool = False,
    ) -> None:
        self._protocol = load_protocol()  # looking for its folder takes longer than a boundary may
        methods = self._protocol.method_names
        if method not in methods:
            raise KitError(f"method={method!r}", where="Meter", expected=", ".join(methods))
        if cpu not in cpu_choices():
            raise KitError(f"cpu={cpu!r}", where="Meter", expected=f"one of {', '.join(cpu_choices())}")
        if not 1 <= period_ms <= 60_000:
            raise KitError(f"period_ms={period_ms}", where="Meter", expected="1 to 60000 ms")
        self.out = Path(out).absolute()  # the program may change its folder
        self._resume = resume
        self._session: MeterSession | None = None
        self._ranks: RankReports
        self._attempts: dict[str, int] = {}
        self._late = False
        self._config = MeterConfig(
            period_us=period_ms * 1000,
            devices=None if devices is None else tuple(str(device) for device in devices),
            cpu=cpu,
            sources=tuple(sources),
            include_self=True,
        )
        self._info: dict[str, Any] = {
            "name": name or Path(out).name or "meter",
            "method": method,
            "labels": (labels,) if isinstance(labels, str) else tuple(labels),
            "reference_tokens": reference_tokens,
            "region": region,
            "pue": pue,
            "pipeline": {"source": "python API"},
        }
        self._events_file = os.environ.get("KIT_EVENTS") or None
        self._under_audit = self._events_file is not None

    @classmethod
    def from_env(cls, **options: Any) -> Meter:
        """The meter of a program that does not know who starts it.

        Under `kit audit` or `kit run` (KIT_EVENTS) it reports to their meter. Among the processes of a job it
        meters in local rank 0 (LOCAL_RANK) and reports to that one elsewhere. The run folder is KIT_METER_OUT
        where that is set.

        Args:
            **options: As of `Meter`; `out` is used where KIT_METER_OUT is not set.
        """
        return cls(**{**options, **({"out": out} if (out := os.environ.get("KIT_METER_OUT")) else {})})

    def _own_session(self) -> MeterSession | None:
        """The session of this process; a fork of it has none, and reports to it as the other ranks do."""
        return self._session if self._session is not None and self._session.owned() else None

    def _file_sink(self, stage: str) -> FileSink:
        if self._session is not None:  # that of the process that this one was forked from
            running = self._ranks.running or (stage, self._ranks.next_number(stage))
            return FileSink(str(self._ranks.path), {"pid": os.getpid(), "stage": running}, self._run_ended)
        if self._events_file is None:
            raise KitError(
                "the meter was not started", where=f"stage {stage!r}", fix="with Meter() as meter:"
            )
        place = {"pid": os.getpid(), "stage": [stage, self._attempts[stage]]}
        if self._under_audit:
            return FileSink(self._events_file, {})
        return FileSink(self._events_file, place, self._run_ended)

    def _run_ended(self) -> None:
        """What is reported now comes too late; said once, and no reason to end what the process does."""
        if not self._late:
            self._late = True
            _warn(f"the run in {self.out} has ended: what this process reports is not counted any more")

    def _tell_part(self, event: str, name: str, **detail: Any) -> None:
        """A stage begins or ends here; under `kit audit` the parts of a job are those of its local rank 0."""
        if not (self._under_audit and other_rank()):
            self._file_sink(name).event(event, {"name": name, "mono_us": mono_us(), **detail})

    def _attempt(self, name: str) -> int:
        self._attempts[name] = self._attempts.get(name, 0) + 1
        return self._attempts[name]

    def __enter__(self) -> Meter:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close(status="complete" if kind is None else "partial")

    def start(self) -> None:
        """Start metering; returns when the sampler is warm."""
        if self._session is not None or self._events_file is not None:
            return
        joined = join(self.out)
        if isinstance(joined, Path):
            self._events_file = str(joined)
            return
        self._ranks = joined
        try:
            self._session = self._open_session()
        except BaseException:
            joined.leave()
            raise
        atexit.register(self._left_open)

    def _open_session(self) -> MeterSession:
        run_id, first_session, first_uid = new_ulid(), 0, 0
        from harness.bundle import resume as earlier_runs

        if self._resume:
            state = earlier_runs.continue_run(self.out)
            if state is not None:
                run_id, first_session, first_uid = state.run_id, state.next_session, state.next_stage_uid
                self._attempts = dict(state.attempts)
        else:
            earlier_runs.refuse_existing(self.out, "Meter(out=..., resume=True)")
        info = RunInfo(run_id=run_id, first_session=first_session, first_stage_uid=first_uid, **self._info)
        return MeterSession(self.out, info, self._config, warn=_warn)

    def stage(self, name: str, kind: str | None = None) -> StageContext:
        """A stage as a `with` block.

        Args:
            name: Its name.
            kind: A stage kind of the protocol, or one of your own such as `x-quantize`; `name` by default.

        Raises:
            KitError: `kind` is not a stage kind.
        """
        return StageContext(self, as_name(name), self._protocol.check_kind(kind or name, f"stage {name!r}"))

    def summary(self) -> list[StageEnergy]:
        """What each stage that has ended used, and what lies between them (`unattributed`).

        Until the meter is closed these are the stages since it was started, then those of the whole run.
        Empty under `kit audit`, whose log has them, and in a fork of the process that meters.
        """
        return [stage_energy(row) for row in self._rows()]

    def _rows(self) -> list[dict[str, Any]]:
        if self._session is not None and not self._session.owned():
            return []
        if self._session is not None:
            from harness.bundle.seal import rows_so_far

            self._session.client.settle()
            return rows_so_far(self.out)
        if self._events_file is not None:
            return []
        from harness.bundle.reader import Bundle

        rows: list[dict[str, Any]] = Bundle.open(self.out).table("stages").to_pylist()
        return rows

    def _energy_of(self, uid: int, name: str) -> StageEnergy | None:
        if self._session is not None and not self._session.owned():
            return None
        for row in self._rows():
            if row["stage_uid"] == uid:
                return stage_energy(row)
        raise KitError(
            "its energy is known once it has ended",
            where=f"stage {name!r}",
            fix="read stage.energy after the with block",
        )

    def close(self, status: str = "complete") -> Path | None:
        """Stop metering and seal the bundle; returns the run folder (None under `kit audit` or in a fork)."""
        session, self._session = self._session, None
        if session is None or not session.owned():
            if self._events_file is not None and not self._under_audit:
                self._warn_if_unread(Path(self._events_file))
            return None
        atexit.unregister(self._left_open)
        if session.stage is not None:
            _warn(f"stage {session.stage.name} was still running when the meter was closed: it ends there")
            session.end("interrupted")
            status = "partial"
        self._ranks.close(session, _warn)
        session.close(status)
        from harness.bundle.seal import seal

        return seal(self.out)

    def _left_open(self) -> None:
        """The program ends and nobody closed the meter."""
        if self._session is not None and self._session.owned():
            _warn(f"the meter of {self.out} was not closed: `kit recover {self.out}` seals what it measured")

    def _warn_if_unread(self, reports: Path) -> None:
        """Say it where what this process of a job reported is in no run."""
        if nobody_meters(reports):
            _warn(
                "nothing was measured: this is not local rank 0 (LOCAL_RANK), and no process of its job "
                f"meters into {self.out}; unset LOCAL_RANK, or let local rank 0 use a Meter too"
            )


def _warn(text: str) -> None:
    print(f"kit: {text}", file=sys.stderr)
