"""RAPL zones, which wrap and overlap."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from typing import Any

from tests.oracle.family import Family
from tests.oracle.power import PERIOD

Json = dict[str, Any]
RANGE_UJ = 262_143_328_850
"""A usual max_energy_range_uj of a server package."""

SMALL_UJ = 65_532_610_987
MONO = [k * PERIOD for k in range(9)]
EVEN = [200] * 8
BUSY = [180, 220, 260, 240, 200, 190, 210, 230]
CALM = [90, 60, 30, 40, 80, 95, 70, 50]


def zone(
    name: str,
    start: int,
    watts: Sequence[int] = EVEN,
    wrap: int | None = RANGE_UJ,
    failed: Sequence[int] = (),
) -> Json:
    """A zone read nine times from `start` uJ on, at these watts between, wrapping past `wrap`."""
    found = [start]
    for w in watts:
        value = found[-1] + w * PERIOD
        found.append(value if wrap is None or value <= wrap else value - wrap)
    values = [None if k in failed else value for k, value in enumerate(found)]
    return {"zone": name, "range_uj": wrap, "mono_us": MONO, "value_uj": values}


def rapl() -> Family:
    """Zones."""
    doc = (
        "RAPL zones: unwrapped one by one, then added; packages for the CPU, dram for memory, nothing twice."
    )
    family = Family("rapl", doc, "zone_energy", "4.3")

    def window(zones: Sequence[Json], start: int = 500_000, end: int = 3_500_000, part: str = "cpu") -> Json:
        return {"part": part, "zones": list(zones), "mono_start_us": start, "mono_end_us": end}

    def joules(*watts: Sequence[int]) -> Fraction:
        """Of zones between the second and the eighth reading."""
        return Fraction(sum(sum(one[1:7]) for one in watts) * PERIOD, 10**6)

    wrap, near, top = "NoUnwrap SinglePrecision", RANGE_UJ - 250_000_000, RANGE_UJ - 350_000_000
    summed = f"SumBeforeUnwrap {wrap}"
    lower, memory = [170] * 8, [12, 14, 11, 10, 9, 15, 13, 12]
    dies = [150, 400, 90, 310, 120, 280, 350, 60]
    busy = zone("package-0", near, BUSY)
    for name, text, zones, energy, *more in (
        ("plain", "No wrap.", [zone("package-0", 5_000_000)], joules(EVEN)),
        ("wrap", "One wrap: the range is added once.", [zone("package-0", top)], joules(EVEN), wrap),
        ("wrap-at-reading", "The last value before the wrap is the largest there is.",
         [zone("package-0", RANGE_UJ - 400_000_000)], joules(EVEN), wrap),
        ("three-wraps", "A range so small that it wraps three times inside the window.",
         [zone("package-0", 100_000_000, [400] * 8, 500_000_000)], joules([400] * 8), "NoUnwrap"),
        ("wrap-between-ends", "Both edges lie between readings.", [zone("package-0", top, BUSY)],
         joules(BUSY) - Fraction("0.12") * BUSY[1] - Fraction("0.12") * BUSY[6], wrap,
         {"start": 620_000, "end": 3_380_000}),
        ("two-packages-one-wraps", "Two sockets, one wraps.",
         [busy, zone("package-1", 1_000, CALM)], joules(BUSY, CALM), wrap),
        ("two-packages-both-wrap", "Both wrap, at different times.",
         [busy, zone("package-1", RANGE_UJ - 60_000_000, CALM)], joules(BUSY, CALM), wrap),
        ("two-ranges", "Two sockets with different ranges: unwrapped as a sum they get the wrong one.",
         [busy, zone("package-1", SMALL_UJ - 60_000_000, CALM, SMALL_UJ)], joules(BUSY, CALM), summed),
        ("both-wrap-in-one-tick", "Both wrap between the same two readings: the sum falls by two ranges.",
         [zone("package-0", near), zone("package-1", RANGE_UJ - 220_000_000, lower)], joules(EVEN, lower),
         summed),
        ("core-inside-package", "core is a part of package, psys holds everything: neither is added.",
         [zone("package-0", 1_000_000, BUSY), zone("core-0", 500_000, CALM),
          zone("psys", 9_000_000, [300] * 8)],
         joules(BUSY), "EveryZone"),
        ("dram", "Memory has zones of its own.",
         [zone("package-0", 1_000_000, BUSY), zone("dram-0", 700, memory)], joules(memory), "EveryZone",
         {"part": "dram"}),
        ("mirror", "Two dies, one counter: package-1 shows what package-0 shows.",
         [zone("package-0", 3_000_000, dies), zone("package-1", 3_000_000, dies)], joules(dies),
         "MirrorCounted", {}, "rapl_mirror"),
        ("failed-reads", "Failed reads are left out; the neighbours are joined.",
         [zone("package-0", top, failed=(3, 6))], joules(EVEN), "NoUnwrap NullAsZero SinglePrecision"),
        ("failed-read-at-edge", "A failed read at the window's start.",
         [zone("package-0", 2_000_000, BUSY, failed=(1,))],
         joules(BUSY) - 105 - 110 + Fraction(90 + 110, 2), "NullAsZero", {"end": 3_000_000}),
    ):  # fmt: skip
        flags, change, fault = (*more, *("", {}, "")[len(more) :])
        answer = {"energy_j": energy, "method": "rapl", "faults": fault.split()}
        family.add(name, text, window(zones, **change), flags, answer)

    fell = zone("package-0", 1_000_000_000, wrap=None)
    fell["value_uj"] = [10**9 + 200 * t if t <= 1_500_000 else 200 * (t - 1_500_000) for t in MONO]
    answer = {"energy_j": Fraction(600), "method": "rapl", "faults": ["rapl_reset"]}
    text = (
        "A counter that never wraps fell: it was reset. The mean rate of the rest, 200 W, bridges the step."
    )
    family.add("reset", text, window([fell]), "NoUnwrap", answer)
    text = "As a wrap this fall would be 261 kJ in half a second, more than 1000 W: it was a reset."
    family.add(
        "reset-not-a-wrap", text, window([fell | {"range_uj": RANGE_UJ}]), "NoUnwrap FallIsWrap", answer
    )
    even = zone("package-0", 10**9)
    for name, text, k, change, flags, fault in (
        ("glitch-low", "One reading is nearly nothing: left out, no wrap and no reset.", [4], -10**9,
         "GlitchBelieved NoUnwrap FallIsWrap", "rapl_glitch"),
        ("glitch-high", "One reading is 64,852 J too high: left out.", [4], 64_852_000_000,
         "GlitchBelieved NoUnwrap FallIsWrap", "rapl_glitch"),
        ("jump", "All readings from 2 s on are 64,852 J higher: more than 1000 W, bridged as a fall is.",
         range(4, 9), 64_852_000_000, "JumpBelieved SinglePrecision", "rapl_reset"),
        ("stopped", "It stood still for a second and lost it: the mean rate of the rest, flagged.",
         range(4, 9), None, "StandstillIgnored", "rapl_stuck"),
    ):  # fmt: skip
        values = [value + (change or 0) * (j in k) for j, value in enumerate(even["value_uj"])]
        if change is None:
            lost = [200 * PERIOD * min(max(j - 3, 0), 2) for j in range(9)]
            values = [value - less for value, less in zip(even["value_uj"], lost, strict=True)]
        answer = {"energy_j": Fraction(600), "method": "rapl", "faults": [fault]}
        family.add(name, text, window([even | {"value_uj": values}]), flags, answer)
    before = zone("package-0", RANGE_UJ - 450_000_000)
    values = [0 if k == 3 else value for k, value in enumerate(before["value_uj"])]
    text = "A failed read of 0 lies 150 J before a wrap: left out, or the counter would go round twice."
    answer = {"energy_j": Fraction(600), "method": "rapl", "faults": ["rapl_glitch"]}
    flags = "GlitchBelieved NoUnwrap FallIsWrap JumpBelieved SinglePrecision"
    family.add("glitch-before-wrap", text, window([before | {"value_uj": values}]), flags, answer)
    slow = list(even["value_uj"])
    slow[4] = slow[3]
    text = "One reading shows the value before, the next one all of it: late, nothing lost, flagged."
    answer = {"energy_j": Fraction(600), "method": "rapl", "faults": ["rapl_stuck"]}
    family.add("late", text, window([even | {"value_uj": slow}]), "StandstillIgnored", answer)
    steps = [50_000_000] * 4 + [0] * 3 + [155_000_000] + [50_000_000] * 11
    stood = {"zone": "package-0", "range_uj": RANGE_UJ, "mono_us": [k * PERIOD for k in range(20)]}
    stood["value_uj"] = [sum(steps[:k]) for k in range(20)]
    text = (
        "The rest ran at 113.125 W, 170 J are 0.75 of 2 s until it moved: its 155 J do not make up for 1.5 s."
    )
    answer |= {"energy_j": 805 + Fraction("169.6875")}
    family.add("stopped-and-rose", text, window([stood], 500_000, 9_000_000), "StandstillIgnored", answer)
    thirds = [0, 10_000_001, 20_000_000, 30_000_001, 40_000_000]
    times = [k * 300_000 for k in range(5)]
    text = "At 0.1 s the line is at 3,333,333.67 uJ: the nearest whole one counts."
    answer = {"energy_j": Fraction(40_000_000 - 3_333_334, 10**6), "method": "rapl", "faults": []}
    third = {"zone": "package-0", "range_uj": RANGE_UJ, "mono_us": times, "value_uj": thirds}
    family.add("nearest-microjoule", text, window([third], 100_000, 1_200_000), "", answer)
    text = "A zone that never moves tells nothing: absent, not zero."
    answer = {"energy_j": None, "method": "absent", "faults": []}
    dead = window([zone("package-0", 10**9, [0] * 8)])
    family.add("never-moves", text, dead, "UnknownAsZero", answer)
    times, values = [0, 400_000_000, 400_500_000], [10_000_000, 14_000_000, 24_000_000]
    slow = {"zone": "package-0", "range_uj": 65_000_000, "mono_us": times, "value_uj": values}
    text = "400 s between reads and a range of 65 J: wraps may have gone unseen. The figure stands, flagged."
    answer = {"energy_j": Fraction(14), "method": "rapl", "faults": ["rapl_wrap_ambiguous"]}
    family.add("ambiguous", text, window([slow], 0, 400_500_000), "", answer)
    one, flags = [zone("package-0", 1)], "UnknownAsZero EveryZone"
    answer = {"energy_j": None, "method": "absent", "faults": []}
    family.add("absent", "No dram zone: absent, not zero.", window(one, 0, 1_000_000, "dram"), flags, answer)
    family.refuse("reversed", "A window that ends before it starts.", window(one, 2_000_000, 1_000_000))
    family.refuse("no-such-part", "RAPL knows packages and memory.", window(one, 0, 1_000_000, "fan"))
    return family


def estimate() -> Family:
    """CodeCarbon."""
    doc = "An estimate of CPU or DRAM, kept as a counter: on lines between its readings, where RAPL has none."
    family = Family("estimate", doc, "zone_energy", "4.3")
    seconds = [k * 1_000_000 for k in range(9)]

    def component(name: str, *steps: int) -> Json:
        """Read once a second, with these uJ between."""
        found = [7_000_000]
        for step in steps:
            found.append(found[-1] + step)
        return {"zone": name, "source": "codecarbon", "mono_us": seconds, "value_uj": found, "range_uj": None}

    cpu = component("cpu", *[35_000_000, 40_000_000, 20_000_000, 30_000_000] * 2)
    again = component("cpu", *[35_000_000] * 4, -140_000_000, *[35_000_000] * 3)
    package = zone("package-0", 5_000_000)
    first, second, third, last = 400_000, 1_250_000, 2_500_000, 8_000_000
    inside = 35_000_000 * 6 // 10 + 40_000_000 // 4
    beyond = 30_000_000 + 20_000_000 // 2
    for name, text, zones, window, answer, flags in (
        ("between-readings", "Both ends lie on the lines between readings.", [cpu], (first, second),
         (inside, ""), ""),
        ("memory", "Memory is the component ram.", [cpu, component("ram", *[10_000_000] * 8)],
         (first, second), (8_500_000, ""), ""),
        ("restart", "It was restarted in the fifth second: the fall adds nothing, what it lost is said.",
         [again], (3_500_000, 5_500_000), (35_000_000, "cpu_estimate_restarted"), "RestartSubtracted"),
        ("last-reading-stands", "It ends 5 s before the window does: what is behind counts nothing.", [cpu],
         (6_500_000, last + 5_000_000), (beyond, ""), ""),
        ("too-far-from-an-end", "It ends 5.000001 s before the window does: unknown.", [cpu],
         (6_500_000, last + 5_000_001), (None, ""), "EstimateStretched UnknownAsZero"),
        ("beside-the-window", "The window begins where its readings end: unknown.", [cpu],
         (last, last + 1_000_000), (None, ""), "UnknownAsZero"),
        ("rapl-first", "Where RAPL can be read it is billed.", [cpu, package], (third - 1_000_000, third),
         (200_000_000, ""), ""),
    ):  # fmt: skip
        given = {"part": "dram" if name == "memory" else "cpu", "zones": zones}
        given |= {"mono_start_us": window[0], "mono_end_us": window[1]}
        energy, fault = answer
        wanted: Json = {
            "energy_j": None if energy is None else Fraction(energy, 10**6),
            "faults": fault.split(),
        }
        method = "absent" if energy is None else "rapl" if name == "rapl-first" else "codecarbon_process"
        if method == "codecarbon_process":
            wanted |= {"low_j": Fraction(0), "high_j": 2 * wanted["energy_j"]}
        family.add(name, text, given, flags, wanted | {"method": method})
    return family
