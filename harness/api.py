"""`Meter`: stages measured inside a Python program, with or without the command line.

    from harness import Meter
    with Meter(out="runs/mine") as meter:
        with meter.stage("student_train") as stage:
            stage.add_tokens(trained=512, processed=1024, positions=1024)
        print(stage.energy.total)

Under `kit audit` the program is itself a stage that is being measured: then nothing is metered a second time,
and its stages, tokens and events go to the file named in KIT_EVENTS. Its stages are children of the one that
is measured, at the moments stamped here.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Sequence
from contextlib import ContextDecorator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol

from harness.errors import KitError
from harness.journal.scores import Items, check_together, eval_row, item_messages, items_chunk, items_digest
from harness.journal.ulid import new_ulid
from harness.meter.choice import cpu_choices
from harness.meter.client import MeterConfig
from harness.meter.clocks import mono_us
from harness.meter.session import MeterSession, RunInfo
from harness.spec import load_protocol

if TYPE_CHECKING:
    from harness.accounting.interval import Interval


class _Sink(Protocol):
    """Where a stage's reports go."""

    def tokens(self, counts: dict[str, int]) -> None: ...

    def event(self, name: str, detail: dict[str, Any]) -> None: ...

    def scores(self, row: dict[str, Any], items: Items | None) -> None: ...


@dataclass(frozen=True)
class StageEnergy:
    """What a stage used, in joules with 95 % intervals (`best`, `low`, `high`); None where it is unknown.

    Attributes:
        seconds: Length of the window that is billed.
        total: GPU, CPU and DRAM as far as they are measured; None where that of a GPU is unknown.
    """

    name: str
    kind: str
    attempt: int
    status: str
    seconds: float
    gpu: Interval | None
    cpu: Interval | None
    dram: Interval | None
    total: Interval | None


def _stage_energy(row: dict[str, Any]) -> StageEnergy:
    """A row of `stages`."""
    from harness.accounting.interval import Interval
    from harness.accounting.totals import lower_bound, row_energy

    parts: dict[str, Interval | None] = {}
    for part in ("gpu", "cpu", "dram"):
        best, low, high = (row[f"{part}_energy_j{end}"] for end in ("", "_low", "_high"))
        parts[part] = None if best is None else Interval(best, min(best, low), max(best, high))
    return StageEnergy(
        row["name"],
        row["stage"],
        row["attempt"],
        row["status"],
        (row["mono_end_us"] - row["mono_start_us"]) / 1e6,
        **parts,
        total=None if lower_bound(row) else row_energy(row),
    )


class Stage:
    """A running stage; what `Meter.stage` yields."""

    def __init__(
        self, name: str, kind: str, sink: _Sink, energy: Callable[[], StageEnergy | None] = lambda: None
    ) -> None:
        self.name = name
        self.kind = kind
        self._sink = sink
        self._energy = energy

    @property
    def energy(self) -> StageEnergy | None:
        """What the stage used, once it has ended; None under `kit audit`, whose log has it.

        It is the figure that is sealed, but that the sealed one knows the samples of half a second more.

        Raises:
            KitError: The stage is still running.
        """
        return self._energy()

    def add_tokens(
        self,
        *,
        trained: int | None = None,
        processed: int | None = None,
        positions: int | None = None,
        generated: int | None = None,
    ) -> None:
        """Add to the stage's token counts; a count never given stays unknown, not zero.

        Args:
            trained: Unique label tokens that entered the loss.
            processed: Real tokens that went through a model.
            positions: Token positions computed, padding included.
            generated: Tokens generated, without padding.

        Raises:
            KitError: A count is negative or no whole number.
        """
        given = {"trained": trained, "processed": processed, "positions": positions, "generated": generated}
        counts: dict[str, int] = {}
        for name, count in given.items():
            if count is None:
                continue
            whole = int(count)
            if isinstance(count, bool) or whole != count or whole < 0:
                raise KitError(
                    f"{name}={count!r} is no token count",
                    where=f"stage {self.name!r}",
                    expected="a whole number >= 0",
                )
            counts[f"tokens_{name}"] = whole
        self._sink.tokens(counts)

    def event(self, name: str, **detail: Any) -> None:
        """Write an event such as a checkpoint into the log, with JSON-able details."""
        self._sink.event(name, detail)

    def add_eval(
        self,
        benchmark: str,
        score: float,
        *,
        suite: str,
        metric: str,
        unit: str = "fraction",
        n_items: int | None = None,
        item_scores: Sequence[float | None] = (),
        item_sha256: Sequence[str] = (),
        **columns: Any,
    ) -> None:
        """Record a benchmark's score (a row of table `evals`), with its items' scores if they are known.

        Args:
            benchmark: The benchmark's name.
            score: In `unit`.
            suite: Suite it is run as a part of.
            metric: What is measured.
            unit: "fraction", "percent", "rating_1_10" or "nats".
            n_items: Items asked; the number of `item_scores` by default.
            item_scores: One an item, in `unit`; None where none could be read. With them the score is
                their mean, unless `aggregation` says otherwise.
            item_sha256: Digest of each item as asked.
            **columns: Further columns of `evals`, such as filter, stderr, judge_id, model_sha256.

        Raises:
            KitError: A value does not fit its column, or the benchmark was reported before.
        """
        scored = sum(item is not None for item in item_scores)
        known: dict[str, Any] = {"n_items": n_items}
        if item_scores:
            known = {"n_items": len(item_scores), "n_scored": scored, "aggregation": "mean"}
        if item_sha256:
            known["items_sha256"] = items_digest(item_sha256)
        named = {"benchmark": benchmark, "metric": metric}
        try:
            row = eval_row({**named, "suite": suite, "score": score, "score_unit": unit, **known, **columns})
            named |= {"subject": row["subject"], "filter": row["filter"]}
            listed = {"scores": list(item_scores), "item_sha256": list(item_sha256)}
            items = items_chunk({**named, "first": 0, **listed}) if item_scores else None
            check_together(row, items)
        except ValueError as error:
            raise KitError(str(error), where=f"stage {self.name!r}") from None
        self._sink.scores(row, items)


