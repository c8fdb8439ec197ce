"""A fifth source on a copy of the tree: one file and one entry take it from `kit run` to a report."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.lab.fixtures import ROOT, lab_environ

ENTRY = """  - {name: steady, clause: "4.3", parts: {cpu: socket}, reads: [counter], unit: uJ,
     state: measured, method: steady, rank: 1, words: "a steady meter", doc: "Ten watts at all times."}
"""
FILE = '''"""A processor that always draws ten watts."""

from __future__ import annotations

from harness.meter.clocks import mono_us
from harness.meter.sources.base import Found, Measure, Wanted, Zone


class SteadyZone(Zone):
    """The counter, uJ."""

    def value(self) -> int | None:
        """Ten watts since the machine was started."""
        return 10 * mono_us()


def discover(wanted: Wanted) -> Found:
    """The one zone."""
    measure = Measure("steady", "cpu", "uJ", "socket", ("counter",), "measured", "steady")
    return Found(zones=[SteadyZone("socket-0", None, measure)])
'''


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tree")
    for name in ("harness", "protocol", "tests"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", folder)
    (folder / "harness/meter/sources/steady.py").write_text(FILE)
    table = folder / "protocol/1.0/protocol.yaml"
    before, mark, after = table.read_text().partition("\nextension_prefix:")
    table.write_text(before.rstrip() + "\n" + ENTRY + mark + after)
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


def test_the_contract_takes_it_in_by_itself(tree: Path) -> None:
    done = python(
        tree,
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        "tests/meter/test_sources.py",
        "-k",
        "steady or accounting",
    )
    assert done.returncode == 0 and "2 passed" in done.stdout, done.stdout + done.stderr
