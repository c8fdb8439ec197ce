"""The grid end to end: one size of the pocket profile, smaller still, as a person would run it."""

from __future__ import annotations

import csv
import json
import math
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from harness.accounting.totals import roots, row_energy
from harness.bundle import Bundle
from harness.errors import KitError
from harness.experiments.grid import main_cells, target
from harness.experiments.lineage import stage_rows
from harness.experiments.pipelines import Layout
from harness.experiments.profile import load_profile
from harness.experiments.reproduce import Request, claim, completed_runs
from harness.experiments.results import collect
from harness.report.comparison import against
from harness.report.model import build
from harness.validate import validate
from scripts.check_repeat import compare

pytest.importorskip("torch")
pytest.importorskip("transformers")
pytest.importorskip("lm_eval")
pytestmark = pytest.mark.slow

TINY = Path(__file__).parent / "tiny.yaml"
CELLS = ("sft-1b", "kd-1b", "synthetic-sft-1b")


def reproduce(out: Path, aim: str = "table2") -> subprocess.CompletedProcess[str]:
    words = ["reproduce", aim, "--profile", str(TINY), "--size", "1b", "--out", str(out), "--yes"]
    return subprocess.run(
        [sys.executable, "-m", "harness.cli.main", *words],
        capture_output=True,
        text=True,
        timeout=3600,
        env={**os.environ, "OMP_WAIT_POLICY": "PASSIVE"},
        check=False,
    )


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("reproduction") / "out"
    done = reproduce(folder)
    assert done.returncode == 0, done.stderr[-4000:]
    return folder


def scores(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "results.json").read_text())
    return found


def metrics(out: Path, cell: str) -> list[dict[str, Any]]:
    lines = (out / "runs" / cell / "work/student/metrics.jsonl").read_text().splitlines()
    return [{k: v for k, v in json.loads(line).items() if k != "tokens_per_s"} for line in lines]


def test_every_run_is_a_complete_and_valid_log(out: Path) -> None:
    for run in ("shared", *CELLS):
        folder = out / "runs" / run
        manifest = json.loads((folder / "manifest.json").read_text())
        assert manifest["status"] == "complete" and "pocket" in manifest["labels"]
        errors = [finding for finding in validate(folder).findings if finding.severity == "error"]
        assert not errors, errors


def test_stages_are_forked_from_one_start_that_nobody_is_charged_for(out: Path) -> None:
    imports = [
        (run, row["stage"], row["status"])
        for run in ("shared", *CELLS)
        for row in stage_rows(out / "runs" / run)
        if row["name"] == "imports"
    ]
    assert imports == [("shared", "prerun", "completed")]
    for run in ("shared", *CELLS):
        bundle = Bundle.open(out / "runs" / run)
        # Parts of a stage, such as one benchmark, are in its process.
        rows = roots(stage_rows(out / "runs" / run))
        stages = {r["stage_uid"] for r in rows if r["stage"] != "unattributed"}
        forked = {e["stage_uid"] for e in bundle.table("events").to_pylist() if e["kind"] == "x-forked"}
        started = {r["stage_uid"] for r in stage_rows(out / "runs" / run) if r["name"] == "imports"}
        assert forked == stages - started
    text = (out / "tables/table2.md").read_text()
    assert "imports" in text and "Not forked" not in text


def test_a_stage_that_its_log_does_not_call_forked_is_named(out: Path, tmp_path: Path) -> None:
    shutil.copytree(out / "runs/kd-1b", tmp_path / "runs/kd-1b")
    for run in ("shared", "sft-1b", "synthetic-sft-1b"):
        (tmp_path / "runs" / run).symlink_to(out / "runs" / run)
    path = tmp_path / "runs/kd-1b/events.parquet"
    events = pq.read_table(path)
    uid = next(r["stage_uid"] for r in stage_rows(out / "runs/kd-1b") if r["name"] == "evaluate")
    kept = [
        (row["stage_uid"], row["kind"]) != (uid, "x-forked")
        for row in events.select(["stage_uid", "kind"]).to_pylist()
    ]
    pq.write_table(events.filter(pa.array(kept)), path)
    cells = [cell for cell in main_cells() if cell.name in CELLS]
    found = collect(load_profile(TINY), cells, Layout(tmp_path, {}))
    assert found.not_forked == ["kd-1b evaluate"]