class _SessionSink:
    def __init__(self, session: MeterSession) -> None:
        self._session = session

    def tokens(self, counts: dict[str, int]) -> None:
        _require_owner(self._session)
        self._session.add_tokens(counts)

    def event(self, name: str, detail: dict[str, Any]) -> None:
        _require_owner(self._session)
        self._session.report_event(name, detail)

    def scores(self, row: dict[str, Any], items: Items | None) -> None:
        _require_owner(self._session)
        self._session.add_eval(row)
        if items is not None:
            self._session.add_eval_items(items)


class _FileSink:
    """Appends to $KIT_EVENTS: one write a line, so that several processes may report at once."""

    def __init__(self, path: str) -> None:
        self._path = path

    def _append(self, message: dict[str, Any]) -> None:
        with Path(self._path).open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(message) + "\n")

    def tokens(self, counts: dict[str, int]) -> None:
        self._append(dict(counts))

    def event(self, name: str, detail: dict[str, Any]) -> None:
        self._append({"event": name, **detail})

    def scores(self, row: dict[str, Any], items: Items | None) -> None:
        self._append({"eval": row})
        for message in [] if items is None else item_messages(items):
            self._append({"eval_items": message})


def _require_owner(session: MeterSession) -> None:
    if not session.owned():
        raise KitError(
            "a forked process reports to its parent's meter",
            expected="reports from the process that opened the Meter",
            fix="send the counts to the parent, or append JSON lines to the file named in KIT_EVENTS",
        )


class StageContext(ContextDecorator):
    """The `with` block of one stage: device work is waited for and the boundary taken at both ends.

    As a decorator it makes a stage of every call of a function: `@meter.stage("evaluate")`.
    """

    def __init__(self, meter: Meter, name: str, kind: str) -> None:
        self._meter = meter
        self._name = name
        self._kind = kind

    def __enter__(self) -> Stage:
        synchronize_devices()
        session = self._meter._session
        if session is None:
            sink = self._meter._file_sink()
            sink.event("substage_begin", {"name": self._name, "kind": self._kind, "mono_us": mono_us()})
            return Stage(self._name, self._kind, sink)
        opened = session.begin(self._name, self._kind, attempt=self._meter._attempt(self._name))
        energy = partial(self._meter._energy_of, opened.uid, self._name)
        return Stage(self._name, self._kind, _SessionSink(session), energy)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        session = self._meter._session
        status = "completed"
        if kind is not None:
            status = "interrupted" if issubclass(kind, KeyboardInterrupt) else "failed"
        if kind is None or issubclass(kind, Exception):
            synchronize_devices(quiet=kind is not None)
        if session is None:
            detail = {"name": self._name, "status": status, "mono_us": mono_us()}
            self._meter._file_sink().event("substage_end", detail)
        elif session.owned():
            session.end(status, work_end_us=mono_us())


