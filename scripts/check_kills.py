#!/usr/bin/env python3
"""Kill a reproduction with SIGKILL at random moments, run it again each time, and look at what is left.

    python scripts/check_kills.py --out DIR [--kills 10] -- table2 --profile pocket

What follows `--` goes to `kit reproduce`. Each time its whole process group is killed: the runner, the
meter and what stages are forked from, all at once. Stages are sessions of their own; they must be gone soon
after. The last run is left alone. Then every bundle must be complete and valid, hold the energy of every
attempt that was begun, and the totals of table 2 must be the sum over all attempts. Whether losses, tokens,
weights and answers are those of an undisturbed run, scripts/check_repeat.py says.

Exit code 0: all of that holds; 1: something does not; 2: usage.
"""

from __future__ import annotations

import argparse
import csv
import math
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import psutil

from harness.accounting.totals import roots, row_energy
from harness.bundle import Bundle
from harness.experiments.grid import main_cells
from harness.experiments.lineage import stage_rows
from harness.experiments.pipelines import charged_stages
from harness.meter.process_tree import lives
from harness.validate import validate

_GONE_WITHIN_S = 15.0
_LOST_US = 1_000_000
"""What SIGKILL to meter and runner at once may cost: an attempt shorter than that has no energy, not 0 J."""


def begin(arguments: Sequence[str], out: Path, log: Path) -> subprocess.Popen[bytes]:
    """Start `kit reproduce` as the leader of a process group of its own."""
    words = [sys.executable, "-m", "harness.cli.main", "reproduce", *arguments, "--yes", "--out", str(out)]
    with log.open("ab") as stream:
        return subprocess.Popen(words, stdout=stream, stderr=stream, start_new_session=True)


def kill(process: subprocess.Popen[bytes]) -> None:
    """SIGKILL to the whole group."""
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def await_end_of(stages: Sequence[int]) -> float:
    """Seconds until processes have ended; infinity if they do not."""
    begun = time.monotonic()
    while any(map(lives, stages)):
        if time.monotonic() - begun > _GONE_WITHIN_S:
            return math.inf
        time.sleep(0.05)
    return time.monotonic() - begun


def look(out: Path) -> list[str]:
    """What is wrong with the bundles and the table; empty if nothing."""
    wrong: list[str] = []
    runs = sorted(path for path in (out / "runs").iterdir() if path.is_dir())
    attempts: dict[str, int] = {}
    for run in runs:
        errors = [finding for finding in validate(run).findings if finding.severity == "error"]
        wrong += [f"{run.name}: {finding.id} {finding.observed}" for finding in errors]
        if Bundle.open(run).manifest["status"] != "complete":
            wrong.append(f"{run.name}: not complete")
        rows = stage_rows(run)
        for row in rows:
            status = str(row["status"])
            attempts[status] = attempts.get(status, 0) + (row["stage"] != "unattributed")
            if row_energy(row) is None and row["stage"] != "unattributed":
                lasted_us = int(row["mono_end_us"]) - int(row["mono_start_us"])
                said = f"{run.name}: no energy of {row['name']}, attempt {row['attempt']} ({status})"
                if lasted_us < _LOST_US:
                    print(f"{said}: killed after {lasted_us / 1e6:.2f} s, before a reading was on disk")
                else:
                    wrong.append(said)
        sessions = {row["session"] for row in rows}
        print(f"{run.name}: {len(sessions)} sessions, {len(rows)} rows of stages")
    print(f"attempts: {', '.join(f'{count} {status}' for status, count in sorted(attempts.items()))}")
    return wrong + _totals(out)


def _totals(out: Path) -> list[str]:
    """Whether table 2 charges every attempt."""
    wrong = []
    rows = list(csv.DictReader((out / "tables/table2.csv").open(newline="")))
    said = {(row["regime"], row["size"]): float(row["energy_j"]) for row in rows}
    shared = stage_rows(out / "runs/shared")
    for cell in main_cells():
        if (cell.regime, cell.size) not in said:
            continue
        names = {name for group in charged_stages(cell).values() for name in group}
        charged = [row for row in shared if row["name"] in names]
        charged += [
            row
            for row in stage_rows(out / "runs" / cell.name)
            if row["name"] in ("student_train", "evaluate", "judge")
        ]
        energies = [row_energy(row) for row in roots(charged)]
        total = math.fsum(energy.best for energy in energies if energy is not None)
        failed = sum(row["status"] != "completed" for row in charged)
        print(f"{cell.name}: {total:.1f} J over {len(charged)} attempts, {failed} of them lost")
        if not math.isclose(total, said[cell.regime, cell.size], rel_tol=1e-9):
            wrong.append(
                f"{cell.name}: table 2 says {said[cell.regime, cell.size]} J, its attempts {total} J"
            )
    return wrong


def main() -> int:
    """Entry point."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--longest", type=float, default=25.0, help="most seconds before a kill")
    parser.add_argument("arguments", nargs="+", help="of kit reproduce, such as table2 --profile pocket")
    given = parser.parse_args()
    chance = random.Random(given.seed)
    given.out.parent.mkdir(parents=True, exist_ok=True)
    log = given.out.with_suffix(".log")
    wrong: list[str] = []
    kills = 0
    while True:
        process = begin(given.arguments, given.out, log)
        try:
            moment_s = chance.uniform(1.0, given.longest) if kills < given.kills else None
            code = process.wait(moment_s)
        except subprocess.TimeoutExpired:
            below = [child.pid for child in psutil.Process(process.pid).children(recursive=True)]
            kill(process)
            kills += 1
            took_s = await_end_of(below)
            print(
                f"kill {kills} after {moment_s:.1f} s: {len(below)} processes below it gone in {took_s:.1f} s"
            )
            if math.isinf(took_s):
                wrong.append(f"kill {kills}: a process outlived it")
            continue
        print(f"ended by itself with {code}")
        if code:
            wrong.append(f"a run ended with {code}, see {log}")
        break
    if kills < given.kills:
        wrong.append(f"complete after {kills} kills: not all of them came in time")
    wrong += look(given.out)
    print("\n".join(wrong) or "everything holds")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
