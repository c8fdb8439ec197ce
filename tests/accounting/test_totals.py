"""Totals, the paper's published arithmetic, and digits."""

from __future__ import annotations

import math
from functools import partial

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.accounting import totals
from harness.accounting.interval import Interval
from harness.accounting.rounding import duration, plus_minus, quantity, significant, with_ends
from harness.accounting.series import DeviceLimits
from harness.accounting.stages import Plan, Sampling
from tests.accounting.synthetic import Stage, make_run

KWH = 3_600_000.0
run_totals = partial(totals.run_totals, teacher_kinds=("teacher_logits", "teacher_generate"))

# arXiv 2605.13981: stage energies in kWh (preprocess, teacher, student, evaluation), total, J/token.
TABLE = {
    "baseline 1B": ((0.37, 0.0, 6.30, 0.33), 7.00, 0.84),
    "baseline 13B": ((0.37, 0.0, 33.15, 1.08), 34.60, 4.15),
    "kd 1B": ((0.37, 11.00, 5.20, 0.33), 16.90, 2.03),
    "kd 13B": ((0.37, 11.00, 30.05, 1.08), 42.50, 5.10),
    "synthetic 1B": ((0.37, 10.60, 5.35, 0.33), 16.65, None),
    "synthetic 13B": ((0.37, 10.60, 28.65, 1.08), 40.70, 4.88),
}
KINDS = ("preprocess", "teacher_logits", "student_train", "evaluate")


def row(kind, gpu=None, cpu=None, status="completed", **more):
    return {
        "stage": kind,
        "parent_uid": None,
        "status": status,
        "device_ids": [0],
        "gpu_energy_j": gpu,
        "gpu_energy_method": "counter_tick",
        "cpu_energy_j": cpu,
        "cpu_energy_method": "rapl",
        "dram_energy_j": None,
        "dram_energy_method": "absent",
        "tokens_trained": None,
        "tokens_processed": None,
        "tokens_positions": None,
        "tokens_generated": None,
        "token_denominator": None,
        **more,
    }


@pytest.mark.parametrize("name", TABLE)
def test_totals_of_the_paper(name):
    stages, total, j_per_token = TABLE[name]
    rows = [row(kind, kwh * KWH) for kind, kwh in zip(KINDS, stages, strict=True) if kwh]
    got = run_totals(rows)
    assert got.it.best / KWH == pytest.approx(total, abs=1e-9)
    if j_per_token:
        assert round(totals.per_token(got.it, 30_000_000).best, 2) == j_per_token
    assert (got.teacher is None) == (stages[1] == 0)


def test_a_gpu_of_unknown_energy_leaves_a_lower_bound():
    rows = [row("student_train", None, 5000.0), row("evaluate", 3.0, 1.0)]
    got = run_totals(rows)
    assert got.it.best == 5004.0 and got.incomplete == {"student_train"}
    assert got.whole_of() is None and got.whole_of("student_train") is None
    assert got.whole_of("evaluate").best == 4.0 and got.whole_of("judge") is None
    # Where there is no GPU, nothing of one is missing.
    assert run_totals([{**rows[0], "device_ids": []}]).whole_of().best == 5000.0


def test_facility_and_carbon():
    facility = totals.facility(Interval(3.6e6, 3.5e6, 3.8e6), 1.5)
    assert totals.co2e_kg(facility, 400.0).best == pytest.approx(0.6)
    with pytest.raises(ValueError, match="PUE"):
        totals.facility(Interval.exact(1.0), 0.9)


def test_unknown_parts_are_counted_not_zeroed():
    got = run_totals([row("preprocess", 5.0), row("evaluate", None)])
    assert got.gpu.energy_j == 5.0
    assert got.gpu.unknown_rows == 1
    assert got.cpu.energy_j is None
    assert run_totals([row("evaluate")]).it is None


