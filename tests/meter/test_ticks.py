"""The model of a counter's ticks, on made-up tick trains, and the watch over a counter without hardware."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from itertools import pairwise

import pytest

from harness.meter import ticks
from harness.meter.ticks import TickModel, watch_ticks


def train(
    seed: int, *, period_us: float = 100_000.0, jitter_us: float = 0.0, missed: float = 0.0, count: int = 40
) -> list[float]:
    """Times of ticks on a grid of unknown phase; some jittered, some never seen."""
    rng = random.Random(seed)
    phase = 1e9 + rng.uniform(0, period_us)
    times = [phase + k * period_us + rng.uniform(-jitter_us, jitter_us) for k in range(count)]
    return [t for k, t in enumerate(times) if k < 2 or rng.random() >= missed]


def taught(times: list[float], seed: int = 0, error_us: float = 35.0) -> TickModel:
    """A model that saw each tick inside a bracket of `error_us`, anywhere in it."""
    rng, model = random.Random(seed), TickModel()
    for t in times:
        model.learn(t + rng.uniform(-error_us, error_us), error_us)
    return model


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("period_us", [20_000.0, 25_300.0, 100_000.0, 103_417.0])
def test_a_regular_train_is_foreseen(seed: int, period_us: float) -> None:
    times = train(seed, period_us=period_us)
    model = taught(times[:30], seed)
    assert model.period_us == pytest.approx(period_us, rel=2e-3)
    expected = model.expect(times[29] + 1)
    assert expected is not None
    assert abs(expected[0] - times[30]) <= expected[1] <= 150
    far = model.expect(times[29] + 9.5 * period_us)
    assert far is not None and abs(far[0] - times[39]) <= far[1] <= 200


@pytest.mark.parametrize("seed", range(20))
def test_ticks_that_were_missed_do_not_double_the_period(seed: int) -> None:
    times = train(seed, missed=0.5, count=60)
    model = taught(times, seed)
    assert model.period_us == pytest.approx(100_000, rel=1e-3)


def test_a_period_that_was_learned_double_is_halved() -> None:
    model = taught([1e6, 1.2e6, 1.4e6])
    assert model.period_us == pytest.approx(200_000, rel=1e-2)
    for t in (1.5e6, 1.6e6, 1.7e6):
        model.learn(t, 35)
    assert model.period_us == pytest.approx(100_000, rel=1e-2)
    expected = model.expect(1.71e6)
    assert expected is not None and abs(expected[0] - 1.8e6) <= expected[1]


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("jitter_us", [50.0, 300.0, 900.0])
def test_jitter_widens_what_is_expected(seed: int, jitter_us: float) -> None:
    times = train(seed, jitter_us=jitter_us, count=200)
    model, rng = TickModel(), random.Random(seed)
    right = wrong = 0
    for t in times:
        expected = model.expect(t - 50_000)
        if expected is not None:
            right += abs(expected[0] - t) <= expected[1]
            wrong += abs(expected[0] - t) > expected[1]
        model.learn(t + rng.uniform(-35, 35), 35)
    assert wrong <= 0.03 * len(times)
    assert right > 0.7 * len(times) or jitter_us > 500  # else it looks all the time


def test_a_train_without_rhythm_is_not_foreseen() -> None:
    rng, t, model = random.Random(3), 1e6, TickModel()
    foreseen = 0
    for _ in range(100):
        t += rng.uniform(20_000, 180_000)
        foreseen += model.expect(t - 1000) is not None
        model.learn(t, 35)
    assert foreseen < 20


@pytest.mark.parametrize("ppm", [-20, 20])
def test_a_drifting_clock_is_followed(ppm: int) -> None:
    """The grid's period differs from what ten seconds of looking can tell; each look lengthens the base."""
    period_us = 100_000 * (1 + ppm * 1e-6)
    model, k = taught([k * period_us for k in range(1, 6)]), 5
    for _ in range(20):
        now = k * period_us
        while not model.fades_at_us() <= now and k < 1_000_000:
            k += 5
            now = k * period_us
        expected = model.expect(now + 1)
        k += 1
        if expected is not None:
            assert abs(expected[0] - k * period_us) <= expected[1]
        model.learn(k * period_us, 35)
    assert k > 5_000, "a look every few seconds for ever is too much"


@pytest.mark.parametrize("share", [0.3, 0.6, 0.8])
@pytest.mark.parametrize("seed", range(30))
def test_sharp_brackets_sharpen_wide_ones(seed: int, share: float) -> None:
    """A reader that often loses the processor sees wide brackets; none may exclude the truth."""
    rng, model = random.Random(seed), TickModel()
    period_us = 100_000 * (1 + rng.uniform(-1e-3, 1e-3))
    for k in range(30):
        t = 1e6 + k * period_us
        width = rng.uniform(1e3, 3e4) if rng.random() < share else 70.0
        seen = t - rng.uniform(0, width)
        after = seen + width
        before = after - min(8.0, after - t) if rng.random() < 0.7 else rng.uniform(seen, after)
        low, high = model.narrow(seen, before, after)
        assert seen <= low <= high <= after
        assert low - 1e-6 <= t <= high + 1e-6, (k, model)
        model.learn((low + high) / 2, (high - low) / 2)
        expected = model.expect(t + 1)
        if expected is not None:
            assert abs(expected[0] - (t + period_us)) <= expected[1]
    expected = model.expect(1e6 + 29 * period_us + 1)
    assert expected is not None and expected[1] < 600


