"""The start of the process that stages are forked from, as a stage of its own: its joules are in the log."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from harness.audit.attempt import StageLogs, StageResult, Watcher, environment
from harness.audit.forks import Forks
from harness.audit.output import tail
from harness.audit.plan import PlannedStage, RunPlan
from harness.bundle.privacy import scrub
from harness.errors import KitError
from harness.meter.clocks import mono_us
from harness.meter.session import MeterSession

IMPORTS = "imports"
"""Name of the stage; its kind is `prerun`, which no pipeline is charged for."""

_TAIL_LINES = 5


def import_ahead(
    forks: Forks,
    plan: RunPlan,
    stage: PlannedStage,
    number: int,
    session: MeterSession,
    progress: Watcher,
    stop: Callable[[], int | None],
) -> bool:
    """Start what a stage can be forked from, if that is due.

    Args:
        forks: Keeps that process.
        plan: The run.
        stage: The stage that comes next.
        number: Number of the attempt, from 1.
        session: The meter, between two stages.
        progress: Hears what happens.
        stop: The signal to end with, once the run is to stop.

    Returns:
        Whether a start was tried; if it failed, no stage is forked.

    Raises:
        KitError: The folder of the logs cannot be made.
    """
    if any(other.name == IMPORTS for other in plan.stages) or not forks.needs_start(stage.argv, stage.cwd):
        return False
    logs = StageLogs.of(plan.out_dir, IMPORTS, number)
    # It has no place in the plan: it stands before the first.
    shown = replace(stage, name=IMPORTS, kind="prerun", index=-1, inputs={}, outputs={}, timeout_s=None)
    try:
        logs.err.parent.mkdir(exist_ok=True)
        stderr = logs.err.open("ab")
    except OSError as error:
        raise KitError(f"cannot be written: {error.strerror}", where=str(logs.err)) from None
    progress.started(shown, number, logs)
    opened = session.begin(IMPORTS, "prerun", attempt=number)
    env = environment(plan, stage, logs)
    with stderr:
        problem = forks.start(stage.argv, stage.cwd, env, stderr, stopped=lambda: stop() is not None)
    ended_us = mono_us()
    session.cut()
    status = "completed" if problem is None else "failed" if stop() is None else "interrupted"
    if problem is not None:
        session.event("x-not_forked", "warning", reason=scrub(problem))
    session.end(status, work_end_us=ended_us)
    seconds = (ended_us - opened.work_start_us) / 1e6
    reason = None if problem is None else f"{problem}; no stage is forked"
    lines = () if problem is None else tuple(tail(logs.err, _TAIL_LINES))
    progress.ended(shown, StageResult(status, None, seconds, {}, reason, lines))
    return True
