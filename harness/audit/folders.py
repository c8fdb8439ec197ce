"""Where a run goes: the folder nobody has named, and the checks before the first file is written."""

from __future__ import annotations

from pathlib import Path

from harness.audit.plan import RunPlan
from harness.bundle.resume import holds_run
from harness.container import check_image, fix_for_unwritable_folder
from harness.errors import KitError

_OWN = frozenset(("journal", "work", "logs", "cache"))
"""What a run folder may hold beside the bundle."""


def choose_out(plan: RunPlan, *, resume: bool) -> Path:
    """`runs/NAME` while that is free, else `runs/NAME-2` and so on; with `resume` the newest with a run."""
    number = 1
    newest = candidate = plan.out_dir
    while _taken(candidate):
        if holds_run(candidate):
            newest = candidate
        number += 1
        candidate = plan.out_dir.with_name(f"{plan.out_dir.name}-{number}")
    return newest if resume else candidate


def _taken(folder: Path) -> bool:
    try:
        return any(folder.iterdir())
    except FileNotFoundError:
        return False
    except OSError:
        return True


def prepare(plan: RunPlan) -> None:
    """Make the run folder and its `work` folder.

    Raises:
        KitError: The folder holds other things, or cannot be made or written; or what was told of the image
            is wrong, which the log would only show as unknown.
    """
    folder = plan.out_dir
    check_image()
    try:
        if not holds_run(folder) and folder.is_dir():
            others = sorted(entry.name for entry in folder.iterdir() if entry.name not in _OWN)
            if others:
                more = ", ..." if len(others) > 3 else ""
                raise KitError(
                    f"the run folder holds other things: {', '.join(others[:3])}{more}",
                    where=str(folder),
                    expected="a new or empty folder",
                    fix=f"--out {folder / plan.name}",
                )
        plan.run_dir.mkdir(parents=True, exist_ok=True)
        probe = folder / "journal" / ".probe"
        probe.parent.mkdir(exist_ok=True)
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise KitError(
            f"the run folder cannot be written: {error.strerror}",
            where=str(error.filename or folder),
            expected="a path for a new folder, in a place that can be written",
            fix=fix_for_unwritable_folder(error, plan.name) or "choose another folder with --out",
        ) from None
