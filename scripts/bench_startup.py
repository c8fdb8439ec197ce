"""CPU time of short commands beside that of `import click`: what a user waits for before anything is done.

    python scripts/bench_startup.py [--repeats 5]

Each figure is the least of some runs, user and system time of the command and its children, s. The ratio to
`import click` hardly depends on the machine and its load; the seconds do. Bytecode is compiled first.
"""

from __future__ import annotations

import argparse
import compileall
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

import harness

KIT = (sys.executable, "-m", "harness.cli.main")


def cpu_s(command: tuple[str, ...], repeats: int) -> float:
    """Least CPU time of a command and its children over some runs, s."""
    found = []
    for _ in range(repeats):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run(command, check=False, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        found.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    return min(found)


def main() -> None:
    """Measure and print one line for each command."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repeats", type=int, default=5)
    repeats = parser.parse_args().repeats
    compileall.compile_dir(str(Path(harness.__file__).parent), quiet=2)
    click = cpu_s((sys.executable, "-c", "import click"), repeats)
    print(f"{'import click':34} {click:6.3f} s")
    with tempfile.TemporaryDirectory() as folder:
        bundle = f"{folder}/run"
        subprocess.run(
            (*KIT, "run", "--cpu", "none", "--out", bundle, "--", "true"), check=True, capture_output=True
        )
        for words in (
            ("--version",),
            ("validate", bundle),
            ("report", bundle),
            ("run", "--cpu", "none", "--", "true"),
        ):
            used = cpu_s((*KIT, *words), repeats)
            name = " ".join("DIR" if word == bundle else word for word in words)
            print(f"kit {name:30} {used:6.3f} s  {used / click:5.1f} x")


if __name__ == "__main__":
    main()
