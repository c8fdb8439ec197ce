"""Boundaries as moments: where in its cell, between two refreshes of the counter, each lies."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import Any

from tests.oracle.cases.boundaries import UTC, row_of
from tests.oracle.family import Family, reference

Json = dict[str, Any]
MS = 1_000
CELL = 100 * MS

CAUGHT = {
    "LongMissed": "missed-by-more",
    "BoundIgnored": "bound-behind",
    "CounterFallsInCell": "two-in-one-cell-do-not-cross two-before-a-refresh",
    "DoubtIgnored": "slow-sensor slow-sensor-uneven-load step-in-doubt step-in-some-doubt nothing-behind",
    "ImpossibleCellCut": "cell-that-falls cell-that-stands cell-above-limit cell-too-large",
    "LatePowerUsed": "power-read-late",
    "MeanIsInstant": "missed-by-a-mean trailing-mean",
    "SpikeBelieved": "missed-with-a-spike power-above-limit",
    "SlopeIsStep": "gentle-slope slope-of-a-twenty-fifth gentle-slope-rough-around",
    "WiderTickCounts": "sharp-refresh-before sharp-refresh-behind",
    "MissedRefreshLost": "missed-refresh missed-refresh-rounded-up missed-within-bracket "
    "missed-by-20-ms missed-hardly-any-rise missed-before-the-first two-before-a-refresh",
    "EarlierForgotten": "no-power-before power-read-late trailing-mean short-stage-behind-a-step "
    "short-stage-refresh-unseen power-behind-the-step",
    "SamplesForgotten": "dip-among-changes line-by-samples",
    "FewSamplesContradict": "seven-samples",
    "SensorIsFast": "flat-within-a-fiftieth slow-sensor slow-sensor-uneven-load sensor-missed-once "
    "rounded-down",
    "WideCellCut": "refreshes-missed missed-refresh missed-refresh-rounded-up missed-within-bracket "
    "missed-outside-bracket missed-by-20-ms missed-by-more missed-without-power missed-with-a-spike "
    "missed-hardly-any-rise missed-by-a-mean samples-stand-in two-before-a-refresh",
    "StepInverted": "step-up-before-the-boundary step-down-after-the-boundary "
    "step-down-before-the-boundary mean-a-little-below-both on-a-refresh just-before-a-refresh "
    "rounded-down slope-too-steep two-in-one-cell three-stages-telescope bound-behind",
    "NearestMillijoule": "just-before-a-refresh short-stage-behind-a-step short-stage-refresh-unseen "
    "power-behind-the-step",
    "CellDrawnStraight": "bound-behind step-up step-up-before-the-boundary step-down "
    "step-down-after-the-boundary "
    "step-down-before-the-boundary mean-a-little-below-both slow-sensor slow-sensor-uneven-load "
    "sensor-missed-once power-read-just-in-time on-a-refresh just-before-a-refresh "
    "one-refresh-missed rounded-down step-in-doubt step-in-some-doubt nothing-behind "
    "slope-too-steep step-up-20-ms short-stage-behind-a-step short-stage-refresh-unseen "
    "missed-before-the-first two-in-one-cell two-in-one-cell-do-not-cross three-stages-telescope",
    "EvenPooled": "one-refresh-missed rounded-down gentle-slope slope-of-a-twenty-fifth",
    "LastRefresh": "step-up step-up-before-the-boundary step-down step-down-before-the-boundary flat "
    "flat-within-a-fiftieth dip peak mean-a-little-below-both mean-too-far-below-both slow-sensor "
    "slow-sensor-uneven-load sensor-missed-once no-power-behind no-power-before power-read-late "
    "power-read-just-in-time on-a-refresh just-before-a-refresh one-refresh-missed rounded-down "
    "step-in-doubt step-in-some-doubt nothing-behind gentle-slope slope-of-a-twenty-fifth "
    "slope-too-steep gentle-slope-rough-around alike-and-not-clean sharp-refresh-before "
    "sharp-refresh-behind dip-among-changes seven-samples eight-samples missed-refresh "
    "missed-refresh-rounded-up missed-within-bracket missed-by-20-ms missed-hardly-any-rise "
    "trailing-mean samples-stand-in power-above-limit bound-behind line-by-samples step-up-20-ms "
    "short-stage-behind-a-step short-stage-refresh-unseen power-behind-the-step "
    "missed-before-the-first two-in-one-cell two-in-one-cell-do-not-cross two-before-a-refresh "
    "three-stages-telescope",
    "EdgesCut": "eight-samples",
    "NullAsZero": "refreshes-missed cell-that-falls cell-that-stands cell-above-limit dip-among-changes "
    "seven-samples eight-samples "
    "missed-outside-bracket missed-by-more missed-without-power missed-with-a-spike "
    "missed-by-a-mean cell-too-large samples-stand-in line-by-samples",
    "UnknownAsZero": "refreshes-missed cell-that-falls cell-that-stands cell-above-limit "
    "missed-outside-bracket missed-by-more missed-without-power missed-with-a-spike "
    "missed-by-a-mean cell-too-large",
}
"""Fault -> the vectors that fail with it, the fault that explains them best first."""


def flags_of(name: str) -> str:
    """Faults that fail a vector."""
    return " ".join(fault for fault, names in CAUGHT.items() if name in names.split())


def refreshes(watts: str, shown: str = "", width: int = CELL, begin_mj: int = 1_000_000) -> list[Json]:
    """Ticks a `width` apart, 50 us sharp.

    Args:
        watts: mean power of each cell between them, W.
        shown: what the sensor shows right behind each, W; that of the cell behind by default, `-` for none.
        width: of a cell, us.
        begin_mj: the counter at the first one.
    """
    means = [Fraction(text) for text in watts.split()]
    sensor = shown.split() or [*watts.split(), watts.split()[-1]]
    ticks, value = [], Fraction(begin_mj)
    for k, power in enumerate(sensor):
        row = {"mono_us": k * width, "value_mj": int(value), "uncertainty_us": 50}
        ticks.append(row | {"power_mw": None if power == "-" else int(Fraction(power) * 1000)})
        value += means[k] * width / 1000 if k < len(means) else 0
    return ticks


def moment(at: int, watts: float | None, late: int = 100) -> Json:
    """A boundary at a time in us; power in W, read `late` us after it."""
    power = None if watts is None else round(watts * 1000)
    return {
        "mono_us": at,
        "value_mj": None,
        "method": "moment",
        "power_mw": power,
        "uncertainty_us": late,
    }


def placement() -> Family:
    """A window from a place where nothing happens to a boundary in a cell; then whole runs."""
    doc = "A boundary is a moment; the counter's value there is placed between the two refreshes around it."
    family = Family("placement", doc, "counter_energy", "4.1")

    def add(
        name: str, text: str, end: Json, value_mj: int | None, method: str, ticks: list[Json], **more: Any
    ) -> None:
        """The end, the counter there, the method."""
        start = moment(30 * MS, ticks[0]["power_mw"] / 1000)
        begin_mj = ticks[0]["value_mj"] + (ticks[1]["value_mj"] - ticks[0]["value_mj"]) * 3 // 10
        given = {"start": start, "end": end, "ticks": ticks, **more}
        found = reference("counter_energy", given)
        assert found is not None
        energy = None if value_mj is None else value_mj - begin_mj
        fault = ["counter_boundary_missing"] if method == "counter_sample" else []
        wanted = {"energy_mj": energy, "method": method, "faults": fault}
        wanted |= {key: found[key] for key in ("low_j", "high_j") if key in found}
        family.add(name, text, given, flags_of(name), wanted)

    step, line, at = "counter_step", "counter_linear", 340 * MS
    quiet, flat = "100 100 100", 1_000_000 + 30_000
    calm, rise = "100 100 100 100 100 100 100 100", "100 100 100 100 500 500 500 500"
    # 40 ms of 100 W and 60 ms of 500 W are 34 J: before the boundary 4 J, on a straight line 13.6 J.
    up = refreshes(f"{quiet} 340 500 500 500", rise)
    down = refreshes("500 500 500 260 100 100 100", "500 500 500 500 100 100 100 100")
    even, limit = refreshes(f"{quiet} 100 100 100 100"), {"power_limit_mw": 400_000}
    wide = [row for k, row in enumerate(up) if k not in (3, 4)]
    fall = [row | {"value_mj": row["value_mj"] - 900_000 * (k >= 4)} for k, row in enumerate(up)]
    jump = [row | {"value_mj": row["value_mj"] + 500_000 * (k == 4)} for k, row in enumerate(up)]
    odd = refreshes("12.345678 12.345678 12.345678 77.777777 300 300 300",
                    "12.345678 12.345678 12.345678 12.345678 300 300 300 300")  # fmt: skip
    odd_mj = odd[4]["value_mj"] - -(-(odd[5]["value_mj"] - odd[4]["value_mj"]) * 10 * 22_223 // 10**6)
    sampled = {"mono_us": [k * 500 * MS for k in range(-1, 3)], "power_mw": [300_000] * 4,
               "energy_counter_mj": [850_000, 1_000_000, 1_150_000, 1_300_000]}  # fmt: skip
    stands = [row | {"value_mj": up[3]["value_mj"]} if k == 4 else row for k, row in enumerate(up)]
    turns = {"mono_us": [k * 50 * MS for k in range(10)], "power_mw": [90_000, 110_000] * 5}
    for name, text, end, value, method, ticks in (
        ("step-up", "100 W to 500 W at the boundary: 40 ms of 100 W lie before it.",
         moment(at, 100), flat + 4_000, step, up),
        ("step-up-before-the-boundary",
         "It had stepped 10 ms before the boundary: the 500 W behind are taken off the cell's energy.",
         moment(at + 10 * MS, 100), flat + 34_000 - 25_000, step, up),
        ("step-down", "500 W to 100 W at the boundary.", moment(at, 500), 1_170_000, step, down),
        ("step-down-after-the-boundary", "It stepped 10 ms after the boundary, which lies in the 500 W.",
         moment(at - 10 * MS, 500), 1_150_000 + 15_000, step, down),
        ("step-down-before-the-boundary", "It stepped 10 ms before: 50 ms of 100 W lie behind.",
         moment(at + 10 * MS, 500), 1_176_000 - 5_000, step, down),
        ("flat", "Nothing happens: a straight line is the step.", moment(at, 100), flat + 4_000, step, even),
        ("flat-within-a-fiftieth", "1 W apart from both powers is alike.",
         moment(at, 100), flat + 4_040, step,
         refreshes(f"{quiet} 101 101 101 101", "100 100 100 100 102 102 102 102")),
        ("dip", "40 W less than both powers: no one step does that; drawn straight.",
         moment(at, 100), flat + 2_400, line, refreshes(f"{quiet} 60 100 100 100", calm)),
        ("peak", "A burst between two calm powers: drawn straight.",
         moment(at, 100), flat + 16_000, line, refreshes(f"{quiet} 400 100 100 100", calm)),
        ("mean-a-little-below-both", "2 W below the lesser power, within a fiftieth of the larger: a step.",
         moment(at, 100), flat + 4_000, step, refreshes(f"{quiet} 98 500 500 500", rise)),
        ("mean-too-far-below-both", "11 W are more than a fiftieth of 500 W: drawn straight.",
         moment(at, 100), flat + 3_560, line, refreshes(f"{quiet} 89 500 500 500", rise)),
        ("slow-sensor", "The sensor lags by two refreshes: the counter's two cells behind say 500 W.",
         moment(at, 100), flat + 4_000, step,
         refreshes(f"{quiet} 340 500 500 500", "100 100 100 100 100 100 500 500")),
        ("slow-sensor-uneven-load", "It still shows 100 W at the refresh: the next one says 500 W.",
         moment(at, 100), flat + 4_000, step,
         refreshes(f"{quiet} 340 500 300 300", "100 100 100 100 100 500 300 300")),
        ("sensor-missed-once", "No power at the refresh behind: that of the next one counts.",
         moment(at, 100), flat + 4_000, step,
         refreshes(f"{quiet} 340 500 300 300", "100 100 100 100 - 500 300 300")),
        ("no-power-behind", "No power behind is known: drawn straight.",
         moment(at, 100), flat + 13_600, line, refreshes(f"{quiet} 340", "100 100 100 100 -")),
        ("no-power-before", "Power was not read beside the boundary: drawn straight.",
         moment(at, None), flat + 13_600, line, up),
        ("power-read-late", "Read 26 ms behind it, over a quarter of the cell: it may be the power behind.",
         moment(at, 100, 26 * MS), flat + 13_600, line, up),
        ("power-read-just-in-time", "25 ms are a quarter: taken.",
         moment(at, 100, 25 * MS), flat + 4_000, step, up),
        ("on-a-refresh", "A boundary on a refresh has its value.", moment(3 * CELL, 100), flat, step, up),
        ("just-before-a-refresh", "1 us before a refresh.",
         moment(4 * CELL - 1, 100), flat + 33_999, step, up),
        ("refreshes-missed", "Two were not seen: 300 ms are no cell, the boundary counts as not read.",
         moment(at, 100), None, "absent", wide),
        ("one-refresh-missed", "One was not seen: 200 ms are a cell, of which 140 ms at 100 W lie before.",
         moment(at, 100), 1_020_000 + 14_000, step, [row for k, row in enumerate(up) if k != 3]),
        ("cell-that-falls", "The counter was reset in it: no cell.", moment(at, 100), None, "absent", fall),
        ("cell-that-stands", "A tick without a rise is none: the value of the one before was read again.",
         moment(at, 100), None, "absent", stands),
        ("rounded-down", "The part before is rounded down to a whole mJ.",
         moment(3 * CELL + 77_777, 12.345), odd_mj, step, odd),
        ("step-in-doubt", "Power changes between refreshes on both sides: the step may lie elsewhere.",
         moment(at, 100), flat + 12_000, step, refreshes("100 180 100 340 500 420 500", rise)),
        ("step-in-some-doubt", "Calm before, rough behind.",
         moment(at, 100), flat + 4_000, step, refreshes("100 100 100 340 500 420 500", rise)),
        ("nothing-behind", "No cell behind tells whether power is steady there.",
         moment(at, 100), flat + 4_000, step, refreshes(f"{quiet} 340", "100 100 100 100 500")),
    ):  # fmt: skip
        add(name, text, end, value, method, ticks)
    _slopes(add)
    _missed(add, up, wide)
    text = "A sensor that shows means of 1 s shows no step: drawn straight."
    add("trailing-mean", text, moment(at, 100), flat + 13_600, line, up, instant_supported=False)
    text = "534 J in 100 ms, the device has 700 W: no cell, the boundary counts as not read."
    add("cell-too-large", text, moment(at, 100), None, "absent", jump, power_limit_mw=700_000)
    text = "No cell, but the sampler read the counter: linear between its readings."
    add("samples-stand-in", text, moment(at, 300), 1_102_000, "counter_sample", wide, power=sampled)
    text, hot = (
        "600 W are more than 1.25 x 400 W: a failed read.",
        refreshes(f"{quiet} 350 100 100 100", calm),
    )
    add("power-above-limit", text, moment(310 * MS, 600), flat + 3_500, line, hot, **limit)
    text = "60 J in 100 ms, the device can draw 50: no cell."
    over = refreshes(f"{quiet} 600 300 300 300", "100 100 100 100 300 300 300 300")
    add("cell-above-limit", text, moment(at, 100), None, "absent", over, **limit)
    text = "100 W for 99 ms are more than the 9.8 J of the cell."
    low = refreshes(f"{quiet} 98 500 500 500", rise)
    add("bound-behind", text, moment(at + 59 * MS, 100), flat + 9_800, step, low)
    text = "No power beside it: how far a line may be off is told by the samples around."
    add("line-by-samples", text, moment(at, None), flat + 4_000, line, even, power=turns)
    fine = refreshes(f"{quiet} 340 500 500 500", rise, 20 * MS)
    given = {"start": moment(6 * MS, 100), "end": moment(68 * MS, 100), "ticks": fine}
    text, answer = "The same with a refresh of 20 ms.", ("energy_mj", "low_j", "high_j", "method", "faults")
    family.add("step-up-20-ms", text, given, flags_of("step-up-20-ms"), answer)
    # 34 ms of 75 W and 66 ms of 500 W; the stage has 3 ms of these, 1.5 J.
    late = refreshes("75 75 75 355.5 500 500 500", "75 75 75 75 500 500 500 500")
    unseen = [row | {"power_mw": None} if k == 3 else row for k, row in enumerate(late)]
    begin, short = moment(334 * MS, 75), moment(337 * MS, 500)
    for name, text, first, ticks, truth_j in (
        ("short-stage-behind-a-step",
         "500 W since its begin; at its end both powers are 500 W, and the line hands it 10.6 J for 1.5 J: "
         "75 W at the refresh before says that the cell is rough.", begin, late, 1.5),
        ("short-stage-refresh-unseen", "Power at the refresh is unknown; that at the stage's begin says so.",
         begin, unseen, 1.5),
        ("power-behind-the-step", "The boundary alone: its power is read 3 ms behind a step.",
         moment(30 * MS, 75), late, 270 * 0.075 + 4.05),
    ):  # fmt: skip
        given = {"start": first, "end": short, "ticks": ticks}
        found = reference("counter_energy", given)
        assert found is not None and found["low_j"] < truth_j < found["high_j"], (name, found)
        family.add(name, text, given, flags_of(name), answer)
    ticks = refreshes(f"{quiet} 340 500 500")[1:]
    given = {"start": moment(CELL - 300, 100, 400), "end": moment(at, 100), "ticks": ticks}
    text = "Heard of behind the first refresh that there is: 0.3 ms of 100 W before it."
    family.add("missed-before-the-first", text, given, flags_of("missed-before-the-first"), answer)
    _runs(family)
    return family


def _slopes(add: Callable[..., None]) -> None:
    """Cells in which power hardly changes, and refreshes that are not alike."""
    at, step, line, flat = 340 * MS, "counter_step", "counter_linear", 1_030_000
    gentle = refreshes("100 100 100 100.5 104 104 104", "100 100 100 100 104 104 104 104")
    uneven = refreshes("100 100 100 100 100 100 100")
    uneven[3]["uncertainty_us"], uneven[4]["uncertainty_us"] = 40, 4_000
    loose = refreshes("100 100 100 400 100 100 100", "100 100 100 100 100 100 100 100")
    loose[3]["uncertainty_us"], loose[4]["uncertainty_us"] = 4_000, 40
    turns = {"mono_us": [k * 50 * MS for k in range(10)], "power_mw": [50_000, 150_000] * 5}
    for name, text, value, method, ticks in (
        ("gentle-slope", "100 W to 104 W may be a slope: drawn straight, and as rough as it looks itself.",
         flat + 4_020, step, gentle),
        ("slope-of-a-twenty-fifth", "100 W to 96 W is even still.", flat + 3_960, step,
         refreshes("100 100 100 99 96 96 96", "100 100 100 100 96 96 96 96")),
        ("slope-too-steep", "100 W to 95.999 W is a step.", flat + 4_000, step,
         refreshes("100 100 100 99 95.999 95.999 95.999", "100 100 100 100 95.999 95.999 95.999 95.999")),
        ("gentle-slope-rough-around", "With a burst beside it the even cell is as rough as its neighbours.",
         flat + 20_000 + 4_020, step,
         refreshes("100 100 300 100.5 104 104 104", "100 100 100 100 104 104 104 104")),
        ("alike-and-not-clean", "2.03 W more than both is alike, and more than a fiftieth of them: a line.",
         flat + 4_081, line, refreshes("100 100 100 102.03 100 100 100", "100 100 100 100 100 100 100 100")),
        ("sharp-refresh-before", "Its refreshes are known to 40 us and 4 ms: by the way to each.",
         flat + 4_000, step, uneven),
        ("sharp-refresh-behind", "To 4 ms and 40 us, and drawn straight.", flat + 16_000, line, loose),
    ):  # fmt: skip
        add(name, text, moment(at, 100), value, method, ticks)
    text = "Both powers say little of a cell that they do not explain: the samples around say more."
    dip = refreshes("100 100 100 90 100 100 100", "100 100 100 100 100 100 100 100")
    add("dip-among-changes", text, moment(at, 100), flat + 3_600, line, dip, power=turns)
    held = {"mono_us": [k * 40 * MS for k in range(12)], "power_mw": [200_000] * 12}
    calm = refreshes("100 100 100 100 100 100 100")
    text = "Seven samples of twice the power contradict no counter."
    add("seven-samples", text, moment(320 * MS, 100), flat + 2_000, step, calm,
        power=held, nominal_period_us=40 * MS)  # fmt: skip
    text = "Eight do: the interval reaches to their integral."
    add("eight-samples", text, moment(at, 100), flat + 4_000, step, calm,
        power=held, nominal_period_us=40 * MS)  # fmt: skip


def _missed(add: Callable[..., None], up: list[Json], wide: list[Json]) -> None:
    """Boundaries just before a refresh whose cell was not seen, because they were heard of behind it."""
    line, refresh, there = "counter_linear", 5 * CELL, 1_114_000
    lazy = [row | {"value_mj": 1_020_100} if row["mono_us"] == refresh else row for row in wide]
    for name, text, before, watts, late, value, ticks in (
        ("missed-refresh", "Heard of 0.4 ms later, behind the refresh: 0.3 ms of 500 W before it.",
         300, 500, 400, there - 150, wide),
        ("missed-refresh-rounded-up", "What lies behind is rounded up, so that the value is rounded down.",
         301, 499.999, 400, there - 151, wide),
        ("missed-within-bracket", "The refresh may have been 50 us earlier: 450 us are the edge.",
         450, 500, 400, there - 225, wide),
        ("missed-outside-bracket", "451 us are not.", 451, 500, 400, None, wide),
        ("missed-by-20-ms", "20 ms, of which nobody told in time.",
         20 * MS, 500, 25 * MS, there - 10_000, wide),
        ("missed-by-more", "Longer than the fastest refresh: power may have stepped.",
         20 * MS + 1, 500, 25 * MS, None, wide),
        ("missed-without-power", "No power beside it.", 300, None, 400, None, wide),
        ("missed-with-a-spike", "6 kW are a failed read.", 300, 6_000, 400, None, wide),
        ("missed-hardly-any-rise", "The counter rose by 0.1 J since the refresh before: not below that.",
         300, 500, 400, 1_020_000, lazy),
    ):  # fmt: skip
        method = "absent" if value is None else line
        add(name, text, moment(refresh - before, watts, late), value, method, ticks)
    text = "A trailing mean is no power of its moment."
    end = moment(refresh - 300, 500, 400)
    add("missed-by-a-mean", text, end, None, "absent", wide, instant_supported=False)


def _runs(family: Family) -> None:
    """Whole runs, whose boundaries lie in cells."""

    def add(name: str, text: str, ticks: Sequence[Json], ends: Sequence[Json], *joules: float) -> None:
        """Stages from boundary to boundary."""
        common = {"session": 0, "device_id": 0}
        rows = [{**common, "boundary": None, "method": "tick", **tick} for tick in ticks]
        rows += [{**common, "boundary": number, **one} for number, one in enumerate(ends)]
        stage = {"stage": "evaluate", "device_ids": [0]}
        stages = [
            {**stage, "stage_uid": k, "name": f"s{k}", "boundary_start": k, "boundary_end": k + 1}
            for k in range(len(ends) - 1)
        ]
        given = {"stages": stages, "boundaries": [row | {"t_us": UTC + row["mono_us"]} for row in rows]}
        found = reference("account", given)
        assert found is not None
        energies = [row["gpu_energy_j"] for row in found["stages"]]
        assert not joules or energies == list(joules), (name, energies)
        assert sum(round(1000 * energy) for energy in energies) == found["session_energy_mj"][0]
        answer: Json = {
            "stages": [
                row_of(row) | {"gpu_energy_method": row["gpu_energy_method"]} for row in found["stages"]
            ]
        }
        answer |= {key: found[key] for key in ("gpu_energy_j", "session_energy_mj")}
        family.add(name, text, given, flags_of(name), answer, op="account")

    shown, begin, stop = "100 100 100 100 500 500 500 500", moment(30 * MS, 100), moment(650 * MS, 500)
    text = "A stage of 3 ms inside one cell; the sensor shows no new power yet at its end."
    ends = [begin, moment(340 * MS, 100), moment(343 * MS, 100), stop]
    add("two-in-one-cell", text, refreshes("100 100 100 340 500 500 500", shown), ends, 31.0, 1.5, 153.5)
    text = "Power was not read beside the first one; by itself the second would lie below it: no fall."
    ends = [begin, moment(380 * MS, None), moment(381 * MS, 100), stop]
    ticks = refreshes("100 100 100 160 500 500 500", shown)
    add("two-in-one-cell-do-not-cross", text, ticks, ends, 39.8, 0.0, 128.2)
    text = "Two just before a refresh whose cell was not seen: the later one is not below the earlier one."
    ends = [begin, moment(500 * MS - 300, 100, 400), moment(500 * MS - 100, 500, 400), stop]
    ticks = [row for k, row in enumerate(refreshes("100 100 100 340 500 500 500", shown)) if k not in (3, 4)]
    add("two-before-a-refresh", text, ticks, ends, 110.97, 0.0, 75.03)
    watts = ["123.456789"] * 2 + ["234.567891"] + ["345.678912"] * 2 + ["456.789123"] * 3
    sensor = ["123.456789"] * 3 + ["345.678912"] * 3 + ["456.789123"] * 3
    text = "A stage ends at the value at which the next one begins: the sum is the counter's, to the mJ."
    ends = [moment(12_345, 123), moment(251_234, 123), moment(534_567, 345), moment(777_777, 456)]
    add("three-stages-telescope", text, refreshes(" ".join(watts), " ".join(sensor)), ends)
