"""The energy counter of a GPU: differences, resets, standstills, failed reads."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from typing import Any

from vector_oracle.build import Family
from vector_oracle.curve import PERIOD, Curve


def families() -> list[Family]:
    """Counters."""
    return [_counter()]


def _reading(mono: int, value: int | None, method: str = "tick") -> dict[str, Any]:
    return {"mono_us": mono, "value_mj": value, "method": method}


def _answer(energy_mj: int | None, method: str, faults: Sequence[str] = ()) -> dict[str, Any]:
    energy = None if energy_mj is None else Fraction(energy_mj, 1000)
    return {"energy_mj": energy_mj, "energy_j": energy, "method": method, "faults": list(faults)}


def _counter() -> Family:
    family = Family(
        "counter", "Energy of one device between two boundaries, from its own counter where it can be read."
    )

    def add(
        name: str,
        text: str,
        ends: tuple[dict[str, Any], dict[str, Any]],
        samples: Sequence[tuple[int, int | None, int | None]],
        answer: dict[str, Any],
        *flags: str,
    ) -> None:
        given: dict[str, Any] = {"nominal_period_us": PERIOD, "start": ends[0], "end": ends[1]}
        if samples:
            mono, power, counter = (list(column) for column in zip(*samples, strict=True))
            given["power"] = {"mono_us": mono, "power_mw": power, "energy_counter_mj": counter}
        family.valid(name, "4.1", "counter_energy", given, answer, text, *flags)

    add(
        "difference",
        "Value at the end minus value at the start, in whole mJ.",
        (_reading(0, 1_000), _reading(10_000_000, 3_001_234)),
        [],
        _answer(3_000_234, "counter_tick"),
    )
    add(
        "no-power-needed",
        "No power sample is needed when both ends were read.",
        (_reading(0, 7), _reading(60_000_000, 24_000_007)),
        [],
        _answer(24_000_000, "counter_tick"),
        "SinglePrecision",
    )
    add(
        "large-values",
        "Counters run since the driver was loaded: years of mJ.",
        (_reading(0, 9_007_199_254_000_000), _reading(1_000_000, 9_007_199_254_000_321)),
        [],
        _answer(321, "counter_tick"),
        "SinglePrecision",
    )
    add(
        "nothing-used",
        "A counter that did not move in 0.4 s used nothing it could show.",
        (_reading(0, 500), _reading(400_000, 500)),
        [],
        _answer(0, "counter_tick"),
    )
    worst = "The worse of the two ends names the method."
    add(
        "interpolated",
        worst,
        (_reading(0, 0, "interpolated"), _reading(5_000_000, 2_000_000)),
        [],
        _answer(2_000_000, "counter_interpolated"),
    )
    add(
        "immediate",
        worst,
        (_reading(0, 0, "tick"), _reading(5_000_000, 2_000_000, "immediate")),
        [],
        _answer(2_000_000, "counter_sample"),
    )

    ticks = [k * PERIOD for k in range(13)]
    steady = [400_000] * 13
    clean = [10_000_000 + 400 * t // 1000 for t in ticks]
    rows = list(zip(ticks, steady, clean, strict=True))
    burst = list(zip(ticks, [100_000] * 13, [10_000_000 + 400 * t // 1000 for t in ticks], strict=True))
    add(
        "counter-over-samples",
        "Samples saw 100 W, the counter 400 W: between samples it saw more. The counter is billed.",
        (_reading(200_000, 10_080_000), _reading(5_700_000, 12_280_000)),
        burst,
        _answer(2_200_000, "counter_tick"),
    )
    jump = [10_000_000 + 400 * t // 1000 if t <= 2_500_000 else 400 * (t - 2_800_000) // 1000 for t in ticks]
    reset = list(zip(ticks, steady, jump, strict=True))
    ends = (_reading(200_000, 10_080_000), _reading(5_700_000, 1_160_000))
    before, after = jump[5] - 10_080_000, 1_160_000 - jump[6]
    add(
        "reset",
        "The driver was loaded anew between 2.5 and 3 s: counter before, counter after, power between.",
        ends,
        reset,
        _answer(before + 200_000 + after, "counter_split", ["counter_reset"]),
        "ResetIgnored",
    )
    higher = [10_000 + 400 * t // 1000 if t <= 2_500_000 else 400 * (t - 2_800_000) // 1000 for t in ticks]
    rows_higher = list(zip(ticks, steady, higher, strict=True))
    before, after = higher[5] - 90_000, 1_160_000 - higher[6]
    add(
        "reset-that-hides",
        "The counter had caught up with its start by the end: the difference is positive and wrong.",
        (_reading(200_000, 90_000), _reading(5_700_000, 1_160_000)),
        rows_higher,
        _answer(before + 200_000 + after, "counter_split", ["counter_reset"]),
        "ResetIgnored",
    )
    twice = [
        t // 10 if t <= 1_500_000 else (t - 1_800_000) // 10 if t <= 3_500_000 else (t - 3_900_000) // 10
        for t in ticks
    ]
    power = [100_000] * 13
    rows_twice = list(zip(ticks, power, twice, strict=True))
    total = (twice[3] - 20_000) + 50_000 + (twice[7] - twice[4]) + 50_000 + (180_000 - twice[8])
    add(
        "two-resets",
        "Two resets, each with its own hole.",
        (_reading(200_000, 20_000), _reading(5_700_000, 180_000)),
        rows_twice,
        _answer(total, "counter_split", ["counter_reset"]),
        "ResetIgnored",
    )
    dark: list[tuple[int, int | None, int | None]] = [
        (t, None if t in (2_500_000, 3_000_000) else p, c) for t, p, c in reset
    ]
    curve = Curve(ticks, [p for _, p, _ in dark])
    bridged = int(curve.energy(2_500_000, 3_000_000) * 1000)
    before, after = jump[5] - 10_080_000, 1_160_000 - jump[6]
    add(
        "reset-without-power",
        "Power could not be read around the reset either: its neighbours are joined.",
        ends,
        dark,
        _answer(before + bridged + after, "counter_split", ["counter_reset"]),
        "ResetIgnored",
        "EdgesCut",
        "NullAsZero",
    )
    stop = [min(value, clean[4]) for value in clean]
    stuck = list(zip(ticks, steady, stop, strict=True))
    rest = 400 * (5_700_000 - ticks[4]) // 1000
    add(
        "standstill",
        "The counter stopped at 2 s while 400 W flowed: power from there on.",
        (_reading(200_000, 10_080_000), _reading(5_700_000, stop[-1])),
        stuck,
        _answer(clean[4] - 10_080_000 + rest, "counter_split", ["counter_stuck"]),
        "StandstillIgnored",
        "EdgesCut",
    )
    slow = [clean[4] if 4 <= k <= 9 else value for k, value in enumerate(clean)]
    late = list(zip(ticks, steady, slow, strict=True))
    add(
        "slow-not-stuck",
        "It stood still for 2.5 s and then showed all of it: slow, not broken.",
        (_reading(200_000, 10_080_000), _reading(5_700_000, 12_280_000)),
        late,
        _answer(2_200_000, "counter_tick"),
    )
    idle = list(zip(ticks, [None] * 13, [5_000] * 13, strict=True))
    add(
        "still-without-power",
        "A counter that stands still is believed where nothing says that power flowed.",
        (_reading(200_000, 5_000), _reading(5_700_000, 5_000)),
        idle,
        _answer(0, "counter_tick"),
    )
    add(
        "start-unread",
        "The boundary read failed: the line between the neighbouring readings, rounded down to a mJ.",
        (_reading(700_000, None), _reading(5_700_000, 12_280_000)),
        rows,
        _answer(12_280_000 - 10_280_000, "counter_sample", ["counter_boundary_missing"]),
        "NullAsZero",
    )
    add(
        "end-unread",
        "The same at the end.",
        (_reading(200_000, 10_080_000), _reading(4_800_000, None)),
        rows,
        _answer(11_920_000 - 10_080_000, "counter_sample", ["counter_boundary_missing"]),
        "NullAsZero",
    )
    uneven = list(zip(ticks, steady, [value + (k % 3) for k, value in enumerate(clean)], strict=True))
    value = uneven[2][2] + (uneven[3][2] - uneven[2][2]) * 123_457 // 500_000
    add(
        "unread-rounding",
        "The interpolated value is rounded down.",
        (_reading(1_123_457, None), _reading(5_700_000, 12_280_000)),
        uneven,
        _answer(12_280_000 - value, "counter_sample", ["counter_boundary_missing"]),
        "NullAsZero",
    )
    power_only = [(t, 100_000 + t // 50, None) for t in ticks]
    line = Curve(ticks, [p for _, p, _ in power_only])
    whole = line.energy(200_000, 5_700_000) * 1000
    add(
        "no-counter",
        "No counter at all: the power integral, to the mJ.",
        (_reading(200_000, None), _reading(5_700_000, None)),
        power_only,
        _answer(round(whole), "power_integral", ["counter_missing"]),
        "NullAsZero",
        "EdgesCut",
        "EdgesHeld",
        "LeftRiemann",
    )
    add(
        "nothing-at-all",
        "Neither counter nor power: unknown. Not zero.",
        (_reading(200_000, None), _reading(5_700_000, None)),
        [],
        _answer(None, "absent"),
        "NullAsZero",
        "UnknownAsZero",
    )
    family.invalid(
        "reversed",
        "4.1",
        "counter_energy",
        {"start": _reading(5_000_000, 1_000), "end": _reading(1_000_000, 2_000)},
        "Boundaries in the wrong order.",
    )
    return family
