"""The claims of the paper, derived again, and the recorded runs behind those of pocket size."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.lab.fixtures import ROOT

sys.path.insert(0, str(ROOT / "scripts"))
import claims_pages
import make_seeds
import record_runs
import verify_claims

from harness.cli.main import main
from harness.errors import KitError
from harness.experiments.grid import target
from harness.experiments.pipelines import SHARED
from harness.experiments.profile import load_profile
from harness.experiments.reproduce import Request

README = (ROOT / "README.md").read_text(encoding="utf-8")
MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")
COMMANDS = yaml.safe_load(verify_claims.CLAIMS.read_text(encoding="utf-8"))["commands"]


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


def test_changed_inputs_are_named_and_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    claims, folder = tmp_path / "claims.yaml", tmp_path / "logs"
    (folder / "inner").mkdir(parents=True)
    (folder / "inner" / "a.csv").write_text("1\n")
    claims.write_text("inputs:\n  logs: {path: logs, sha256: 0}\n  logs-2: {path: logs, sha256: 1}\n")
    monkeypatch.setattr(verify_claims, "ROOT", tmp_path)
    monkeypatch.setattr(verify_claims, "CLAIMS", claims)
    listed = subprocess.run(["sha256sum", "logs/inner/a.csv"], cwd=tmp_path, capture_output=True, check=True)
    digest = hashlib.sha256(listed.stdout).hexdigest()
    assert verify_claims.changed_inputs() == {"logs": ("0", digest), "logs-2": ("1", digest)}
    claims.write_text(verify_claims.stamp_inputs(claims.read_text(), verify_claims.changed_inputs()))
    assert verify_claims.changed_inputs() == {} and claims.read_text().count(digest) == 2
    (folder / "inner" / "a.csv").write_text("2\n")
    assert set(verify_claims.changed_inputs()) == {"logs", "logs-2"}


@pytest.mark.parametrize(
    ("edit", "said"),
    [
        ({"inputs": ["nothing"]}, "unknown inputs"),
        ({"inputs": None}, "do not go together"),
        ({"command": "make tea"}, "does not say what its command takes"),
    ],
)
def test_a_claim_names_its_inputs_and_its_command(edit: dict[str, Any], said: str, tmp_path: Path) -> None:
    document = yaml.safe_load(verify_claims.CLAIMS.read_text(encoding="utf-8"))
    claim = document["claims"][0] | edit
    document["claims"] = [{key: value for key, value in claim.items() if value is not None}]
    (tmp_path / "claims.yaml").write_text(yaml.safe_dump(document))
    with pytest.raises(SystemExit, match=said):
        verify_claims.load(tmp_path / "claims.yaml")


def a_trace(path: Path) -> Path:
    """A self-made twin: two readings of one counter, 3.6 MJ apart in its thousandths of a millijoule."""
    row = {"gpu_name": "H100", "power_watts": 360.0}
    lines = [
        {"timestamp": f"2026-01-01T00:00:0{s}", "gpus": [row | {"energy_mJ": 7e9 + s * 1.8e12}]}
        for s in (0, 2)
    ]
    path.write_text("\n".join(map(json.dumps, lines)))
    return path


def test_a_trace_of_others_is_taken_by_its_digest_or_not_at_all(tmp_path: Path) -> None:
    claim = next(c for c in verify_claims.load() if c["id"] == "slimming-trace")
    claim |= {"trace": "t.jsonl", "of": ["t.jsonl"], "expected": 1.0, "tolerance": 1e-9}
    assert verify_claims.outcome(claim, tmp_path).holds is None
    trace = a_trace(tmp_path / "t.jsonl")
    with pytest.raises(KitError, match="another trace"):
        verify_claims.outcome(claim, tmp_path)
    assert verify_claims.tried(claim, tmp_path).holds is False
    claim["sha256"] = verify_claims.file_digest(trace)
    found = verify_claims.outcome(claim, tmp_path)
    assert found.holds and found.found == 1.0


def test_a_row_that_its_trace_does_not_give_is_seen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(make_seeds, "BOARD", tmp_path / "board")
    monkeypatch.setattr(make_seeds, "ROOT", tmp_path)
    trace = a_trace(tmp_path / "t.jsonl")
    make_seeds.write(make_seeds.slimming(trace))
    assert verify_claims.imported_row(trace) == 0
    [row] = (tmp_path / "board").rglob("submission.json")
    row.write_text(row.read_text().replace('"energy_kwh":1}', '"energy_kwh":0.9}'))
    assert verify_claims.imported_row(trace) == 1
    assert "stated energy_kwh: 0.9 recorded, 1 derived" in capsys.readouterr().out


def test_a_published_row_that_is_not_the_papers_is_seen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(make_seeds.BOARD / "published-paper", tmp_path / "published-paper")
    monkeypatch.setattr(make_seeds, "BOARD", tmp_path)
    assert verify_claims.published_rows() == 0
    row = tmp_path / "published-paper/sft-1b/submission.json"
    row.write_text(row.read_text().replace('"quality":0.69', '"quality":0.7'))
    shutil.rmtree(tmp_path / "published-paper/kd-1b")
    assert verify_claims.published_rows() == 2


def test_a_record_that_its_logs_do_not_give_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    record = json.loads((ROOT / "artifacts/evidence/own_models.json").read_text(encoding="utf-8"))
    record["cells"][1]["heldout_loss"] += 0.01
    record["cells"][2]["student_cpu_s"] -= 1
    (tmp_path / "artifacts/evidence").mkdir(parents=True)
    (tmp_path / "artifacts/evidence/own_models.json").write_text(json.dumps(record))
    monkeypatch.setattr(verify_claims, "ROOT", tmp_path)
    assert verify_claims.record_cells("own_models", "smollm2") == 2


def test_every_command_exists_and_the_makefile_says_what_the_claims_say() -> None:
    targets = [row["target"].partition(" ")[0] for row in COMMANDS]
    assert set(targets) <= set(re.findall(r"^([a-z0-9-]+):.*## ", MAKEFILE, flags=re.MULTILINE))
    assert {row["target"].partition(" ")[0] for row in COMMANDS if "help" in row} == set(targets)
    assert claims_pages.makefile(MAKEFILE, COMMANDS) == MAKEFILE
    broken = MAKEFILE.replace("demo: setup-train ## ", "demo: setup-train ## Was: ")
    assert broken != MAKEFILE and claims_pages.makefile(broken, COMMANDS) == MAKEFILE
    with pytest.raises(KitError, match="no target tea"):
        claims_pages.makefile(MAKEFILE, [{"target": "tea", "help": "x"}])


def test_planned_hours_are_those_of_the_plan(capsys: pytest.CaptureFixture[str]) -> None:
    planned = [row for row in COMMANDS if " h" in row["takes"] and "planned (" in row["takes"]]
    assert len(planned) >= 5
    for row in planned:
        target, profile = re.fullmatch(r"reproduce-(\S+) PROFILE=(\w+)", row["target"]).groups()  # type: ignore[union-attr]
        assert main(["plan", profile, "--target", target, "--gpu", "h100-sxm", "--json"]) == 0
        seconds = json.loads(capsys.readouterr().out)["seconds"]
        likely, low, high = (f"{seconds[end] / 3600:,.0f}" for end in ("likely", "low", "high"))
        assert row["takes"].startswith(f"{likely} h") and row["takes"].endswith(f"planned ({low} to {high})")


def test_the_table_in_the_readme_is_that_of_the_claims() -> None:
    table = claims_pages.results_table(COMMANDS)
    assert table.count("| `make ") >= 6
    assert claims_pages.between(README, "results", table, "README.md") == README
    broken = README.replace("| under a minute |", "| a second |", 1)
    assert broken != README and claims_pages.between(broken, "results", table, "README.md") == README
    with pytest.raises(KitError, match="lost the marks"):
        claims_pages.between("no table", "results", table, "README.md")


def test_a_cold_start_is_shown_as_it_was_timed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    targets = [{"target": name, "minutes": 1.25, "megabytes": 1234} for name in ("audit-example", "demo")]
    record = {"commit": "0123456789", "date": "2026-12-01", "where": "here", "targets": targets}
    (tmp_path / "cold.json").write_text(json.dumps(record))
    monkeypatch.setattr(claims_pages, "COLD_START", tmp_path / "cold.json")
    assert "| `make demo` | 1.2 | 1,234 |" in claims_pages.cold_start_table()
    assert "here. Commit 0123456, 2026-12-01." in claims_pages.cold_start_table()
    row = next(line for line in claims_pages.results_table(COMMANDS).splitlines() if "make audit" in line)
    assert row.endswith("| 1.2 min from nothing | 1,234 MB |")


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


def test_a_grid_that_was_repeated_is_recorded_with_its_repeats(tmp_path: Path) -> None:
    assert record_runs.target_of("table2", tmp_path).grid_repeats is None
    (tmp_path / "runs/sft-1b").mkdir(parents=True)
    (tmp_path / "runs/sft-1b-seed1").mkdir()
    again = Request(
        "table2", record_runs.target_of("table2", tmp_path), load_profile("pocket"), tmp_path / "demo"
    )
    assert {"sft-1b", "sft-1b-seed1", "kd-7b-seed1"} <= {cell.name for cell in again.runs}
    with pytest.raises(KitError, match=r"lacks complete runs: .*kd-1b-seed1"):
        record_runs.wanted(tmp_path, "table2", "pocket")