def test_a_value_seen_after_several_ticks_belongs_to_the_last_of_them() -> None:
    """A watch that slept through two ticks must not bill the first one's time for the third one's value."""
    model = taught([k * 100_000.0 for k in range(10, 20)])
    low, high = model.narrow(1_930_000, 2_250_000, 2_250_010)
    assert 2_200_000 - 200 <= low <= 2_200_000 <= high <= 2_200_000 + 200
    # When it is not known in which moment of a slow read the value was fetched, both ticks remain possible.
    low, high = model.narrow(1_930_000, 2_050_000, 2_150_000)
    assert low <= 2_000_000 and high >= 2_100_000


def test_a_grid_that_contradicts_what_was_seen_is_not_believed() -> None:
    model = taught([k * 100_000.0 for k in range(10, 20)])
    assert model.narrow(1_930_000, 1_950_000, 1_950_010) == (1_930_000, 1_950_010)
    assert TickModel().narrow(1.0, 2.0, 3.0) == (1.0, 3.0)


class SimulatedTime:
    """The clock the watch reads and sleeps by: a reading costs 1 us, a sleep is 60 us late.

    What a busy machine does to the brackets is tested with `TickModel.narrow`; no verdict here depends on it.
    """

    def __init__(self) -> None:
        self.now_ns = 7_000_000_000

    def monotonic_ns(self) -> int:
        self.now_ns += 1_000
        return self.now_ns

    def monotonic(self) -> float:
        return self.monotonic_ns() / 1e9

    def sleep(self, seconds: float) -> None:
        assert seconds >= 0
        self.now_ns += round(seconds * 1e9) + 60_000


time = SimulatedTime()


@pytest.fixture(autouse=True)
def simulated_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ticks, "time", time)


