"""Power samples on uneven grids, and windows whose ends lie between them."""

from __future__ import annotations

from vector_oracle.build import Family
from vector_oracle.curve import PERIOD, adder, window


def families() -> list[Family]:
    """Integrals and their ends."""
    return [_integration(), _edges()]


def _integration() -> Family:
    family = Family("integration", "Trapezoid over samples as they came, on an uneven grid.")
    add = adder(family, "4.2")
    even = [k * PERIOD for k in range(5)]
    add("two-samples", "Two samples, one cell.", [0, 500_000], [100_000, 300_000], 0, 500_000, "LeftRiemann")
    add("steady", "Constant power: 200 W for 2 s.", even, [200_000] * 5, 0, 2_000_000)
    add(
        "step",
        "A step between two samples is a ramp.",
        even,
        [100_000, 100_000, 500_000, 500_000, 500_000],
        0,
        2_000_000,
        "LeftRiemann",
    )
    add(
        "fall",
        "A fall: holding the left value is too high.",
        even,
        [500_000, 300_000, 100_000, 90_000, 80_000],
        0,
        2_000_000,
        "LeftRiemann",
    )
    jitter = [0, 498_211, 1_003_907, 1_499_002, 2_000_441]
    add(
        "jitter",
        "Ticks a few milliseconds off their deadline.",
        jitter,
        [210_500, 388_123, 402_999, 120_001, 118_777],
        0,
        2_000_441,
        "LeftRiemann",
    )
    add(
        "irregular",
        "Cells of 0.1 to 0.9 s: weights are the times, not the counts.",
        [0, 100_000, 1_000_000, 1_050_000, 1_900_000],
        [100_000, 600_000, 600_000, 100_000, 100_000],
        0,
        1_900_000,
        "LeftRiemann",
    )
    add(
        "burst",
        "Many samples in a short burst weigh no more than their time.",
        [0, 500_000, 502_000, 504_000, 506_000, 508_000, 1_008_000],
        [80_000, 700_000, 700_000, 700_000, 700_000, 700_000, 80_000],
        0,
        1_008_000,
    )
    add(
        "no-dedup",
        "Equal readings are samples like any other: a run of them is a plateau, not one point.",
        [k * PERIOD for k in range(7)],
        [100_000, 400_000, 400_000, 400_000, 400_000, 400_000, 100_000],
        0,
        3_000_000,
        show=("energy_j", "samples"),
    )
    add(
        "odd-milliwatts",
        "Thirds: the sum is exact to the last digit a double has.",
        [0, 333_333, 666_667, 1_000_000],
        [100_001, 100_003, 100_007, 100_019],
        0,
        1_000_000,
        "LeftRiemann",
    )
    add(
        "half-open",
        "A sample at the start counts, one at the end belongs to the next window.",
        even,
        [100_000] * 5,
        500_000,
        1_500_000,
        show=("samples", "missed_samples", "energy_j"),
    )
    add(
        "single-sample",
        "One sample: held on both sides.",
        [250_000],
        [300_000],
        0,
        500_000,
        "EdgesCut",
        show=("energy_j", "samples"),
    )
    add(
        "empty-window",
        "A window of no length holds nothing.",
        even,
        [200_000] * 5,
        700_000,
        700_000,
        show=("energy_j", "samples"),
    )
    family.valid(
        "no-valid-sample",
        "4.2",
        "integrate_power",
        window(even, [None] * 5, 0, 2_000_000),
        {
            "energy_j": None,
            "samples": 0,
            "missed_samples": 4,
            "gap_us": 2_000_000,
            "longest_gap_us": 2_000_000,
        },
        "Nothing was read: the energy is unknown, not zero, and all of the window is a gap.",
        "NullAsZero",
        "GapsHidden",
        "GapsDropped",
    )
    hour = 3_600_000_000
    late = [90 * hour + k * PERIOD + (k * 7919) % 1000 for k in range(9)]
    add(
        "after-ninety-hours",
        "The same after 90 h of run: microseconds need 64-bit integers.",
        late,
        [100_000 + 40_000 * (k % 4) for k in range(9)],
        late[0] + 250_123,
        late[-1] - 250_077,
        "LeftRiemann",
        "SinglePrecision",
        "EdgesCut",
        "EdgesHeld",
    )
    add(
        "split-a",
        "First part of a window cut in two; with the next vector it adds up to the third.",
        jitter,
        [210_500, 388_123, 402_999, 120_001, 118_777],
        0,
        1_200_000,
        "LeftRiemann",
        "EdgesCut",
        "EdgesHeld",
    )
    add(
        "split-b",
        "Second part.",
        jitter,
        [210_500, 388_123, 402_999, 120_001, 118_777],
        1_200_000,
        2_000_441,
        "LeftRiemann",
        "EdgesCut",
        "EdgesHeld",
    )
    family.invalid(
        "reversed",
        "4.2",
        "integrate_power",
        window(even, [100_000] * 5, 2_000_000, 0),
        "A window that ends before it starts has no energy.",
    )
    family.invalid(
        "unsorted",
        "5.2",
        "integrate_power",
        window([0, 500_000, 400_000], [100_000] * 3, 0, 500_000),
        "Samples whose time does not rise are no series.",
    )
    return family


