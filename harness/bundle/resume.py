"""Going on with a run that stopped: what it had done, and where its numbering continues."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Any, NamedTuple

from harness.bundle import commit
from harness.bundle.canonical import canonical_json
from harness.errors import KitError
from harness.journal.reading import journal_files


class FinishedStage(NamedTuple):
    """A completed stage of an earlier session: its command's digest and the artifacts it read and left."""

    stage_uid: int
    command_sha256: str | None
    produces: frozenset[str] = frozenset()
    consumes: frozenset[str] = frozenset()


class RunState(NamedTuple):
    """Where a run stands.

    Attributes:
        said: What the pipeline file said of the run beside its stages.
        kinds: stage name -> its kind.
        counts: stage name -> the token counts that the pipeline file declared.
        attempts: stage name -> highest attempt so far.
        finished: stage name -> its last attempt, if that completed.
        period_us: How it was sampled.
    """

    run_id: str
    name: str
    said: dict[str, Any]
    kinds: dict[str, str]
    counts: dict[str, dict[str, int]]
    period_us: int
    next_session: int
    next_stage_uid: int
    attempts: dict[str, int]
    finished: dict[str, FinishedStage]


def holds_run(run_dir: Path) -> bool:
    """Whether a folder holds a bundle or journals."""
    return (run_dir / "manifest.json").exists() or bool(journal_files(run_dir))


def refuse_existing(run_dir: Path, how_to_resume: str | None) -> None:
    """Raise when `run_dir` holds a run already.

    Args:
        run_dir: Folder of a new run.
        how_to_resume: What to do to go on with a run; None where that cannot be done.

    Raises:
        KitError: It does; the message names the ways out.
    """
    if holds_run(run_dir):
        raise KitError(
            "holds a run already",
            where=str(run_dir),
            expected="a new folder",
            fix="choose another folder"
            + (f", or go on with this run: {how_to_resume}" if how_to_resume else ""),
        )


def continue_run(run_dir: Path) -> RunState | None:
    """Seal what an interrupted run left, and say where it stands; None when the folder holds no run.

    Raises:
        KitError: The run in the folder is damaged.
    """
    if not holds_run(run_dir):
        return None
    from harness.accounting import UNATTRIBUTED
    from harness.accounting.totals import roots
    from harness.bundle.reader import Bundle
    from harness.bundle.seal import recover

    recover(run_dir)
    bundle = Bundle.open(run_dir)
    columns = ["stage_uid", "name", "stage", "attempt", "status", "command_sha256", "produces", "consumes"]
    columns.append("parent_uid")
    rows = [row for row in bundle.table("stages", columns).to_pylist() if row["stage"] != UNATTRIBUTED]
    attempts: dict[str, int] = {}
    finished: dict[str, FinishedStage] = {}
    for row in sorted(roots(rows), key=lambda row: row["stage_uid"]):
        attempts[row["name"]] = max(attempts.get(row["name"], 0), row["attempt"])
        finished.pop(row["name"], None)
        if row["status"] == "completed":
            finished[row["name"]] = FinishedStage(
                row["stage_uid"],
                row["command_sha256"],
                frozenset(row["produces"]),
                frozenset(row["consumes"]),
            )
    sampling, pipeline = bundle.manifest["sampling"], bundle.manifest["pipeline"]
    sessions = [int(entry["session"]) for entry in sampling["sessions"]]
    return RunState(
        run_id=bundle.manifest["run_id"],
        name=bundle.manifest["name"],
        said={name: bundle.manifest[name] for name in ("method", "reference_tokens", "labels")}
        | bundle.manifest["factors"],
        kinds={row["name"]: row["stage"] for row in roots(rows)},
        counts={stage["name"]: stage.get("tokens") or {} for stage in pipeline.get("stages", [])},
        period_us=int(sampling["nominal_period_us"]),
        next_session=max(sessions, default=-1) + 1,
        next_stage_uid=max((row["stage_uid"] for row in rows), default=-1) + 1,
        attempts=attempts,
        finished=finished,
    )


def mark_complete(run_dir: Path, finished: Collection[str]) -> None:
    """Call a recovered run complete: its owner was killed when only the seal was left to do.

    Args:
        run_dir: A sealed run.
        finished: Names of the stages whose last attempt completed; nothing is done if one is missing.
    """
    from harness.bundle.reader import Bundle

    manifest = Bundle.open(run_dir).manifest
    wanted = {stage["name"] for stage in manifest["pipeline"].get("stages", [])}
    if manifest["status"] == "recovered" and wanted <= set(finished):
        commit.decide(run_dir, canonical_json({**manifest, "status": "complete"}))
        commit.finish_commit(run_dir)
