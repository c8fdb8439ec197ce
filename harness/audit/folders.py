"""Where a run goes when nobody says."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from harness.audit.plan import Plan
from harness.bundle.resume import holds_run


def choose_out(plans: Sequence[Plan], *, resume: bool) -> Path:
    """`runs/NAME` while that is free, else `runs/NAME-2` and so on; with `resume` the newest of them that exists.

    A pipeline matrix has one folder per run inside; the first of them tells whether the folder is taken.
    """
    first = plans[0]
    base = first.out_dir if len(plans) == 1 else first.out_dir.parent
    inner = "" if len(plans) == 1 else first.out_dir.name
    number = 1
    newest = base
    candidate = base
    while holds_run(candidate / inner):
        newest = candidate
        number += 1
        candidate = base.with_name(f"{base.name}-{number}")
    return newest if resume else candidate
