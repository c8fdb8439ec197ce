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
        KitError: The run in `plan.out_dir` has another name, method or sampling, or a stage of another kind.
    """
    # The manifest holds the name scrubbed.
    if state.name != scrub(plan.name):
        raise KitError(
            f"this folder holds run {state.name!r}, the pipeline file describes {plan.name!r}",
            where=str(plan.out_dir),
            expected=f"a run named {plan.name!r}",
            fix="choose another --out, or resume with the pipeline file that began this run",
        )
    if state.said["method"] != plan.settings.method:
        raise KitError(
            f"the method changed since this run began (it was {state.said['method']})",
            where=str(plan.source),
            expected="the same method in the whole log",
            fix="set it back, or begin a new run with another --out",
        )
    tokens = plan.settings.reference_tokens
    if state.finished and state.said["reference_tokens"] != tokens:
        raise KitError(
            f"reference_tokens changed since this run began (was {state.said['reference_tokens']})",
            where=str(plan.source),
            expected="the same denominator in the whole log",
            fix="set it back, or begin a new run; kit report --reference-tokens N divides by another",
        )
    for stage in plan.stages:
        if (before := state.kinds.get(stage.name, stage.kind)) != stage.kind:
            raise KitError(
                f"stage {stage.name!r} is of kind {stage.kind}, and was {before} when it ran",
                where=str(plan.source),
                expected="a stage of one kind in the whole log",
                fix="set it back, give the stage another name, or begin a new run with another --out",
            )
    period_us = round(plan.settings.sampling.period_ms * 1000)
    if state.period_us != period_us:
        raise KitError(
            f"the sampling changed since this run began (it was period_ms: {state.period_us / 1000:g})",
            where=str(plan.source),
            expected="the same sampling in the whole log",
            fix="set it back, or begin a new run with another --out",
        )


def kept_as_it_was(plan: RunPlan, state: RunState) -> str | None:
    """For a run with nothing left to run: what of the pipeline file changed and is not taken, in words."""
    given = plan.settings
    now = {"region": given.region, "pue": given.pue}
    changed = [name for name, value in now.items() if value != state.said[name]]
    changed += ["labels"] if {*map(scrub, given.labels or ())} - {*state.said["labels"]} else []
    if not changed:
        return None
    return f"the log keeps what it had, the pipeline file now says otherwise: {', '.join(changed)}"


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
                same = state is None or state.counts.get(stage.name, {}) == dict(stage.tokens)
                chooser.skipped(
                    stage,
                    "completed earlier" if same else "completed earlier, with other `tokens`: those stay",
                )
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
