"""The idle baseline (2.6): a wait before and one after the stages, measured as stages of kind `idle`."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from typing import Literal

from harness.audit.attempt import StageLogs, StageResult, Watcher
from harness.audit.plan import RunPlan
from harness.meter.session import MeterSession

IDLE = "idle"
NAMES = ("idle_before", "idle_after")
"""Names of the two stages; a stage of one's own may not have them."""

_LOOK_S = 0.25


def wait_idle(
    plan: RunPlan,
    when: Literal["before", "after"],
    number: int,
    session: MeterSession,
    progress: Watcher,
    stop: Callable[[], int | None],
) -> bool:
    """Wait with nothing running but the meter, if the pipeline asks for it.

    Args:
        plan: The run.
        when: Which of the two waits.
        number: Number of the attempt, from 1.
        session: The meter, between two stages.
        progress: Hears what happens.
        stop: The signal to end with, once the run is to stop.

    Returns:
        Whether the run may go on: False when it was stopped while waiting.
    """
    seconds = plan.idle_baseline.before_s if when == "before" else plan.idle_baseline.after_s
    if not seconds or not plan.stages:
        return True
    place = plan.stages[0] if when == "before" else plan.stages[-1]
    index = -1 if when == "before" else place.index + 1
    name = NAMES[when == "after"]
    shown = replace(place, name=name, kind=IDLE, argv=(), index=index, inputs={}, outputs={}, tokens={})
    progress.started(shown, number, StageLogs.of(plan.out_dir, name, number))
    opened = session.begin(name, IDLE, attempt=number)
    until = time.monotonic() + seconds
    while (left := until - time.monotonic()) > 0 and stop() is None:
        time.sleep(min(left, _LOOK_S))
        progress.watching(shown, {}, None)
    status = "completed" if stop() is None else "interrupted"
    end = session.end(status)
    duration_s = (end.mono_us - opened.start.mono_us) / 1e6
    progress.ended(shown, StageResult(status, None, duration_s))
    return status == "completed"
