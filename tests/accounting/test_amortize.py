"""N*, T* and the frontier: published figures, cases, and intervals against Monte Carlo."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.accounting import ParetoPoint, pareto_frontier
from harness.accounting.amortize import (
    break_even,
    mean_of_repeats,
    repeated_break_even,
    reuse,
    serving_break_even,
    student_sensitivity,
)
from harness.accounting.interval import Interval
from harness.accounting.rounding import break_even_sentence, break_even_text
from harness.accounting.totals import per_token

FIGURE = st.floats(0.0, 100.0).map(lambda x: round(x, 2))


def around(best: float, rel: float) -> Interval:
    return Interval(best, best * (1 - rel), best * (1 + rel))


@pytest.mark.parametrize(
    ("teacher", "baseline", "distilled", "ratio", "whole"),
    [
        (11.00, 6.30, 5.20, 10.0, 10),
        (11.00, 33.15, 30.05, 3.55, 4),
        (10.60, 6.30, 5.35, 11.16, 12),
        (10.60, 33.15, 28.65, 2.36, 3),
    ],
)
def test_break_even_of_the_paper(teacher, baseline, distilled, ratio, whole):
    got = break_even(*(Interval.exact(x) for x in (teacher, baseline, distilled)))
    assert got.ratio == pytest.approx(ratio, abs=0.005)
    assert got.whole == whole
    n = Interval.exact(distilled) + Interval.exact(teacher).scale(1 / whole)
    assert n.best <= baseline + 1e-9
    assert distilled + teacher / (whole - 1) > baseline


def test_break_even_is_ill_conditioned_and_says_so():
    three = [Interval(x, x * 0.97, x * 1.03) for x in (6.30, 5.20)]
    got = break_even(Interval.exact(11.0), *three)
    assert got.low == pytest.approx(11 / (6.489 - 5.044), abs=1e-9)
    assert got.low == pytest.approx(7.6, abs=0.05)
    assert got.high == pytest.approx(14.6, abs=0.1)


def test_no_saving_never_pays():
    got = break_even(Interval.exact(11.0), Interval.exact(5.0), Interval.exact(5.0))
    assert (got.ratio, got.whole, got.high) == (None, None, math.inf)
    maybe = break_even(Interval.exact(11.0), Interval(5.0, 4.5, 5.5), Interval(4.9, 4.6, 5.2))
    assert maybe.whole == 110
    assert maybe.high == math.inf


def test_reuse_charges_the_teacher_once():
    got = reuse(Interval.exact(5.90), Interval.exact(11.0), 10)
    assert (got.marginal.best, got.amortized.best, got.full.best) == pytest.approx((5.9, 7.0, 16.9))
    with pytest.raises(ValueError, match="at least once"):
        reuse(Interval.exact(1), Interval.exact(1), 0)


@pytest.mark.parametrize(
    ("teacher", "baseline", "distilled", "case", "ratio", "whole"),
    [
        (11.0, 6.0, 4.0, "finite", 5.5, 6),
        (0.5, 6.0, 4.0, "finite", 0.25, 1),
        (0.0, 6.0, 4.0, "always", 0.0, 1),
        (0.0, 6.0, 6.0, "always", 0.0, 1),
        (0.0, 4.0, 6.0, "never", None, None),
        (11.0, 4.0, 4.0, "never", None, None),
        (11.0, 4.0, 6.0, "never", None, None),
        (-1.0, 6.0, 4.0, "undefined", None, None),
        (11.0, -6.0, -7.0, "undefined", None, None),
        (None, 6.0, 4.0, "undefined", None, None),
        (11.0, None, 4.0, "undefined", None, None),
        (11.0, 6.0, None, "undefined", None, None),
    ],
)
def test_cases_of_break_even(teacher, baseline, distilled, case, ratio, whole):
    got = break_even(*(None if x is None else Interval.exact(x) for x in (teacher, baseline, distilled)))
    assert (got.case, got.ratio, got.whole) == (case, ratio, whole)
    if case == "finite":
        assert got.low == got.ratio == got.high and got.resolved
    if case in ("always", "never"):
        assert got.resolved


@pytest.mark.parametrize(
    ("extra", "reference", "student", "case", "ratio", "whole"),
    [
        (3.6e6, 0.9, 0.4, "finite", 7.2e6, 7_200_000),
        (1.0, 0.5, 0.2, "finite", 10 / 3, 4),
        (0.1, 0.9, 0.4, "finite", 0.2, 1),
        (0.0, 0.9, 0.4, "always", 0.0, 0),
        (-5.0, 0.9, 0.4, "always", 0.0, 0),
        (-5.0, 0.9, 0.9, "always", 0.0, 0),
        (0.0, 0.9, 0.9, "always", 0.0, 0),
        (5.0, 0.9, 0.9, "never", None, None),
        (5.0, 0.4, 0.9, "never", None, None),
        (-5.0, 0.4, 0.9, "undefined", None, None),
        (0.0, 0.4, 0.9, "undefined", None, None),
        (None, 0.9, 0.4, "undefined", None, None),
        (5.0, -0.1, -0.4, "undefined", None, None),
    ],
)
def test_cases_of_serving(extra, reference, student, case, ratio, whole):
    got = serving_break_even(*(None if x is None else Interval.exact(x) for x in (extra, reference, student)))
    assert (got.case, got.whole) == (case, whole)
    assert got.ratio == (None if ratio is None else pytest.approx(ratio))


def test_a_doubtful_saving_leaves_the_case_open():
    maybe = break_even(Interval.exact(11.0), Interval(5.0, 4.5, 5.5), Interval(5.1, 4.6, 5.2))
    assert (maybe.case, maybe.resolved) == ("never", False)
    assert maybe.low == pytest.approx(11 / 0.9)
    free = break_even(Interval(0.0, 0.0, 1.0), Interval.exact(5.0), Interval.exact(4.0))
    assert (free.case, free.resolved, free.high) == ("always", False, 1.0)


def test_words_for_a_break_even():
    three = [around(x, 0.03) for x in (6.30, 5.20)]
    assert break_even_text(break_even(Interval.exact(11.0), *three)) == "10.0 (7.61 to 14.6)"
    assert break_even_text(break_even(*map(Interval.exact, (11.0, 33.15, 30.05)))) == "3.55"
    assert break_even_text(break_even(*map(Interval.exact, (11.0, 3.0, 5.0)))) == "never"
    assert break_even_text(break_even(None, None, None)) == "not defined"
    assert break_even_text(break_even(*map(Interval.exact, (0.0, 6.0, 5.0)))) == "pays at once"
    vague = break_even(Interval.exact(11.0), Interval(5.0, 4.5, 5.5), Interval(4.9, 4.6, 5.2))
    assert break_even_text(vague) == "110, not resolved (12.2 to never)"
    assert break_even_sentence(vague, "reuses", "until it has paid") == (
        "110 reuses until it has paid (12.2 to never), not resolved"
    )
    never = break_even(*map(Interval.exact, (11.0, 3.0, 5.0)))
    assert break_even_sentence(never, "reuses", "until x") == "never: no number of reuses is enough"
    maybe = break_even(Interval.exact(11.0), Interval(5.0, 4.5, 5.5), Interval(5.1, 4.6, 5.2))
    assert break_even_sentence(maybe, "reuses", "until x") == (
        "not resolved: by the best values no number of reuses is enough, "
        "within the intervals 12.2 or more may be"
    )


def draws(rng: np.random.Generator, interval: Interval, count: int) -> np.ndarray:
    return rng.uniform(interval.low, interval.high, count)


@pytest.mark.parametrize("seed", range(5))
def test_intervals_hold_every_draw_and_no_more(seed):
    """Interval arithmetic is exact: all draws lie inside, and the extreme draws come near both ends."""
    rng = np.random.default_rng(seed)
    teacher, baseline = around(rng.uniform(5, 20), 0.04), around(rng.uniform(6, 9), 0.03)
    distilled = around(baseline.best - rng.uniform(0.8, 3.0), 0.03)
    got = break_even(teacher, baseline, distilled)
    t, b, d = (draws(rng, x, 200_000) for x in (teacher, baseline, distilled))
    inside = b > d
    ratios = t[inside] / (b - d)[inside]
    assert ratios.min() >= got.low and (ratios.max() <= got.high)
    assert ratios.min() == pytest.approx(got.low, rel=0.05)
    assert inside.all() == math.isfinite(got.high)
    if math.isfinite(got.high) and got.high < 3 * got.ratio:
        assert ratios.max() == pytest.approx(got.high, rel=0.1)
    served = serving_break_even(teacher, around(0.9, 0.05), around(0.4, 0.05))
    tokens = t / (draws(rng, around(0.9, 0.05), t.size) - draws(rng, around(0.4, 0.05), t.size))
    assert served.low <= tokens.min() <= tokens.max() <= served.high
    assert (tokens.min(), tokens.max()) == pytest.approx((served.low, served.high), rel=0.05)
    joules = per_token(teacher, 1234)
    assert (joules.low, joules.high) == pytest.approx((t.min() / 1234, t.max() / 1234), rel=1e-3)


@given(FIGURE, FIGURE, FIGURE, st.floats(0.0, 0.3))
def test_the_best_value_lies_in_its_interval_and_a_common_gain_cancels(teacher, baseline, distilled, rel):
    values = [around(x, rel) for x in (teacher, baseline, distilled)]
    got = break_even(*values)
    assert 0 <= got.low <= got.high
    if got.case == "finite":
        assert got.low <= got.ratio <= got.high
        assert got.whole >= got.ratio and (got.whole == 1 or got.whole - 1 < got.ratio)
        # A card that shows 5 % too much everywhere moves no break-even.
        scaled = break_even(*(Interval(x.best * 1.25, x.low * 1.25, x.high * 1.25) for x in values))
        assert scaled.ratio == pytest.approx(got.ratio, rel=1e-9)


def test_sensitivity_is_that_of_the_students_alone():
    got = student_sensitivity(*map(Interval.exact, (11.0, 6.30, 5.20)), 0.03)
    assert (round(got.low, 1), round(got.high, 1), got.whole) == (7.6, 14.6, 10)
    larger = student_sensitivity(*map(Interval.exact, (11.0, 33.15, 30.05)), 0.05)
    assert larger.high == math.inf and not larger.resolved
    assert student_sensitivity(None, None, None, 0.03).case == "undefined"


def test_no_interval_claims_a_domination_that_a_draw_contradicts():
    rng = np.random.default_rng(7)
    points = [
        ParetoPoint(f"p{i}", around(rng.uniform(5, 50), 0.1), around(rng.uniform(0.5, 1.0), 0.05))
        for i in range(12)
    ]
    cost = np.stack([draws(rng, p.cost, 20_000) for p in points])
    quality = np.stack([draws(rng, p.quality, 20_000) for p in points])
    ties = 0
    for j, standing in enumerate(pareto_frontier(points)):
        for i, other in enumerate(points):
            beats = (cost[i] < cost[j]) & (quality[i] > quality[j])
            if other.name in standing.dominated_by:
                assert beats.all()
            elif other.name in standing.ties:
                ties += 1
                assert 0 < beats.mean() < 1
            elif i != j:
                assert not beats.all()
        best = not standing.dominated_by and not standing.ties
        assert standing.on_frontier == best and standing.may_be_on_frontier == (not standing.dominated_by)
    assert ties


def test_exact_figures_are_no_tie():
    exact = [ParetoPoint(n, Interval.exact(c), Interval.exact(q)) for n, c, q in (("a", 1, 2), ("b", 2, 2))]
    assert [s.dominated_by for s in pareto_frontier(exact)] == [(), ("a",)]
    twins = [ParetoPoint(n, Interval.exact(1), Interval.exact(1)) for n in "ab"]
    assert all(s.on_frontier for s in pareto_frontier(twins))
    vague = [ParetoPoint("a", around(1, 0.6), Interval.exact(2)), exact[1]]
    assert pareto_frontier(vague)[1].dominated_by == ("a",)
    vague = [ParetoPoint("a", around(1, 1.1), Interval.exact(2)), exact[1]]
    assert pareto_frontier(vague)[1].ties == ("a",)
    with pytest.raises(ValueError, match="one name"):
        pareto_frontier([exact[0], exact[0]])


@pytest.mark.parametrize(
    ("count", "quantile"), [(2, 12.706), (3, 4.303), (5, 2.776), (6, 2.571), (20, 2.093)]
)
def test_the_mean_of_repeats_has_students_interval(count, quantile):
    values = [10.0 + (-1) ** k * k for k in range(count)]
    mean = sum(values) / count
    deviation = math.sqrt(sum((value - mean) ** 2 for value in values) / (count - 1))
    found = mean_of_repeats(values)
    assert found.best == pytest.approx(mean)
    assert found.high - mean == pytest.approx(quantile * deviation / math.sqrt(count), rel=0.01)
    assert mean_of_repeats([3.0]) == Interval.exact(3.0)


def test_break_even_over_repeats_needs_them_all():
    found = repeated_break_even(60.0, [100.0, 101.0, 99.0], [80.0, 80.5, 79.5])
    assert found.ratio == pytest.approx(3.0) and 2.0 < found.low < 3.0 < found.high < 6.0
    assert repeated_break_even(None, [100.0, 101.0], [80.0, 81.0]) is None
    assert repeated_break_even(60.0, [100.0], [80.0, 81.0]) is None
    assert repeated_break_even(60.0, [100.0, None, 101.0], [80.0, 81.0]) is None
