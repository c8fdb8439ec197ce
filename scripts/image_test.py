"""`make image-test`: builds the image with a real container engine and uses it as its users would.

Needs root on Debian or Ubuntu. The base is made here by mmdebstrap; neither a registry nor a GPU is needed.
The engine (dockerd, else podman and buildah) is started here, below a folder that is removed at the end.

What cannot be done on this machine is said in a line `image-test: skipped: <reason>`, with exit code 0, or 1
where `--require` says that it must be done. From the moment an engine runs, everything that goes wrong is a
failure: exit code 1.
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import NoReturn

import image
import image_bundle
import image_checks
import image_examine
from image_checks import Bench
from image_engine import ENGINES, Engine, Skipped

PACKAGES = {
    "docker": {"dockerd": "docker.io", "runc": "runc"},
    "podman": {"podman": "podman", "buildah": "buildah", "runc": "runc"},
}
"""Debian's package of every program that an engine needs."""
BASE_TOOLS = {
    "mmdebstrap": "mmdebstrap",
    "/usr/share/keyrings/debian-archive-keyring.gpg": "debian-archive-keyring",
}
NEEDED_GB = {"cpu": 16, "cuda": 60}
"""Free disk for base, build, image, archive and the second build."""
SUITE = "bookworm"
FAULTS = (AssertionError, OSError, image.BuildError, subprocess.SubprocessError, KeyError, ValueError)
"""Errors of a check that say something of the image."""


@dataclass(frozen=True)
class Outcome:
    """What became of the checks."""

    wanted: int
    """How many were asked for."""
    failed: list[str] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)
    """Those that were not begun, because the time was up."""


def say(text: str) -> None:
    """One line for people, at once."""
    print(f"image-test: {text}", flush=True)


