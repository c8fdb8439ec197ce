"""Runs what a target needs and does not have yet: the shared run, then cell after cell, each a bundle."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness import __version__
from harness.audit.forks import Forks
from harness.audit.plan import RunPlan, load_plan
from harness.audit.runner import RunProgress, run_plan
from harness.bundle import Bundle
from harness.bundle.resume import holds_run
from harness.errors import KitError
from harness.experiments.grid import Cell, Target, cells_of
from harness.experiments.lineage import origins_of
from harness.experiments.pipelines import SHARED, Layout, shared_stages, write_cell, write_shared
from harness.experiments.profile import Profile

CLAIM = "reproduction.json"
"""Says in the output folder which profile its runs belong to."""

_NO_SETTING = {"estimate", "summary", "deviations", "fork_stages"}
"""What a profile says beside settings that decide a result."""


@dataclass(frozen=True)
class Request:
    """What to reproduce.

    Attributes:
        name: Name of the target.
        target: The target.
        profile: The profile.
        out: Output folder; what is there and complete is kept.
        sizes: Only these sizes; all if empty.
        cpu: How CPU energy is measured, as in `MeterConfig`.
    """

    name: str
    target: Target
    profile: Profile
    out: Path
    sizes: tuple[str, ...] = ()
    cpu: str = "auto"

    @property
    def cells(self) -> list[Cell]:
        """Cells to run, in order."""
        cells = [c for c in cells_of(self.target) if not self.sizes or c.size in self.sizes]
        if not cells:
            raise KitError(f"target {self.name} has no cell of size {', '.join(self.sizes)}")
        return cells


@dataclass(frozen=True)
class ReproductionEnd:
    """What came of it: exit code and the run that stopped it, None when everything completed."""

    exit_code: int
    stopped_at: str | None = None


Display = Callable[[RunPlan], Any]
"""Makes the context manager that shows a run; it yields a `RunProgress`."""


def layout_of(request: Request) -> Layout:
    """Where everything is; refuses to start without what must have been fetched.

    Raises:
        KitError: An asset is missing; the message names the command that fetches it.
    """
    from harness.fetch.lockfile import load_lock
    from harness.fetch.require import require_target

    if request.profile.kind == "generated":
        return Layout(request.out.absolute(), {})
    lock = load_lock()
    assets = require_target(request.name, request.profile.name, lock=lock)
    revisions = {
        name: asset.revision for name, asset in lock.needed_by(request.name, request.profile.name).items()
    }
    return Layout(request.out.absolute(), assets, revisions)


def completed_runs(request: Request) -> set[str]:
    """Names of the runs in the output folder that need no more work, as far as their logs say."""
    root = Layout(request.out.absolute(), {})
    done = set()
    wanted = {cell.name: {"student_train", "evaluate"} for cell in request.cells}
    wanted[SHARED] = {*shared_stages(request.cells), "evaluate-teacher"}
    for run, stages in wanted.items():
        if (root.run(run) / "manifest.json").exists():
            rows = Bundle.open(root.run(run)).table("stages", ["name", "status"]).to_pylist()
            if stages <= {row["name"] for row in rows if row["status"] == "completed"}:
                done.add(run)
    return done


def claim(request: Request) -> None:
    """Take the output folder for this profile, or refuse one that belongs to another.

    Raises:
        KitError: The folder holds runs of other settings, or cannot be written.
    """
    path = request.out / CLAIM
    settings = request.profile.model_dump(mode="json", exclude=_NO_SETTING)
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()
    mine = {"profile": request.profile.name, "settings_sha256": digest, "kit_version": __version__}
    try:
        if not path.exists():
            request.out.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(mine, indent=2, sort_keys=True) + "\n", encoding="utf-8")
            return
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise KitError(f"cannot be used: {error}", where=str(path)) from None
    if not isinstance(found, dict) or found.get("settings_sha256") != digest:
        was = found.get("profile") if isinstance(found, dict) else "something else"
        raise KitError(
            f"this folder holds a reproduction with other settings (profile {was})",
            where=str(request.out),
            expected=f"a new folder, or one begun with profile {request.profile.name} as it is now",
            fix="choose another folder with --out",
        )


def run_all(request: Request, layout: Layout, display: Display) -> ReproductionEnd:
    """Run everything that is missing, one run after another; a rerun goes on where the last one stopped.

    Args:
        request: What to reproduce.
        layout: From `layout_of`.
        display: Shows a run.

    Raises:
        KitError: A run cannot be planned or begun.
    """
    claim(request)
    with Forks("harness.evaluation.preload", ("harness.distill", "harness.evaluation")) as forks:
        runs = _Runs(request, layout, display, forks if request.profile.fork_stages else None)
        shared = runs.run(SHARED, write_shared(request.profile, request.cells, layout), {})
        if shared.exit_code:
            return shared
        origins = origins_of(layout.run(SHARED), shared_stages(request.cells))
        reference = reference_tokens(request.profile, layout)
        for cell in request.cells:
            outcome = runs.run(cell.name, write_cell(request.profile, cell, layout, reference), origins)
            if outcome.exit_code:
                return outcome
    return ReproductionEnd(0)


def reference_tokens(profile: Profile, layout: Layout) -> int:
    """The declared denominator: the profile's, or the label tokens of the training split.

    Raises:
        KitError: The data set is not there.
    """
    if profile.reference_tokens is not None:
        return profile.reference_tokens
    path = layout.product(SHARED, "dataset/meta.json")
    try:
        meta = json.loads(path.read_text(encoding="utf-8"))
        return int(meta["label_tokens"]["train"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise KitError(f"cannot be read: {error}", where=str(path)) from None


@dataclass(frozen=True)
class _Runs:
    request: Request
    layout: Layout
    display: Display
    forks: Forks | None

    def run(self, name: str, path: Path, origins: dict[str, Any]) -> ReproductionEnd:
        plan = load_plan(path, run_dir=self.layout.run(name))
        with self.display(plan) as shown:
            progress: RunProgress = shown
            result = run_plan(
                plan,
                progress,
                resume_run=holds_run(plan.out_dir),
                cpu=self.request.cpu,
                origins=origins,
                forks=self.forks,
            )
        return ReproductionEnd(result.exit_code, name if result.exit_code else None)


def plan_lines(request: Request, done: Sequence[str] | set[str]) -> list[str]:
    """For `--dry-run`: every run with its stages and whether it is there already."""
    stages = list(shared_stages(request.cells))
    if request.profile.kind == "generated":
        stages = ["models", "teacher-data", "teacher-train", *stages]
    lines = [_line(SHARED, [*stages, "evaluate-teacher"], done)]
    return lines + [_line(cell.name, ["student_train", "evaluate"], done) for cell in request.cells]


def _line(run: str, stages: Sequence[str], done: Sequence[str] | set[str]) -> str:
    return f"{run}: {'complete' if run in done else ', '.join(stages)}"