def test_tokens_of_failed_attempts_are_not_counted_but_their_joules_are():
    rows = [
        row("student_train", 10.0, status="failed", tokens_trained=5),
        row("student_train", 20.0, tokens_trained=9),
    ]
    assert totals.tokens(rows, "trained") == 9
    assert run_totals(rows).it.best == 30.0
    assert totals.per_token(Interval.exact(30.0), 0) is None
    assert totals.per_token(Interval.exact(30.0), None) is None


def test_a_student_without_a_count_leaves_no_figure():
    """Two training stages, one of which counted nothing: its joules have no tokens to be divided by."""
    rows = [row("student_train", 10.0, tokens_trained=1000), row("student_train", 30.0)]
    assert totals.student_tokens(rows, "trained", ("student_train",)) is None
    assert totals.student_tokens(rows[:1], "trained", ("student_train",)) == 1000


def test_a_changed_command_that_ran_again_counts_once():
    rows = [
        row("student_train", 10.0, name="a", attempt=k, command_sha256=str(k) * 64, tokens_trained=count)
        for k, count in ((1, 5), (2, 9))
    ]
    assert totals.tokens(rows, "trained") == 9 and totals.tokens(rows[::-1], "trained") == 9
    blocks = [{**r, "command_sha256": None} for r in rows]
    assert totals.tokens(blocks, "trained") == 14


def test_inherited_artifacts_count_once():
    edge = {"role": "consumed", "artifact_id": "sha256:a", "origin_energy_j": 7.0}
    assert totals.inherited_energy([edge, dict(edge), {**edge, "role": "produced"}]).best == 7.0
    assert totals.inherited_energy([]) is None


def test_two_outputs_of_one_stage_bring_its_energy_once():
    edge = {"role": "consumed", "artifact_id": "a", "name": "a", "origin_run_id": "r", "origin_energy_j": 7.5}
    rows = [edge, {**edge, "artifact_id": "b"}]
    assert totals.inherited_energy(rows).best == 7.5
    assert totals.inherited_energy([*rows, {**edge, "artifact_id": "c", "origin_energy_j": 2.0}]).best == 9.5
    assert totals.inherited_energy([edge, {**rows[1], "origin_run_id": "other"}]).best == 15.0
    assert totals.inherited_energy([edge, {**edge, "stage_uid": 2}]).best == 7.5


def test_one_unknown_origin_leaves_what_was_inherited_unknown():
    known = {"role": "consumed", "artifact_id": "a", "name": "cache", "origin_run_id": "r"}
    rows = [{**known, "origin_energy_j": 7.0}, {**known, "artifact_id": "b", "origin_energy_j": None}]
    assert totals.unknown_origins(rows) == ["cache"]
    assert totals.inherited_energy(rows) is None
    assert totals.inherited_energy([rows[0], {**rows[1], "origin_run_id": None}]).best == 7.0


def test_run_interval_is_tighter_than_the_sum_of_stages():
    run = make_run(
        (*(Stage(f"s{i}", "evaluate", 2 + i, 3 + i, 600) for i in range(30)),), end_s=40, devices=1
    )
    plan = Plan(run.stages, run.counter_series(), Sampling())
    derivation = plan.finish([plan.measure(s) for s in run.power_series()])
    loose = run_totals(derivation.stages)
    tight = run_totals(derivation.stages, derivation.sessions)
    truth = run.energy_j(0, 1, 40)
    assert tight.gpu.energy_j == loose.gpu.energy_j == pytest.approx(truth, abs=0.002)
    assert loose.gpu.interval.half_width > 10 * tight.gpu.interval.half_width
    assert tight.gpu.interval.low <= truth <= tight.gpu.interval.high