def _edges() -> Family:
    family = Family("edges", "Ends of a window that lie between two samples.")
    add = adder(family, "4.2")
    mono, power = [k * PERIOD for k in range(6)], [100_000, 100_000, 600_000, 600_000, 100_000, 100_000]
    add(
        "start-inside",
        "The start lies on the rise: the power there is between its neighbours'.",
        mono,
        power,
        750_000,
        1_500_000,
        "EdgesCut",
        "EdgesHeld",
        "LeftRiemann",
    )
    add(
        "end-inside",
        "The end lies on the fall.",
        mono,
        power,
        1_000_000,
        1_800_000,
        "EdgesCut",
        "EdgesHeld",
        "LeftRiemann",
    )
    add("both-inside", "Both do.", mono, power, 625_001, 1_874_999, "EdgesCut", "EdgesHeld", "LeftRiemann")
    add(
        "between-two-samples",
        "A window that no sample falls into has the line between its neighbours.",
        mono,
        power,
        600_000,
        900_000,
        "EdgesCut",
        "EdgesHeld",
        "LeftRiemann",
        show=("energy_j", "samples"),
    )
    add(
        "one-microsecond",
        "The shortest window.",
        mono,
        power,
        750_000,
        750_001,
        "EdgesCut",
        "EdgesHeld",
        "LeftRiemann",
    )
    add(
        "before-first",
        "No sample before the start: the first one is held back to it.",
        [300_000, 800_000, 1_300_000],
        [200_000, 400_000, 400_000],
        0,
        1_300_000,
        "EdgesCut",
        "LeftRiemann",
    )
    add(
        "after-last",
        "None after the end: the last one is held.",
        [0, 500_000, 1_000_000],
        [400_000, 400_000, 250_000],
        0,
        1_400_000,
        "EdgesCut",
        "LeftRiemann",
    )
    add(
        "wholly-after",
        "A window just behind the last sample.",
        [0, 500_000],
        [100_000, 300_000],
        600_000,
        900_000,
        "EdgesCut",
        show=("energy_j", "samples"),
    )
    add(
        "wholly-before",
        "A window just before the first one.",
        [900_000, 1_400_000],
        [320_000, 100_000],
        100_000,
        700_000,
        "EdgesCut",
        show=("energy_j", "samples"),
    )
    add(
        "null-outside",
        "The neighbour outside failed: the next valid one stands at the other end of the line.",
        [0, 500_000, 1_000_000, 1_500_000],
        [100_000, None, 400_000, 400_000],
        700_000,
        1_500_000,
        "EdgesCut",
        "EdgesHeld",
        "LeftRiemann",
        "NullAsZero",
    )
    return family
