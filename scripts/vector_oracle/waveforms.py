"""Loads with a closed form at 2 Hz, and the two clocks."""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction

from vector_oracle.build import Family
from vector_oracle.curve import PERIOD, adder, expected, ticks, window

DAY_US = 1_774_742_400_000_000
"""2026-03-29T00:00:00Z, an hour before summer time begins in Europe."""


def families() -> list[Family]:
    """Closed forms and clocks."""
    return [_waveforms(), _clocks()]


def _waveforms() -> Family:
    family = Family(
        "waveforms",
        "Loads with a closed form, sampled at 2 Hz: what the rule gives and how far it is from the truth.",
    )
    add = adder(family, "4.2")
    add("constant-minute", "400 W for 60 s: 24 kJ.", ticks(60), [400_000] * 122, 0, 60_000_000)
    ramp = ticks(20)
    add(
        "ramp",
        "20 W/s from 100 W: the trapezoid is exact, 100 t + 10 t^2.",
        ramp,
        [100_000 + t // 50 for t in ramp],
        0,
        20_000_000,
        "LeftRiemann",
    )
    assert (
        expected(ramp, [100_000 + t // 50 for t in ramp], 0, 20_000_000)["energy_j"] == 100 * 20 + 10 * 20**2
    )
    cut = (3_141_592, 16_180_339)
    add(
        "ramp-cut",
        "The same between two arbitrary instants: still exact, because the ends are interpolated.",
        ramp,
        [100_000 + t // 50 for t in ramp],
        *cut,
        "LeftRiemann",
        "EdgesCut",
        "EdgesHeld",
    )
    a, b = (Fraction(x, 10**6) for x in cut)
    assert abs(
        expected(ramp, [100_000 + t // 50 for t in ramp], *cut)["energy_j"]
        - (100 * (b - a) + 10 * (b**2 - a**2))
    ) < Fraction(1, 10**9)
    beat = ticks(30)
    add(
        "square-aliased-high",
        "A load of 500 W and 100 W every 0.25 s, sampled at 2 Hz in phase, always shows 500 W. Truth: 9 kJ. "
        "The rule gives 15 kJ: |error| <= dP/2 x t. Only the energy counter tells.",
        beat,
        [500_000] * len(beat),
        0,
        30_000_000,
    )
    add(
        "square-aliased-low",
        "The same load sampled a quarter of a second later shows 100 W: 3 kJ instead of 9 kJ.",
        ticks(30, 250_000),
        [100_000] * len(beat),
        250_000,
        30_250_000,
    )
    add(
        "square-in-phase",
        "Half a second high, half a second low: every edge becomes a ramp, and the mean is right.",
        beat,
        [500_000 if k % 2 == 0 else 100_000 for k in range(len(beat))],
        0,
        30_000_000,
    )
    add(
        "square-slow",
        "10 s high, 10 s low, edges between samples: each edge is off by at most dP h / 2, here 100 J.",
        ticks(40),
        [500_000 if (k // 20) % 2 == 0 else 100_000 for k in range(len(ticks(40)))],
        0,
        40_000_000,
    )
    whole = ticks(10)
    sine = [round(300_000 + 100_000 * math.sin(2 * math.pi * t / 5e6)) for t in whole]
    family.valid(
        "sine-whole-periods",
        "4.2",
        "integrate_power",
        window(whole, sine, 0, 10_000_000),
        {"energy_j": Fraction(3000), "samples": 20},
        "300 W + 100 W sin, two periods of 5 s: over whole periods only the milliwatts are rounded.",
        tolerance={"abs": 0.005},
    )
    quarter = ticks(Fraction(5))
    rise = [round(300_000 - 100_000 * math.cos(2 * math.pi * t / 10e6)) for t in quarter]
    bound = 5 / 12 * 0.25 * 100 * (2 * math.pi / 10) ** 2
    family.valid(
        "sine-half-period",
        "4.2",
        "integrate_power",
        window(quarter, rise, 0, 5_000_000),
        {"energy_j": Fraction(1500)},
        "Half a period of 10 s from trough to crest: the integral is 1500 J, and the trapezoid is within "
        "t h^2 / 12 x max|P''| = 4.11 J of it.",
        "LeftRiemann",
        tolerance={"abs": round(bound + 0.005, 3)},
    )
    eighth = ticks(Fraction(5, 2))
    crest = [round(400_000 * math.sin(2 * math.pi * t / 10e6)) for t in eighth[1:]]
    family.valid(
        "sine-quarter-period",
        "4.2",
        "integrate_power",
        window(eighth[1:], crest, 500_000, 2_500_000),
        {"energy_j": round(400 * 10 / (2 * math.pi) * math.cos(math.pi / 10), 6)},
        "A quarter of a period without its first half second.",
        "LeftRiemann",
        tolerance={"abs": round(2 / 12 * 0.25 * 400 * (2 * math.pi / 10) ** 2 + 0.005, 3)},
    )
    return family


def _clocks() -> Family:
    family = Family("clocks", "Durations are monotonic; UTC is for people and may step.")
    mono = [10_000_000 + k * PERIOD for k in range(9)]
    power = [200_000, 200_000, 300_000, 300_000, 400_000, 400_000, 300_000, 300_000, 200_000]

    def run(name: str, text: str, steps: Sequence[int], *flags: str, base: int = DAY_US) -> None:
        utc = [base + t - mono[0] + step for t, step in zip(mono, steps, strict=True)]
        start, end = 1, 7
        given = window(mono, power, mono[start], mono[end], t_start_us=utc[start], t_end_us=utc[end])
        given["power"]["t_us"] = utc
        energy = expected(mono, power, mono[start], mono[end])["energy_j"]
        family.valid(name, "3.2", "integrate_power", given, {"energy_j": energy}, text, *flags)

    run("agree", "The clocks agree.", [0] * 9, "LeftRiemann")
    run(
        "set-forward",
        "UTC is set forward by 90 s inside the window: 3 s stay 3 s.",
        [0] * 4 + [90_000_000] * 5,
        "WallClock",
        "LeftRiemann",
    )
    run(
        "set-back",
        "UTC is set back by 2 s: times repeat, energy does not fall.",
        [0] * 5 + [-2_000_000] * 4,
        "WallClock",
        "LeftRiemann",
    )
    run(
        "slewed",
        "NTP slews 500 ppm: half a millisecond a second is not energy.",
        [k * 250 for k in range(9)],
        "WallClock",
        "LeftRiemann",
    )
    run(
        "step-before-window",
        "A step before the window moves it in UTC and nothing else.",
        [0] + [7_200_000_000] * 8,
        "LeftRiemann",
    )
    run(
        "summer-time-begins",
        "2026-03-29, 01:00 UTC inside the window: where clocks go forward, UTC does not.",
        [0] * 9,
        "LocalTime",
        "LeftRiemann",
        base=DAY_US + 3_600_000_000 - 2_250_000,
    )
    run(
        "summer-time-ends",
        "2026-10-25, 01:00 UTC inside the window: local time repeats an hour, UTC does not.",
        [0] * 9,
        "LocalTime",
        "LeftRiemann",
        base=1_792_890_000_000_000 - 2_250_000,
    )
    run(
        "leap-smear",
        "A smeared leap second, 11.6 ppm.",
        [k * 6 for k in range(9)],
        "WallClock",
        "LeftRiemann",
    )

    def steps(name: str, text: str, offsets: Sequence[int], *flags: str) -> None:
        found = [
            {"mono_us": mono[k], "step_us": offsets[k] - offsets[k - 1]}
            for k in range(1, len(offsets))
            if abs(offsets[k] - offsets[k - 1]) >= 50_000
        ]
        worst = max((abs(step["step_us"]) for step in found), default=0)
        verdict = "error" if worst >= 500_000 else "event" if found else "ok"
        count = len(offsets)
        utc = [DAY_US + t + offset for t, offset in zip(mono[:count], offsets, strict=True)]
        given = {"t_us": utc, "mono_us": mono[:count]}
        family.valid(name, "3.2", "clock_steps", given, {"steps": found, "verdict": verdict}, text, *flags)

    steps("steps-none", "No step.", [0] * 6)
    steps("steps-slew", "A slew is no step however far it leads.", [k * 20_000 for k in range(9)])
    steps("steps-below", "49.999 ms is none.", [0, 0, 49_999, 49_999])
    steps("steps-event", "50 ms is an event.", [0, 0, 50_000, 50_000])
    steps("steps-almost-error", "0.499999 s is one still.", [0, 499_999, 499_999])
    steps("steps-error", "0.5 s makes the log wrong at level 2.", [0, 500_000, 500_000])
    steps("steps-back", "Backwards counts as forwards does.", [0, 0, -750_000, -750_000], "StepMissed")
    steps(
        "steps-two", "Forward and back again: two steps, not none.", [0, 200_000, 200_000, 0, 0], "StepMissed"
    )
    steps("steps-summer-time", "The night of the change, in UTC: nothing happens.", [0] * 9)
    return family