def test_the_teacher_is_better_than_an_untrained_student_and_students_learn(out: Path) -> None:
    # A model with random weights spreads its guesses over the vocabulary of 512.
    teacher = scores(out / "runs/shared/work/teacher-scores")
    assert teacher["heldout_loss"] < 0.5 * math.log(512)
    for cell in CELLS:
        steps = [m for m in metrics(out, cell) if "loss" in m]
        assert steps[0]["ce"] > 0.8 * math.log(512)
        learned = scores(out / "runs" / cell / "work/scores")["heldout_loss"]
        assert learned < 0.6 * steps[0]["ce"], cell


def test_totals_are_those_of_the_bundles(out: Path) -> None:
    rows = {r["regime"]: r for r in csv.DictReader((out / "tables/table2.csv").open(newline=""))}
    shared: dict[str, float] = {}
    for row in roots(stage_rows(out / "runs/shared")):
        energy = row_energy(row)
        shared[row["name"]] = shared.get(row["name"], 0.0) + (energy.best if energy else 0.0)
    for regime, cell, charged in (
        ("sft", "sft-1b", ["preprocess"]),
        ("kd", "kd-1b", ["preprocess", "teacher-logits"]),
        (
            "synthetic_sft",
            "synthetic-sft-1b",
            ["preprocess", *(f"{n}-tokens1024-prompts7000" for n in ("teacher-generate", "preprocess"))],
        ),
    ):
        stages = roots(stage_rows(out / "runs" / cell))
        own = [e.best for e in map(row_energy, stages) if e is not None]
        if not own:
            pytest.skip("no energy source on this machine")
        expected = sum(own) + sum(shared[name] for name in charged)
        assert float(rows[regime]["energy_j"]) == pytest.approx(expected)
        # Counted in the stages, not in their own logs.
        assert int(rows[regime]["tokens_trained"]) == sum(r["tokens_trained"] or 0 for r in stages)


def test_inputs_name_the_run_that_paid_for_them(out: Path) -> None:
    shared = Bundle.open(out / "runs/shared")
    run_id = shared.manifest["run_id"]
    rows = {row["name"]: row_energy(row) for row in roots(stage_rows(out / "runs/shared"))}
    consumed = {
        row["name"]: row
        for row in Bundle.open(out / "runs/kd-1b").table("artifacts").to_pylist()
        if row["role"] == "consumed" and row["origin_run_id"] is not None
    }
    assert "models" not in consumed  # made by a run, charged to nobody: nothing unknown is inherited
    made_by = {"dataset": "preprocess", "logits": "teacher-logits"}
    for name, stage in made_by.items():
        assert consumed[name]["origin_run_id"] == run_id
        energy = rows[stage]
        assert consumed[name]["origin_energy_j"] == (None if energy is None else energy.best)
    produced = {r["artifact_id"] for r in shared.table("artifacts").to_pylist() if r["role"] == "produced"}
    assert {row["artifact_id"] for row in consumed.values()} <= produced


def test_a_report_against_sft_says_what_the_table_says(out: Path) -> None:
    """One formula: T is the teacher's output alone, and what the machine's estimate does to both cancels."""
    cells = {c["regime"]: c for c in json.loads((out / "tables/table2.json").read_text())["cells"]}
    if cells["kd"]["energy_j"] is None:
        pytest.skip("no energy source on this machine")
    for regime, name in (("kd", "kd-1b"), ("synthetic_sft", "synthetic-sft-1b")):
        found = against(build(out / "runs" / name), build(out / "runs/sft-1b"))
        assert not found.differences
        stored = cells[regime]
        assert found.even.case == stored["break_even_case"]
        if found.even.ratio is not None:
            assert found.even.ratio == pytest.approx(stored["break_even_reuses"])
            assert found.even.low == pytest.approx(stored["break_even_low"])
            high = stored["break_even_high"] or math.inf
            assert found.even.high == pytest.approx(high)


