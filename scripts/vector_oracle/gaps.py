"""Stretches without a reading: gaps, missed ticks, failed reads."""

from __future__ import annotations

from vector_oracle.build import Family
from vector_oracle.curve import PERIOD, adder


def families() -> list[Family]:
    """Gaps and nulls."""
    return [_gaps(), _nulls()]


def _gaps() -> Family:
    family = Family("gaps", "Stretches without a valid reading longer than gap_factor x nominal period.")
    add = adder(family, "3.3")
    every = ("energy_j", "samples", "missed_samples", "longest_gap_us", "gap_us", "energy_in_gaps_j")
    bounds = ("energy_j", "energy_in_gaps_j", "gap_low_j", "gap_high_j")
    add(
        "exactly-two-periods",
        "1.000000 s between samples is no gap.",
        [0, 1_000_000, 1_500_000],
        [100_000, 200_000, 200_000],
        0,
        1_500_000,
        "LeftRiemann",
        show=every,
    )
    add(
        "one-microsecond-more",
        "1.000001 s is one.",
        [0, 1_000_001, 1_500_001],
        [100_000, 200_000, 200_000],
        0,
        1_500_001,
        "LeftRiemann",
        "GapsHidden",
        "GapsDropped",
        show=every,
    )
    hole = [0, 500_000, 1_000_000, 4_000_000, 4_500_000, 5_000_000]
    add(
        "inside",
        "3 s without samples inside the window.",
        hole,
        [300_000, 300_000, 300_000, 500_000, 500_000, 500_000],
        0,
        5_000_000,
        "LeftRiemann",
        "GapsHidden",
        "GapsDropped",
        show=every,
    )
    add(
        "bounds",
        "A gap can hold anything from nothing to the power limit.",
        hole,
        [300_000, 300_000, 300_000, 500_000, 500_000, 500_000],
        0,
        5_000_000,
        "LeftRiemann",
        "GapsHidden",
        "GapsDropped",
        show=bounds,
        limit_mw=700_000,
    )
    add(
        "bounds-without-limit",
        "Without a known limit the largest reading of the series stands for it.",
        hole,
        [300_000, 300_000, 300_000, 500_000, 500_000, 500_000],
        0,
        5_000_000,
        "LeftRiemann",
        "GapsHidden",
        "GapsDropped",
        show=bounds,
    )
    add(
        "cut-by-start",
        "A gap that the window's start cuts: only the part inside counts, the length of the whole decides.",
        hole,
        [300_000, 300_000, 300_000, 500_000, 500_000, 500_000],
        3_200_000,
        5_000_000,
        "LeftRiemann",
        "GapsHidden",
        "GapsDropped",
        "EdgesCut",
        "EdgesHeld",
        show=every,
    )
    add(
        "cut-by-end",
        "The same at the end.",
        hole,
        [300_000, 300_000, 300_000, 500_000, 500_000, 500_000],
        0,
        1_600_000,
        "LeftRiemann",
        "GapsHidden",
        "GapsDropped",
        "EdgesCut",
        "EdgesHeld",
        show=every,
    )
    add(
        "window-in-gap",
        "A window wholly inside a gap.",
        hole,
        [300_000, 300_000, 300_000, 500_000, 500_000, 500_000],
        2_000_000,
        3_000_000,
        "LeftRiemann",
        "GapsHidden",
        "GapsDropped",
        "EdgesCut",
        "EdgesHeld",
        show=every,
    )
    add(
        "two-gaps",
        "Two gaps: the longest and the sum.",
        [0, 500_000, 2_500_000, 3_000_000, 6_000_000],
        [200_000, 200_000, 400_000, 400_000, 100_000],
        0,
        6_000_000,
        "LeftRiemann",
        "GapsHidden",
        "GapsDropped",
        show=every,
    )
    add(
        "late-first-sample",
        "The meter started 4 s late: a gap before the first sample.",
        [4_000_000, 4_500_000, 5_000_000],
        [300_000] * 3,
        0,
        5_000_000,
        "GapsHidden",
        "GapsDropped",
        "EdgesCut",
        show=every,
    )
    add(
        "early-last-sample",
        "It died 4 s early.",
        [0, 500_000, 1_000_000],
        [300_000] * 3,
        0,
        5_000_000,
        "GapsHidden",
        "GapsDropped",
        "EdgesCut",
        show=every,
    )
    nulls: list[int | None] = [200_000, 200_000, None, None, None, 200_000, 200_000]
    add(
        "of-failed-reads",
        "Failed reads leave a gap as absent rows do.",
        [k * PERIOD for k in range(7)],
        nulls,
        0,
        3_000_000,
        "GapsHidden",
        "GapsDropped",
        "NullAsZero",
        show=every,
    )
    for name, text, start in (
        (
            "long-after",
            "A window long after the last sample: a gap, and the ticks that it lacks itself.",
            8_200_000,
        ),
        ("long-before", "A window long before the first one.", 400_000),
    ):
        add(
            name,
            text,
            [5_000_000, 5_500_000, 6_000_000],
            [300_000, 310_000, 320_000],
            start,
            start + 2_000_000,
            "GapsHidden",
            "GapsDropped",
            "EdgesCut",
            show=every,
        )
    add(
        "uneven-misses",
        "Ticks that left no row are counted by rounding: 1.3 s lack two, 0.75 s none, 0.750001 s one.",
        [0, 1_300_000, 2_050_000, 2_800_001, 3_300_001],
        [200_000, 210_000, 220_000, 230_000, 240_000],
        0,
        3_300_001,
        "LeftRiemann",
        "GapsHidden",
        "GapsDropped",
        show=every,
    )
    add(
        "missed-by-the-window",
        "A tick that is missing belongs to the window that it would have stood in.",
        [0, 500_000, 2_000_000, 2_500_000],
        [200_000] * 4,
        1_200_000,
        2_500_000,
        "GapsHidden",
        "GapsDropped",
        "EdgesCut",
        show=every,
    )
    add(
        "one-missed-tick",
        "One tick missed: 1 s between samples, counted, no gap.",
        [0, 500_000, 1_500_000, 2_000_000],
        [200_000, 220_000, 260_000, 280_000],
        0,
        2_000_000,
        "LeftRiemann",
        show=every,
    )
    return family


