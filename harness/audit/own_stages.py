"""Stages of the runner itself: the waits of the idle baseline, and the start of what stages fork from."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Literal

from harness.audit.attempt import RunContext, StageLogs, StageResult, environment
from harness.audit.output import tail
from harness.audit.plan import PlannedStage
from harness.bundle.privacy import scrub
from harness.errors import KitError

IDLE = "idle"
IDLE_NAMES = ("idle_before", "idle_after")
"""Names of the two waits; a stage of one's own may not have them."""
IMPORTS = "imports"
"""Name of the start; its kind is `prerun`, which no pipeline is charged for."""

_LOOK_S = 0.25
_TAIL_LINES = 5


def wait_idle(run: RunContext, when: Literal["before", "after"], number: int) -> bool:
    """Wait with nothing running but the meter (2.6), if the pipeline asks for it.

    Returns:
        Whether the run may go on: False when it was stopped while waiting.
    """
    plan = run.plan
    waits = plan.settings.idle_baseline
    seconds = waits.before if when == "before" else waits.after
    if not seconds or not plan.stages:
        return True
    place = plan.stages[0] if when == "before" else plan.stages[-1]
    index = -1 if when == "before" else place.index + 1
    name = IDLE_NAMES[when == "after"]
    shown = replace(place, name=name, kind=IDLE, argv=(), index=index, inputs={}, outputs={}, tokens={})
    run.progress.started(shown, number, StageLogs.of(plan.out_dir, name, number))
    run.session.begin(name, IDLE, attempt=number)
    until = time.monotonic() + seconds
    while (left := until - time.monotonic()) > 0 and run.stop() is None:
        time.sleep(min(left, _LOOK_S))
        run.progress.watching(shown, run.live.look())
    status = "completed" if run.stop() is None else "interrupted"
    run.progress.ended(shown, StageResult(status, None, run.session.end(status) / 1e6))
    return status == "completed"


def import_ahead(run: RunContext, stage: PlannedStage, number: int) -> bool:
    """Start what a stage can be forked from, if that is due: its joules are in the log.

    Returns:
        Whether a start was tried; if it failed, no stage is forked.

    Raises:
        KitError: The folder of the logs cannot be made.
    """
    plan, forks, session = run.plan, run.forks, run.session
    if forks is None or any(other.name == IMPORTS for other in plan.stages):
        return False
    if not forks.needs_start(stage.argv, stage.cwd):
        return False
    logs = StageLogs.of(plan.out_dir, IMPORTS, number)
    # It has no place in the plan: it stands before the first.
    shown = replace(stage, name=IMPORTS, kind="prerun", index=-1, inputs={}, outputs={}, timeout_s=None)
    try:
        logs.err.parent.mkdir(exist_ok=True)
        stderr = logs.err.open("ab")
    except OSError as error:
        raise KitError(f"cannot be written: {error.strerror}", where=str(logs.err)) from None
    run.progress.started(shown, number, logs)
    session.begin(IMPORTS, "prerun", attempt=number)
    env = environment(plan, stage, logs)
    with stderr:
        problem = forks.start(stage.argv, stage.cwd, env, stderr, stopped=lambda: run.stop() is not None)
    session.cut()
    status = "completed" if problem is None else "failed" if run.stop() is None else "interrupted"
    if problem is not None:
        session.event("x-not_forked", "warning", reason=scrub(problem))
    seconds = session.end(status) / 1e6
    reason = None if problem is None else f"{problem}; no stage is forked"
    lines = () if problem is None else tuple(tail(logs.err, _TAIL_LINES))
    run.progress.ended(shown, StageResult(status, None, seconds, {}, reason, lines))
    return True
