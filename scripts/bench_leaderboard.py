"""What the leaderboard costs: one submission of 300 rows, a thousand checked and built, one row changed.

    python scripts/bench_leaderboard.py [--count 1000] [--keep DIR]

Submissions are made up, each of its own readings, and made before anything is timed. "warm" is another
submission in the same process: nothing of it was read before. A command's CPU seconds are those of its
processes together. Prints one figure a line, and beside it what was aimed at.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]


def make(job: tuple[int, str]) -> None:
    """One submission of about 300 rows: two GPUs, three stages, 80 s at 2 Hz."""
    sys.path.insert(0, str(ROOT))
    import numpy as np

    from harness.leaderboard.pack import pack
    from tests.accounting.synthetic import Stage, make_run

    seed, folder = job
    factor = 1 + seed % 97 / 200
    stages = (
        Stage("prepare", "preprocess", 2.0, 12.0, 120.0 * factor),
        Stage("cache", "teacher_logits", 12.0, 32.0, 450.0 * factor, tokens=2_000_000),
        Stage("train", "student_train", 35.3, 75.3, 400.0 * factor, tokens=1_000_000),
    )
    run = make_run(stages, end_s=80.0)
    run.power["power_mw"] = run.power["power_mw"] + np.rint(
        np.random.default_rng(seed).normal(0, 400, run.power["power_mw"].shape)
    ).astype(np.int32)
    run.power["energy_counter_mj"] = run.power["energy_counter_mj"] + 1009 * seed
    for row in run.counters:
        row["value"] += 1009 * seed
    for row in run.stages:
        row["clock_id"] = f"machine {seed}"
    run.manifest |= {"labels": [], "name": f"run {seed}", "reference_tokens": 30_000_000 + seed % 10}
    run.manifest["created_t_us"] += seed
    with tempfile.TemporaryDirectory() as temporary:
        path = run.write(Path(temporary) / "run")
        pack(path, Path(folder), {"lab": f"lab-{seed % 20:02}", "student": f"s{seed % 3}"}, None, None)


def timed(what: str, calls: Sequence[Callable[[], Any]]) -> None:
    """Run calls one after another; print the median of their CPU milliseconds, the least and the most."""
    spent = []
    for call in calls:
        before = time.process_time()
        call()
        spent.append((time.process_time() - before) * 1000)
    spent.sort()
    print(f"{what}: {spent[len(spent) // 2]:.0f} ms CPU ({spent[0]:.0f} to {spent[-1]:.0f})", flush=True)


def kit(*arguments: str, cache: Path) -> None:
    """Run the command in a process of its own; its children's memory and CPU are counted."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    wall = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-m", "harness.cli.main", *arguments],
        cwd=ROOT,
        env={**os.environ, "KIT_CACHE": str(cache)},
        capture_output=True,
        text=True,
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    print(
        f"kit leaderboard {arguments[1]}: exit code {done.returncode}, "
        f"{time.perf_counter() - wall:.1f} s wall, {cpu:.1f} s CPU, "
        f"{after.ru_maxrss / 1024:.0f} MB at most in one process",
        flush=True,
    )
    print("  " + done.stdout.strip().splitlines()[-1] if done.stdout.strip() else done.stderr[-300:])


def main() -> None:
    """Run the bench."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--keep", type=Path, help="folder to keep the submissions and the site in")
    options = parser.parse_args()
    sys.path.insert(0, str(ROOT))
    from harness.leaderboard.examine import examine

    folder = options.keep or Path(tempfile.mkdtemp(prefix="kit-bench-"))
    board, cache = folder / "submissions", folder / "cache"
    if not board.is_dir():
        with ProcessPoolExecutor(os.cpu_count()) as pool:
            list(pool.map(make, [(n, str(board)) for n in range(options.count)], chunksize=4))
    folders = [path for lab in sorted(board.iterdir()) for path in sorted(lab.iterdir())]
    one, others = folders[0], folders[1:12]
    rows = sum(f["rows"] for f in json.loads((one / "bundle/manifest.json").read_bytes())["files"])
    print(f"{len(folders)} submissions; the first has {rows} rows; load {os.getloadavg()[0]:.1f}")
    timed("one submission, the first of a process", [partial(examine, one, threads=1)])
    timed("one submission, warm (aim: 40)", [partial(examine, path, threads=1) for path in others])
    for path in others:
        examine(path, cache=cache, threads=1)
    timed("one submission, cached", [partial(examine, path, cache=cache, threads=1) for path in others])
    shutil.rmtree(cache, ignore_errors=True)
    print("aim for 1,000: at most 60 s and 1 GB on 2 cores; again with one row changed, 3 s")
    kit("leaderboard", "build", str(board), "--out", str(folder / "site"), cache=cache)
    entry = one / "submission.json"
    value = json.loads(entry.read_bytes())
    value["title"] += " again"
    entry.write_text(json.dumps(value))
    kit("leaderboard", "build", str(board), "--out", str(folder / "site"), cache=cache)
    size = sum(p.stat().st_size for p in (folder / "site").iterdir() if p.suffix in (".js", ".html"))
    size += sum(p.stat().st_size for p in (folder / "site" / "assets").iterdir())
    print(f"index and code: {size / 1e6:.2f} MB")
    if options.keep is None:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
