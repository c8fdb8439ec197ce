"""Runs and submissions for the tests: rankable, made up, each of its own readings."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from harness.bundle import canonical_json
from harness.cli.main import main
from harness.files import file_digest
from harness.leaderboard.check import check
from harness.leaderboard.entry import Submission
from harness.leaderboard.examined import Examined
from harness.leaderboard.pack import pack
from tests.validate.full_run import full_run, write_full
from tests.validate.tamper import edit_rows


def ranked_run(folder: Path, seed: int = 1, **manifest: Any) -> Path:
    """A run that may be ranked; other seeds draw the same energy with other readings, hours apart."""
    run = full_run(seed=seed)
    shift = 1_000_003 * seed
    run.power["energy_counter_mj"] = run.power["energy_counter_mj"] + shift
    for row in run.counters:
        if row["source"] == "nvml" and row["value"] is not None:
            row["value"] += shift
        elif row["source"] == "rapl":
            row["value"] = (row["value"] + shift) % row["range"]
    run.manifest["created_t_us"] += seed * 3_600_000_000
    run.manifest |= manifest
    write_full(folder, run=run)
    for table in ("evals", "eval_items"):  # a rating that could not be read, or a loss, gives no Q
        edit_rows(folder, table, lambda rows: [row for row in rows if row["benchmark"] == "adding"])
    return folder


def submitted(run: Path, root: Path, lab: str = "acme", **said: Any) -> Path:
    """The submission of a run below `root`/submissions."""
    raw_url = said.pop("raw_url", None)
    return pack(run, root / "submissions", {"lab": lab, **said}, raw_url, None)


def reported(board: Path, number: int, **changes: Any) -> Path:
    """A row of figures that somebody published, without a log."""
    fields: dict[str, Any] = {
        "format": "submission/1", "lab": "table", "id": f"row-{number:03}", "title": f"row {number}",
        "licence": "CC-BY-4.0", "origin": "publication", "method": "kd", "source": "a paper, 2026",
        "stated": {"energy_kwh": 5.0 + number, "quality": 0.5}, "hardware": "1 x H100",
    }  # fmt: skip
    entry = Submission(**{**fields, **changes})
    folder = board / entry.lab / entry.id
    folder.mkdir(parents=True)
    (folder / "submission.json").write_bytes(entry.to_bytes())
    return folder


def edit_entry(folder: Path, change: Callable[[dict[str, Any]], Any], *, relist: bool = False) -> None:
    """Change submission.json; with `relist` its digests become those of the files as they are now."""
    path = folder / "submission.json"
    value = json.loads(path.read_bytes())
    change(value)
    if relist:
        for file in value["files"]:
            if file["url"] is None:
                there = folder / file["path"]
                file |= {"sha256": file_digest(there), "bytes": there.stat().st_size}
    path.write_bytes(canonical_json(value))


def ids(entry: Examined) -> set[str]:
    """Rules that refuse a submission."""
    return {f.id for f in entry.findings if f.severity == "error"}


def only(board: Path, **options: Any) -> Examined:
    """The one submission of a folder, checked."""
    (entry,) = check([board], **options).asked
    return entry


def accepted(board: Path, without: str) -> Path:
    """The submissions as they were before a laboratory came."""
    before = board.parent / "before"
    shutil.copytree(board, before, ignore=lambda folder, names: [n for n in names if n == without])
    return before


def kit(*arguments: str) -> int:
    """Exit code of a command of the kit, in this process."""
    try:
        return main(list(arguments))
    except SystemExit as ended:
        return int(ended.code or 0)
