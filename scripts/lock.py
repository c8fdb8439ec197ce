"""Write requirements/base.lock and requirements/dev.lock: every package pinned, every file's hash listed.

`make lock` runs this. Pins that still satisfy pyproject.toml stay as they are; with UPGRADE=1 all move to the
newest allowed version. One lock serves Python 3.11 to 3.13 (environment markers), with one version a package
wherever that is possible, so that results from two interpreters stay comparable.
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LOCKS = {
    # The build backend is in both: it makes the editable install without a network.
    "base": ("runtime and build backend", ["build"]),
    "dev": ("runtime, build backend, tests, linters and the lock tool", ["build", "test", "lint", "lock"]),
}
COMPILE = [
    "pip",
    "compile",
    "pyproject.toml",
    "--universal",
    "--python-version=3.11",
    "--constraint=requirements/constraints.txt",
    "--fork-strategy=fewest",
    "--generate-hashes",
    "--no-header",
    "--no-emit-index-url",
    "--no-emit-find-links",
    "--quiet",
]


def find_uv() -> str:
    """The uv beside this interpreter (pinned in dev.lock), else the one on PATH.

    Raises:
        SystemExit: There is none.
    """
    beside = Path(sysconfig.get_path("scripts")) / "uv"
    found = str(beside) if beside.exists() else shutil.which("uv")
    if found is None:
        sys.exit("lock: uv not found; run `make setup-dev`, which installs the pinned one into .venv")
    return found


def compile_lock(uv: str, name: str, *, upgrade: bool) -> int:
    """Resolve one lock in place, put its header on top and return the number of pins.

    Args:
        uv: Path of the uv executable.
        name: Key of `LOCKS`.
        upgrade: Ignore the present pins.
    """
    title, extras = LOCKS[name]
    path = ROOT / "requirements" / f"{name}.lock"
    command = [uv, *COMPILE, *(f"--extra={extra}" for extra in extras), "-o", f"requirements/{name}.lock"]
    if name != "base":
        command += ["--constraint", "requirements/base.lock"]
    if upgrade:
        command.append("--upgrade")
    subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
    body = re.sub(r"\A(#[^\n]*\n)+", "", path.read_text(encoding="utf-8"))
    check_clean(path, body)
    header = f"# {title.capitalize()}, for Python 3.11 to 3.13. Written by `make lock`.\n"
    path.write_text(header + body, encoding="utf-8")
    return len(re.findall(r"^[a-z0-9][\w.-]*==", body, flags=re.MULTILINE))


def check_clean(path: Path, body: str) -> None:
    """Refuse a lock that names a host or a path of the machine it was made on.

    Raises:
        SystemExit: It does; the line is quoted.
    """
    for number, line in enumerate(body.splitlines(), start=1):
        if "://" in line or str(ROOT) in line or re.search(r"(?<![\w.])/\w", line) or line.startswith("-"):
            sys.exit(f"lock: {path.name}:{number} names a place instead of a package: {line.strip()}")


def main() -> None:
    """Write both locks, the base first: its pins bind the other."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--upgrade", action="store_true", help="move every pin to the newest allowed version")
    upgrade: bool = parser.parse_args().upgrade
    uv = find_uv()
    for name in LOCKS:
        print(f"lock: requirements/{name}.lock ...", flush=True)
        print(f"lock: requirements/{name}.lock has {compile_lock(uv, name, upgrade=upgrade)} pins")


if __name__ == "__main__":
    main()
