"""The claims of the paper, derived again, and the recorded runs behind those of pocket size."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.lab.fixtures import ROOT

sys.path.insert(0, str(ROOT / "scripts"))
import record_runs
import verify_claims

from harness.errors import KitError
from harness.experiments.grid import target
from harness.experiments.pipelines import SHARED
from harness.experiments.profile import load_profile
from harness.experiments.reproduce import Request

README = (ROOT / "README.md").read_text(encoding="utf-8")
MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")


def test_every_claim_holds_and_the_pages_are_as_written() -> None:
    done = subprocess.run([sys.executable, ROOT / "scripts/verify_claims.py"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    verdicts = dict(re.findall(r"^(\S+) +(\S+) ", done.stdout, flags=re.MULTILINE))
    assert verdicts["ok"] and "DIFFERS" not in verdicts


@pytest.mark.parametrize("off", [0.004, 0.006])
def test_a_claim_differs_beyond_its_tolerance(off: float) -> None:
    [claim] = [c for c in verify_claims.load() if c["id"] == "energy-sft-1b"]
    found = verify_claims.outcome(claim | {"expected": 7.0 + off})
    assert found.holds is (off < claim["tolerance"])


def test_a_trace_of_others_is_taken_by_its_digest_or_not_at_all(tmp_path: Path) -> None:
    """A self-made twin: two readings of one counter, 3.6 MJ apart in its thousandths of a millijoule."""
    claim = next(c for c in verify_claims.load() if c["id"] == "slimming-trace")
    claim |= {"trace": "t.jsonl", "of": ["t.jsonl"], "expected": 1.0, "tolerance": 1e-9}
    assert verify_claims.outcome(claim, tmp_path).holds is None
    row = {"gpu_name": "H100", "power_watts": 360.0}
    lines = [
        {"timestamp": f"2026-01-01T00:00:0{s}", "gpus": [row | {"energy_mJ": 7e9 + s * 1.8e12}]}
        for s in (0, 2)
    ]
    (tmp_path / "t.jsonl").write_text("\n".join(map(json.dumps, lines)))
    with pytest.raises(KitError, match="another trace"):
        verify_claims.outcome(claim, tmp_path)
    assert verify_claims.tried(claim, tmp_path).holds is False
    claim["sha256"] = verify_claims.file_digest(tmp_path / "t.jsonl")
    found = verify_claims.outcome(claim, tmp_path)
    assert found.holds and found.found == 1.0


def test_every_target_of_the_table_exists() -> None:
    targets = re.findall(r"^\| `make ([a-z0-9-]+)", verify_claims.results_table(), flags=re.MULTILINE)
    assert set(targets) <= set(re.findall(r"^([a-z0-9-]+):.*## ", MAKEFILE, flags=re.MULTILINE))
    assert len(targets) == len(set(targets)) >= 6


def test_the_table_in_the_readme_is_that_of_the_claims() -> None:
    assert verify_claims.readme(README) == README
    broken = README.replace("| under a minute |", "| a second |", 1)
    assert broken != README and verify_claims.readme(broken) == README
    with pytest.raises(KitError, match="lost the marks"):
        verify_claims.readme("no table")


def test_differences_name_the_cell() -> None:
    one = {
        "cells": [{"regime": "kd", "size": "1b", "energy_j": 1.0}, {"regime": "sft", "size": "1b", "n": [1]}]
    }
    other = json.loads(json.dumps(one))
    assert list(verify_claims.differences(one, other)) == []
    other["cells"][0]["energy_j"] = 1.0 + 1e-12
    assert list(verify_claims.differences(one, other)) == []
    other["cells"][0]["energy_j"] = 1.0 + 1e-6
    other["cells"][1]["more"] = 2
    other["cells"][1]["n"] = [1, 2]
    assert [(where, mine) for where, mine, _ in verify_claims.differences(one, other)] == [
        ("cells kd 1b energy_j", 1.0),
        ("cells sft 1b more", verify_claims.ABSENT),
        ("cells sft 1b n", [1]),
    ]


def folder_of_a_demo(tmp_path: Path) -> Path:
    """The recorded runs as a finished demo, with what a demo has besides."""
    if not verify_claims.recorded():
        pytest.skip("artifacts/runs/pocket is not recorded yet: make demo, then make record")
    demo = tmp_path / "demo"
    shutil.copytree(verify_claims.POCKET, demo)
    for name in ("logs/student_train.1.out", "work/student/model.safetensors", "cache/digests.json"):
        (demo / "runs/sft-1b" / name).parent.mkdir(parents=True, exist_ok=True)
        (demo / "runs/sft-1b" / name).write_text("left behind")
    return demo


def test_recorded_runs_are_small_and_name_no_machine() -> None:
    if not verify_claims.recorded():
        pytest.skip("artifacts/runs/pocket is not recorded yet: make demo, then make record")
    files = [path for path in verify_claims.RECORDED.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < 3_000_000
    named = [p.name for p in files if re.search(rb'"/(home|root|tmp|work|Users)/', p.read_bytes())]
    assert named == []


def test_recording_keeps_what_figures_need_and_nothing_else(tmp_path: Path) -> None:
    demo = folder_of_a_demo(tmp_path)
    out = tmp_path / "kept"
    record_runs.record(demo, out)
    kept = {str(path.relative_to(out)) for path in out.rglob("*") if path.is_file()}
    assert kept == {
        str(p.relative_to(verify_claims.POCKET)) for p in verify_claims.POCKET.rglob("*") if p.is_file()
    }
    shutil.rmtree(demo / "runs/kd-7b")
    with pytest.raises(KitError, match="lacks complete runs: kd-7b"):
        record_runs.record(demo, out)


def test_recording_refuses_an_unfinished_demo_and_a_folder_of_others(tmp_path: Path) -> None:
    with pytest.raises(KitError, match=f"lacks complete runs: .*{SHARED}"):
        record_runs.record(tmp_path, tmp_path / "out")
    request = Request("table2", target("table2"), load_profile("pocket"), tmp_path)
    assert "sft-1b-again1" in {cell.name for cell in request.runs}
