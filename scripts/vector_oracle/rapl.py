"""RAPL zones, which wrap and overlap."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from itertools import pairwise
from typing import Any

from vector_oracle.build import Family
from vector_oracle.curve import PERIOD

RANGE_UJ = 262_143_328_850
"""A usual max_energy_range_uj of a server package."""


def families() -> list[Family]:
    """Zones."""
    return [_rapl()]


def unwrapped(mono: Sequence[int], value: Sequence[int | None], wrap: int, t: int) -> Fraction:
    """Energy of a zone since its first valid reading, at a time inside its readings, in uJ."""
    rows = [(a, b) for a, b in zip(mono, value, strict=True) if b is not None]
    total, curve = Fraction(0), [(rows[0][0], Fraction(0))]
    for (_, v0), (t1, v1) in pairwise(rows):
        total += v1 - v0 + (wrap if v1 < v0 else 0)
        curve.append((t1, total))
    for (t0, e0), (t1, e1) in pairwise(curve):
        if t0 <= t <= t1:
            return e0 + (e1 - e0) * Fraction(t - t0, t1 - t0)
    raise AssertionError("outside the readings")


def _rapl() -> Family:
    family = Family(
        "rapl",
        "RAPL zones: unwrapped one by one, then added; packages for the CPU, dram for memory, nothing twice.",
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
    add(
        "wrap",
        "One wrap: the range is added once.",
        [zone("package-0", series(top, even))],
        "NoUnwrap",
        "SinglePrecision",
    )
    add(
        "wrap-at-reading",
        "The last value before the wrap is the largest there is.",
        [zone("package-0", series(RANGE_UJ - 400_000_000, even))],
        "NoUnwrap",
        "SinglePrecision",
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
        "SinglePrecision",
        window=(620_000, 3_380_000),
    )
    two = [zone("package-0", series(RANGE_UJ - 250_000_000, busy)), zone("package-1", series(1_000, calm))]
    add(
        "two-packages-one-wraps",
        "Two sockets, one wraps.",
        two,
        "NoUnwrap",
        "SinglePrecision",
        count=(0, 1),
    )
    both = [
        zone("package-0", series(RANGE_UJ - 250_000_000, busy)),
        zone("package-1", series(RANGE_UJ - 60_000_000, calm)),
    ]
    add(
        "two-packages-both-wrap",
        "Both wrap, at different times.",
        both,
        "NoUnwrap",
        "SinglePrecision",
        count=(0, 1),
    )
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
        "SinglePrecision",
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
        "SinglePrecision",
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
        "SinglePrecision",
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
    again = [10**9 + 200 * t if t <= 1_500_000 else 200 * (t - 1_500_000) for t in mono]
    family.valid(
        "reset-not-a-wrap",
        "4.3",
        "zone_energy",
        {
            "part": "cpu",
            "zones": [zone("package-0", again)],
            "mono_start_us": 500_000,
            "mono_end_us": 3_500_000,
        },
        {"energy_j": Fraction(600), "method": "rapl", "faults": ["rapl_reset"]},
        "As a wrap this fall would be 261 kJ in half a second, more than 1000 W: it was a reset.",
        "NoUnwrap",
        "FallIsWrap",
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
        "400 s between reads and a range of 65 J: wraps may have gone unseen. The figure stands, flagged.",
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
