"""Runs what a target needs and does not have yet: the shared run, then cell after cell, each a bundle."""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from harness import __version__
from harness.audit.forks import Forks
from harness.audit.plan import RunPlan, load_plan
from harness.audit.runner import RunProgress, run_plan
from harness.bundle import Bundle
from harness.bundle.resume import holds_run
from harness.errors import KitError
from harness.evaluation.suites import suite_named
from harness.experiments.grid import Cell, Target, cells_of
from harness.experiments.lineage import origins_of
from harness.experiments.own_models import own_folders, own_names, revision_of
from harness.experiments.pipelines import (
    SHARED,
    Layout,
    run_stages,
    shared_stages,
    write_cell,
    write_shared,
)
from harness.experiments.profile import Profile
from harness.experiments.teacher import kept_teacher
from harness.fetch.lockfile import Asset, load_lock

CLAIM = "reproduction.json"
"""Says in the output folder which profile its runs belong to."""

_NO_SETTING = {"amounts", "estimate", "summary", "deviations", "fork_stages", "grid", "budget"}
"""What a profile says beside settings that decide a result; grid and budget become settings of stages."""


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
        cells = cells_of(self.target, self.profile.own_grid)
        cells = [c for c in cells if not self.sizes or c.size in self.sizes]
        if not cells:
            raise KitError(f"target {self.name} has no cell of size {', '.join(self.sizes)}")
        return cells

    @property
    def again(self) -> list[Cell]:
        """The grid's first SFT student once more with everything equal, as often as the profile asks, for
        the run-to-run spread."""
        first = next((c for c in self.cells if c.regime == "sft" and c.is_default and not c.seed), None)
        if first is None or not self.target.grid:
            return []
        return [replace(first, again=number + 1) for number in range(self.profile.grid.again)]

    @property
    def runs(self) -> list[Cell]:
        """Every run but the shared one."""
        return [*self.cells, *self.again]


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
    from harness.fetch.require import require_assets

    suite = str(request.profile.settings("evaluate")["suite"])
    if request.profile.kind == "generated":
        suite_named(suite)
        return Layout(request.out.absolute(), {})
    needed = needed_assets(request)
    own = own_folders(own_names(request.profile, load_lock().assets))
    assets = {**require_assets(needed, fetch_command(request)), **own}
    # A draft is refused before hours of training, not after.
    suite_named(suite)
    revisions = {name: asset.revision for name, asset in needed.items()}
    revisions |= {name: commit for name, folder in own.items() if (commit := revision_of(folder))}
    return Layout(request.out.absolute(), assets, revisions)


def needed_assets(request: Request) -> dict[str, Asset]:
    """What the lock of assets names of a profile's models and data."""
    profile = request.profile
    needed = load_lock().needed_by(request.name, profile.lock_profile)
    used = own_names(profile, ()) | ({profile.judge: "model"} if profile.judge else {})
    return {name: asset for name, asset in needed.items() if name in used}


def fetch_command(request: Request) -> str:
    """The command that gets what the lock names."""
    profile = request.profile
    if profile.own:
        return "; ".join(f"kit fetch {name}" for name in needed_assets(request))
    named = "" if profile.lock_profile == "paper" else f" --profile {profile.lock_profile}"
    return f"kit fetch {request.name}{named}"


def completed_runs(request: Request) -> set[str]:
    """Names of the runs in the output folder that need no more work, as far as their logs say."""
    root = Layout(request.out.absolute(), {})
    done = set()
    for run, stages in run_stages(request.profile, request.runs).items():
        if (root.run(run) / "manifest.json").exists():
            rows = Bundle.open(root.run(run)).table("stages", ["name", "status"]).to_pylist()
            if set(stages) <= {row["name"] for row in rows if row["status"] == "completed"}:
                done.add(run)
    return done


def claim(request: Request) -> list[str]:
    """Take the output folder for this profile, or refuse one that belongs to another.

    The folder remembers the settings of each stage by themselves. A stage whose settings changed runs
    again, as `audit` decides from its command, and so does what reads its output; the rest is kept.

    Returns:
        Names of the stages whose settings changed.

    Raises:
        KitError: The folder holds runs of another profile, or of other models, or cannot be written.
    """
    path = request.out / CLAIM
    mine = _claimed(request.profile)
    try:
        found = json.loads(path.read_text(encoding="utf-8")) if path.exists() else mine
        if not isinstance(found, dict) or found.get("settings_sha256") != mine["settings_sha256"]:
            was = found.get("profile") if isinstance(found, dict) else "something else"
            raise KitError(
                f"this folder holds a reproduction of profile {was} with other models or conditions",
                where=str(request.out),
                expected=f"a new folder, or one begun with profile {request.profile.name} as it is now",
                fix="choose another folder with --out",
            )
        request.out.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(mine, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    except (OSError, ValueError) as error:
        raise KitError(f"cannot be used: {error}", where=str(path)) from None
    known = found.get("stages_sha256")
    known = known if isinstance(known, dict) else {}
    return sorted(name for name, digest in mine["stages_sha256"].items() if known.get(name) != digest)


def _claimed(profile: Profile) -> dict[str, Any]:
    settings = profile.model_dump(mode="json", exclude=_NO_SETTING)
    by_stage = settings.pop("stages")
    by_stage |= {name: settings.pop(name) for name in ("students_train", "regimes_train")}
    return {
        "profile": profile.name,
        "settings_sha256": _digest(settings),
        "stages_sha256": {name: _digest(values) for name, values in by_stage.items()},
        "kit_version": __version__,
    }


def _digest(values: Any) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def run_all(request: Request, layout: Layout, display: Display) -> ReproductionEnd:
    """Run everything that is missing, one run after another; a rerun goes on where the last one stopped.

    Args:
        request: What to reproduce.
        layout: From `layout_of`.
        display: Shows a run.

    Raises:
        KitError: A run cannot be planned or begun.
    """
    for name in claim(request):
        print(f"reproduce: the settings of {name} changed; what depends on them runs again", file=sys.stderr)
    with Forks("harness.evaluation.preload", ("harness.distill", "harness.evaluation")) as forks:
        runs = _Runs(request, layout, display, forks if request.profile.fork_stages else None)
        shared = runs.run(SHARED, write_shared(request.profile, request.cells, layout), {})
        if shared.exit_code:
            return shared
        origins = origins_of(layout.run(SHARED), shared_stages(request.cells))
        reference = reference_tokens(request.profile, layout)
        for cell in request.runs:
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
    runs = run_stages(request.profile, request.runs)
    if request.profile.kind == "generated":
        kept = kept_teacher(request.profile) is not None
        made = ["models", *(["teacher-kept"] if kept else ["teacher-data", "teacher-train"])]
        runs[SHARED] = [*made, *runs[SHARED]]
    if request.profile.prerun_idle_s:
        runs[SHARED] = ["prerun", *runs[SHARED]]
    return [_line(run, stages, done) for run, stages in runs.items()]


def _line(run: str, stages: Sequence[str], done: Sequence[str] | set[str]) -> str:
    return f"{run}: {'complete' if run in done else ', '.join(stages)}"