@dataclass
class Clocked:
    """A counter on the simulated clock; a read takes 8 us, `lost` looks fail, `frozen` never ticks."""

    index: int
    period_us: float
    phase_us: float = 0.0
    frozen: bool = False
    lost: int = 0
    reads: list[int] = field(default_factory=list)

    def read_energy(self) -> int | None:
        if self.lost:
            self.lost -= 1
            return None
        time.now_ns += 8_000
        now = time.monotonic_ns() / 1000
        self.reads.append(round(now))
        return 7 if self.frozen else int((now - self.phase_us) // self.period_us)


def test_the_watch_finds_the_ticks_of_all_devices() -> None:
    sources = [Clocked(0, 30_000, 5_000), Clocked(1, 20_000, 9_000), Clocked(2, 30_000, 5_000, lost=3)]
    models = {source.index: TickModel() for source in sources}
    for count in (4, 1, 1):
        found = watch_ticks(sources, models, count=count)
        for source in sources:
            assert len(found[source.index]) == count
            for tick in found[source.index]:
                off = (tick.mono_us - source.phase_us + source.period_us / 2) % source.period_us
                assert abs(off - source.period_us / 2) <= tick.uncertainty_us + 1
        time.sleep(0.05)


def test_a_counter_that_stands_still_is_given_up_in_time() -> None:
    still, moving = Clocked(0, 1, frozen=True), Clocked(1, 20_000)
    begin = time.monotonic()
    found = watch_ticks([still, moving], {0: TickModel(), 1: TickModel()}, timeout_us=100_000)
    assert found[0] == [] and len(found[1]) == 1
    assert time.monotonic() - begin >= 0.1


@pytest.mark.parametrize("wrong_us", [-12_000.0, -3_000.0, 4_000.0, 21_000.0])
def test_a_wrong_expectation_neither_starves_a_device_nor_lies(wrong_us: float) -> None:
    """What was learned is off; beside it a device whose ticks never come is looked at all the time."""
    now = time.monotonic_ns() / 1000
    source = Clocked(0, 50_000, phase_us=now % 50_000)
    model = taught([now - 500_000 + 50_000 * k + wrong_us for k in range(10)])
    still = Clocked(1, 1, frozen=True)
    found = watch_ticks([still, source], {0: model, 1: TickModel()}, timeout_us=130_000)
    (tick,) = found[0]
    off_us = (tick.mono_us - source.phase_us + 25_000) % 50_000 - 25_000
    assert abs(off_us) <= tick.uncertainty_us + 1
    waited_us = [later - earlier for earlier, later in pairwise(source.reads)]
    assert len(waited_us) >= 2 and sorted(waited_us)[len(waited_us) // 2] <= 9_000
    assert found[1] == []


def test_a_fast_counter_is_learned_too() -> None:
    """Refreshes closer together than the sleep far from a tick."""
    source, model = Clocked(0, 5_000), TickModel()
    for _ in range(3):
        watch_ticks([source], {0: model}, count=5)
    assert model.period_us == pytest.approx(5_000, rel=0.02)


def test_a_moment_is_calm_only_while_no_tick_is_near() -> None:
    source, models = Clocked(0, 20_000), {0: TickModel()}
    watch_ticks([source], models, count=6)
    calm_us: list[float] = []

    def note(calm: bool) -> bool:
        if calm:
            calm_us.append((time.monotonic_ns() / 1000 - source.phase_us) % source.period_us)
        return False

    watch_ticks([source], models, count=5, calm_s=5e-3, idle=note)
    assert calm_us and max(calm_us) <= 15_100  # said with 5 ms to go at least


def test_what_is_done_meanwhile_does_not_make_the_watch_oversleep() -> None:
    """A sample taken in a calm moment costs milliseconds; the tick after it is seen all the same."""
    source = Clocked(0, 50_000)
    models = {0: TickModel()}
    watch_ticks([source], models, count=6)
    widths = []
    for _ in range(8):
        done: list[bool] = []

        def work(calm: bool, done: list[bool] = done) -> bool:
            if calm and not done:
                time.sleep(0.006)
                done.append(calm)
            return False

        widths.append(watch_ticks([source], models, idle=work)[0][0].uncertainty_us)
    assert max(widths) < 100


def test_a_watch_that_is_only_useful_can_be_ended() -> None:
    found = watch_ticks([Clocked(0, 10_000_000)], {0: TickModel()}, idle=lambda calm: True)
    assert found == {0: []}


def test_reads_are_few_far_from_a_tick() -> None:
    source, models = Clocked(0, 100_000), {0: TickModel()}
    watch_ticks([source], models, count=5)
    time.sleep(0.02)
    source.reads.clear()
    (tick,) = watch_ticks([source], models)[0]
    early = [t for t in source.reads if t < tick.mono_us - 10_000]
    assert len(early) < 20


def test_the_interval_is_the_grids_or_else_what_was_seen() -> None:
    model = TickModel()
    assert model.interval() is None
    grid = taught([100_000 * k for k in range(11)])
    length_us, doubt_us = grid.interval() or (0.0, 0.0)
    assert length_us == pytest.approx(100_000, abs=20) and doubt_us < 50
    rng = random.Random(3)
    at_us = 0.0
    for _ in range(12):
        at_us += rng.uniform(85_000, 115_000)
        model.learn(at_us, 5.0)
    length_us, doubt_us = model.interval() or (0.0, 0.0)
    assert length_us - doubt_us <= 90_000 and length_us + doubt_us >= 110_000


def test_more_ticks_are_wanted_until_the_first_boundary_could_be_placed() -> None:
    model = TickModel()
    assert not model.unsettled(0.0, 200.0), "a counter that does not tick is not waited for"
    for k in range(5):
        model.learn(100_000.0 * k, 30_000.0 if k == 2 else 5.0)  # one was seen by a reader that was held up
    assert model.interval() is None and model.unsettled(400_010.0, 200.0)
    for k in range(5, 10):
        model.learn(100_000.0 * k, 5.0)
    assert model.interval() is not None and not model.unsettled(900_010.0, 200.0)


@pytest.mark.parametrize(("period_us", "jitter_us"), [(25_300, 1_000), (100_000, 8_000), (100_000, 300)])
@pytest.mark.parametrize("missed", [0.0, 0.3, 0.6])
def test_an_interval_of_few_ticks_is_wide_enough(period_us: int, jitter_us: int, missed: float) -> None:
    """A counter that keeps no time, a reader that misses ticks: the next one is no longer than was said."""
    rng, outside, told = random.Random(5), 0, 0
    for _ in range(1_000):
        model, at_us, tick = TickModel(), 0.0, 0
        for _ in range(rng.choice((2, 3, 5, 6, 8, 12))):
            steps = rng.randint(2, 4) if rng.random() < missed else 1
            tick += steps
            at_us = tick * period_us + rng.uniform(-jitter_us, jitter_us)
            error_us = rng.uniform(5, 40)
            model.learn(at_us + rng.uniform(-error_us, error_us), error_us, in_a_row=steps == 1)
        interval = model.interval()
        if interval is not None:
            told += 1
            length_us = (tick + 1) * period_us + rng.uniform(-jitter_us, jitter_us) - at_us
            outside += abs(length_us - interval[0]) > interval[1]
    assert told > 50
    assert outside <= told / 40


def test_constants_are_in_order() -> None:
    assert ticks.NO_TICK_US > 200_000