def install(programs: dict[str, str]) -> None:
    """Install the Debian packages of the programs and files that are missing.

    Raises:
        Skipped: They cannot be installed.
    """
    packages = sorted(
        {package for name, package in programs.items() if not (shutil.which(name) or Path(name).exists())}
    )
    if not packages:
        return
    if shutil.which("apt-get") is None:
        raise Skipped(f"{', '.join(packages)} missing, and this is not Debian or Ubuntu")
    say(f"installing {' '.join(packages)}")
    environment = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
    for words in (["update", "-qq"], ["install", "-y", "-qq", "--no-install-recommends", *packages]):
        # Installing starts no daemon: the test starts its own.
        done = subprocess.run(
            ["apt-get", *words],
            env=environment | {"RUNLEVEL": "1"},
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode != 0:
            last = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
            raise Skipped(f"{', '.join(packages)} cannot be installed: {last}")


def make_base(tar: Path, packages: Sequence[str] = ()) -> None:
    """A minimal Debian as an archive, trusting the certificate authorities that this machine was given.

    Where a proxy signs outgoing TLS itself, pip in the build needs them. Such an image is never published.

    Raises:
        Skipped: Debian's archive cannot be reached.
    """
    copy = (
        'find /usr/local/share/ca-certificates -name "*.crt" '
        '-exec cp {} "$1/usr/local/share/ca-certificates/" \\; 2>/dev/null || true'
    )
    included = ",".join(("ca-certificates", *packages))
    command = ["mmdebstrap", "--quiet", "--variant=minbase", f"--include={included}"]
    command += [f"--customize-hook={copy}", '--customize-hook=chroot "$1" update-ca-certificates >/dev/null']
    done = subprocess.run([*command, SUITE, str(tar)], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise Skipped(f"mmdebstrap cannot make a base: {(done.stderr.strip().splitlines() or [''])[-1]}")


def start_engine(wanted: str, work: Path, library: Path, stack: ExitStack) -> Engine:
    """The first engine that runs here; `stack` ends it, also one that was interrupted while it started.

    Raises:
        Skipped: None does; the reasons are named.
    """
    reasons = []
    for name in ENGINES if wanted == "auto" else [wanted]:
        try:
            install(PACKAGES[name])
            engine = ENGINES[name](work / name, library)
            stack.callback(engine.stop)
            engine.start()
        except Skipped as error:
            reasons.append(f"{name}: {error}")
            continue
        say(f"{name} runs" + (f" ({'; '.join(reasons)})" if reasons else ""))
        return engine
    raise Skipped("no container engine runs here: " + "; ".join(reasons))


def check_machine(torch: str) -> None:
    """Refuse early where nothing can be done.

    Raises:
        Skipped: With the reason.
    """
    if sys.platform != "linux" or os.geteuid() != 0:
        raise Skipped("it starts a container engine and so needs Linux and root")
    free = shutil.disk_usage(tempfile.gettempdir()).free
    if free < NEEDED_GB[torch] * 1e9:
        raise Skipped(f"{free / 1e9:.0f} GB free below {tempfile.gettempdir()}, needs {NEEDED_GB[torch]}")


def run_checks(bench: Bench, checks: list[Callable[[Bench], None]], deadline: float) -> Outcome:
    """Run checks one after another until the deadline."""
    failed, left_out = [], []
    for check in checks:
        name, start = check.__name__.replace("_", " "), time.monotonic()
        if start > deadline:
            left_out.append(name)
            say(f"skipped: {name}: the time is up")
            continue
        try:
            check(bench)
        except FAULTS as error:
            failed.append(name)
            say(f"FAILED {name}: {type(error).__name__}: {error}")
        else:
            say(f"ok {name} ({time.monotonic() - start:.1f} s)")
    return Outcome(len(checks), failed, left_out)


def chosen(*, full: bool) -> list[Callable[[Bench], None]]:
    """The checks that were asked for."""
    checks = [*image_examine.EXAMINATIONS, image_bundle.loads_elsewhere, *image_checks.CHECKS]
    return checks + ([image_examine.same_packages_again, image_checks.pocket_table] if full else [])


def test(given: argparse.Namespace, work: Path) -> Outcome:
    """Build and check.

    Raises:
        Skipped: It cannot be done here.
    """
    check_machine(given.torch)
    deadline = time.monotonic() + 60 * given.minutes
    install({"gcc": "gcc", "git": "git"} | (BASE_TOOLS if given.base is None else {}))
    from tests.lab import build_fake_nvml

    library = build_fake_nvml(work / "lab")
    (work / "lab").chmod(0o755)
    with ExitStack() as stack:
        engine = start_engine(given.engine, work, library, stack)
        base = given.base
        if base is None:
            start = time.monotonic()
            make_base(work / "base.tar")
            base = engine.import_base(work / "base.tar")
            (work / "base.tar").unlink()
            say(f"base made from Debian {SUITE} ({time.monotonic() - start:.0f} s)")
        tag = f"localhost/kit-test:{given.torch}"
        try:
            if given.torch == "cpu":
                image.fetch_cpu_wheel(given.python)
        except image.BuildError as error:
            raise Skipped(str(error)) from None
        say(f"building {tag}")
        start = time.monotonic()
        with (work / "build.log").open("w") as log:
            try:
                arguments = image.build(
                    engine.builder,
                    given.torch,
                    [tag],
                    base=base,
                    python=given.python,
                    options=engine.build_options,
                    output=log,
                )
            except image.BuildError as error:
                lines = (work / "build.log").read_text(encoding="utf-8", errors="replace").splitlines()
                say("FAILED build: " + "\n".join([*lines[-30:], str(error)]))
                return Outcome(0, ["build"])
        say(f"built in {time.monotonic() - start:.0f} s")
        image_examine.OUT.mkdir(parents=True, exist_ok=True)
        try:
            image_examine.install_tools()
        except RuntimeError as error:
            say(f"FAILED tools: {error}")
            return Outcome(0, ["tools"])
        bench = Bench(engine, tag, base, work, work / "lab", given.torch, given.python, arguments)
        return run_checks(bench, chosen(full=given.full), deadline)


def end(number: int, frame: FrameType | None) -> NoReturn:
    """Clear up when a time limit from outside ends the test. make passes the signal on a second time."""
    signal.signal(number, signal.SIG_IGN)
    sys.exit(128 + number)


def main() -> int:
    """Parse the command line, test, clear up."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--torch", choices=sorted(image.LOCKS), default="cpu")
    parser.add_argument("--engine", choices=["auto", *ENGINES], default="auto")
    parser.add_argument(
        "--base", metavar="IMAGE", help="a base to pull instead of the one made by mmdebstrap"
    )
    parser.add_argument("--python", default="3.11", help="Python version of the base (default %(default)s)")
    parser.add_argument(
        "--full",
        action="store_true",
        help="build a second time and compare the packages, and make the pocket table 2",
    )
    parser.add_argument("--minutes", type=float, default=240, help="begin no check after this time")
    parser.add_argument(
        "--require", action="store_true", help="what is skipped or left out is a failure: exit code 1"
    )
    given = parser.parse_args()
    sys.path.insert(0, str(image.ROOT))
    signal.signal(signal.SIGTERM, end)
    start = time.monotonic()
    work = Path(tempfile.mkdtemp(prefix="kit-image-test-"))
    work.chmod(0o755)
    try:
        outcome = test(given, work)
    except Skipped as reason:
        say(f"skipped: {reason}")
        return int(given.require)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    minutes = (time.monotonic() - start) / 60
    return conclude(outcome, minutes, required=given.require)


def conclude(outcome: Outcome, minutes: float, *, required: bool) -> int:
    """Say how it ended; returns the exit code."""
    if outcome.left_out:
        done = outcome.wanted - len(outcome.left_out)
        names = ", ".join(outcome.left_out)
        say(f"{done} of {outcome.wanted} checks; left out: {names}")
    if outcome.failed:
        say(f"the image is broken: {', '.join(outcome.failed)} ({minutes:.1f} min)")
        return 1
    if outcome.left_out:
        say(f"nothing failed, but not everything was tried ({minutes:.1f} min)")
        return int(required)
    say(f"the image holds what it promises: {outcome.wanted} checks ({minutes:.1f} min)")
    return 0


if __name__ == "__main__":
    sys.exit(main())
