"""Stage evaluate: its results, Q against a teacher's, its counts, and running it again."""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from harness.audit.reports import parse_report
from harness.distill.arguments import plain
from harness.errors import KitError
from harness.evaluation import evaluate as stage
from harness.evaluation.evaluate import EvaluateConfig, run
from harness.journal.scores import Scoreboard, items_digest
from tests.distill import generation_lab as lab

torch.set_num_threads(1)
NAMES = ["pocket_instructions", "pocket_arithmetic", "pocket_programs"]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return lab.save_teacher(tmp_path_factory.mktemp("model"), end_bias=6.0)


@pytest.fixture
def config(tmp_path: Path, model: Path) -> EvaluateConfig:
    return EvaluateConfig(
        model=model,
        dataset=lab.save_dataset(tmp_path / "data", model),
        out=tmp_path / "out",
        items=5,
        batch_size=16,
        dtype="float32",
        device="cpu",
        threads=1,
    )


def with_scores(path: Path, results: dict[str, Any], *scores: float, **changes: Any) -> Path:
    """Results as they are, with other scores."""
    benchmarks = [
        {**benchmark, "score": score, "stderr": 0.05, **changes}
        for benchmark, score in zip(results["benchmarks"], scores, strict=False)
    ]
    path.write_text(json.dumps({**results, "benchmarks": benchmarks}))
    return path


def scoreboard(events: Path) -> Scoreboard:
    """The scores in a report file, as the audit reads them."""
    board = Scoreboard()
    for line in events.read_bytes().splitlines():
        report = parse_report(line)
        assert report.problem is None
        if report.score is not None:
            board.add_row(report.score)
        if report.items is not None:
            board.add_items(report.items)
    return board


def test_results_hold_scores_loss_and_tokens(
    config: EvaluateConfig, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    events = tmp_path / "events.jsonl"
    monkeypatch.setenv("KIT_EVENTS", str(events))
    results = run(config)
    assert results == json.loads((config.out / "results.json").read_text())
    assert results["suite"] == "pocket" and results["quality"] is None
    assert [benchmark["name"] for benchmark in results["benchmarks"]] == NAMES
    for benchmark in results["benchmarks"]:
        assert (benchmark["n_items"], benchmark["n_scored"], benchmark["score_unit"]) == (5, 5, "fraction")
        assert benchmark["metric"] == "exact_match" and len(benchmark["items_sha256"]) == 64
    # An untrained model: a little above or below the loss of guessing among 512 tokens.
    assert 5.5 < results["heldout_loss"] < 9 and results["heldout_label_tokens"] > 50
    counts = lab.reported(events)
    assert counts["tokens_generated"] == results["generated_tokens"] <= 32 * 15
    assert counts["tokens_processed"] == results["processed_tokens"] > results["generated_tokens"]
    assert counts["tokens_positions"] == results["positions"] and "tokens_trained" not in counts
    answers = [json.loads(line) for line in (config.out / "answers.jsonl").read_text().splitlines()]
    assert len(answers) == 15 and {row["benchmark"] for row in answers} == set(NAMES)

    # What the log gets says the same: four scores, and of the three benchmarks every item.
    board = scoreboard(events)
    assert board.problems() == [] and len(board.rows) == 4
    for benchmark in results["benchmarks"]:
        key = ("student", benchmark["name"], "exact_match", "none")
        row = board.rows[key]
        assert (row["score"], row["suite"], row["aggregation"]) == (benchmark["score"], "pocket", "mean")
        assert row["model_sha256"] == results["model"]["digest"] and row["harness"] == "lm-eval"
        assert row["items_sha256"] == items_digest([digest for _, digest in board.items[key] if digest])
        scored = [answer["score"] for answer in answers if answer["benchmark"] == benchmark["name"]]
        assert [score for score, _ in board.items[key]] == scored
    held_out = board.rows[("student", "validation", "loss", "none")]
    assert held_out["score"] == results["heldout_loss"] and not held_out["higher_is_better"]

    # Complete: nothing is done again. Other items: everything is.
    assert run(config) == results and lab.reported(events) == counts
    again = run(dataclasses.replace(config, out=tmp_path / "again"))
    assert again == results
    assert run(dataclasses.replace(config, seed=1))["benchmarks"] != results["benchmarks"]


def test_q_is_over_exactly_the_suite_and_the_same_items(
    config: EvaluateConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    results = run(dataclasses.replace(config, dataset=None))
    assert results["heldout_loss"] is None
    ours = with_scores(config.out / "results.json", results, 0.2, 0.3, 0.9)

    def q(teacher: Path) -> dict[str, Any]:
        found = run(dataclasses.replace(config, dataset=None, teacher_results=teacher))["quality"]
        assert isinstance(found, dict)
        return found

    assert ours.exists()
    teacher = with_scores(tmp_path / "teacher.json", results, 0.4, 0.3, 0.6)
    monkeypatch.setenv("KIT_EVENTS", str(tmp_path / "events.jsonl"))
    whole = q(teacher)
    monkeypatch.delenv("KIT_EVENTS")
    rows = scoreboard(tmp_path / "events.jsonl").rows
    assert {key[:2]: row["score"] for key, row in rows.items()} == {
        (subject, name): score
        for subject, scores in (("student", (0.2, 0.3, 0.9)), ("teacher", (0.4, 0.3, 0.6)))
        for name, score in zip(NAMES, scores, strict=True)
    }
    assert whole["q"] == pytest.approx(1.0) and whole["stderr"] > 0
    assert whole["leave_one_out"] == pytest.approx([0.75, 1.25])
    assert whole["teacher"] == results["model"]
    missing = q(with_scores(tmp_path / "missing.json", results, 0.4, 0.3))
    assert missing["q"] is None and "pocket_programs: no score of the teacher" in missing["reason"]
    other = q(with_scores(tmp_path / "other.json", results, 0.4, 0.3, 0.6, items_sha256="other"))
    assert other["q"] is None and "no score of the teacher" in other["reason"]
    part = q(with_scores(tmp_path / "part.json", results, 0.4, 0.3, 0.6, n_scored=4))
    assert part["q"] is None
    weak = q(with_scores(tmp_path / "weak.json", results, 0.4, 0.0, 0.6))
    assert weak["q"] is None and "not above the floor" in weak["reason"]
    with pytest.raises(KitError, match="holds no results"):
        q(tmp_path / "nowhere.json")


def test_the_program_and_what_it_refuses(
    config: EvaluateConfig,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    file = tmp_path / "evaluate.yaml"
    file.write_text(yaml.safe_dump(plain(config)), encoding="utf-8")

    def main(*flags: str) -> int:
        monkeypatch.setattr(sys, "argv", ["evaluate", "--config", str(file), *flags])
        return stage.main()

    assert main("--items", "2", "--dataset", "null") == 0
    assert "it/s" not in capsys.readouterr().err
    assert json.loads((config.out / "results.json").read_text())["benchmarks"][0]["n_items"] == 2
    assert main("--suite", "nobody") == 2
    assert "no evaluation suite 'nobody'" in capsys.readouterr().err
    assert main("--model", str(tmp_path)) == 2
    assert main("--items", "0") == 2
