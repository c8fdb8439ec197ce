"""README's two commands from nothing: minutes and megabytes of each, in a fresh checkout without any cache.

    python scripts/cold_start.py                        # with this machine's Python and make
    python scripts/cold_start.py --container --record   # in a container with Debian's Python and make alone

Clones this checkout's HEAD into an empty folder, with a home of its own, so that neither .venv nor pip's
cache nor a model of this machine is used; the package index is the machine's (pip's settings). Needs git and
du, and --container what `make image-test` needs (root, Debian or Ubuntu). Prints a Markdown table, and where
it was run. --record keeps both as artifacts/evidence/cold_start.json, from which README and docs have them:
python scripts/verify_claims.py --write. Exit code 1 where a command failed.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import image_test
from claims_pages import COLD_START
from image_engine import Skipped

ROOT = Path(__file__).resolve().parents[1]
TARGETS = ("audit-example", "demo")
KEPT = ("LANG", "LC_ALL", "TERM", "SSL_CERT_FILE")
"""Of the environment, with PIP_*: what finds the package index."""
PACKAGES = ("make", "python3-venv")
"""What the container has beside Debian's smallest system and certificates."""

Run = Callable[..., "subprocess.CompletedProcess[str]"]
"""Runs words in the checkout."""


def bytes_of(folder: Path) -> int:
    """Bytes on disk below a folder; a file with several names counts once."""
    done = subprocess.run(["du", "-s", "-B1", folder], check=True, capture_output=True, text=True)
    return int(done.stdout.split()[0])


def settings() -> tuple[dict[str, str], list[Path]]:
    """What tells pip where the package index is: environment, and files that it names."""
    own = Path.home() / ".config" / "pip" / "pip.conf"
    found = {n: value for n, value in os.environ.items() if n in KEPT or n.startswith("PIP_")}
    return ({"PIP_CONFIG_FILE": str(own)} | found, [own]) if own.exists() else (found, [])


def on_this_machine(checkout: Path, environment: dict[str, str]) -> Run:
    """Commands with this machine's programs."""
    own = environment | {"PATH": os.environ["PATH"]}

    def run(*words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(words, cwd=checkout, env=own, stdout=sys.stderr, text=True, check=False)

    return run


def in_a_container(
    checkout: Path, environment: dict[str, str], mounts: list[Path], stack: ExitStack, work: Path
) -> Run:
    """Commands in containers of a Debian that has make and Python, and of ours the checkout alone.

    Raises:
        Skipped: No engine runs here, or no base can be made.
    """
    image_test.install(image_test.BASE_TOOLS)
    engine = image_test.start_engine("auto", work, work / "no-nvml", stack)
    image_test.make_base(work / "base.tar", PACKAGES)
    base = engine.import_base(work / "base.tar")
    words = [*engine.cli, "run", "--rm", *engine.run_options, "--network", "host", "--workdir", str(checkout)]
    words += ["--volume", f"{checkout.parent}:{checkout.parent}"]
    words += [word for path in mounts for word in ("--volume", f"{path}:{path}:ro")]
    words += [word for name, value in environment.items() for word in ("--env", f"{name}={value}")]

    def run(*command: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([*words, base, *command], stdout=sys.stderr, text=True, check=False)

    return run


def timed(run: Run, folder: Path, target: str) -> dict[str, object]:
    """Minutes and megabytes of a target.

    Raises:
        SystemExit: It failed.
    """
    before, start = bytes_of(folder), time.monotonic()
    code = run("make", target).returncode
    minutes, grown = (time.monotonic() - start) / 60, bytes_of(folder) - before
    if code:
        raise SystemExit(f"cold_start: make {target} ended with {code}")
    print(f"| `make {target}` | {minutes:.1f} | {grown / 1e6:,.0f} |", flush=True)
    return {"target": target, "minutes": round(minutes, 2), "megabytes": round(grown / 1e6)}


def main() -> int:
    """Measure, print, keep."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--container", action="store_true", help="in a container with Python and make alone")
    parser.add_argument(
        "--mount", type=Path, action="append", default=[], help="the container sees this too: a local index"
    )
    parser.add_argument("--record", action="store_true", help=f"keep it as {COLD_START.relative_to(ROOT)}")
    given = parser.parse_args()
    environment, files = settings()
    load = os.getloadavg()[1]
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        folder, work = Path(name) / "timed", Path(name) / "engine"
        checkout = folder / "kit"
        work.mkdir()
        environment |= {"HOME": f"{folder}/home", "PIP_CACHE_DIR": f"{folder}/home/cache"}
        subprocess.run(["git", "clone", "--quiet", "--no-hardlinks", str(ROOT), checkout], check=True)
        if given.container:
            run = in_a_container(checkout, environment, [*files, *given.mount], stack, work)
            where = f"in a container of Debian {image_test.SUITE} with {' and '.join(PACKAGES)} alone"
        else:
            run = on_this_machine(checkout, environment)
            where = f"Python {platform.python_version()} of the machine, a home of its own"
        print("| from nothing | minutes | MB on disk |\n|---|---|---|")
        targets = [timed(run, folder, target) for target in TARGETS]
    where += f", {os.cpu_count()} cores ({platform.machine()}) at a load of {load:.1f} before"
    head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, check=True, capture_output=True, text=True)
    record = {"commit": head.stdout.strip(), "date": time.strftime("%Y-%m-%d", time.gmtime())}
    print(f"\n{where}, {record['date']}.")
    if given.record:
        text = json.dumps({**record, "where": where, "targets": targets}, indent=2, sort_keys=True)
        COLD_START.write_text(text + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    try:
        raise SystemExit(main())
    except Skipped as reason:
        raise SystemExit(f"cold_start: {reason}") from None
