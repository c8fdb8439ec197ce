"""Metered runs before the lab: programs under `Meter`, pipelines under `kit audit`, and their bundles."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from harness.bundle.reader import Bundle
from tests.lab import LabConfig
from tests.lab.fixtures import lab_environ

CAP_SYS_NICE = 23
_PR_CAPBSET_DROP = 24

# A program with in-process stages: argv[1] is the run folder, argv[2] JSON with the Meter's arguments and the
# stages.
STAGES_PROGRAM = """
import json, sys, time
from harness import Meter

plan = json.loads(sys.argv[2])
def work(seconds, busy):
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        if not busy:
            time.sleep(max(0.0, until - time.monotonic()))

def now():
    return time.monotonic_ns() // 1000

stamps = []
with Meter(out=sys.argv[1], **plan["meter"]) as meter:
    for position, seconds in enumerate(plan["stages"]):
        begin = now()
        with meter.stage(f"stage{position}", kind="x-work"):
            first = now()
            work(seconds, plan["busy"])
            last = now()
        stamps.append((begin, first, last, now()))
        time.sleep(plan["between_s"])
with open(sys.argv[1] + ".stamps.json", "w") as stream:
    json.dump(stamps, stream)
"""


def without_realtime() -> None:
    """`preexec_fn`: the child and all it starts may not ask for better scheduling."""
    import ctypes
    import resource

    ctypes.CDLL(None, use_errno=True).prctl(_PR_CAPBSET_DROP, CAP_SYS_NICE, 0, 0, 0)
    resource.setrlimit(resource.RLIMIT_RTPRIO, (0, 0))


@contextlib.contextmanager
def busy_machine(processes: int | None = None) -> Iterator[None]:
    """Twice as many busy processes as there are cores."""
    count = processes or 2 * (os.cpu_count() or 1)
    hogs = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(count)]
    try:
        yield
    finally:
        for hog in hogs:
            hog.kill()
        for hog in hogs:
            hog.wait()


@dataclass(frozen=True)
class Sealed:
    """A sealed run, read back."""

    folder: Path
    exit_code: int = 0

    @cached_property
    def bundle(self) -> Bundle:
        return Bundle.open(self.folder)

    @cached_property
    def manifest(self) -> dict[str, Any]:
        return dict(self.bundle.manifest)

    def rows(self, table: str) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.bundle.table(table).to_pylist()
        return found

    @cached_property
    def all_stages(self) -> list[dict[str, Any]]:
        return self.rows("stages")

    @cached_property
    def stages(self) -> list[dict[str, Any]]:
        return [row for row in self.all_stages if row["stage"] != "unattributed"]

    def stage(self, name: str) -> dict[str, Any]:
        """The last attempt at a stage."""
        return [row for row in self.stages if row["name"] == name][-1]

    def events(self, kind: str | None = None) -> list[dict[str, Any]]:
        found = self.rows("events")
        for row in found:
            row["detail"] = json.loads(row["detail"]) if row["detail"] else {}
        return [row for row in found if kind in (None, row["kind"])]

    @property
    def stamps(self) -> list[list[int]]:
        """What a program of `run_stages` stamped itself (`truth.assert_windows`)."""
        found: list[list[int]] = json.loads(Path(f"{self.folder}.stamps.json").read_text())
        return found

    def gpu_boundaries(self) -> list[dict[str, Any]]:
        return [r for r in self.rows("counters") if r["source"] == "nvml" and r["boundary"] is not None]


def environment(config: LabConfig | None, lab: Path, *additions: Mapping[str, str]) -> dict[str, str]:
    """A child's environment: the fake NVML (none when `config` is None) and `additions`."""
    return lab_environ(config.env(lab) if config else {"LD_LIBRARY_PATH": "", "KIT_LAB_NVML": ""}, *additions)


def run_program(
    out: Path,
    code: str,
    *arguments: str,
    env: Mapping[str, str],
    code_wanted: int | tuple[int, ...] = 0,
    timeout: float = 600,
    **popen: Any,
) -> Sealed:
    """Run a program that meters itself into `out` (its argv[1])."""
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code), str(out), *arguments],
        env=dict(env),
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
        **popen,
    )
    wanted = (code_wanted,) if isinstance(code_wanted, int) else code_wanted
    assert done.returncode in wanted, done.stdout + done.stderr
    assert "Traceback" not in done.stderr, done.stderr
    return Sealed(out, done.returncode)


def run_stages(
    out: Path,
    config: LabConfig,
    lab: Path,
    stages: Sequence[float],
    *,
    busy: bool = False,
    between_s: float = 0.0,
    env: Mapping[str, str] | None = None,
    popen: Mapping[str, Any] | None = None,
    **meter: Any,
) -> Sealed:
    """In-process stages of the given lengths in seconds, one after another."""
    plan = {"meter": {"cpu": "none", **meter}, "stages": list(stages), "busy": busy, "between_s": between_s}
    extra = environment(config, lab, env or {})
    return run_program(out, STAGES_PROGRAM, json.dumps(plan), env=extra, **(popen or {}))


def kit(*arguments: str | Path, env: Mapping[str, str], timeout: float = 600, **popen: Any) -> Any:
    """Run the command line."""
    return subprocess.run(
        [sys.executable, "-m", "harness.cli.main", *map(str, arguments)],
        env=dict(env),
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
        **popen,
    )


def write_pipeline(folder: Path, stages: Sequence[Mapping[str, Any]], **top: Any) -> Path:
    """A pipeline file (JSON is YAML) of stages given as mappings with at least a command."""
    folder.mkdir(parents=True, exist_ok=True)
    listed = [{"name": f"stage{i}", "kind": "x-work", **stage} for i, stage in enumerate(stages)]
    text = json.dumps({"protocol": "1.0", "name": "lab", "method": "other", **top, "stages": listed})
    path = folder / "pipeline.yaml"
    path.write_text(text)
    return path


def kill_tree(pid: int) -> None:
    """kill -9 of one process that may be gone."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
