"""README's two commands from nothing: minutes and megabytes of each, in a fresh checkout without any cache.

    python scripts/cold_start.py

Clones this checkout's HEAD into an empty folder, with a home of its own, so that neither .venv nor pip's
cache nor a model of this machine is used; the package index is the machine's (pip's settings). Needs git,
Python, make and du. Prints a Markdown table for README, and the machine it was run on. Exit code 1 where a
command failed.
"""

from __future__ import annotations

import os
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
TARGETS = ("audit-example", "demo")
KEPT = ("PATH", "LANG", "LC_ALL", "TERM", "SSL_CERT_FILE")
"""Of the environment, with PIP_*: what finds programs and the package index."""


def bytes_of(folder: str) -> int:
    """Bytes on disk below a folder; a file with several names counts once."""
    done = subprocess.run(["du", "-s", "-B1", folder], check=True, capture_output=True, text=True)
    return int(done.stdout.split()[0])


def main() -> int:
    """Measure and print."""
    settings = Path.home() / ".config" / "pip" / "pip.conf"
    environment = {"PIP_CONFIG_FILE": str(settings)} if settings.exists() else {}
    environment |= {n: value for n, value in os.environ.items() if n in KEPT or n.startswith("PIP_")}
    with tempfile.TemporaryDirectory() as folder:
        environment |= {"HOME": f"{folder}/home", "PIP_CACHE_DIR": f"{folder}/home/cache"}
        checkout = f"{folder}/kit"
        subprocess.run(["git", "clone", "--quiet", "--no-hardlinks", str(ROOT), checkout], check=True)
        print("| from nothing | minutes | MB on disk |\n|---|---|---|")
        for target in TARGETS:
            before, start = bytes_of(folder), time.monotonic()
            done = subprocess.run(["make", target], cwd=checkout, env=environment, stdout=sys.stderr)
            if done.returncode:
                print(f"cold_start: make {target} ended with {done.returncode}", file=sys.stderr)
                return 1
            minutes, grown = (time.monotonic() - start) / 60, bytes_of(folder) - before
            print(f"| `make {target}` | {minutes:.1f} | {grown / 1e6:,.0f} |", flush=True)
    where = f"{os.cpu_count()} cores ({platform.machine()}), Python {platform.python_version()}"
    today = time.strftime("%Y-%m-%d", time.gmtime())
    print(f"\n{where}, load average {os.getloadavg()[2]:.1f}, no cache, {today}.")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
