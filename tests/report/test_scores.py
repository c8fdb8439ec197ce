"""Scores, Q and the idle baseline in a report: beside the energy, never in it."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from harness import Meter
from harness.accounting.quality import Z95
from harness.journal.scores import eval_row
from harness.report.formats import to_json
from harness.report.model import build
from harness.report.scores import idle_baseline, suite_scores
from harness.report.terminal import print_report, summary_lines

EXAMPLE = Path(__file__).parents[1] / "protocol" / "examples" / "1.0"


def row(benchmark: str, score: float, subject: str = "student", **more: Any) -> dict[str, Any]:
    given = {"suite": "s", "metric": "m", "score_unit": "fraction", "n_items": 100, "stderr": 0.01}
    more = {"stage_uid": 1, **more}
    uid = more.pop("stage_uid")
    return {
        **eval_row({**given, "benchmark": benchmark, "score": score, "subject": subject, **more}),
        "stage_uid": uid,
    }


PAIRS = [row("a", 0.36), row("b", 0.45), row("a", 0.6, "teacher"), row("b", 0.5, "teacher")]


def test_q_is_the_mean_of_ratios_with_its_interval() -> None:
    (found,) = suite_scores(PAIRS)
    assert found.quality is not None and found.quality.q == pytest.approx(0.75)
    parts = [(0.01 / 0.6) ** 2 + (0.36 * 0.01 / 0.36) ** 2, (0.01 / 0.5) ** 2 + (0.45 * 0.01 / 0.25) ** 2]
    error = (sum(parts)) ** 0.5 / 2
    interval = found.quality.interval
    assert interval is not None and interval.high - interval.best == pytest.approx(Z95 * error)


@pytest.mark.parametrize(
    ("rows", "reason"),
    [
        (PAIRS[:3], "b: no score of the teacher"),
        (PAIRS[1:], "a: no score of the student"),
        ([*PAIRS[:3], row("b", 0.0, "teacher")], "not above"),
        ([row("a", 0.36, n_scored=99), *PAIRS[1:]], "a: no score of the student"),
        ([row("a", 0.36, items_sha256="a" * 64), *PAIRS[1:]], None),
        (
            [
                row("a", 0.36, items_sha256="a" * 64),
                PAIRS[1],
                row("a", 0.6, "teacher", items_sha256="b" * 64),
                PAIRS[3],
            ],
            "a: no score",
        ),
    ],
)
def test_q_is_over_exactly_the_suite(rows: list[dict[str, Any]], reason: str | None) -> None:
    (found,) = suite_scores(rows)
    assert found.quality is not None
    if reason is None:
        assert found.quality.q == pytest.approx(0.75)
    else:
        assert found.quality.q is None and reason in str(found.quality.reason)


def test_the_last_stage_counts_and_suites_stay_apart() -> None:
    early = [row("a", 0.1, stage_uid=0), row("a", 0.2, "teacher", stage_uid=0)]
    other = row("x", 3.5, suite="heldout", score_unit="nats", higher_is_better=False)
    suites = {found.suite: found for found in suite_scores([*early, *PAIRS, other])}
    assert suites["s"].student["a"]["score"] == 0.36 and set(suites["s"].teacher) == {"a", "b"}
    assert suites["heldout"].quality is None
    filters = [row("g", 0.1, filter="strict"), row("g", 0.3, filter="flexible")]
    assert set(suite_scores(filters)[0].student) == {"g m strict", "g m flexible"}
    assert suite_scores([]) == []


def test_a_held_out_loss_gives_no_q() -> None:
    losses = [
        row("x", s, who, suite="heldout", score_unit="nats", higher_is_better=False)
        for s, who in ((3.5, "student"), (3.0, "teacher"))
    ]
    (found,) = suite_scores(losses)
    assert found.quality is None and found.student["x"]["score"] == 3.5


def test_a_suite_scored_in_two_stages_is_one_suite() -> None:
    gsm8k = [row("gsm8k", 0.1, stage_uid=3), row("gsm8k", 0.8, "teacher", stage_uid=3)]
    mmlu = [row("mmlu", 0.5, stage_uid=4), row("mmlu", 0.5, "teacher", stage_uid=4)]
    for rows in (gsm8k + mmlu, mmlu + gsm8k):
        (found,) = suite_scores(rows)
        assert found.quality is not None and found.quality.q == pytest.approx((1 / 8 + 1) / 2)
    (half,) = suite_scores([*gsm8k, mmlu[0]])
    assert half.quality is not None and half.quality.q is None
    assert "mmlu: no score of the teacher" in str(half.quality.reason)


def stage(kind: str, start_s: float, end_s: float, watts: float | None) -> dict[str, Any]:
    energy = None if watts is None else watts * (end_s - start_s)
    parts = {"gpu_energy_j": energy, "cpu_energy_j": None, "dram_energy_j": None}
    parts |= {"gpu_energy_j_low": energy, "gpu_energy_j_high": energy}
    window = {"mono_start_us": round(start_s * 1e6), "mono_end_us": round(end_s * 1e6)}
    return {"stage": kind, "parent_uid": None, "session": 0, "flags": [], **window, **parts}


def test_energy_above_idle() -> None:
    rows = [
        stage("idle", 0, 60, 80.0),
        stage("student_train", 60, 160, 500.0),
        stage("unattributed", 160, 170, 100.0),
        stage("idle", 170, 290, 110.0),
    ]
    found = idle_baseline(rows, 60_000_000, ("idle",))
    assert found is not None and found.power_w.best == pytest.approx((80 * 60 + 110 * 120) / 180)
    assert found.above.best == pytest.approx(4800 + 50_000 + 1000 + 13_200 - 100 * 290)
    assert found.both_ends and not found.short and found.duration_us == 180_000_000
    half = idle_baseline(rows[:2], 60_000_001, ("idle",))
    assert half is not None and half.short and not half.both_ends
    assert idle_baseline(rows[1:3], 60_000_000, ("idle",)) is None
    assert idle_baseline([stage("idle", 0, 60, None)], 60_000_000, ("idle",)) is None


def test_time_beside_a_stage_is_not_counted_twice() -> None:
    """Two GPUs idle at 160 W together; one trains for 100 s at 500 W, the other waits at 80 W."""
    hole = stage("unattributed", 60, 160, 80.0) | {"flags": ["outside_device_list"]}
    rows = [stage("idle", 0, 60, 160.0), stage("student_train", 60, 160, 500.0), hole]
    found = idle_baseline(rows, 60_000_000, ("idle",))
    assert found is not None and found.above.best == pytest.approx(100 * (500 + 80 - 160))


def test_a_report_shows_them_and_its_totals_do_not_change() -> None:
    report = build(EXAMPLE)
    assert [suite.suite for suite in report.scores] == ["demo"] and report.baseline is None
    page = Console(file=io.StringIO(), width=120)
    print_report(report, page)
    assert isinstance(page.file, io.StringIO)
    text = " ".join(page.file.getvalue().split())
    assert "arithmetic exact_match 0.5 ± 0.57 (teacher 0.8), 1 of 5 not scored" in text
    assert "Q demo undefined" in text
    stored = json.loads(to_json(report))
    assert stored["scores"][0]["student"][0]["score"] == 0.5 and stored["idle_baseline"] is None
    assert stored["totals"]["it_energy_j"] == report.totals.it.best  # type: ignore[union-attr]


def test_scores_are_shown_where_nothing_was_metered(tmp_path: Path) -> None:
    with Meter(tmp_path / "run", cpu="none", devices=[]) as meter, meter.stage("evaluate") as stage:
        for subject, score in (("student", 30.0), ("teacher", 60.0)):
            stage.add_eval("b", score, suite="s", metric="m", unit="percent", n_items=9, subject=subject)
    shown = dict(summary_lines(build(tmp_path / "run")))
    assert shown["IT energy"].startswith("unknown")
    assert shown["s"] == "b m 30 % (teacher 60)" and shown["Q s"].startswith("0.500 over 1 benchmark")
