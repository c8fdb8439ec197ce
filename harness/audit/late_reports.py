"""Token reports that a killed runner did not live to read.

A stage appends its reports to a file; the runner reads it a few times a second. When both are killed the file
still holds the last reports, and their tokens were processed with energy that is in the log. Before the
journals of such a run are sealed, what the file says beyond them is put into a journal of its own.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from harness.audit.attempt import StageLogs
from harness.audit.reports import parse_report
from harness.errors import KitError
from harness.files import look_at, open_plain
from harness.journal.reading import await_writers, journal_files, read_journals
from harness.journal.records import JournalWriter


def take_late_reports(run_dir: Path) -> None:
    """Write down token counts of stages whose end was never written, where their report files say more.

    Args:
        run_dir: The run folder; left alone where it holds no unsealed journal.

    Raises:
        KitError: The run is still going on.
    """
    if not journal_files(run_dir):
        return
    await_writers(run_dir)
    run = read_journals(run_dir)
    ended = {record["stage_uid"] for record in run.of_type("stage_end")}
    for start in run.of_type("stage_start"):
        if start["stage_uid"] in ended or start.get("parent_uid") is not None:
            continue
        mine = [record for record in run.records if record["session"] == start["session"]]
        known: dict[str, int] = {}
        for record in mine:
            if record["type"] == "stage_tokens" and record["stage_uid"] == start["stage_uid"]:
                known = dict(record["tokens"])
        said = _reported(StageLogs.of(run_dir, start["name"], start["attempt"]).events)
        tokens = {name: max(known.get(name, 0), said.get(name, 0)) for name in {*known, *said}}
        if tokens != known:
            _write(run_dir, start, tokens, mine)


def _reported(path: Path) -> dict[str, int]:
    """Sums over a report file; a line that the kill cut short counts nothing."""
    totals: dict[str, int] = {}
    try:
        look_at(path)
        with open_plain(path) as lines:
            for line in lines:
                for name, count in parse_report(line).tokens.items():
                    totals[name] = totals.get(name, 0) + count
    except (KitError, OSError):
        return totals
    return totals


def _write(run_dir: Path, start: dict[str, Any], tokens: dict[str, int], mine: list[dict[str, Any]]) -> None:
    last = max((record for record in mine if "t_us" in record), key=lambda record: int(record["mono_us"]))
    session = int(start["session"])
    path = run_dir / "journal" / f"{session:03d}-late-{start['stage_uid']}.jnl"
    path.unlink(missing_ok=True)  # torn, or it would have been read
    journal = JournalWriter(path)
    record = {"type": "stage_tokens", "session": session, "stage_uid": start["stage_uid"], "tokens": tokens}
    journal.append_record({**record, "mono_us": last["mono_us"], "t_us": last["t_us"]})
    journal.close()
