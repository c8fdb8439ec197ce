"""What is written down of the ticks around a boundary, on a machine that holds up the meter."""

from __future__ import annotations

import random
from typing import Any

import pytest

from harness.meter import cells, ticks
from harness.meter.cells import CellReader
from harness.meter.sources.base import Reading
from harness.meter.ticks import TickModel, watch_ticks
from tests.meter.test_ticks import Clocked, SimulatedTime


class Card(Clocked):
    """A counter that shows the number of its last tick, and a power."""

    def read(self) -> Reading:
        begin = ticks.time.monotonic_ns()
        value = self.read_energy()
        middle = (begin + ticks.time.monotonic_ns()) // 2000
        return Reading(middle, 10, value, 100_000)


class Journal:
    def __init__(self) -> None:
        self.rows: list[dict[str, Any]] = []

    def append_record(self, row: dict[str, Any]) -> None:
        self.rows.append(row)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> SimulatedTime:
    time = SimulatedTime()
    monkeypatch.setattr("tests.meter.test_ticks.time", time)
    monkeypatch.setattr(ticks, "time", time)
    monkeypatch.setattr(cells, "time", time)
    monkeypatch.setattr(cells, "mono_us", lambda: time.monotonic_ns() // 1000)
    monkeypatch.setattr(cells, "utc_at", lambda mono_us: mono_us)
    return time


@pytest.mark.parametrize("near", [False, True])
@pytest.mark.parametrize("seed", range(40))
def test_a_meter_that_is_held_up_writes_no_tick_that_was_not(
    clock: SimulatedTime, seed: int, near: bool
) -> None:
    """Held up between the read beside a boundary, perhaps just before a tick, and the next look."""
    rng = random.Random(seed)
    period_us = rng.choice([20_000, 100_000])
    card, journal, model = Card(0, period_us, rng.randrange(period_us)), Journal(), TickModel()
    watch_ticks([card], {0: model}, count=8)
    reader = CellReader([card], {0: model}, journal, 0, idle=lambda calm: False, silent=lambda device: None)
    for _ in range(5):
        clock.sleep(rng.uniform(0.05, 0.9))
        if near:
            left_us = period_us - (clock.monotonic_ns() // 1000 - card.phase_us) % period_us
            clock.sleep(max(0.0, left_us - rng.uniform(80, 1_500)) / 1e6)
        at_us = clock.monotonic_ns() // 1000
        reader.follow(card, card.read())
        clock.sleep(rng.uniform(0, 3 * period_us) / 1e6)
        reader.finish()
        behind = card.phase_us + ((at_us - card.phase_us) // period_us + 1) * period_us
        last_us = journal.rows[-1]["mono_us"]
        assert last_us > behind - period_us / 2
    assert len(journal.rows) >= 10
    for row in journal.rows:
        true_us = card.phase_us + row["value"] * period_us
        assert abs(row["mono_us"] - true_us) <= row["uncertainty_us"] + 1, row
