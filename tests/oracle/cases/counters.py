"""The energy counter of a GPU: differences, resets, standstills, failed reads."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from typing import Any

from tests.oracle.family import Family
from tests.oracle.power import PERIOD

TICKS = [k * PERIOD for k in range(13)]
STEADY = [400_000] * 13
CLEAN = [10_000_000 + 400 * t // 1000 for t in TICKS]


def reading(mono: int, value: int | None, method: str = "tick") -> dict[str, Any]:
    """A boundary."""
    return {"mono_us": mono, "value_mj": value, "method": method}


def counter() -> Family:
    """One device."""
    doc = "Energy of one device between two boundaries, from its own counter where it can be read."
    family = Family("counter", doc, "counter_energy", "4.1")

    def add(
        name: str,
        text: str,
        start: tuple[Any, ...],
        end: tuple[Any, ...],
        answer: tuple[int | None, str, str],
        flags: str = "",
        power: Sequence[int | None] = (),
        values: Sequence[int | None] = (),
        limit_mw: int | None = None,
    ) -> None:
        """Both boundaries; energy in mJ, method and fault; power and counter at 13 ticks of 0.5 s."""
        given: dict[str, Any] = {"nominal_period_us": PERIOD, "start": reading(*start), "end": reading(*end)}
        if limit_mw:
            given["power_limit_mw"] = limit_mw
        if values:
            given["power"] = {"mono_us": TICKS, "power_mw": power, "energy_counter_mj": values}
        energy, method, fault = answer
        wanted = {"energy_mj": energy, "energy_j": None if energy is None else Fraction(energy, 1000)}
        family.add(name, text, given, flags, wanted | {"method": method, "faults": fault.split()})

    usual = (200_000, 10_080_000)
    unread, split = "counter_boundary_missing", ("counter_split", "counter_reset")
    worst = "The worse of the two ends names the method."
    for row in (
        ("difference", "Value at the end minus value at the start, in whole mJ.",
         (0, 1_000), (10_000_000, 3_001_234), (3_000_234, "counter_tick", "")),
        ("no-power-needed", "No power sample is needed when both ends were read.",
         (0, 7), (60_000_000, 24_000_007), (24_000_000, "counter_tick", ""), "SinglePrecision"),
        ("large-values", "Counters run since the driver was loaded: years of mJ.",
         (0, 9_007_199_254_000_000), (1_000_000, 9_007_199_254_000_321), (321, "counter_tick", ""),
         "SinglePrecision"),
        ("nothing-used", "A counter that did not move in 0.4 s used nothing it could show.",
         (0, 500), (400_000, 500), (0, "counter_tick", "")),
        ("immediate", worst, (0, 0), (5_000_000, 2_000_000, "immediate"), (2_000_000, "counter_sample", "")),
        ("counter-over-samples",
         "Samples saw 100 W, the counter 400 W: between samples it saw more. The counter is billed.",
         usual, (5_700_000, 12_280_000), (2_200_000, "counter_tick", ""), "", [100_000] * 13, CLEAN),
    ):  # fmt: skip
        add(*row)

    # The driver is loaded again between two ticks: counter before, 400 W for 0.5 s between, counter after.
    jump = [
        value if t <= 2_500_000 else 400 * (t - 2_800_000) // 1000
        for t, value in zip(TICKS, CLEAN, strict=True)
    ]
    last = (5_700_000, 1_160_000)
    total = jump[5] - 10_080_000 + 200_000 + 1_160_000 - jump[6]
    text = "The driver was loaded again between 2.5 and 3 s: counter before, counter after, power between."
    add("reset", text, usual, last, (total, *split), "ResetIgnored", STEADY, jump)
    higher = [value - 9_990_000 if k <= 5 else value for k, value in enumerate(jump)]
    text = "The counter had caught up with its start by the end: the difference is positive and wrong."
    same = higher[5] - 90_000 + 200_000 + 1_160_000 - higher[6]
    add("reset-that-hides", text, (200_000, 90_000), last, (same, *split), "ResetIgnored", STEADY, higher)
    origin = [0] * 4 + [1_800_000] * 4 + [3_900_000] * 5
    twice = [(t - start) // 10 for t, start in zip(TICKS, origin, strict=True)]
    both = (twice[3] - 20_000) + 50_000 + (twice[7] - twice[4]) + 50_000 + (180_000 - twice[8])
    ends = (200_000, 20_000), (5_700_000, 180_000)
    text = "Two resets, each with its own hole."
    add("two-resets", text, *ends, (both, *split), "ResetIgnored", [100_000] * 13, twice)
    odd = [400_001 + k % 2 for k in range(13)]
    text = "A bridge of 200.00075 J counts as the nearest millijoule, 200.001 J."
    add(
        "bridge-to-the-nearest",
        text,
        usual,
        last,
        (total + 1, *split),
        "BridgeFloored ResetIgnored",
        odd,
        jump,
    )
    dark = [None if k in (5, 6) else 400_000 for k in range(13)]
    text = "Power could not be read around the reset either: its neighbours are joined."
    flags = "ResetIgnored EdgesCut NullAsZero"
    add("reset-without-power", text, usual, last, (total, *split), flags, dark, jump)

    stop = [min(value, CLEAN[4]) for value in CLEAN]
    total = CLEAN[4] - 10_080_000 + 400 * (5_700_000 - TICKS[4]) // 1000
    text = "The counter stopped at 2 s while 400 W flowed: power from there on."
    answer = (total, "counter_split", "counter_stuck")
    add("standstill", text, usual, (5_700_000, stop[-1]), answer, "StandstillIgnored EdgesCut", STEADY, stop)
    slow = [CLEAN[4] if 4 <= k <= 9 else value for k, value in enumerate(CLEAN)]
    text = "It stood still for 2.5 s and then showed all of it: slow, not broken."
    full = (5_700_000, 12_280_000)
    add("slow-not-stuck", text, usual, full, (2_200_000, "counter_tick", ""), "", STEADY, slow)
    # It stood still from 2 s on, 2 s long; 800 J flowed, and 1000 J until it moved again.
    for name, text, before, rise, answer in (
        ("half-made-up", "It rose by 590 of 1000 J: of the 800 J that flowed meanwhile half are lost.",
         200_000, 590_000, (2_200_000, "counter_split", "counter_stuck")),
        ("mostly-made-up", "It rose by 620 of 1000 J, and lacks less than half of 800 J: late.",
         200_000, 620_000, (1_820_000, "counter_tick", "")),
        ("stopped-between-readings", "It stopped between two readings: power bridges from the one before on.",
         80_000, 200_000, (2_200_000, "counter_split", "counter_stuck")),
    ):  # fmt: skip
        start = CLEAN[3] + before
        values = [*CLEAN[:4], *[start] * 5, *(start + rise + 200_000 * k for k in range(4))]
        end, flags = (5_700_000, values[11] + 80_000), "StandstillIgnored" if answer[2] else ""
        add(name, text, usual, end, answer, flags, STEADY, values)
    text = "A counter that stands still is believed where nothing says that power flowed."
    ends = (200_000, 5_000), (5_700_000, 5_000)
    add("still-without-power", text, *ends, (0, "counter_tick", ""), "", [None] * 13, [5_000] * 13)

    text = "The boundary read failed: the line between the neighbouring readings, rounded down to a mJ."
    answer = (12_280_000 - 10_280_000, "counter_sample", unread)
    add("start-unread", text, (700_000, None), full, answer, "NullAsZero", STEADY, CLEAN)
    answer = (11_920_000 - 10_080_000, "counter_sample", unread)
    add("end-unread", "The same at the end.", usual, (4_800_000, None), answer, "NullAsZero", STEADY, CLEAN)
    uneven = [value + (k % 3) for k, value in enumerate(CLEAN)]
    value = uneven[2] + (uneven[3] - uneven[2]) * 123_457 // 500_000
    answer = (12_280_000 - value, "counter_sample", unread)
    text = "The value on the line is rounded down."
    add("unread-rounding", text, (1_123_457, None), full, answer, "NullAsZero", STEADY, uneven)
    value = uneven[2] + (uneven[3] - uneven[2]) * 123_458 // 500_000
    answer = (12_280_000 - value, "counter_sample", unread)
    text = "The value on the line is 0.7 mJ above a whole one, and rounded down all the same."
    flags = "InterpolatedRounded NullAsZero"
    add("unread-rounded-down", text, (1_123_458, None), full, answer, flags, STEADY, uneven)
    # Readings that cannot be: full is 0.2 to 5.7 s at 400 W, 2.2 kJ.
    clean = (2_200_000, "counter_tick", "counter_glitch")
    for name, text, k, value in (
        ("glitch-low", "One reading is nearly nothing, its neighbours agree: left out.", 6, 5),
        ("glitch-high", "One reading is 999 MJ too high: left out.", 6, CLEAN[6] + 999_000_000_000),
        ("glitch-beside-boundary", "The reading next to the stage's end is the bad one.", 11, 5),
    ):
        values = [value if j == k else one for j, one in enumerate(CLEAN)]
        add(name, text, usual, full, clean, "GlitchBelieved", STEADY, values)
    text = "The value read at the boundary is the bad one: as if it had not been read."
    start = 10_000_000 + 400 * 700
    answer = (12_280_000 - start, "counter_sample", "counter_glitch")
    add("glitch-at-start", text, (700_000, 5), full, answer, "GlitchBelieved", STEADY, CLEAN)
    text = "The boundary shows what the sampler had read 0.4 s and 160 J before: an old value."
    answer = (11_960_000 - 10_080_000, "counter_sample", "counter_glitch")
    flags = "GlitchBelieved EdgesCut"
    add("old-at-end", text, usual, (4_900_000, CLEAN[9]), answer, flags, STEADY, CLEAN)
    flags = "JumpBelieved ResetIgnored"
    text = "The counter rose by 22.5 MJ in half a second and stayed there: bridged as a fall is."
    risen = [value + 22_543_283_000 * (k > 5) for k, value in enumerate(CLEAN)]
    end = 5_700_000, 12_280_000 + 22_543_283_000
    add("jump", text, usual, end, (2_200_000, *split), f"{flags} SinglePrecision", STEADY, risen)
    text = "200 J more in half a second than 1.25 x 700 W x 0.6 s, the most that this device can show."
    risen = [value + 525_000 * (k > 5) for k, value in enumerate(CLEAN)]
    end = 5_700_000, 12_280_000 + 525_000
    add("jump-above-limit", text, usual, end, (2_200_000, *split), flags, STEADY, risen, 700_000)
    text = "The boundary in the cell of that jump was not read: power to the next reading a refresh away."
    answer = (400 * 550 + 400 * 2_200, "counter_split", f"{unread} counter_reset")
    flags, start = "LineAcrossReset JumpBelieved EdgesCut", (2_950_000, None)
    add("unread-in-jump", text, start, end, answer, flags, STEADY, risen, 700_000)
    text = "Just what the device can draw, 525 J in 0.6 s: believed; the power integral is the check."
    risen = [value + 325_000 * (k > 5) for k, value in enumerate(CLEAN)]
    end = 5_700_000, 12_280_000 + 325_000
    answer = (2_525_000, "counter_tick", "")
    add("rise-within-limit", text, usual, end, answer, "", STEADY, risen, 700_000)
    text = "It stopped 1 s before the stage's end and never made up for it: power from the reading before on."
    late = [min(value, CLEAN[9]) if k < 12 else CLEAN[9] + 80_000 for k, value in enumerate(CLEAN)]
    answer = (2_200_000, "counter_split", "counter_stuck")
    end = 5_700_000, CLEAN[9]
    add("stopped-before-the-end", text, usual, end, answer, "StandstillIgnored EdgesCut", STEADY, late)
    text = "The counter fell in the cell in which the boundary was not read: power to the next reading."
    answer = (400 * 300 + 1_160_000 - jump[6], "counter_split", f"{unread} counter_reset")
    add("unread-in-fall", text, (2_700_000, None), last, answer, "NullAsZero EdgesCut", STEADY, jump)
    text = "A counter that stood still and made up for it: a boundary inside lies on the line around that."
    value = CLEAN[4] + (CLEAN[10] - CLEAN[4]) * 1_500_000 // 3_000_000
    answer = (12_280_000 - value, "counter_sample", unread)
    add("unread-in-slow", text, (3_500_000, None), full, answer, "NullAsZero StandstillIgnored", STEADY, slow)
    text = "The sampler's reading 20 ms after the boundary is older than the boundary's value: no fall."
    stale = [value - 40_000 * (k == 2) for k, value in enumerate(CLEAN)]
    start = 980_000, 10_392_000
    answer = (12_280_000 - 10_392_000, "counter_tick", "")
    add("older-reading-nearby", text, start, full, answer, "NearReadingsUsed", STEADY, stale)
    # A line from 104 W to 214 W.
    answer = (round((104 + 214) / 2 * 5.5 * 1000), "power_integral", "counter_missing")
    ends = (200_000, None), (5_700_000, None)
    line = [100_000 + t // 50 for t in TICKS]
    text, flags = (
        "No counter at all: the power integral, to the mJ.",
        "NullAsZero EdgesCut EdgesHeld LeftRiemann",
    )
    add("no-counter", text, *ends, answer, flags, line, [None] * 13)
    text = "Neither counter nor power: unknown. Not zero."
    add("nothing-at-all", text, *ends, (None, "absent", ""), "NullAsZero UnknownAsZero")
    given = {"start": reading(5_000_000, 1_000), "end": reading(1_000_000, 2_000)}
    family.refuse("reversed", "Boundaries in the wrong order.", given)
    return family
