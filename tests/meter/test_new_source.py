"""A fifth source on a copy of the tree: one file and one entry take it from `kit run` to a report."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.lab.fixtures import lab_environ
from tests.test_contributing import carry_out, copy_of_tree, steps


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the tree with the source of CONTRIBUTING.md."""
    folder = copy_of_tree(tmp_path_factory.mktemp("tree") / "kit")
    entry, file, _ = steps("Add a power source")
    carry_out(entry, folder)
    carry_out(file, folder)
    return folder


def python(tree: Path, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    env = lab_environ({"PYTHONPATH": str(tree), "COLUMNS": "160", "KIT_POWERCAP_ROOT": str(tree / "none")})
    return subprocess.run(
        [sys.executable, *map(str, arguments)],
        cwd=tree,
        env=env,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )


def test_it_is_used_sealed_validated_and_reported(tree: Path) -> None:
    kit = ("-m", "harness.cli.main")
    out = tree / "run"
    done = python(tree, *kit, "run", "--out", out, "--", "sleep", "1")
    assert done.returncode == 0, done.stderr
    assert "CPU: a steady meter (socket-0)" in done.stderr
    verdict = json.loads(python(tree, *kit, "validate", "--format", "json", out).stdout)
    assert verdict["valid"] and not verdict["findings"]
    assert "C402" not in {label["id"] for label in verdict["comparability"]["labels"]}  # not an estimate
    report = json.loads(python(tree, *kit, "report", "--format", "json", out).stdout)
    (stage,) = report["stages"]
    assert stage["cpu_energy_method"] == "steady"
    seconds = stage["duration_us"] / 1e6
    assert stage["cpu_energy_j"] == pytest.approx(10 * seconds, rel=0.02)
    assert "by a steady meter" in python(tree, *kit, "report", out).stdout
    doctor = json.loads(python(tree, *kit, "doctor", "--format", "json", "--require", "steady").stdout)
    assert doctor["methods"]["cpu"] == "steady" and doctor["missing"] == []