def _nulls() -> Family:
    family = Family("nulls", "A failed read is a hole in the series, never a reading of zero.")
    add = adder(family, "5.2.6")
    mono = [k * PERIOD for k in range(5)]
    some: tuple[str, ...] = ("energy_j", "samples", "missed_samples")
    add(
        "one",
        "One failed read among constant ones changes nothing.",
        mono,
        [300_000, 300_000, None, 300_000, 300_000],
        0,
        2_000_000,
        "NullAsZero",
        show=some,
    )
    add(
        "on-a-ramp",
        "On a ramp the neighbours are joined.",
        mono,
        [100_000, 200_000, None, 400_000, 500_000],
        0,
        2_000_000,
        "NullAsZero",
        "LeftRiemann",
        show=some,
    )
    add(
        "first",
        "At the start.",
        mono,
        [None, 300_000, 320_000, 340_000, 360_000],
        0,
        2_000_000,
        "NullAsZero",
        "LeftRiemann",
        "EdgesCut",
        show=some,
    )
    add(
        "last",
        "At the end.",
        mono,
        [300_000, 320_000, 340_000, 360_000, None],
        0,
        2_000_000,
        "NullAsZero",
        "LeftRiemann",
        "EdgesCut",
        show=some,
    )
    add(
        "every-second",
        "Every second read failed.",
        [k * PERIOD for k in range(7)],
        [100_000, None, 300_000, None, 500_000, None, 500_000],
        0,
        3_000_000,
        "NullAsZero",
        "LeftRiemann",
        show=some,
    )
    add(
        "zero-milliwatts",
        "No powered card draws 0 mW: drivers answer so when asked too fast.",
        mono,
        [300_000, 300_000, 0, 300_000, 300_000],
        0,
        2_000_000,
        "ZeroIsPower",
        show=some,
    )
    add(
        "zero-and-null",
        "Both kinds, side by side, still less than a gap apart: no, 1.5 s is one.",
        mono,
        [250_000, None, 0, 250_000, 250_000],
        0,
        2_000_000,
        "ZeroIsPower",
        "NullAsZero",
        "GapsHidden",
        "GapsDropped",
        show=(*some, "gap_us"),
    )
    return family
