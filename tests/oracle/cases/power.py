"""Power samples: uneven grids, windows between samples, gaps, failed reads, closed forms, the two clocks."""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction
from typing import Any

from tests.oracle.family import Family, figures
from tests.oracle.power import PERIOD

Json = dict[str, Any]
EVERY = "energy_j samples missed_samples longest_gap_us gap_us energy_in_gaps_j"
GAP = "GapsHidden GapsDropped"
EDGES = "EdgesCut EdgesHeld LeftRiemann"

DAY_US = 1_774_742_400_000_000
"""2026-03-29T00:00:00Z, an hour before summer time begins in Europe."""


def window(mono: Sequence[int], power: Sequence[int | None], start: int, end: int, **more: Any) -> Json:
    """The input of `integrate_power`."""
    given = {"nominal_period_us": PERIOD, "mono_start_us": start, "mono_end_us": end}
    return given | {"power": {"mono_us": list(mono), "power_mw": list(power)}, **more}


def grid(seconds: float, phase_us: int = 0) -> list[int]:
    """Sampling times from the phase on, one past the end."""
    return [phase_us + k * PERIOD for k in range(int(seconds * 10**6) // PERIOD + 2)]


def integral(family: Family, name: str, text: str, mono: str, power: str, ends: str, *more: Any) -> None:
    """Add an integral: seconds (`x5`: 5 even ticks) and watts (`300*`: at every one) of samples, the window.

    Flags, names of figures and further input may follow.
    """
    flags, show, extra = (*more, *("", "energy_j", {})[len(more) :])
    times = [k * PERIOD for k in range(int(mono[1:]))] if mono[0] == "x" else figures(mono, 10**6)
    watts = figures(power, 1000) if "*" not in power else [int(power.split("*")[0]) * 1000] * len(times)
    start, end = figures(ends, 10**6)
    family.add(name, text, window(times, watts, start, end, **extra), flags, show.split())


def integration() -> Family:
    """Trapezoids."""
    doc = "Trapezoid over samples as they came, on an uneven grid."
    family = Family("integration", doc, "integrate_power", "4.2")
    jitter, uneven = "0 0.498211 1.003907 1.499002 2.000441", "210.5 388.123 402.999 120.001 118.777"
    left = "LeftRiemann"
    for row in (
        ("two-samples", "Two samples, one cell.", "x2", "100 300", "0 0.5", left),
        ("steady", "Constant power: 200 W for 2 s.", "x5", "200*", "0 2"),
        ("step", "A step between two samples is a ramp.", "x5", "100 100 500 500 500", "0 2", left),
        ("fall", "A fall: holding the left value is too high.", "x5", "500 300 100 90 80", "0 2", left),
        ("jitter", "Ticks a few milliseconds off their deadline.", jitter, uneven, "0 2.000441", left),
        ("irregular", "Cells of 0.1 to 0.9 s: weights are the times, not the counts.",
         "0 0.1 1 1.05 1.9", "100 600 600 100 100", "0 1.9", left),
        ("burst", "Many samples in a short burst weigh no more than their time.",
         "0 0.5 0.502 0.504 0.506 0.508 1.008", "80 700 700 700 700 700 80", "0 1.008"),
        ("no-dedup", "Equal readings are samples like any other: a run of them is a plateau, not one point.",
         "x7", "100 400 400 400 400 400 100", "0 3", "", "energy_j samples"),
        ("odd-milliwatts", "Thirds: the sum is exact to the last digit a double has.",
         "0 0.333333 0.666667 1", "100.001 100.003 100.007 100.019", "0 1", left),
        ("half-open", "A sample at the start counts, one at the end belongs to the next window.",
         "x5", "100*", "0.5 1.5", "", "samples missed_samples energy_j"),
        ("single-sample", "One sample: held on both sides.",
         "0.25", "300", "0 0.5", "EdgesCut", "energy_j samples"),
        ("empty-window", "A window of no length holds nothing.",
         "x5", "200*", "0.7 0.7", "", "energy_j samples"),
    ):  # fmt: skip
        integral(family, *row)
    even = [k * PERIOD for k in range(5)]
    nothing = {
        "energy_j": None,
        "samples": 0,
        "missed_samples": 4,
        "gap_us": 2 * 10**6,
        "longest_gap_us": 2 * 10**6,
    }
    text = "Nothing was read: the energy is unknown, not zero, and all of the window is a gap."
    family.add("no-valid-sample", text, window(even, [None] * 5, 0, 2 * 10**6), f"NullAsZero {GAP}", nothing)
    late = [90 * 3_600_000_000 + k * PERIOD + (k * 7919) % 1000 for k in range(9)]
    watts = [100_000 + 40_000 * (k % 4) for k in range(9)]
    text = "The same after 90 h of run: microseconds need 64-bit integers."
    given = window(late, watts, late[0] + 250_123, late[-1] - 250_077)
    family.add(
        "after-ninety-hours", text, given, "LeftRiemann SinglePrecision EdgesCut EdgesHeld", ["energy_j"]
    )
    flags = "LeftRiemann EdgesCut EdgesHeld"
    text = "First part of a window cut in two; with the next vector it adds up to the third."
    integral(family, "split-a", text, jitter, uneven, "0 1.2", flags)
    integral(family, "split-b", "Second part.", jitter, uneven, "1.2 2.000441", flags)
    text = "A window that ends before it starts has no energy."
    family.refuse("reversed", text, window(even, [100_000] * 5, 2_000_000, 0))
    text = "Samples whose time does not rise are no series."
    given = window([0, 500_000, 400_000], [100_000] * 3, 0, 500_000)
    family.refuse("unsorted", text, given, clause="5.2")
    return family


def edges() -> Family:
    """Ends of windows."""
    family = Family("edges", "Ends of a window that lie between two samples.", "integrate_power", "4.2")
    both, hill = "energy_j samples", "100 100 600 600 100 100"
    for row in (
        ("start-inside", "The start lies on the rise: the power there is between its neighbours'.",
         "x6", hill, "0.75 1.5", EDGES),
        ("end-inside", "The end lies on the fall.", "x6", hill, "1 1.8", EDGES),
        ("both-inside", "Both do.", "x6", hill, "0.625001 1.874999", EDGES),
        ("between-two-samples", "A window that no sample falls into has the line between its neighbours.",
         "x6", hill, "0.6 0.9", EDGES, both),
        ("one-microsecond", "The shortest window.", "x6", hill, "0.75 0.750001", EDGES),
        ("before-first", "No sample before the start: the first one is held back to it.",
         "0.3 0.8 1.3", "200 400 400", "0 1.3", "EdgesCut LeftRiemann"),
        ("after-last", "None after the end: the last one is held.",
         "0 0.5 1", "400 400 250", "0 1.4", "EdgesCut LeftRiemann"),
        ("wholly-after", "A window just behind the last sample.",
         "0 0.5", "100 300", "0.6 0.9", "EdgesCut", both),
        ("wholly-before", "A window just before the first one.",
         "0.9 1.4", "320 100", "0.1 0.7", "EdgesCut", both),
        ("null-outside",
         "The neighbour outside failed: the next valid one stands at the other end of the line.",
         "0 0.5 1 1.5", "100 - 400 400", "0.7 1.5", EDGES + " NullAsZero"),
    ):  # fmt: skip
        integral(family, *row)
    return family


def gaps() -> Family:
    """Gaps and missed ticks."""
    doc = "Stretches without a valid reading longer than gap_factor x nominal period."
    family = Family("gaps", doc, "integrate_power", "3.3")
    hole, load = "0 0.5 1 4 4.5 5", "300 300 300 500 500 500"
    left, cut = f"LeftRiemann {GAP}", f"LeftRiemann {GAP} EdgesCut EdgesHeld"
    outside, bounds = f"{GAP} EdgesCut", "energy_j energy_in_gaps_j gap_low_j gap_high_j"
    for name, text, mono, power, ends, flags, *more in (
        ("exactly-two-periods", "1.000000 s between samples is no gap.",
         "0 1 1.5", "100 200 200", "0 1.5", "LeftRiemann"),
        ("one-microsecond-more", "1.000001 s is one.",
         "0 1.000001 1.500001", "100 200 200", "0 1.500001", left),
        ("inside", "3 s without samples inside the window.", hole, load, "0 5", left),
        ("bounds", "A gap can hold anything from nothing to the power limit.",
         hole, load, "0 5", left, bounds, {"power_limit_mw": 700_000}),
        ("bounds-without-limit", "Without a known limit the largest reading of the series stands for it.",
         hole, load, "0 5", left, bounds),
        ("bounds-by-a-reading-outside",
         "That reading may stand outside the window: it says what the device can draw.",
         "0 0.5 1 4 4.5 5", "700 300 300 300 300 300", "0.5 5", f"{GAP} WindowIsSeries", bounds),
        ("cut-by-start",
         "A gap that the window's start cuts: only the part inside counts, the length of the whole decides.",
         hole, load, "3.2 5", cut),
        ("cut-by-end", "The same at the end.", hole, load, "0 1.6", cut),
        ("window-in-gap", "A window wholly inside a gap.", hole, load, "2 3", cut),
        ("two-gaps", "Two gaps: the longest and the sum.",
         "0 0.5 2.5 3 6", "200 200 400 400 100", "0 6", left),
        ("late-first-sample", "The meter started 4 s late: a gap before the first sample.",
         "4 4.5 5", "300*", "0 5", outside),
        ("early-last-sample", "It died 4 s early.", "0 0.5 1", "300*", "0 5", outside),
        ("of-failed-reads", "Failed reads leave a gap as absent rows do.",
         "x7", "200 200 - - - 200 200", "0 3", f"{GAP} NullAsZero"),
        ("long-after", "A window long after the last sample: a gap, and the ticks that it lacks itself.",
         "5 5.5 6", "300 310 320", "8.2 10.2", outside),
        ("long-before", "A window long before the first one.", "5 5.5 6", "300 310 320", "0.4 2.4", outside),
        ("uneven-misses",
         "Ticks that left no row are counted by rounding: 1.3 s lack two, 0.75 s none, 0.750001 s one.",
         "0 1.3 2.05 2.800001 3.300001", "200 210 220 230 240", "0 3.300001", left),
        ("half-a-period", "1.25 s lack two: a half is rounded up.", "0 0.5 1.75 2.25", "200 220 260 280",
         "0 2.25", left),
        ("missed-by-the-window", "A tick that is missing belongs to the window that it would have stood in.",
         "0 0.5 2 2.5", "200*", "1.2 2.5", outside),
        ("one-missed-tick", "One tick missed: 1 s between samples, counted, no gap.",
         "0 0.5 1.5 2", "200 220 260 280", "0 2", "LeftRiemann"),
    ):  # fmt: skip
        integral(family, name, text, mono, power, ends, flags, *(more or [EVERY]))
    return family


def nulls() -> Family:
    """Failed reads."""
    doc = "A failed read is a hole in the series, never a reading of zero."
    family = Family("nulls", doc, "integrate_power", "5.2.6")
    some = "energy_j samples missed_samples"
    for name, text, power, flags, *more in (
        ("one", "One failed read among constant ones changes nothing.", "300 300 - 300 300", "NullAsZero"),
        ("on-a-ramp", "On a ramp the neighbours are joined.", "100 200 - 400 500", "NullAsZero LeftRiemann"),
        ("first", "At the start.", "- 300 320 340 360", "NullAsZero LeftRiemann EdgesCut"),
        ("last", "At the end.", "300 320 340 360 -", "NullAsZero LeftRiemann EdgesCut"),
        ("every-second", "Every second read failed.", "100 - 300 - 500 - 500", "NullAsZero LeftRiemann"),
        ("zero-milliwatts", "No powered card draws 0 mW: drivers answer so when asked too fast.",
         "300 300 0 300 300", "ZeroIsPower"),
        ("spike", "65 kW on a device of 700 W: a failed read, its neighbours are joined.",
         "300 300 65000 300 300", "SpikeBelieved", f"{some} gap_us", {"power_limit_mw": 700_000}),
        ("spike-without-limit", "Where no limit is known, 5 kW is more than any device draws.",
         "300 300 5000.001 300 300", "SpikeBelieved"),
        ("above-limit", "Exactly 1.25 times the limit is a reading: short of that, nothing is left out.",
         "300 300 875 300 300", "", some, {"power_limit_mw": 700_000}),
        ("zero-and-null", "Both kinds, side by side, still less than a gap apart: no, 1.5 s is one.",
         "250 - 0 250 250", f"ZeroIsPower NullAsZero {GAP}", f"{some} gap_us"),
    ):  # fmt: skip
        count = len(power.split())
        integral(family, name, text, f"x{count}", power, f"0 {(count - 1) / 2}", flags, *(more or [some]))
    return family


def waveforms() -> Family:
    """Closed forms."""
    doc = "Loads with a closed form, sampled at 2 Hz: what the rule gives and how far it is from the truth."
    family = Family("waveforms", doc, "integrate_power", "4.2")
    turn, cut = 2 * math.pi / 10, (Fraction("3.141592"), Fraction("16.180339"))
    whole, half, quarter = grid(10), grid(5), grid(2.5)[1:]

    def rise(t: int) -> int:
        return 100_000 + t // 50

    def ramp(start: Fraction, end: Fraction) -> Fraction:
        return 100 * (end - start) + 10 * (end**2 - start**2)

    def bound(seconds: int, watts: int) -> float:
        """How far the trapezoid may be from a sine of 10 s: t h^2 / 12 x max|P''|, and rounded milliwatts."""
        return round(seconds / 12 * 0.25 * watts * turn**2 + 0.005, 3)

    # Name, text, times, load in mW at t us, window in seconds, joules by the closed form; flags, tolerance.
    for name, text, mono, load, ends, joules, *more in (
        ("constant-minute", "400 W for 60 s: 24 kJ.", grid(60), lambda t: 400_000, (0, 60), Fraction(24_000)),
        ("ramp", "20 W/s from 100 W: the trapezoid is exact, 100 t + 10 t^2.",
         grid(20), rise, (0, 20), ramp(Fraction(0), Fraction(20)), "LeftRiemann"),
        ("ramp-cut",
         "The same between two arbitrary instants: still exact, because the ends are interpolated.",
         grid(20), rise, cut, ramp(*cut), "LeftRiemann EdgesCut EdgesHeld"),
        ("square-aliased-high",
         "A load of 500 W and 100 W every 0.25 s, sampled at 2 Hz in phase, always shows 500 W. Truth: 9 kJ. "
         "The rule gives 15 kJ: |error| <= dP/2 x t. Only the energy counter tells.",
         grid(30), lambda t: 500_000, (0, 30), Fraction(15_000)),
        ("square-aliased-low",
         "The same load sampled a quarter of a second later shows 100 W: 3 kJ instead of 9 kJ.",
         grid(30, 250_000), lambda t: 100_000, (0.25, 30.25), Fraction(3_000)),
        ("square-in-phase",
         "Half a second high, half a second low: every edge becomes a ramp, and the mean is right.",
         grid(30), lambda t: 100_000 if t // PERIOD % 2 else 500_000, (0, 30), Fraction(9_000)),
        ("square-slow",
         "10 s high, 10 s low, edges between samples: each edge is off by at most dP h / 2, here 100 J.",
         grid(40), lambda t: 100_000 if t // 10**7 % 2 else 500_000, (0, 40), Fraction(12_000)),
        ("sine-whole-periods",
         "300 W + 100 W sin, two periods of 5 s: over whole periods only the milliwatts are rounded.",
         whole, lambda t: round(300_000 + 100_000 * math.sin(2 * math.pi * t / 5e6)), (0, 10), Fraction(3000),
         "", 0.005, {"samples": 20}),
        ("sine-half-period",
         "Half a period of 10 s from trough to crest: the integral is 1500 J, and the trapezoid is within "
         "t h^2 / 12 x max|P''| = 4.11 J of it.",
         half, lambda t: round(300_000 - 100_000 * math.cos(turn * t / 1e6)), (0, 5), Fraction(1500),
         "LeftRiemann", bound(5, 100)),
        ("sine-quarter-period", "A quarter of a period without its first half second.",
         quarter, lambda t: round(400_000 * math.sin(turn * t / 1e6)), (0.5, 2.5),
         round(400 * 10 / (2 * math.pi) * math.cos(math.pi / 10), 6), "LeftRiemann", bound(2, 400)),
    ):  # fmt: skip
        flags, tolerance, samples = (*more, *("", None, {})[len(more) :])
        given = window(mono, [load(t) for t in mono], *(int(end * 10**6) for end in ends))
        family.add(name, text, given, flags, {"energy_j": joules, **samples}, tolerance=tolerance)
    return family


def clocks() -> Family:
    """Two clocks."""
    family = Family(
        "clocks", "Durations are monotonic; UTC is for people and may step.", "integrate_power", "3.2"
    )
    mono = [10_000_000 + k * PERIOD for k in range(9)]
    power = [200_000, 200_000, 300_000, 300_000, 400_000, 400_000, 300_000, 300_000, 200_000]
    hour, wall = 3_600_000_000, "WallClock LeftRiemann"
    for name, text, steps, flags, *base in (
        ("agree", "The clocks agree.", [0] * 9, "LeftRiemann"),
        ("set-forward", "UTC is set forward by 90 s inside the window: 3 s stay 3 s.",
         [0] * 4 + [90_000_000] * 5, wall),
        ("set-back", "UTC is set back by 2 s: times repeat, energy does not fall.",
         [0] * 5 + [-2_000_000] * 4, wall),
        ("slewed", "NTP slews 500 ppm: half a millisecond a second is not energy.",
         [k * 250 for k in range(9)], wall),
        ("step-before-window", "A step before the window moves it in UTC and nothing else.",
         [0] + [2 * hour] * 8, "LeftRiemann"),
        ("summer-time-begins",
         "2026-03-29, 01:00 UTC inside the window: where clocks go forward, UTC does not.",
         [0] * 9, "LocalTime LeftRiemann", DAY_US + hour - 2_250_000),
        ("summer-time-ends",
         "2026-10-25, 01:00 UTC inside the window: local time repeats an hour, UTC does not.",
         [0] * 9, "LocalTime LeftRiemann", 1_792_890_000_000_000 - 2_250_000),
        ("leap-smear", "A smeared leap second, 11.6 ppm.", [k * 6 for k in range(9)], wall),
    ):  # fmt: skip
        utc = [(base[0] if base else DAY_US) + t - mono[0] + s for t, s in zip(mono, steps, strict=True)]
        given = window(mono, power, mono[1], mono[7], t_start_us=utc[1], t_end_us=utc[7])
        given["power"]["t_us"] = utc
        family.add(name, text, given, flags, ["energy_j"])
    for name, text, offsets, *flag in (
        ("none", "No step.", [0] * 6),
        ("slew", "A slew is no step however far it leads.", [k * 20_000 for k in range(9)]),
        ("below", "49.999 ms is none.", [0, 0, 49_999, 49_999]),
        ("event", "50 ms is an event.", [0, 0, 50_000, 50_000]),
        ("almost-error", "0.499999 s is one still.", [0, 499_999, 499_999]),
        ("error", "0.5 s makes the log wrong at level 2.", [0, 500_000, 500_000]),
        ("back", "Backwards counts as forwards does.", [0, 0, -750_000, -750_000], "StepMissed"),
        ("two", "Forward and back again: two steps, not none.", [0, 200_000, 200_000, 0, 0], "StepMissed"),
        ("summer-time", "The night of the change, in UTC: nothing happens.", [0] * 9),
    ):  # fmt: skip
        count = len(offsets)
        utc = [DAY_US + t + offset for t, offset in zip(mono, offsets, strict=False)]
        given = {"t_us": utc, "mono_us": mono[:count]}
        family.add(f"steps-{name}", text, given, *flag, op="clock_steps")
    return family
