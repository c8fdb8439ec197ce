"""The caller's windows as they are billed: `scripts/bench_window.py` at fixed seeds, with room for chance."""

from __future__ import annotations

import random

import pytest

from tests.accounting.windows import GRID, Card, Setting, Summary, bill
from tests.lab.waveforms import Const

WINDOWS = 40
ROOM = 3 * (0.93 * 0.07 / WINDOWS) ** 0.5
"""Three standard deviations of a share of 93 % among so many."""


@pytest.mark.parametrize("setting", GRID, ids=str)
def test_the_bars_of_the_callers_window(setting: Setting) -> None:
    s = Summary.of(map(setting.window, range(WINDOWS)))
    assert s.coverage >= 0.93 - ROOM
    second = setting.length_us >= 1_000_000
    if setting.load == "step":
        assert abs(s.bias) <= 0.1
    if setting.refresh_us == 20_000:
        assert s.p95 <= (0.5 if second else 2.5)
    elif setting.load == "pieces" and second:
        assert s.mean <= 0.1 and s.p95 <= 0.7
    # Steps are found where there are steps: drawn straight, no load of pieces or steps would hold this.
    if setting.load in ("pieces", "step"):
        assert s.stepped >= 0.8


def test_intervals_are_no_wider_than_they_need_be() -> None:
    """Over all settings together the half-width is at most 1.5 times what covers exactly 95 %."""
    windows = [setting.window(1000 + seed) for setting in GRID for seed in range(12)]
    assert 1.0 / 1.5 <= Summary.of(windows).ratio <= 1.5


@pytest.mark.parametrize("early_us", [50, 99])
def test_a_refresh_between_stamp_and_word_is_made_up_for(early_us: int) -> None:
    """A boundary is heard of 0.1 ms late at least; the counter has moved on by then."""
    card = Card((Const(400.0),), phase_us=7_000)
    start = card.tick(60) - early_us
    found = bill(card, start, start + 1_000_000 + 30_000, random.Random(1))
    assert found.method == "counter_linear"
    assert abs(found.error_pct) < 0.01 and found.half_pct < 0.05
