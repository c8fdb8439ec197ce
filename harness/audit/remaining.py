"""Which stages of a plan still have to run, and why."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from harness.audit.artifacts import DigestCache
from harness.audit.own_stages import IDLE_NAMES
from harness.audit.plan import PlannedStage, RunPlan
from harness.audit.recorded import CommandDigests
from harness.bundle.privacy import scrub
from harness.bundle.resume import FinishedStage, RunState
from harness.errors import KitError


class Chooser(Protocol):
    """Hears which stages are left out and which earlier results are not good any more."""

    def skipped(self, stage: PlannedStage, why: str) -> None:
        """The stage is left out."""

    def again(self, stage: PlannedStage, why: str) -> None:
        """The stage completed earlier and runs again."""


def check_same_run(plan: RunPlan, state: RunState) -> None:
    """Refuse to go on with a run of another pipeline, or with other sampling: one log has one of each.

    Raises:
        KitError: The run in `plan.out_dir` has another name or sampling.
    """
    # The manifest holds the name scrubbed.
    if state.name != scrub(plan.name):
        raise KitError(
            f"this folder holds run {state.name!r}, the pipeline file describes {plan.name!r}",
            where=str(plan.out_dir),
            expected=f"a run named {plan.name!r}",
            fix="choose another --out, or resume with the pipeline file that began this run",
        )
    period_us = plan.settings.sampling.period_ms * 1000
    if state.period_us != period_us:
        raise KitError(
            f"the sampling changed since this run began (it was period_ms: {state.period_us / 1000:g})",
            where=str(plan.source),
            expected="the same sampling in the whole log",
            fix="set it back, or begin a new run with another --out",
        )


class RemainingStages:
    """The stages to run, in order, and how many attempts each has behind it.

    Attributes:
        done: Whether nothing is left, not even the wait after the last stage.
    """

    def __init__(
        self, plan: RunPlan, state: RunState | None, chooser: Chooser, commands: CommandDigests
    ) -> None:
        self.commands = commands
        self.digests = DigestCache(plan.out_dir / "cache" / "digests.json")
        self.attempts = dict(state.attempts) if state else {}
        self.stages: list[PlannedStage] = []
        redone: set[str] = set()
        for stage in plan.stages:
            done = state.finished.get(stage.name) if state else None
            if done is None:
                self.stages.append(stage)
                redone.add(stage.name)
                continue
            makers = {maker for names in stage.producers.values() for maker in names}
            why = self._why_again(stage, done, redone & makers)
            if why is None:
                chooser.skipped(stage, "completed earlier")
            else:
                chooser.again(stage, why)
                self.stages.append(stage)
                redone.add(stage.name)
        self.done = not self.stages and (state is None or _waited(plan, state))

    def _why_again(self, stage: PlannedStage, done: FinishedStage, redone: set[str]) -> str | None:
        if redone:
            return f"{', '.join(sorted(redone))} runs again"
        if done.command_sha256 != self.commands.of(stage.fingerprint):
            return "its command, environment or paths changed, or cache/commands.key of the run"
        for path in stage.outputs.values():
            if not path.exists():
                return f"its output {path.name} is missing"
            if self._digest(path) not in done.produces:
                return f"its output {path.name} changed"
        for path in stage.inputs.values():
            if self._digest(path) not in done.consumes:
                return f"its input {path.name} changed"
        return None

    def _digest(self, path: Path) -> str | None:
        try:
            return self.digests.artifact(path).artifact_id
        except KitError:
            return None


def _waited(plan: RunPlan, state: RunState) -> bool:
    """Of a run whose stages are all complete: whether the wait after them, if there is to be one, is too."""
    if not plan.settings.idle_baseline.after or not plan.stages:
        return True
    wait = state.finished.get(IDLE_NAMES[1])
    return wait is not None and all(
        state.finished[stage.name].stage_uid < wait.stage_uid for stage in plan.stages
    )
