"""Runs everything that only a real GPU can show (`make gpu-check`): eight minutes, no network.

Needs an interpreter with torch that sees a CUDA device. If that interpreter lacks the kit's own packages,
the check runs in the checkout's environment (.venv) and only the load in the one with torch. Results go
to artifacts/gpu-check/<model>-<driver>.json and .md, written after each section; the last table has what
was predicted beside what was measured.

Exit codes: 0 every expectation holds, 1 one does not, 2 the check cannot run here.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from importlib import util
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
NEEDED = ("numpy", "pyarrow", "yaml", "psutil", "pynvml", "click")
ARTIFACTS = Path("artifacts") / "gpu-check"
REHEARSALS = Path("runs") / "gpu-check-rehearsal"


def arguments(argv: list[str]) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(prog="gpu_check.py", description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "--cpu-rehearsal",
        action="store_true",
        help="run against whatever NVML loads, with work on the CPU; results are labelled rehearsal",
    )
    parser.add_argument(
        "--out", type=Path, help=f"folder for the results (default {ARTIFACTS}, rehearsals {REHEARSALS})"
    )
    parser.add_argument("--scale", type=float, default=1.0, help="factor on every duration (default 1)")
    parser.add_argument(
        "--only", action="append", default=[], metavar="SECTION", help="run only this section"
    )
    parser.add_argument("--load-python", metavar="PYTHON", help="the interpreter that has torch")
    return parser.parse_args(argv)


def cannot(message: str, fix: str) -> int:
    """Say why the check cannot run here."""
    print(f"gpu-check: {message}\n  fix: {fix}", file=sys.stderr)
    return 2


def use_own_environment(argv: list[str]) -> int | None:
    """Go on in .venv when this interpreter lacks the kit's packages; an exit code when that is impossible."""
    lacking = [name for name in NEEDED if util.find_spec(name) is None]
    if not lacking:
        return None
    own = ROOT / ".venv" / "bin" / "python"
    code = f"import {', '.join(NEEDED)}"
    if own.exists() and subprocess.run([own, "-c", code], capture_output=True, check=False).returncode == 0:
        # First, so that one named by the caller counts.
        os.execv(own, [str(own), str(Path(__file__).resolve()), "--load-python", sys.executable, *argv])
    return cannot(
        f"this interpreter lacks {', '.join(lacking)}, and the checkout has no environment of its own",
        "make setup  # once, with a network or the wheels at hand",
    )


def main(argv: list[str] | None = None) -> int:
    """Run the check."""
    given = list(sys.argv[1:] if argv is None else argv)
    options = arguments(given)
    stopped = use_own_environment(given)
    if stopped is not None:
        return stopped
    sys.path.insert(0, str(ROOT))
    from harness.errors import KitError

    try:
        return check(options)
    except KitError as error:
        print(f"gpu-check: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("gpu-check: interrupted", file=sys.stderr)
        return 130


def check(options: argparse.Namespace) -> int:
    """Run the sections and write the result."""
    from harness.doctor.inventory import take_inventory
    from harness.gpucheck.check import Bench, run_check
    from harness.gpucheck.loader import Load, start_torch
    from harness.gpucheck.sections import SECTIONS

    folder = options.out or (REHEARSALS if options.cpu_rehearsal else ARTIFACTS)
    if options.cpu_rehearsal and folder.resolve() == (ROOT / ARTIFACTS).resolve():
        return cannot("a rehearsal is no evidence and does not belong there", "another folder for --out")
    if not 0.01 <= options.scale <= 10.0:
        return cannot(f"--scale {options.scale} is out of range", "a factor from 0.01 to 10")
    nvml = take_inventory()
    if nvml.error is not None or not nvml.selected:
        return cannot(f"there is no GPU to check: {nvml.error or 'none is visible'}", "kit doctor")
    work = Load(sys.executable, "numpy") if options.cpu_rehearsal else start_torch(options.load_python)
    with work as load, tempfile.TemporaryDirectory(prefix="kit-gpu-check-") as temporary:
        bench = Bench(
            folder=Path(temporary),
            load=load,
            rehearsal=options.cpu_rehearsal,
            scale=options.scale,
            say=lambda text: print(f"gpu-check: {text}", flush=True),
            gpus=nvml.selected,
        )
        if options.cpu_rehearsal:
            bench.say("REHEARSAL: the work runs on the CPU; nothing here says anything about a GPU")
        return 1 if run_check(bench, nvml, SECTIONS, options.only, folder) else 0


if __name__ == "__main__":
    sys.exit(main())
