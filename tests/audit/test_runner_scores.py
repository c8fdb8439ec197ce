"""`kit audit` takes scores from $KIT_EVENTS, says what it cannot take, and measures an idle baseline."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from harness.accounting.totals import lower_bound, run_totals
from tests.audit.kit_process import Kit, events, pipeline, stage_rows

_SCORES = r"""
import json, os
with open(os.environ["KIT_EVENTS"], "a") as f:
    def say(**message): f.write(json.dumps(message) + "\n")
    row = {"benchmark": "gsm8k", "metric": "exact_match", "suite": "s", "score_unit": "fraction"}
    named = {"benchmark": "gsm8k", "metric": "exact_match"}
    say(eval_items={**named, "scores": [1, 0], "item_sha256": ["a" * 64, "b" * 64]})
    say(tokens_processed=40, eval={**row, "score": 0.5, "n_items": 4, "n_scored": 2, "aggregation": "mean"})
    say(eval_items={**named, "scores": [None, None], "item_sha256": ["c" * 64] * 2})
    say(eval={**row, "score": 0.75, "n_items": 4, "subject": "teacher"})
    say(tokens_processed=2)
    if not BAD:
        say(event="work_elsewhere", judge="j")
    else:
        say(eval={**row, "score": 0.6, "n_items": 4, "subject": "teacher"})
        say(eval={**row, "score": 50, "n_items": 4, "metric": "acc"})
        say(eval={"answer": "the answer is forty-two"})
        say(eval_items={"benchmark": "lost", "metric": "m", "scores": [1]})
        say(eval_items=[1, 2])
        say(eval={**row, "metric": "f1", "score": 0.5, "n_items": 2, "aggregation": "mean"})
"""


@pytest.fixture
def kit(tmp_path: Path) -> Kit:
    return Kit(tmp_path)


def test_scores_and_counts_of_a_stage_are_in_the_bundle(kit: Kit) -> None:
    kit.write("good.py", _SCORES.replace("BAD", "False"))
    kit.write("p.yaml", pipeline("{name: eval, kind: evaluate, command: [python, good.py]}"))
    shown = kit.audit("p.yaml")
    assert "could not be used" not in shown
    bundle = kit.bundle()
    student, teacher = bundle.table("evals").to_pylist()
    assert (student["score"], student["n_unparsed"], teacher["score"]) == (0.5, 2, 0.75)
    items = bundle.table("eval_items").to_pylist()
    assert [(row["item"], row["score"]) for row in items] == [(0, 1.0), (1, 0.0), (2, None), (3, None)]
    assert [row["detail"] for row in events(bundle, "stage_tokens")] == [{"tokens_processed": 42}]
    (stage,) = stage_rows(bundle)
    assert stage["tokens_processed"] == 42
    # A judge behind an API: what the stage took is more than is known.
    assert "work_elsewhere" in stage["flags"] and lower_bound(stage)
    assert run_totals([stage], teacher_kinds=()).incomplete == {"evaluate"}


def test_scores_that_cannot_be_taken_are_said_and_counted(kit: Kit) -> None:
    kit.write("bad.py", _SCORES.replace("BAD", "True"))
    kit.write("p.yaml", pipeline("{name: eval, kind: evaluate, command: [python, bad.py]}"))
    shown = kit.run("audit", "p.yaml", "--cpu", "none")[1]
    from harness.bundle import Bundle

    bundle = Bundle.open(kit.cwd / "runs/p")
    # What was good is there; of a benchmark that was reported twice, the first.
    scores = {(row["subject"], row["metric"]): row["score"] for row in bundle.table("evals").to_pylist()}
    assert scores == {
        ("student", "exact_match"): 0.5,
        ("teacher", "exact_match"): 0.75,
        ("student", "f1"): 0.5,
    }
    assert {row["benchmark"] for row in bundle.table("eval_items").to_pylist()} == {"gsm8k"}
    problems = " ".join(row["detail"]["problem"] for row in events(bundle, "x-bad_report"))
    for said in (
        "reported before with other values",
        "50 is not within 0 to 1",
        "no column 'answer'",
        "must be an object",
        "no eval says what they are",
        "called a mean, and no items were reported",
    ):
        assert said in problems
    assert "forty-two" not in problems
    assert stage_rows(bundle)[0]["flags"] == ["bad_report"]
    assert [row["detail"] for row in events(bundle, "x-scores_incomplete")] == [{"items": 1}]
    assert "3 more report lines could not be used" in shown


def test_an_idle_baseline_is_measured_before_and_after(kit: Kit) -> None:
    head = "devices: none\nidle_baseline: {before: 0.4, after: 200ms}\n".replace("200ms", "0.2")
    kit.write("p.yaml", pipeline("{name: work, kind: x-w, command: [sh, fail.sh], retries: 1}", head=head))
    kit.write("fail.sh", "test -e done || { touch done; exit 3; }")
    shown, _ = kit.run("audit", "p.yaml", "--dry-run")
    assert "idle 0.4s before" in shown and "idle 0.2s after" in shown
    kit.audit("p.yaml")
    bundle = kit.bundle()
    rows = stage_rows(bundle)
    assert [(row["name"], row["stage"], row["attempt"], row["status"]) for row in rows] == [
        ("idle_before", "idle", 1, "completed"),
        ("work", "x-w", 1, "failed"),
        ("work", "x-w", 2, "completed"),
        ("idle_after", "idle", 1, "completed"),
    ]
    for row, seconds in ((rows[0], 0.4), (rows[3], 0.2)):
        assert row["mono_end_us"] - row["mono_start_us"] >= seconds * 1e6
    assert bundle.manifest["pipeline"]["idle_baseline"] == {"before": 0.4, "after": 0.2}
    report = json.loads(kit.run("report", "runs/p", "--format", "json")[0])
    assert report["idle_baseline"] is None  # nothing was metered: there is no power to speak of

    kit.run("audit", "p.yaml", "--cpu", "none", "--resume")  # all is done: no further waits
    assert len(stage_rows(kit.bundle())) == 4


def test_a_stage_may_not_take_the_name_of_a_wait(kit: Kit) -> None:
    head = "idle_baseline: {before: 1s}\n"
    kit.write("p.yaml", pipeline("{name: idle_before, kind: idle, command: [sleep, '1']}", head=head))
    assert "name of a wait" in kit.run("audit", "p.yaml", code=2)[1]
    kit.write(
        "p.yaml", pipeline("{name: a, kind: x-a, command: [true]}", head="idle_baseline: {during: 1s}\n")
    )
    assert (
        "'during' is not a field of idle_baseline. Allowed: before, after"
        in kit.run("audit", "p.yaml", code=2)[1]
    )
