"""Scores and token reports from the journal to the tables: nothing is lost, nothing is counted twice."""

from __future__ import annotations

import json
import math
import random
from pathlib import Path
from typing import Any

import pytest

from harness import Meter
from harness.bundle import Bundle
from harness.bundle.privacy import Scrubber
from harness.bundle.seal_events import TOKEN_EVENT_US, report_events
from harness.bundle.seal_tables import eval_table, item_table
from harness.errors import KitError
from harness.journal.reading import JournalRun
from harness.journal.scores import (
    KEY,
    Items,
    Scoreboard,
    eval_row,
    item_messages,
    items_chunk,
    items_digest,
)
from harness.spec import load_protocol
from harness.validate import validate

GIVEN = {
    "benchmark": "gsm8k", "metric": "exact_match", "suite": "s", "score": 0.5, "score_unit": "fraction",
    "n_items": 4,
}  # fmt: skip


def sums(events: list[dict[str, Any]]) -> dict[int, dict[str, int]]:
    found: dict[int, dict[str, int]] = {}
    for event in events:
        counts = found.setdefault(event["stage_uid"], {})
        for name, count in event["detail"].items():
            counts[name] = counts.get(name, 0) + count
    return found


def test_token_events_add_up_to_the_count_and_are_few() -> None:
    rng = random.Random(3)
    for _ in range(50):
        records: list[dict[str, Any]] = []
        expected: dict[int, dict[str, int]] = {}
        now = 0
        for uid in range(rng.randrange(1, 4)):
            start = now
            records.append(
                {"type": "stage_start", "stage_uid": uid, "session": 0, "mono_us": now, "boundary_us": now}
            )
            counts: dict[str, int] = {}
            for _ in range(rng.randrange(0, 60)):
                now += rng.randrange(500_000, 20_000_000)
                name = rng.choice(("tokens_trained", "tokens_processed"))
                counts[name] = counts.get(name, 0) + rng.choice((0, 1, 10**15))
                records.append(
                    {
                        "type": "stage_tokens",
                        "stage_uid": uid,
                        "session": 0,
                        "mono_us": now,
                        "t_us": now + 7,
                        "tokens": dict(counts),
                    }
                )
            if rng.random() < 0.7:  # else its runner was killed
                now += 1
                if rng.random() < 0.5:
                    counts["tokens_generated"] = rng.choice((0, 5))
                end = {
                    "type": "stage_end",
                    "stage_uid": uid,
                    "session": 0,
                    "mono_us": now + 9,
                    "t_us": now + 16,
                }
                records.append({**end, "boundary_us": now, "tokens": dict(counts)})
            if counts:
                expected[uid] = counts
            mine = [e for e in report_events(JournalRun(records), {uid}) if e["stage_uid"] == uid]
            assert len(mine) <= (now - start) / TOKEN_EVENT_US + 1
            assert all(e["t_us"] == e["mono_us"] + 7 and start <= e["mono_us"] <= now for e in mine)
        events = report_events(JournalRun(records), {*range(4)})
        assert sums(events) == expected
        assert {event["kind"] for event in events} <= {"stage_tokens"}
    assert report_events(JournalRun(records), set()) == []


def test_a_meters_scores_and_counts_are_in_its_bundle(tmp_path: Path) -> None:
    digests = [f"{number:064x}" for number in range(1000)]
    values = [None if number % 10 == 0 else number % 3 / 2 for number in range(1000)]
    known = [value for value in values if value is not None]
    mean = math.fsum(known) / len(known)
    with Meter(tmp_path / "run", cpu="none", devices=[]) as meter:
        with meter.stage("evaluate") as stage:
            stage.add_tokens(processed=5, generated=0)
            stage.add_tokens(processed=7)
            named = {"suite": "s", "metric": "exact_match"}
            stage.add_eval("gsm8k", mean, item_scores=values, item_sha256=digests, **named)
            stage.add_eval("gsm8k", 0.9, n_items=1000, subject="teacher", **named)
            for wrong in (
                {"score": 0.5, "item_scores": [1.0, 1.0]},
                {"score": 1.5, "n_items": 2},
                {"score": 0.5},
                {"score": 0.5, "n_items": 2, "colour": "red"},
                {"score": 0.5, "item_scores": [0.5], "item_sha256": ["abc"]},
            ):
                with pytest.raises(KitError, match="eval"):
                    stage.add_eval("other", **{**named, **wrong})  # type: ignore[arg-type]
            with pytest.raises(KitError, match="reported before with other values"):
                stage.add_eval("gsm8k", 0.8, n_items=1000, subject="teacher", **named)
        with meter.stage("prerun"):
            pass
    assert [f for f in validate(tmp_path / "run").findings if f.severity == "error"] == []
    bundle = Bundle.open(tmp_path / "run")
    student, teacher = bundle.table("evals").to_pylist()
    assert (student["score"], student["n_items"], student["n_unparsed"]) == (mean, 1000, 100)
    assert student["items_sha256"] == items_digest(digests) and student["aggregation"] == "mean"
    assert (teacher["subject"], teacher["score"], teacher["aggregation"]) == ("teacher", 0.9, "external")
    items = bundle.table("eval_items").to_pylist()
    assert [row["score"] for row in items] == values and [row["item_sha256"] for row in items] == digests
    assert [row["item"] for row in items] == list(range(1000))
    rows = {row["name"]: row for row in bundle.table("stages").to_pylist()}
    assert (rows["evaluate"]["tokens_processed"], rows["evaluate"]["tokens_generated"]) == (12, 0)
    assert rows["prerun"]["tokens_processed"] is None
    events = [e for e in bundle.table("events").to_pylist() if e["kind"] == "stage_tokens"]
    assert [json.loads(e["detail"]) for e in events] == [{"tokens_generated": 0, "tokens_processed": 12}]

    # A second session leaves what the first one scored.
    with (
        Meter(tmp_path / "run", cpu="none", devices=[], resume=True) as meter,
        meter.stage("evaluate") as stage,
    ):
        stage.add_eval("mmlu", 25.0, unit="percent", n_items=10, n_unparsed=2, suite="s", metric="acc")
    bundle = Bundle.open(tmp_path / "run")
    assert [row["benchmark"] for row in bundle.table("evals").to_pylist()] == ["gsm8k", "gsm8k", "mmlu"]
    assert bundle.table("evals").to_pylist()[-1]["stage_uid"] == 2 and bundle.rows("eval_items") == 1000
    assert len({e["event_id"] for e in bundle.table("events").to_pylist()}) == bundle.rows("events")


