"""`kit` as a process of its own, in a folder of its own, and the bundles it leaves."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from harness.bundle import Bundle
from harness.validate import validate

ROOT = Path(__file__).resolve().parents[2]
KIT = [sys.executable, "-m", "harness.cli.main"]


class Kit:
    """Runs `kit` in `cwd`, with nothing of the caller's settings but what a process needs."""

    def __init__(self, cwd: Path) -> None:
        self.cwd = cwd
        self.env = {
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "PYTHONPATH": str(ROOT),
            "HOME": str(cwd),
            "TMPDIR": str(cwd / "tmp"),
            "LC_ALL": "C.UTF-8",
        }
        (cwd / "tmp").mkdir()

    def write(self, name: str, text: str) -> Path:
        path = self.cwd / name
        path.write_text(text)
        return path

    def start(self, *args: str, **options: Any) -> subprocess.Popen[str]:
        return self._popen([*KIT, *args], **options)

    def start_python(self, code: str) -> subprocess.Popen[str]:
        return self._popen([KIT[0], "-c", code])

    def _popen(self, words: list[str], **options: Any) -> subprocess.Popen[str]:
        settings: dict[str, Any] = {
            "cwd": self.cwd,
            "env": self.env,
            "stdin": subprocess.DEVNULL,
            "stdout": subprocess.PIPE,
            "stderr": subprocess.PIPE,
            "text": True,
            "errors": "replace",
        }
        return subprocess.Popen(words, **{**settings, **options})

    def run(self, *args: str, code: int = 0, **options: Any) -> tuple[str, str]:
        """Standard output and error of a call, whose exit code must be `code`."""
        given = options.pop("input", None)
        if given is not None:
            options["stdin"] = subprocess.PIPE
        process = self.start(*args, **options)
        out, err = process.communicate(given, timeout=300)
        assert process.returncode == code, f"exit code {process.returncode}\n{out}\n{err}"
        assert "Traceback" not in err, err
        return out, err

    def audit(self, *args: str, code: int = 0, **options: Any) -> str:
        """Standard error of `kit audit` without CPU energy."""
        return self.run("audit", *args, "--cpu", "none", code=code, **options)[1]

    def bundle(self, folder: str = "runs/p") -> Bundle:
        """A bundle that must hold by the protocol."""
        report = validate(self.cwd / folder)
        errors = [finding for finding in report.findings if finding.severity == "error"]
        assert not errors, errors
        return Bundle.open(self.cwd / folder)

    def left_in_tmp(self) -> list[str]:
        return sorted(entry.name for entry in (self.cwd / "tmp").iterdir())


def pipeline(*stages: str, head: str = "") -> str:
    """A pipeline file named `p` from stages in YAML flow style."""
    lines = "".join(f"  - {stage}\n" for stage in stages)
    return f'protocol: "1.0"\nname: p\nmethod: sft\n{head}stages:\n{lines}'


def stage_rows(bundle: Bundle) -> list[dict[str, Any]]:
    return [row for row in bundle.table("stages").to_pylist() if row["stage"] != "unattributed"]


def events(bundle: Bundle, kind: str) -> list[dict[str, Any]]:
    rows = [row for row in bundle.table("events").to_pylist() if row["kind"] == kind]
    return [{**row, "detail": json.loads(row["detail"]) if row["detail"] else {}} for row in rows]


def wait_for(condition: Callable[[], bool], seconds: float = 20.0) -> None:
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, "it did not happen"
        time.sleep(0.02)


NOTICED = 'noticed() { until grep -aqs "$1" "$KIT_RUN_DIR"/../journal/*.jnl; do sleep 0.05; done; }\n'
"""For a stage's shell: `noticed WORD` waits until the runner has written something with WORD down."""


def wait_for_record(run: Path, words: str) -> None:
    """Wait until a run's journal says something."""
    journals = (run / "journal").glob
    wait_for(lambda: any(words.encode() in path.read_bytes() for path in journals("*.jnl")), 90.0)


def alive(pid: int) -> bool:
    """Whether a process runs; a zombie does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False
