"""A small valid run for the tests of the rules, and what fires on it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from harness.validate import validate
from harness.validate.findings import Finding
from tests.accounting.synthetic import Run, Stage, make_run

STAGES = (
    Stage("prepare", "preprocess", 2.0, 12.0, 120.0),
    Stage("cache", "teacher_logits", 12.0, 32.0, 650.0, tokens=2_000_000),
    Stage("train", "student_train", 35.3, 75.3, 600.0, tokens=1_000_000),
)


def small_run(**options: Any) -> Run:
    return make_run(STAGES, end_s=80.0, **{"rapl": True, **options})


def fired(folder: Path, **options: Any) -> set[str]:
    """Ids of all findings."""
    return {f.id for f in validate(folder, **{"threads": 1, **options}).findings}


def one(folder: Path, rule_id: str) -> Finding:
    """The finding of a rule that must have fired."""
    found = [f for f in validate(folder, threads=1).findings if f.id == rule_id]
    assert found, f"{rule_id} did not fire: {fired(folder)}"
    return found[0]


def row(rows: list[dict[str, Any]], name: str) -> dict[str, Any]:
    """The row of a stage."""
    return next(r for r in rows if r["name"] == name)