def test_tables_stand_beside_the_published_one(out: Path) -> None:
    text = (out / "tables/table2.md").read_text()
    assert "16.90" in text and "**Pocket figures say nothing about OLMo-2" in text
    assert text.count("not comparable") == 9
    found = json.loads((out / "tables/table2.json").read_text())
    for cell in found["cells"]:
        five = {f"pocket_{kind}" for kind in ("arithmetic", "choices", "instructions", "pairs", "dialogues")}
        assert set(cell["scores"]) == five
        # A teacher this small may score nothing on a family: Q is then undefined, and the table says why.
        assert (cell["quality"] is None) == bool(cell["quality_note"])
    assert [cell["regime"] for cell in found["cells"]] == ["sft", "kd", "synthetic_sft"]


def test_a_rerun_keeps_what_is_there_and_a_lost_cell_comes_back_the_same(out: Path) -> None:
    before = out.parent / "before"
    shutil.copytree(out, before)
    shutil.rmtree(out / "runs/sft-1b")
    done = reproduce(out)
    assert done.returncode == 0, done.stderr[-4000:]
    # Losses, tokens, weights, answers and scores; what was kept is the same log.
    found = compare(before, out)
    assert not found.differences
    assert found.equal["losses"] == 4 and found.equal["token counts"] == 4 and found.equal["weights"] >= 4
    for run in ("shared", "kd-1b"):
        manifest = Path("runs") / run / "manifest.json"
        assert (out / manifest).read_bytes() == (before / manifest).read_bytes()
    # The comparison sees a loss in its last digit.
    path = before / "runs/kd-1b/work/student/metrics.jsonl"
    first, rest = path.read_text().split("\n", 1)
    record = json.loads(first)
    record["loss"] = math.nextafter(record["loss"], math.inf)
    path.write_text(json.dumps(record) + "\n" + rest)
    assert compare(before, out).differences == ["kd-1b/student/metrics.jsonl: losses differ"]


def test_a_folder_belongs_to_one_profile(out: Path) -> None:
    other = Request("table2", target("table2"), load_profile("pocket"), out, ("1b",))
    with pytest.raises(KitError, match="other models"):
        claim(other)
    mine = Request("table2", target("table2"), load_profile(TINY), out, ("1b",))
    claim(mine)
    assert completed_runs(mine) == {"shared", *CELLS}
    assert {cell.name for cell in main_cells() if cell.size == "1b"} == set(CELLS)


def test_other_targets_go_on_from_the_same_runs(out: Path) -> None:
    pytest.importorskip("vl_convert")
    for aim in ("serving", "design-rules"):
        done = reproduce(out, aim)
        assert done.returncode == 0, done.stderr[-4000:]
    cells = json.loads((out / "tables/serving.json").read_text())["cells"]
    assert all(cell["energy_j_per_served_token"] > 0 and cell["served_tokens"] > 0 for cell in cells)
    rows = list(csv.DictReader((out / "figures/serving.csv").open(newline="")))
    drawn = {row["name"]: row["j_per_served_token"] for row in rows if row["what"] == "measured"}
    measured = {cell["regime"].replace("_", "-") + "-1b": cell["energy_j_per_served_token"] for cell in cells}
    assert {name: float(value) for name, value in drawn.items()} == pytest.approx(measured)
    said = (out / "tables/design-rules.md").read_text()
    assert "reuse: Reuse before you regenerate" in said and "N* against SFT" in said
    for cell in CELLS:
        attempts = {row["name"]: row["attempt"] for row in stage_rows(out / "runs" / cell)}
        assert attempts["student_train"] == attempts["serve"] == 1  # nothing ran twice
