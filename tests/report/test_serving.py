"""J per served token where a stage measured it, and T* from two such runs."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from harness.cli.breakeven import cmd as breakeven
from harness.cli.compare import compare
from harness.cli.report import cmd
from harness.report.comparison import against
from harness.report.model import Options, build
from harness.report.words import summary_sentence
from tests.accounting.synthetic import EPOCH_US, S, Stage, make_run
from tests.report.test_comparison import on_one_device
from tests.report.test_page import page_of

ROOT = Path(__file__).resolve().parents[2]
ENGINE = {"engine": "transformers", "version": "1"}


def run_of(folder, method, teacher_s, watts, *, prompts="ab", tokens=10_000, status="completed", told=True):
    """A run whose student takes 100 s x 520 W, and that serves `tokens` in 40 s at `watts`."""
    stages = (
        *((Stage("teacher", "teacher_logits", 10, 10 + teacher_s, 440),) if teacher_s else ()),
        Stage("train", "student_train", 70, 170, 520, tokens=1000),
        Stage("serve", "serve", 180, 240, watts, status=status),
        Stage("steady", "serve", 195, 235, watts, status=status),
    )
    run = on_one_device(make_run(stages, end_s=250, devices=1))
    run.manifest["method"] = method
    serve, steady = run.stages[-2:]
    steady["parent_uid"], steady["tokens_generated"] = serve["stage_uid"], tokens
    if told:
        report = {"workload": {"name": "serve-1"}, "prompts_sha256": prompts, "engine": ENGINE}
        run.events.append(
            {
                "event_id": len(run.events), "session": 0, "t_us": 236 * S + EPOCH_US, "mono_us": 236 * S,
                "kind": "stage_event", "stage_uid": serve["stage_uid"], "device_id": None, "severity": "info",
                "detail": json.dumps({"event": "serving", "report": report}),
            }
        )  # fmt: skip
    return run.write(folder)


def test_the_figure_is_of_the_steady_part_and_no_training_pays_for_serving(tmp_path):
    report = build(run_of(tmp_path / "kd", "kd", 50, 500))
    assert report.served is not None and report.served.tokens == 10_000
    assert report.served.per_token.best == pytest.approx(40 * 500 / 10_000, rel=2e-3)
    low, high = report.served.per_token.low, report.served.per_token.high
    assert 1.9 < low < report.served.per_token.best < high < 2.1
    serving = 60 * 500
    assert report.totals.it.best - report.made.it.best == pytest.approx(serving, rel=1e-3)
    assert "serve" not in report.costs.own
    assert report.per_token["trained"].best == pytest.approx(report.made.it.best / 1000)
    runner = CliRunner()
    assert "per served token 2.000 J" in " ".join(runner.invoke(cmd, [str(tmp_path / "kd")]).output.split())
    data = json.loads(runner.invoke(cmd, [str(tmp_path / "kd"), "--format", "json"]).output)["serving"]
    assert data["energy_j_per_served_token"] == report.served.per_token.best
    assert data["workload"] == {"name": "serve-1"} and data["prompts_sha256"] == "ab"


def test_t_star_comes_from_what_both_runs_measured(tmp_path):
    kd, sft = run_of(tmp_path / "kd", "kd", 50, 400), run_of(tmp_path / "sft", "sft", 0, 500)
    # The teacher: 50 s at 440 W instead of 80 W of idle, 18 kJ; 2.0 - 1.6 J a token. Serving adds nothing.
    data = json.loads(CliRunner().invoke(cmd, [str(kd), "--against", str(sft), "--format", "json"]).output)
    served = data["against"]["serving_tokens"]
    assert served["case"] == "finite" and served["tokens"] == pytest.approx(45_000, rel=0.01)
    assert served["tokens_low"] < 45_000 < served["tokens_high"]
    said = CliRunner().invoke(breakeven, [str(kd), str(sft)]).output
    assert "served tokens until this run's extra energy is saved" in " ".join(said.split())


@pytest.mark.skipif(shutil.which("node") is None, reason="Node is not installed")
def test_the_page_has_the_same_t_star(tmp_path):
    folders = [run_of(tmp_path / m, m, s, w) for m, s, w in (("kd", 50, 400), ("sft", 0, 500))]
    reports = [build(folder) for folder in folders]
    _, data = page_of(folders, tmp_path / "set.html")
    (pair,) = data["pairs"]
    assert pair["served"] and pair["unserved"] is None
    code = f"""
    import * as sums from {json.dumps((ROOT / "web/src/arithmetic.js").as_uri())};
    const {{ runs, pairs: [pair], scales }} = JSON.parse(process.argv[1]);
    const trained = [pair.run, pair.direct].map((place) => sums.added(
      [runs[place].energy.all.own, runs[place].energy.all.teacher ?? []]));
    const served = [pair.direct, pair.run].map((place) => runs[place].served);
    console.log(JSON.stringify(sums.servingBreakEven(trained, ...served, scales)));
    """
    given = {"runs": [{k: run[k] for k in ("energy", "served")} for run in data["runs"]]}
    given |= {"pairs": data["pairs"], "scales": data["scales"]}
    command = ["node", "--input-type=module", "-e", code, json.dumps(given)]
    found = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    ours = against(*reports).serving
    assert found["case"] == ours.case == "finite"
    assert [found[key] for key in ("ratio", "low", "high")] == pytest.approx(
        [ours.ratio, ours.low, ours.high]
    )


def test_what_stands_beside_the_energy(tmp_path):
    """GPU-hours, throughput and peak memory of a report, a comparison and exports; null where unknown."""
    stages = (Stage("train", "student_train", 70, 170, 520, tokens=50_000),)
    run = on_one_device(make_run(stages, end_s=180, devices=2), None)
    run.power["mem_used_mib"] = np.linspace(10, 70_000, run.power["mono_us"].size).astype("int32")
    full, bare = run.write(tmp_path / "full"), run_of(tmp_path / "bare", "kd", 50, 500)
    report = build(full)
    assert report.gpu_hours == pytest.approx(2 * 100 / 3600)
    assert report.throughput == pytest.approx(500) and report.peak_gpu_mib == 70_000
    runner = CliRunner()
    shown = " ".join(runner.invoke(cmd, [str(full)]).output.split())
    assert "68.4 GiB in use on one GPU" in shown and "500 processed tokens/s" in shown
    data = json.loads(runner.invoke(cmd, [str(full), "--format", "json"]).output)
    assert data["peak_gpu_memory_mib"] == 70_000 and data["stages"][0][
        "processed_tokens_per_s"
    ] == pytest.approx(500)
    assert data["gpu_time_us"] == 200_000_000
    assert (
        "processed_tokens_per_s" in runner.invoke(cmd, [str(full), "--format", "csv"]).output.splitlines()[0]
    )
    words = [str(bare), str(full), "--region", "FRA", "--json"]
    sides = json.loads(runner.invoke(compare, words).output)
    assert [side["peak_gpu_memory_mib"] for side in sides] == [None, 70_000]
    grams = sides[1]["co2e_kg"]["best"] / sides[1]["energy_j"]["best"]
    assert grams == pytest.approx(build(full, Options(region="FRA")).carbon[0].factor.g_co2e_per_kwh / 3.6e9)
    assert sides[0]["energy_j_per_served_token"]["best"] == pytest.approx(2.0, rel=2e-3)


@pytest.mark.parametrize(
    ("other", "why"),
    [
        ({"told": False}, "that run has no complete serve stage"),
        ({"status": "failed"}, "that run has no complete serve stage"),
        ({"tokens": None}, "that run has no complete serve stage"),
        ({"prompts": "cd"}, "they served different prompts"),
    ],
)
def test_without_two_of_one_workload_t_star_is_not_measured(tmp_path, other, why):
    kd, sft = run_of(tmp_path / "kd", "kd", 50, 400), run_of(tmp_path / "sft", "sft", 0, 500, **other)
    said = " ".join(CliRunner().invoke(breakeven, [str(kd), str(sft)]).output.split())
    assert f"T* not measured: {why}" in said


def test_no_share_of_a_whole_is_of_a_stage_that_is_not_in_it(tmp_path):
    sentence = summary_sentence(build(run_of(tmp_path / "kd", "kd", 50, 5000)))
    # Training 52 kJ and the teacher 22 kJ, with idle time; 300 kJ of serving are not the student's.
    assert " of it went into train" in sentence and "serve" not in sentence