def test_one_stage_from_end_to_end_is_known_as_well_as_its_run():
    """A sensor of 1 s means lags a ramp: the run as one window has that error as much as the stage."""
    run = make_run((Stage("train", "student_train", 1, 120, 300),), end_s=120, devices=1)
    run.power["power_mw"] = np.linspace(80_000, 600_000, run.power["power_mw"].size).astype(np.int32)
    run.power["energy_counter_mj_valid"][:] = False
    for reading in run.counters:
        reading["value"] = None
    limits = {0: DeviceLimits(max_mw=700_000, instant=False)}
    plan = Plan(run.stages, run.counter_series(), Sampling(), limits)
    derivation = plan.finish([plan.measure(s) for s in run.power_series()])
    (only,) = derivation.stages
    (session,) = derivation.sessions
    ends = only["gpu_energy_j_low"], only["gpu_energy_j_high"]
    # The mean of a second shows the ramp half a second late: about (600 - 80) W x 0.55 s more was drawn.
    assert ends[1] - only["gpu_energy_j"] > 250
    assert (session.low_j, session.high_j) == pytest.approx(ends)
    whole = run_totals(derivation.stages, derivation.sessions).gpu.interval
    assert (whole.low, whole.high) == pytest.approx(ends)


@given(st.lists(st.integers(0, 10**9), min_size=1, max_size=50))
def test_sums_are_exact_in_millijoules(parts):
    got = run_totals([row("evaluate", mj / 1000) for mj in parts])
    assert round(got.gpu.energy_j * 1000) == sum(parts)


@pytest.mark.parametrize(
    ("best", "low", "high", "text"),
    [
        (2523.456, 2522.756, 2524.156, "2523"),
        (2523.456, 2501.0, 2546.0, "2523"),
        (2523.456, 2020.0, 3030.0, "2520"),
        (437.0, 0.0, 874.0, "440"),
        (9.96, 0.0, 19.92, "10"),
        (0.0000123, None, None, "0.00001230"),
        (1.0, 0.0, 40.0, "1"),
        (120_999.97, 120_999.0, 121_001.0, "121\u202f000"),
        (0.0, 0.0, 0.0, "0"),
        (-3.5, -3.6, -3.4, "-3.50"),
    ],
)
def test_digits_follow_the_interval(best, low, high, text):
    assert significant(best, low, high) == text


@pytest.mark.parametrize(
    ("best", "half", "text"),
    [
        (363.2, 361.0, "360 ± 360"),
        (0.00431, 0.00428, "0.0043 ± 0.0043"),
        (110.4, 109.9, "110 ± 110"),
        (19_500_000.0, 0.031, "19\u202f500\u202f000"),
        (1.2346, 0.0123, "1.235 ± 0.012"),
        (3.0, 40.0, "3 ± 40"),
    ],
)
def test_a_value_and_its_half_width_end_at_the_same_place(best: float, half: float, text: str) -> None:
    assert plus_minus(best, half) == text


@pytest.mark.parametrize(
    ("interval", "text"),
    [
        (Interval(426.5, 0.0, 853.0), "430 J (0 J to 850 J)"),
        (Interval(2523.456, 2501.0, 2546.0), "2.523 kJ (2.501 kJ to 2.546 kJ)"),
        (Interval(60.0, 50.0, math.inf), "60 J (50.00 J to no end)"),
        (Interval.exact(7.0), "7.000 J"),
    ],
)
def test_ends_of_an_interval_have_the_digits_of_its_middle(interval: Interval, text: str) -> None:
    assert with_ends(interval, "J") == text


def test_quantities_and_durations():
    assert quantity(None, "J") == "unknown"
    assert quantity(2_523_456.0, "J", 2_522_000.0, 2_524_000.0) == "2.523 MJ"
    assert quantity(0.00042, "J") == "420.0 µJ"
    assert [duration(x * 10**6) for x in (3, 45, 3_599, 7_322)] == [
        "3.00 s",
        "45.0 s",
        "59 min 59 s",
        "2 h 02 min",
    ]


def test_intervals_refuse_nonsense_and_tie():
    with pytest.raises(ValueError, match="not an interval"):
        Interval(1.0, 2.0, 3.0)
    with pytest.raises(ValueError, match="not an interval"):
        Interval(math.nan, 0.0, 1.0)
    assert Interval(1, 0, 2).overlaps(Interval(3, 2, 4))
    assert not Interval(1, 0, 2).overlaps(Interval(5, 4, 6))
    assert (Interval(5, 4, 7) - Interval(2, 1, 3)) == Interval(3, 1, 6)
