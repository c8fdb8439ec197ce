"""Stages evaluate and judge: results, Q against a teacher's, counts, parts, and running them again."""

from __future__ import annotations

import dataclasses
import json
import shutil
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
from harness.evaluation.judging import JudgingConfig
from harness.evaluation.judging import run as run_judge
from harness.evaluation.results import compare, quality_of, read_results, score_text
from harness.evaluation.suites import suite_named
from harness.files import write_json
from harness.journal.scores import Scoreboard, items_digest
from tests.distill import generation_lab as lab

torch.set_num_threads(1)
SUITE = suite_named("distill-5-pocket")
SCORED = ["pocket_arithmetic", "pocket_choices", "pocket_instructions"]
JUDGED = ["pocket_pairs", "pocket_dialogues"]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model, a data set, its answers to six items of each benchmark, and their judgement by itself."""
    root = tmp_path_factory.mktemp("made")
    model = lab.save_teacher(root / "model", end_bias=6.0)
    lab.save_dataset(root / "data", model)
    run(config(root, root / "out"))
    run_judge(judging(root, root / "judged"))
    return root


def config(root: Path, out: Path, **changes: Any) -> EvaluateConfig:
    given: dict[str, Any] = {"suite": "distill-5-pocket", "limit": 6, "dataset": root / "data"}
    given |= {"device": "cpu", "threads": 1, **changes}
    return EvaluateConfig(model=root / "model", out=out, **given)


def judging(root: Path, out: Path, **changes: Any) -> JudgingConfig:
    given: dict[str, Any] = {"answers": root / "out", "device": "cpu", "threads": 1, **changes}
    return JudgingConfig(judge=root / "model", out=out, **given)


def scoreboard(events: Path) -> tuple[Scoreboard, list[dict[str, Any]]]:
    """The scores in a report file, as the audit reads them, and all lines of it."""
    board = Scoreboard()
    for line in events.read_bytes().splitlines():
        report = parse_report(line)
        assert report.problem is None
        if report.score is not None:
            board.add_row(report.score)
        if report.items is not None:
            board.add_items(report.items)
    return board, [json.loads(line) for line in events.read_text().splitlines()]


def test_results_hold_scores_loss_and_tokens(
    made: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    events = tmp_path / "events.jsonl"
    monkeypatch.setenv("KIT_EVENTS", str(events))
    out = tmp_path / "out"
    results = run(config(made, out))
    assert results == read_results(out / "results.json")
    assert results["suite"] == f"{SUITE.id} first 6" and results["to_judge"] == JUDGED
    assert results["quality"] is None and results["judge"] is None
    names = [(row["name"], row["metric"], row["filter"]) for row in results["benchmarks"]]
    assert names[:2] == [
        ("pocket_arithmetic", "exact_match", "strict-match"),
        ("pocket_arithmetic", "exact_match", "flexible-extract"),
    ]
    assert list(dict.fromkeys(name for name, _, _ in names)) == SCORED
    assert all((row["n_items"], row["n_scored"]) == (6, 6) for row in results["benchmarks"])
    # An untrained model: a little above or below the loss of guessing among 512 tokens.
    assert 5.5 < results["heldout_loss"] < 9 and results["heldout_label_tokens"] > 50
    counts = lab.reported(events)
    assert counts["tokens_generated"] == results["generated_tokens"] > 0
    assert counts["tokens_processed"] == results["processed_tokens"] > results["generated_tokens"]
    assert counts["tokens_positions"] == results["positions"] and "tokens_trained" not in counts

    # Every benchmark is a part of the stage with tokens of its own.
    board, lines = scoreboard(events)
    begun = [line["name"] for line in lines if line.get("event") == "substage_begin"]
    assert begun == ["held-out loss", *SCORED, *JUDGED]
    ended = [(line["name"], line["status"]) for line in lines if line.get("event") == "substage_end"]
    assert ended == [(name, "completed") for name in begun]
    at = [n for n, line in enumerate(lines) if "tokens_processed" in line]
    assert len(at) == len(begun) and all("substage_end" in str(lines[n + 1]) for n in at)

    # What the log gets says the same: of each score every item, and no text.
    assert board.problems() == [] and len(board.rows) == len(names) + 1
    for row in results["benchmarks"]:
        key = ("student", row["name"], row["metric"], row["filter"])
        assert board.rows[key]["score"] == row["score"] and board.rows[key]["aggregation"] == "mean"
        assert board.rows[key]["suite"] == results["suite"]
        assert row["items_sha256"] == items_digest([digest for _, digest in board.items[key] if digest])
    held_out = board.rows[("student", "validation", "loss", "none")]
    assert held_out["score"] == results["heldout_loss"] and not held_out["higher_is_better"]
    answers = [json.loads(line) for line in (out / "answers.jsonl").read_text().splitlines()]
    assert len(answers) == 6 * 5 and sum("replies" in row for row in answers) == 12
    said = {row["answer"] for row in answers if row.get("answer")}
    assert said and not any(text in events.read_text() for text in said if len(text) > 8)

    # Complete: nothing is done again. Killed before the end: no answer is computed again.
    assert run(config(made, out)) == results and lab.reported(events) == counts
    (out / "results.json").unlink()
    again = run(config(made, out, dataset=None))
    assert again["answers_reused"] > 0 and again["generated_tokens"] == 0 == again["processed_tokens"]
    assert again["benchmarks"] == results["benchmarks"]


def test_another_template_asks_again(made: Path, tmp_path: Path) -> None:
    """Results and answers are those of the prompts as the tokenizer and its template made them."""
    ask = {"benchmarks": ["pocket_instructions"], "dataset": None}
    first = run(config(made, tmp_path / "out", **ask))
    assert first["generated_tokens"] > 0 and run(config(made, tmp_path / "out", **ask)) == first
    other = tmp_path / "tokenizer"
    shutil.copytree(made / "model", other)
    template = other / "chat_template.jinja"
    template.write_text(template.read_text() + "{# another #}")
    again = run(config(made, tmp_path / "out", tokenizer=other, **ask))
    assert again["prompted"] != first["prompted"] and again["generated_tokens"] > 0
    assert again["answers_reused"] == 0


def test_the_judge_adds_its_scores_and_q(made: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    teacher = made / "judged" / "results.json"
    events = tmp_path / "events.jsonl"
    monkeypatch.setenv("KIT_EVENTS", str(events))
    results = run_judge(judging(made, tmp_path / "judged", teacher_results=teacher))
    board, lines = scoreboard(events)
    assert [line["kind"] for line in lines if line.get("event") == "substage_begin"] == ["judge", "judge"]
    assert {key[:2] for key in board.rows} == {
        (who, name) for who in ("student", "teacher") for name in JUDGED
    }
    rows = {row["name"]: row for row in results["benchmarks"] if row["name"] in JUDGED}
    assert 0 < rows["pocket_pairs"]["score"] < 100 and rows["pocket_pairs"]["unit"] == "percent"
    assert 1 < rows["pocket_dialogues"]["score"] < 10
    assert board.rows["student", "pocket_dialogues", "rating", "none"]["aggregation"] == "group_mean"
    assert set(board.groups["student", "pocket_dialogues", "rating", "none"]) == {
        "instructions", "arithmetic", "programs",
    }  # fmt: skip
    assert results["judge"].startswith("pocket-teacher@")
    assert board.rows["student", "pocket_pairs", "win_rate", "none"]["judge_id"] == results["judge"]
    # Undefined against itself: an untrained teacher is at the floor.
    assert results["quality"]["q"] is None and "is not above the floor" in results["quality"]["reason"]
    # Judged again from the same cache: nothing is computed, and the result is the same.
    monkeypatch.delenv("KIT_EVENTS")
    again = run_judge(judging(made, tmp_path / "judged", teacher_results=teacher))
    assert again["judging"]["processed_tokens"] == 0 < results["judging"]["processed_tokens"]
    strip = [{k: v for k, v in side.items() if k != "judging"} for side in (again, results)]
    assert json.dumps(strip[0]) == json.dumps(strip[1])


def stored(made: Path, path: Path, scores: dict[str, float], **changes: Any) -> dict[str, Any]:
    """Results as they are, with other scores."""
    results = read_results(made / "judged" / "results.json") | changes
    for row in results["benchmarks"]:
        if row["name"] in scores:
            row |= {"score": scores[row["name"]], "stderr": 0.01}
    write_json(path, results)
    return read_results(path)


GOOD = dict(zip([*SCORED, *JUDGED], (0.8, 0.9, 0.6, 80.0, 8.0), strict=True))
HALF = dict(zip([*SCORED, *JUDGED], (0.4, 0.45, 0.3, 40.0, 4.0), strict=True))


def test_q_is_over_exactly_the_suite_the_items_and_the_judge(made: Path, tmp_path: Path) -> None:
    teacher, student = stored(made, tmp_path / "t.json", GOOD), stored(made, tmp_path / "s.json", HALF)
    found = quality_of(SUITE, student, teacher)
    assert found.q == pytest.approx(0.5) and found.leave_one_out == pytest.approx((0.5, 0.5))
    assert set(found.ratios) == {*SCORED, *JUDGED}  # not the flexible reading, nor the loose one
    for change, words in (
        ({"suite": "distill-5-pocket@000000000000"}, "suite distill-5-pocket@"),
        ({"judge": "somebody@else"}, "judged by"),
        ({"benchmarks": teacher["benchmarks"][1:]}, "pocket_arithmetic: no score of"),
    ):
        other = quality_of(SUITE, student, teacher | change)
        assert other.q is None and words in str(other.reason)
    for name, value in (("items_sha256", "f" * 64), ("n_scored", 5), ("score", None)):
        copy = json.loads(json.dumps(teacher))
        copy["benchmarks"][-1][name] = value
        other = quality_of(SUITE, student, copy)
        assert other.q is None and "pocket_dialogues: no score" in str(other.reason)
    weak = stored(made, tmp_path / "w.json", {**GOOD, "pocket_choices": 0.25})
    assert "not above the floor" in str(quality_of(SUITE, student, weak).reason)


def test_two_students_are_compared_item_by_item(made: Path, tmp_path: Path) -> None:
    teacher, ours = stored(made, tmp_path / "t.json", GOOD), stored(made, tmp_path / "a.json", {})
    better = json.loads(json.dumps(ours))
    for row in better["benchmarks"]:
        top = {"fraction": 0.0, "percent": 1.0, "rating_1_10": 1.0}[row["unit"]]
        row["item_scores"] = [score + top for score in row["item_scores"]]
    found = compare(SUITE, better, ours, teacher)
    assert found is not None and found.verdict == "better"
    assert found.difference.best == pytest.approx((1 / 80 + 1 / 8) / 5)
    same = compare(SUITE, ours, ours, teacher)
    assert same is not None and same.verdict == "tie"
    assert compare(SUITE, ours, ours | {"judge": "else"}, teacher) is None
    assert compare(SUITE, ours, ours | {"suite": "other"}, teacher) is None
    assert compare(SUITE, ours, ours, teacher | {"benchmarks": teacher["benchmarks"][2:]}) is None


def test_a_score_in_words() -> None:
    row = {"score": 0.25, "unit": "fraction", "stderr": 0.1, "n_items": 16, "n_scored": 15, "void": None}
    assert score_text(row) == "0.25 ± 0.2, 1 of 16 unparsed"
    assert score_text({**row, "unit": "percent", "score": 29.92, "n_scored": 16}) == "29.92 % ± 0.2, 16 items"
    assert score_text({**row, "score": None, "void": "unreadable"}) == "no score: unreadable"


def test_parts_of_a_suite_and_what_is_refused(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "evaluate.yaml"
    file.write_text(yaml.safe_dump(plain(config(made, tmp_path / "out", dataset=None))), encoding="utf-8")

    def main(*flags: str) -> int:
        monkeypatch.setattr(sys, "argv", ["evaluate", "--config", str(file), *flags])
        return stage.main()

    assert main("--benchmarks", "pocket_choices", "--limit", "2") == 0
    error = capsys.readouterr().err
    assert "it/s" not in error and "Tokenizing" not in error
    results = read_results(tmp_path / "out" / "results.json")
    assert [row["name"] for row in results["benchmarks"]] == ["pocket_choices"]
    assert results["suite"].endswith(" first 2") and results["to_judge"] == []
    for flags, words in (
        (("--suite", "nobody"), "no evaluation suite 'nobody'"),
        (("--suite", "distill-5"), "is a draft"),
        (("--benchmarks", "chess"), "has no benchmark 'chess'"),
        (("--model", str(tmp_path)), "holds no teacher"),
        (("--limit", "0"), "at least 1"),
        (("--teacher_results", str(tmp_path / "nowhere.json")), "holds no results"),
    ):
        assert main(*flags) == 2
        assert words in capsys.readouterr().err
    with pytest.raises(KitError, match="no answers to be judged"):
        run_judge(judging(made, tmp_path / "j", answers=tmp_path / "out"))
    shutil.copytree(made / "out", tmp_path / "torn")
    (tmp_path / "torn" / "replies.json").write_text("{}")
    with pytest.raises(KitError, match="other replies of pocket_pairs"):
        run_judge(judging(made, tmp_path / "j", answers=tmp_path / "torn"))
    (tmp_path / "torn" / "replies.json").unlink()
    with pytest.raises(KitError, match="holds no replies"):
        run_judge(judging(made, tmp_path / "j", answers=tmp_path / "torn"))


def test_the_stages_only_know_their_own_config() -> None:
    assert [field.name for field in dataclasses.fields(JudgingConfig)][:3] == ["answers", "out", "judge"]
