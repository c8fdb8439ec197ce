"""Energy counters: differences, resets, standstills, failed reads; RAPL zones that wrap and overlap."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from typing import Any

from vector_oracle.build import Family
from vector_oracle.waves import PERIOD, Curve

RANGE_UJ = 262_143_328_850
"""A usual max_energy_range_uj of a server package."""


def families() -> list[Family]:
    """Counters of GPUs and of processors."""
    return [_counter(), _rapl()]


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
        "The driver was loaded anew between 2.5 and 3 s: counter before, counter after, power integral between.",
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


def unwrapped(mono: Sequence[int], value: Sequence[int | None], wrap: int, t: int) -> Fraction:
    """Energy of a zone since its first valid reading, at a time inside its readings, in uJ."""
    rows = [(a, b) for a, b in zip(mono, value, strict=True) if b is not None]
    total, curve = Fraction(0), [(rows[0][0], Fraction(0))]
    for (_, v0), (t1, v1) in zip(rows, rows[1:], strict=False):
        total += v1 - v0 + (wrap if v1 < v0 else 0)
        curve.append((t1, total))
    for (t0, e0), (t1, e1) in zip(curve, curve[1:], strict=False):
        if t0 <= t <= t1:
            return e0 + (e1 - e0) * Fraction(t - t0, t1 - t0)
    raise AssertionError("outside the readings")


def _rapl() -> Family:
    family = Family(
        "rapl",
        "RAPL zones: unwrapped one by one, then added; packages for the CPU, dram for the memory, nothing twice.",
    )
    mono = [k * PERIOD for k in range(9)]

    def series(start: int, watts: Sequence[int], wrap: int = RANGE_UJ) -> list[int]:
        """Readings that begin at `start` and wrap past `wrap`."""
        found, value = [start], start
        for w in watts:
            value += w * PERIOD
            found.append(value if value <= wrap else value - wrap)
            value = found[-1]
        return found

    def zone(
        name: str, value: Sequence[int | None], wrap: int | None = RANGE_UJ, times: Sequence[int] = mono
    ) -> dict[str, Any]:
        return {"zone": name, "range_uj": wrap, "mono_us": list(times), "value_uj": list(value)}

    def add(
        name: str,
        text: str,
        zones: Sequence[dict[str, Any]],
        *flags: str,
        count: Sequence[int] = (0,),
        window: tuple[int, int] = (500_000, 3_500_000),
        faults: Sequence[str] = (),
        part: str = "cpu",
    ) -> None:
        parts = []
        for place in count:
            one = zones[place]
            wrap = one["range_uj"] or 0
            low, high = (round(unwrapped(one["mono_us"], one["value_uj"], wrap, t)) for t in window)
            parts.append(high - low)
        answer = {"energy_j": Fraction(sum(parts), 10**6), "method": "rapl", "faults": list(faults)}
        given = {"part": part, "zones": list(zones), "mono_start_us": window[0], "mono_end_us": window[1]}
        family.valid(name, "4.3", "zone_energy", given, answer, text, *flags)

    even, busy, calm = [200] * 8, [180, 220, 260, 240, 200, 190, 210, 230], [90, 60, 30, 40, 80, 95, 70, 50]
    add("plain", "No wrap.", [zone("package-0", series(5_000_000, even))])
    top = RANGE_UJ - 350_000_000
    add("wrap", "One wrap: the range is added once.", [zone("package-0", series(top, even))], "NoUnwrap")
    add(
        "wrap-at-reading",
        "The last value before the wrap is the largest there is.",
        [zone("package-0", series(RANGE_UJ - 400_000_000, even))],
        "NoUnwrap",
    )
    small = 65_532_610_987
    tiny = 500_000_000
    fast = [400] * 8
    add(
        "three-wraps",
        "A range so small that it wraps three times inside the window.",
        [zone("package-0", series(100_000_000, fast, tiny), tiny)],
        "NoUnwrap",
        faults=(),
    )
    add(
        "wrap-between-ends",
        "Both edges lie between readings.",
        [zone("package-0", series(top, busy))],
        "NoUnwrap",
        window=(620_000, 3_380_000),
    )
    two = [zone("package-0", series(RANGE_UJ - 250_000_000, busy)), zone("package-1", series(1_000, calm))]
    add(
        "two-packages-one-wraps",
        "Two sockets, one wraps.",
        two,
        "NoUnwrap",
        "SumBeforeUnwrap" if False else "NoUnwrap",
        count=(0, 1),
    )
    both = [
        zone("package-0", series(RANGE_UJ - 250_000_000, busy)),
        zone("package-1", series(RANGE_UJ - 60_000_000, calm)),
    ]
    add("two-packages-both-wrap", "Both wrap, at different times.", both, "NoUnwrap", count=(0, 1))
    mixed = [
        zone("package-0", series(RANGE_UJ - 250_000_000, busy)),
        zone("package-1", series(small - 60_000_000, calm, small), small),
    ]
    add(
        "two-ranges",
        "Two sockets with different ranges: unwrapped as a sum they get the wrong one.",
        mixed,
        "SumBeforeUnwrap",
        "NoUnwrap",
        count=(0, 1),
    )
    same_tick = [
        zone("package-0", series(RANGE_UJ - 250_000_000, even)),
        zone("package-1", series(RANGE_UJ - 220_000_000, [170] * 8)),
    ]
    add(
        "both-wrap-in-one-tick",
        "Both wrap between the same two readings: the sum falls by two ranges.",
        same_tick,
        "SumBeforeUnwrap",
        "NoUnwrap",
        count=(0, 1),
    )
    add(
        "core-inside-package",
        "core is a part of package, psys holds everything: neither is added.",
        [
            zone("package-0", series(1_000_000, busy)),
            zone("core-0", series(500_000, calm)),
            zone("psys", series(9_000_000, [300] * 8)),
        ],
        "EveryZone",
    )
    add(
        "dram",
        "Memory has zones of its own.",
        [
            zone("package-0", series(1_000_000, busy)),
            zone("dram-0", series(700, [12, 14, 11, 10, 9, 15, 13, 12])),
        ],
        "EveryZone",
        count=(1,),
        part="dram",
    )
    mirror = series(3_000_000, [150, 400, 90, 310, 120, 280, 350, 60])
    add(
        "mirror",
        "Two dies, one counter: package-1 shows what package-0 shows.",
        [zone("package-0", mirror), zone("package-1", mirror)],
        "MirrorCounted",
        faults=["rapl_mirror"],
    )
    nulls: list[int | None] = list(series(top, even))
    nulls[3] = None
    nulls[6] = None
    add(
        "failed-reads",
        "Failed reads are left out; the neighbours are joined.",
        [zone("package-0", nulls)],
        "NoUnwrap",
        "NullAsZero",
    )
    add(
        "failed-read-at-edge",
        "A failed read at the window's start.",
        [zone("package-0", [None if k == 1 else v for k, v in enumerate(series(2_000_000, busy))])],
        "NullAsZero",
        window=(500_000, 3_000_000),
    )
    reset = [1_000_000_000 + 200 * t if t <= 1_500_000 else 200 * (t - 1_500_000) for t in mono]
    given = {
        "part": "cpu",
        "zones": [zone("package-0", reset, None)],
        "mono_start_us": 500_000,
        "mono_end_us": 3_500_000,
    }
    family.valid(
        "reset",
        "4.3",
        "zone_energy",
        given,
        {"energy_j": Fraction(600), "method": "rapl", "faults": ["rapl_reset"]},
        "A counter that never wraps fell: it was reset. The mean rate of the rest, 200 W, bridges the step.",
        "NoUnwrap",
    )
    slow = [0, 400_000_000]
    given = {
        "part": "cpu",
        "zones": [
            zone("package-0", [10_000_000, 14_000_000, 24_000_000], 65_000_000, [0, *slow[1:], 400_500_000])
        ],
        "mono_start_us": 0,
        "mono_end_us": 400_500_000,
    }
    family.valid(
        "ambiguous",
        "4.3",
        "zone_energy",
        given,
        {"energy_j": Fraction(14), "method": "rapl", "faults": ["rapl_wrap_ambiguous"]},
        "400 s between reads and a range of 65 J: more wraps may have gone unseen. The figure stands, flagged.",
    )
    family.valid(
        "absent",
        "4.3",
        "zone_energy",
        {
            "part": "dram",
            "zones": [zone("package-0", series(1, even))],
            "mono_start_us": 0,
            "mono_end_us": 1_000_000,
        },
        {"energy_j": None, "method": "absent", "faults": []},
        "No dram zone: absent, not zero.",
        "UnknownAsZero",
        "EveryZone",
    )
    family.invalid(
        "reversed",
        "4.3",
        "zone_energy",
        {
            "part": "cpu",
            "zones": [zone("package-0", series(1, even))],
            "mono_start_us": 2_000_000,
            "mono_end_us": 1_000_000,
        },
        "A window that ends before it starts.",
    )
    family.invalid(
        "no-such-part",
        "4.3",
        "zone_energy",
        {
            "part": "fan",
            "zones": [zone("package-0", series(1, even))],
            "mono_start_us": 0,
            "mono_end_us": 1_000_000,
        },
        "RAPL knows packages and memory.",
    )
    return family
