"""README's two commands from nothing: minutes and megabytes of each, in a fresh checkout without any cache.

    python scripts/cold_start.py [--folder FOLDER] [--commands audit-example,demo]

Clones this checkout's HEAD into an empty folder, with a home of its own, so that neither .venv nor pip's
cache nor a model of this machine is used; the package index is the machine's (pip's settings). Needs git,
Python and make. Prints a Markdown table for README, and the machine it was run on.
"""

from __future__ import annotations

import argparse
import os
import platform
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
KEPT = ("PATH", "LANG", "LC_ALL", "TERM", "SSL_CERT_FILE")
"""Of the environment, with PIP_*: what finds programs and the package index."""


@dataclass(frozen=True)
class Timing:
    """One command: how it ended, its seconds, and by how many bytes its folder and home grew."""

    command: str
    code: int
    seconds: float
    bytes_: int


def size_of(folder: Path) -> int:
    """Bytes on disk below a folder; a file with several names counts once."""
    seen: dict[tuple[int, int], int] = {}
    for path in folder.rglob("*"):
        facts = path.lstat()
        seen[facts.st_dev, facts.st_ino] = facts.st_blocks * 512
    return sum(seen.values())


def measure(targets: list[str], folder: Path) -> list[Timing]:
    """Clone into `folder`, run each target there in turn, stop at the first that fails.

    Raises:
        subprocess.CalledProcessError: The checkout cannot be cloned.
    """
    checkout, home = folder / "kit", folder / "home"
    home.mkdir(parents=True)
    subprocess.run(["git", "clone", "--quiet", "--no-hardlinks", str(ROOT), str(checkout)], check=True)
    kept = {n: value for n, value in os.environ.items() if n in KEPT or n.startswith("PIP_")}
    settings = Path.home() / ".config" / "pip" / "pip.conf"
    if settings.exists():
        kept.setdefault("PIP_CONFIG_FILE", str(settings))
    environment = kept | {"HOME": str(home), "PIP_CACHE_DIR": str(home / "cache")}
    found = []
    for target in targets:
        before, start = size_of(folder), time.monotonic()
        done = subprocess.run(["make", target], cwd=checkout, env=environment, check=False)
        seconds = time.monotonic() - start
        found.append(Timing(f"make {target}", done.returncode, seconds, size_of(folder) - before))
        if done.returncode:
            break
    return found


def table(timings: list[Timing]) -> str:
    """The Markdown table, with the machine below it."""
    rows = ["| from nothing | minutes | MB on disk |", "|---|---|---|"]
    rows += [
        f"| `{t.command}` | {t.seconds / 60:.1f} | {t.bytes_ / 1e6:,.0f} |" for t in timings if not t.code
    ]
    load = os.getloadavg()[2]
    where = f"{os.cpu_count()} cores ({platform.machine()}), Python {platform.python_version()}"
    return "\n".join(
        [
            *rows,
            "",
            f"{where}, load average {load:.1f}, no cache, {time.strftime('%Y-%m-%d', time.gmtime())}.",
        ]
    )


def main() -> int:
    """Measure and print; exit code 1 where a command failed."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--folder", type=Path, help="empty folder to use (default: one that is removed)")
    parser.add_argument("--commands", default="audit-example,demo", help="make targets (%(default)s)")
    given = parser.parse_args()
    if given.folder is not None and given.folder.exists() and any(given.folder.iterdir()):
        print(f"cold_start: {given.folder} is not empty. Next: name another folder", file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory() as own:
        timings = measure(given.commands.split(","), given.folder or Path(own))
    for timing in timings:
        if timing.code:
            print(f"cold_start: {timing.command} ended with {timing.code}", file=sys.stderr)
    print(table(timings))
    return int(any(timing.code for timing in timings))


if __name__ == "__main__":
    raise SystemExit(main())