class Meter:
    """Meters stages of this program into a run folder and seals it into a bundle at the end.

    Args:
        out: The run folder; created. It must not hold a run already, unless `resume`.
        name: The run's name; the folder's by default.
        method: What the run distils with, a method of the protocol.
        devices: GPUs to meter: None follows CUDA_VISIBLE_DEVICES, [] none, else NVML indices or UUIDs.
        period_ms: Sampling period; the protocol's is 500.
        boundary: "tick" waits for the energy counter to move (at most one refresh, ~100 ms, at each end of a
            stage); "interpolate" does not wait and has the wider interval.
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
        boundary: str = "tick",
        cpu: str = "auto",
        sources: tuple[str, ...] = (),
        reference_tokens: int | None = None,
        labels: tuple[str, ...] = (),
        region: str | None = None,
        pue: float | None = None,
        resume: bool = False,
    ) -> None:
        if boundary not in ("tick", "interpolate"):
            raise KitError(f"boundary={boundary!r}", where="Meter", expected="'tick' or 'interpolate'")
        methods = load_protocol().method_names
        if method not in methods:
            raise KitError(f"method={method!r}", where="Meter", expected=", ".join(methods))
        if cpu not in cpu_choices():
            raise KitError(f"cpu={cpu!r}", where="Meter", expected=f"one of {', '.join(cpu_choices())}")
        if not 1 <= period_ms <= 60_000:
            raise KitError(f"period_ms={period_ms}", where="Meter", expected="1 to 60000 ms")
        self.out = Path(out).absolute()  # the program may change its folder
        self._resume = resume
        self._session: MeterSession | None = None
        self._attempts: dict[str, int] = {}
        self._config = MeterConfig(
            period_us=period_ms * 1000,
            boundary_mode=boundary,
            devices=None if devices is None else tuple(str(device) for device in devices),
            cpu=cpu,
            sources=tuple(sources),
            include_self=True,
        )
        self._info: dict[str, Any] = {
            "name": name or Path(out).name or "meter",
            "method": method,
            "labels": tuple(labels),
            "reference_tokens": reference_tokens,
            "region": region,
            "pue": pue,
            "pipeline": {"source": "python API"},
        }
        self._events_file = os.environ.get("KIT_EVENTS")

    def _file_sink(self) -> _FileSink:
        assert self._events_file is not None
        return _FileSink(self._events_file)

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
        self._session = MeterSession(self.out, info, self._config, warn=_warn)

    def stage(self, name: str, kind: str | None = None) -> StageContext:
        """A stage as a `with` block.

        Args:
            name: Its name.
            kind: A stage kind of the protocol, or one of your own such as `x-quantize`; `name` by default.

        Raises:
            KitError: `kind` is not a stage kind.
        """
        return StageContext(self, name, load_protocol().check_kind(kind or name, f"stage {name!r}"))

    def summary(self) -> list[StageEnergy]:
        """What each stage that has ended used, and what lies between them (`unattributed`).

        Until the meter is closed these are the stages since it was started, then those of the whole run.
        Empty under `kit audit`, whose log has them.
        """
        return [_stage_energy(row) for row in self._rows()]

    def _rows(self) -> list[dict[str, Any]]:
        if self._session is not None:
            from harness.bundle.seal import rows_so_far

            return rows_so_far(self.out)
        if self._events_file is not None:
            return []
        from harness.bundle.reader import Bundle

        rows: list[dict[str, Any]] = Bundle.open(self.out).table("stages").to_pylist()
        return rows

    def _energy_of(self, uid: int, name: str) -> StageEnergy:
        for row in self._rows():
            if row["stage_uid"] == uid:
                return _stage_energy(row)
        raise KitError(
            "its energy is known once it has ended",
            where=f"stage {name!r}",
            fix="read stage.energy after the with block",
        )

    def close(self, status: str = "complete") -> Path | None:
        """Stop metering and seal the bundle; returns the run folder (None under `kit audit` or in a fork)."""
        session, self._session = self._session, None
        if session is None or not session.owned():
            return None
        if session.stage is not None:
            session.end("interrupted")
            status = "partial"
        session.close(status)
        from harness.bundle.seal import seal

        return seal(self.out)


def synchronize_devices(quiet: bool = False) -> None:
    """Wait for queued device work, if torch is loaded and has used a device; never loads torch itself.

    Args:
        quiet: Whether an error of the device is swallowed: at the end of a stage that failed anyway, its own
            error is the one to see.
    """
    torch = sys.modules.get("torch")
    if torch is None:
        return
    try:
        if torch.cuda.is_available() and torch.cuda.is_initialized():
            for device in range(torch.cuda.device_count()):
                # Synchronising a device that was never used would create a context on it, which costs power.
                if device == torch.cuda.current_device() or torch.cuda.memory_reserved(device) > 0:
                    torch.cuda.synchronize(device)
        for backend in ("mps", "xpu"):
            module = getattr(torch, backend, None)
            if module is not None and module.is_available():
                module.synchronize()
    except RuntimeError:
        if not quiet:
            raise


def _warn(text: str) -> None:
    print(f"kit: {text}", file=sys.stderr)