def test_under_an_audit_a_meter_reports_to_its_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    events = tmp_path / "events.jsonl"
    monkeypatch.setenv("KIT_EVENTS", str(events))
    values = [0.25] * 1000
    with Meter(tmp_path / "run") as meter, meter.stage("evaluate") as stage:
        stage.add_eval("b", 0.25, suite="s", metric="m", item_scores=values, item_sha256=["a" * 64] * 1000)
    lines = [json.loads(line) for line in events.read_text().splitlines()]
    assert all(len(line) < 1 << 16 for line in events.read_text().splitlines())
    board = Scoreboard()
    for line in lines:
        if "eval" in line:
            board.add_row(eval_row(line["eval"]))
        if "eval_items" in line:
            board.add_items(items_chunk(line["eval_items"]))
    assert board.problems() == [] and len(next(iter(board.items.values()))) == 1000


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"score": None}, "score is missing"),
        ({"score": "0.5"}, "score must be a number"),
        ({"score": True}, "score must be a number"),
        ({"score": float("nan")}, "score must be a number"),
        ({"score": 1.01}, "not within 0 to 1"),
        ({"score_unit": "stars"}, "'stars', not one of"),
        ({"benchmark": ""}, "must be a name"),
        ({"benchmark": "a\nb"}, "must be a name"),
        ({"benchmark": "x" * 201}, "must be a name"),
        ({"subject": "judge"}, "not one of student, teacher"),
        ({"n_items": 2.5}, "whole number"),
        ({"n_items": 2**31}, "whole number"),
        ({"n_items": 4, "n_scored": 5}, "negative"),
        ({"n_items": 4, "n_scored": 3, "n_unparsed": 0}, "are not its 4 items"),
        ({"n_items": 0}, "no item was scored"),
        ({"n_unparsed": 4}, "no item was scored"),
        ({"higher_is_better": 1}, "true or false"),
        ({"stderr": -0.1}, "not be negative"),
        ({"model_sha256": "/models/mine"}, "64 hexadecimal digits"),
        ({"answer": "42"}, "no column 'answer'"),
        ({"stage_uid": 3}, "no column 'stage_uid'"),
        ({"aggregation": "median"}, "not one of mean, group_mean, external"),
    ],
)
def test_what_is_no_score_is_refused_in_words(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        eval_row({**GIVEN, **change})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"scores": []}, "at least one"),
        ({"scores": "1"}, "must be lists"),
        ({"scores": [1, "x"]}, "must be a number"),
        ({"item_sha256": ["a" * 64]}, "2 scores and 1"),
        ({"item_sha256": ["a" * 64, "prompt text"]}, "64 hexadecimal"),
        ({"first": -1}, "first must be"),
        ({"text": ["a", "b"]}, "no member 'text'"),
        ({"metric": None}, "metric is missing"),
    ],
)
def test_what_are_no_items_is_refused_in_words(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        items_chunk({"benchmark": "b", "metric": "m", "scores": [1, None], **change})


def test_what_a_row_leaves_out_follows_from_the_rest() -> None:
    row = eval_row({**GIVEN, "n_unparsed": 1, "model_sha256": "sha256:" + "a" * 64})
    assert (row["n_items"], row["n_scored"], row["n_unparsed"]) == (4, 3, 1)
    assert (row["score_min"], row["score_max"], row["filter"], row["subject"]) == (
        0.0,
        1.0,
        "none",
        "student",
    )
    assert row["model_sha256"] == "a" * 64
    assert eval_row({**GIVEN, "score": 55, "score_unit": "percent"})["score_max"] == 100.0


def test_a_scoreboard_takes_each_item_once() -> None:
    key = ("student", "b", "m", "none")
    board = Scoreboard()
    assert board.add_items(Items(key, None, (1.0, 0.0), ())) == 0
    assert board.add_items(Items(key, None, (1.0,), ())) == 2
    assert board.add_items(Items(key, 0, (1.0, 0.0), ())) is None  # said again after a restart
    for first, scores in ((0, (0.0,)), (1, (0.0, 0.0)), (5, (1.0,)), (2, (1.0, 1.0))):
        with pytest.raises(ValueError, match="3 are there already"):
            board.add_items(Items(key, first, scores, ()))
    assert board.problems() == ["eval_items b (student, m): no eval says what they are; they are left out"]
    row = eval_row(
        {**GIVEN, "benchmark": "b", "metric": "m", "n_items": 3, "score": 0.5, "aggregation": "mean"}
    )
    assert board.add_row(row) and not board.add_row(dict(row))
    assert board.problems() == ["eval b (student, m): the mean of its items is 0.6666666666666666, not 0.5"]
    messages = list(item_messages(Items(key, 0, tuple([0.5] * 1001), ())))
    assert [message["first"] for message in messages] == [0, 400, 800]
    assert sum(len(message["scores"]) for message in messages) == 1001


def test_items_whose_score_never_came_are_named_and_left_out() -> None:
    base = {"session": 0, "mono_us": 5, "stage_uid": 1}
    row = eval_row({**GIVEN, "n_items": 2})
    named = {name: row[name] for name in KEY}
    items = {**base, "type": "eval_items", **named, "first": 0, "scores": [1.0, None], "item_sha256": []}
    orphan = {**items, "benchmark": "cut", "scores": [1.0] * 3}
    run = JournalRun([{**base, "type": "eval", "row": row}, items, orphan, {**orphan, "stage_uid": 9}])
    protocol = load_protocol()
    evals = eval_table(run, protocol, {1})
    table = item_table(run, protocol, evals)
    assert evals.num_rows == 1 and table.column("score").to_pylist() == [1.0, None]
    (event,) = report_events(run, {1})
    assert (event["kind"], event["severity"], event["detail"]) == (
        "x-scores_incomplete",
        "warning",
        {"items": 3},
    )


def test_names_in_scores_are_scrubbed_and_digests_are_not(monkeypatch: pytest.MonkeyPatch) -> None:
    scrubber = Scrubber(home="/home/ada", user="ada", hosts=("node17.example.org", "node17"))
    monkeypatch.setattr("harness.bundle.seal_tables.scrub", scrubber.scrub)
    private = {
        "benchmark": "/home/ada/bench.jsonl", "suite": "ada-suite", "judge_id": "judge@node17.example.org",
        "harness": "hf_" + "x" * 34, "harness_version": "10.1.2.3", "model_sha256": "a" * 64,
        "items_sha256": "b" * 64,
    }  # fmt: skip
    row = eval_row({**GIVEN, **private})
    base = {"session": 0, "mono_us": 5, "stage_uid": 1}
    items = {
        **base,
        "type": "eval_items",
        **{n: row[n] for n in KEY},
        "first": 0,
        "scores": [1.0],
        "item_sha256": ["c" * 64],
    }
    run = JournalRun([{**base, "type": "eval", "row": row}, items])
    protocol = load_protocol()
    evals = eval_table(run, protocol, {1})
    found = [*evals.to_pylist(), *item_table(run, protocol, evals).to_pylist()]
    text = json.dumps(found)
    assert len(found) == 2
    for secret in ("ada", "node17", "example.org", "10.1.2.3", "xxxx"):
        assert secret not in text
    assert found[0]["benchmark"] == found[1]["benchmark"] == "<home>/bench.jsonl"
    assert [found[0]["model_sha256"], found[0]["items_sha256"], found[1]["item_sha256"]] == [
        "a" * 64,
        "b" * 64,
        "c" * 64,
    ]


def test_the_tables_of_scores_have_no_column_for_text() -> None:
    tables = load_protocol().tables
    strings = {c.name for name in ("evals", "eval_items") for c in tables[name].columns if c.type == "string"}
    digests = {name for name in strings if name.endswith("_sha256")}
    names = {
        "subject",
        "suite",
        "benchmark",
        "benchmark_version",
        "metric",
        "filter",
        "score_unit",
        "aggregation",
        "group",
    }
    assert strings - digests == names | {"judge_id", "harness", "harness_version"}
