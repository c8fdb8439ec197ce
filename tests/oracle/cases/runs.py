"""Whole runs: nesting, holes, sessions, records of interrupted runs, instruments."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tests.oracle.cases.boundaries import UTC, Run, S
from tests.oracle.family import Family
from tests.oracle.power import PERIOD

Json = dict[str, Any]


def nesting() -> Family:
    """Stages inside stages."""
    family = Family(
        "nesting", "A stage inside another one is a part of it and is not added again.", "account", "5.1.4"
    )

    def base() -> Run:
        run = Run()
        for k, value in enumerate((0, 1_000_000, 9_000_000, 10_000_000, 30_000_000, 31_000_000)):
            run.boundary(k, 10.0 * k, value)
        return run

    train, check = ("train", 0, 5), "evaluate"
    within = {"parent_uid": 0}
    for name, text, run, *flags in (
        ("one-child", "A validation inside training.",
         base().stage(*train).stage("validate", 2, 3, check, **within), "ParentSummed"),
        ("two-children", "Two validations.",
         base().stage(*train).stage("v1", 1, 2, check, **within).stage("v2", 3, 4, check, **within),
         "ParentSummed"),
        ("children-tile",
         "Children that fill their parent: parent = sum of the children, the run has it once.",
         base().stage(*train).stage("one", 0, 2, **within).stage("two", 2, 5, **within), "ParentSummed"),
        ("grandchild", "Two levels deep.",
         base().stage(*train).stage("epoch", 1, 4, **within).stage("validate", 2, 3, check, parent_uid=1),
         "ParentSummed"),
        ("child-before-parent", "The order of rows does not matter: a child may be listed first.",
         base().stage("validate", 2, 3, check, parent_uid=1).stage("train", 1, 5), "ParentSummed HolesLost"),
        ("child-and-neighbour", "A child does not hide the hole beside its parent.",
         base().stage("train", 1, 4).stage("validate", 2, 3, check, **within), "ParentSummed HolesLost"),
        ("no-parents", "The same windows as neighbours, for comparison.", base().stages_at("a 0 2", "b 2 5")),
    ):  # fmt: skip
        run.add_to(family, name, text, *flags, show="session_energy_mj")
    return family


def unattributed() -> Family:
    """Holes."""
    doc = (
        "What lies between the first and the last boundary in no stage is a stage of its own; a run adds up."
    )
    family = Family("unattributed", doc, "account", "2.4")

    def base(count: int) -> Run:
        run = Run()
        for k in range(count):
            run.boundary(k, 4.0 * k + 0.123_456, 777 + 1_234_567 * k + 89 * k * k)
        return run

    def cards(last: int) -> Run:
        run = Run().boundary(0, 0, 10, 20).boundary(1, 30, 9_000_010, 2_100_020)
        return run.boundary(2, 60, 18_000_010, last)

    def pair() -> Run:
        run = Run()
        for k in range(4):
            run.boundary(k, 5.0 * k, 1_000_000 * k, 3_000_000 * k + 7)
        return run

    idle = Run().boundary(0, 0, 0).boundary(1, 10, 4_000_000).boundary(2, 3_610, 256_000_000)
    idle.boundary(3, 3_620, 260_000_000).stages_at("a 0 1", "b 2 3")
    failed = (
        base(5).stage("train", 0, 1, status="failed").stage("train", 2, 3, attempt=2, status="interrupted")
    )
    lost = "HolesLost"
    for name, text, run, *flags in (
        ("between", "A wait between two stages.", base(4).stages_at("a 0 1", "b 2 3"), lost),
        ("none", "Nothing between them: no row, and the sum is unknown rather than made up.",
         base(3).stages_at("a 0 1", "b 1 2")),
        ("two-holes", "Two waits are two rows.", base(6).stages_at("a 0 1", "b 2 3", "c 4 5"), lost),
        ("merged", "Boundaries inside a hole that no stage uses do not cut it.",
         base(6).stages_at("a 0 1", "b 4 5"), lost),
        ("before-first-stage", "The meter began before the first stage did.",
         base(3).stages_at("a 1 2"), lost),
        ("after-last-stage", "And ended after the last.", base(3).stages_at("a 0 1"), lost),
        ("long-idle", "A run that mostly waited says so.", idle, lost),
        ("idle-device",
         "A stage that uses one of two cards: the other one's energy in that time belongs to nobody.",
         cards(11_000_020).stage("small", 0, 1).stage("large", 1, 2, devices=(0, 1)), lost),
        ("unused-device", "A card that no stage uses.", cards(4_200_020).stages_at("a 0 1", "b 1 2"), lost),
        ("holes-of-one-start", "Two devices idle from one boundary on: the shorter hole comes first.",
         pair().stage("a", 1, 3).stage("b", 2, 3, devices=(1,)), lost),
        ("common-wait",
         "Devices whose holes overlap: each has its own row, and what they share has one without a device, "
         "for CPU and DRAM.",
         pair().stage("a", 0, 1).stage("b", 2, 3, devices=(1,)), f"{lost} UnknownAsZero"),
        ("failed-attempts", "Attempts that failed keep their energy.", failed.stage("train", 3, 4, attempt=3),
         f"{lost} FailedDropped"),
    ):  # fmt: skip
        run.add_to(family, name, text, *flags, show="unattributed_energy_j session_energy_mj")
    return family


def sessions() -> Family:
    """Lives of the meter."""
    doc = "A resumed run has several lives of the meter; clocks and counters compare only inside one."
    family = Family("sessions", doc, "account", "5.2.3")

    def add(name: str, text: str, flags: str, run: Run) -> None:
        run.add_to(family, name, text, flags, "session_energy_mj")

    two = Run().boundary(0, 900, 5_000_000).boundary(1, 960, 29_000_000)
    two.boundary(0, 12, 41_000_000, session=1).boundary(1, 132, 95_000_000, session=1)
    two.stage("train", 0, 1, status="interrupted").stage("train", 0, 1, attempt=2, session=1)
    text = "Both sessions count; the time between them is not of the run."
    add("two", text, "FirstSession FailedDropped", two)
    rebooted = Run().boundary(0, 900, 990_000_000).boundary(1, 960, 1_020_000_000)
    rebooted.boundary(0, 15, 100, session=1).boundary(1, 75, 30_000_100, session=1)
    rebooted.stage("a", 0, 1).stage("b", 0, 1, session=1)
    text = "The counter began again with the machine: no reset, another session."
    add("machine-restarted", text, "FirstSession", rebooted)
    eleven = Run()
    for k in (0, 2, 10):
        base = 1_000 * k
        eleven.boundary(0, 50 - k, base, session=k).boundary(1, 60 - k, base + 1_000_000, session=k)
        eleven.boundary(2, 70, base + 1_500_000 + k, session=k).stage(f"part-{k}", 0, 1, session=k)
    add("ten-after-two", "Session 10 comes after session 2.", "FirstSession HolesLost TextOrder", eleven)
    both = Run().boundary(0, 10, 0).boundary(1, 20, 4_000_000).boundary(2, 25, 4_500_000)
    both.boundary(0, 10, 9_000_000, session=1).boundary(1, 20, 12_000_000, session=1)
    both.boundary(2, 22, 12_100_000, session=1).stage("a", 0, 1).stage("b", 0, 1, session=1)
    add("holes-in-each", "Each session has holes of its own.", "FirstSession HolesLost", both)
    return family


def snapshots() -> Family:
    """Cumulative records."""
    doc = "Cumulative records of a run that was interrupted: the last one counts, by time and number, alone."
    family = Family("snapshots", doc, "last_snapshot", "2.2")
    flags = "Lexicographic SnapshotsSummed"
    for name, text, steps, last, *more in (
        ("one", "A single record.", [("step_100.json", 100, 60, 24_000)], 0),
        ("numbers-not-text",
         "step_9800 sorts behind step_22200 as text; the authors' own logs have this case.",
         [("step_200.json", 200, 120, 48_000), ("step_9800.json", 9_800, 5_880, 2_352_000),
          ("step_22200.json", 22_200, 13_320, 5_328_000)], 2, flags),
        ("ten-and-nine", "9 and 10.",
         [("snapshot-9.json", 9, 900, 90_000), ("snapshot-10.json", 10, 1_000, 100_000)], 1, flags),
        ("in-any-order", "The order in which they are listed says nothing.",
         [("c.json", 300, 30, 3_000), ("a.json", 100, 10, 1_000), ("b.json", 200, 20, 2_000)], 0,
         "SnapshotsSummed"),
        ("same-second", "Two records of one moment: the higher step.",
         [("snapshot-99.json", 99, 1_000, 99_000), ("snapshot-100.json", 100, 1_000, 100_000)], 1, flags),
        ("restarted", "A run that was started again from an earlier step: the last record by time.",
         [("step_300.json", 300, 30, 3_000), ("step_200.json", 200, 40, 3_500)], 1, flags),
        ("padded", "Padded names sort alike either way.",
         [("step-00009.json", 9, 900, 90_000), ("step-00010.json", 10, 1_000, 100_000)], 1,
         "SnapshotsSummed"),
    ):  # fmt: skip
        records = [
            {"file": file, "step": step, "t_end_us": UTC + second * S, "gpu_energy_j": float(joules)}
            for file, step, second, joules in steps
        ]
        answer = {key: records[last][key] for key in ("step", "file", "gpu_energy_j")}
        family.add(name, text, {"t_start_us": UTC, "records": records}, *(more or [""]), answer)
    return family


def _reading(number: int, second: float, value: int | None, device: int | None = 0) -> Json:
    mono = round(second * S)
    found = {"session": 0, "boundary": number, "device_id": device, "mono_us": mono, "t_us": mono}
    return found | {"value_mj": value, "method": "tick"}


def _samples(seconds: int, milliwatts: int, counter_mw: int | None, device: int = 0) -> Json:
    """Power at 2 Hz that shows `milliwatts`, beside a counter that rises at `counter_mw`."""
    mono = [k * PERIOD for k in range(2 * seconds + 1)]
    counted = [None if counter_mw is None else counter_mw * t // S for t in mono]
    found: Json = {"device_id": device, "session": 0, "mono_us": mono}
    return found | {"power_mw": [milliwatts] * len(mono), "energy_counter_mj": counted}


def _rows(head: str, *rows: Sequence[Any]) -> list[Json]:
    return [dict(zip(head.split(), row, strict=True)) for row in rows]


def methods() -> Family:
    """Instruments, every answer by hand."""
    doc = "Counter first, the power integral beside it or in its place; unknown where there is neither."
    family = Family("methods", doc, "account", "4.1")

    def add(
        name: str,
        text: str,
        run: Run,
        boundaries: Sequence[Json],
        more: Json,
        answer: Json,
        flags: str,
        clause: str = "",
    ) -> None:
        given = {"stages": run.stages, "boundaries": list(boundaries), **more}
        family.add(name, text, given, flags, answer, clause=clause)

    one, pair = Run().stages_at("a 0 1"), Run().stage("a", 0, 1, devices=(0, 1))
    ends = [_reading(0, 1, 300_000), _reading(1, 11, 3_300_000)]
    text = "A load that samples alias: 5 kJ by power, 3 kJ by the counter. The counter is billed, both shown."
    head = "name gpu_energy_j gpu_energy_counter_j gpu_energy_integral_j gpu_energy_method"
    rows = _rows(head, ("a", 3e3, 3e3, 5e3, "counter_tick"))
    power = [_samples(12, 500_000, 300_000)]
    answer: Json = {"stages": rows, "gpu_energy_j": 3e3}
    add("counter-and-integral", text, one, ends, {"power": power}, answer, "IntegralBilled")

    text = "The read at a shared boundary failed: both stages take one interpolated value; the sum is exact."
    cut = [_reading(0, 0, 0), _reading(1, 5.2, None), _reading(2, 9, 2_700_000)]
    by = "counter_sample"
    rows = _rows("name gpu_energy_j gpu_energy_method", ("a", 1560.0, by), ("b", 1140.0, by))
    answer = {"stages": rows, "gpu_energy_j": 2700.0, "session_energy_mj": [2_700_000]}
    power = [_samples(9, 310_000, 300_000)]
    two = Run().stages_at("a 0 1", "b 1 2")
    add("unread-shared-boundary", text, two, cut, {"power": power}, answer, "IntegralBilled NullAsZero")

    text = "Each device by the best it has; the sum carries the worst method, and has no counter figure."
    read = [_reading(n, s, v, d) for n, s in ((0, 0), (1, 10)) for d, v in ((0, 400_000 * s), (1, None))]
    power = [_samples(10, 350_000, 400_000), _samples(10, 100_000, None, 1)]
    head = "name device_energy_j gpu_energy_j gpu_energy_counter_j gpu_energy_integral_j gpu_energy_method"
    rows = _rows(head, ("a", [4e3, 1e3], 5e3, None, 4.5e3, "power_integral"))
    answer, flags = {"stages": rows, "gpu_energy_j": 5e3}, "IntegralBilled UnknownAsZero NullAsZero"
    add("one-device-without-counter", text, pair, read, {"power": power}, answer, flags)

    text = "A device that nothing could read: the sum with an unknown part is unknown, not the known part."
    answer = {
        "stages": _rows("name gpu_energy_j gpu_energy_method", ("a", None, "absent")),
        "gpu_energy_j": None,
    }
    flags = "UnknownAsZero NullAsZero"
    add("one-device-unmeasured", text, pair, read, {"power": power[:1]}, answer, flags, "1.2")

    values = {0: 0, 10: 1_000_000, 12: 1_100_000, 20: 2_000_000}
    three = [_reading(n, second, value) for n, (second, value) in enumerate(values.items())]
    zone: Json = {"zone": "package-0", "session": 0, "range_uj": None, "mono_us": [s * S for s in values]}
    zones = {"zones": [zone | {"value_uj": [5_000_000, 505_000_000, 565_000_000, 1_365_000_000]}]}
    head = "name gpu_energy_j cpu_energy_j energy_j"
    rows = _rows(
        head, ("a", 1e3, 500.0, 1.5e3), ("b", 900.0, 800.0, 1.7e3), ("unattributed", 100.0, 60.0, 160.0)
    )
    answer = {"stages": rows, "gpu_energy_j": 2e3, "cpu_energy_j": 1360.0, "it_energy_j": 3360.0}
    answer["unattributed_energy_j"] = 160.0
    text = "Packages are cut at the same boundaries; a wait has CPU energy too."
    wait = Run().stages_at("a 0 1", "b 2 3")
    add("gpu-and-cpu", text, wait, three, zones, answer, "HolesLost SinglePrecision", "1.2")

    text = "Stages on different devices: the processor's wait is where no stage runs at all, and counts once."
    cards = Run().stage("a", 0, 1).stage("b", 2, 3, devices=(1,))
    rows = _rows("name gpu_energy_j cpu_energy_j", ("a", 10.0, 500.0), ("b", 16.0, 800.0))
    head = "device_ids boundary_start boundary_end gpu_energy_j cpu_energy_j"
    rows += _rows(head, ([1], 0, 2, 24.0, None), ([], 1, 2, None, 60.0), ([0], 1, 3, 10.0, None))
    answer = {"stages": rows, "gpu_energy_j": 60.0, "cpu_energy_j": 1360.0, "it_energy_j": 1420.0}
    each = [_reading(n, s, 1000 * s * (d + 1), d) for n, s in enumerate(values) for d in (0, 1)]
    flags = "HolesLost UnknownAsZero SinglePrecision"
    add("cpu-of-a-common-wait", text, cards, each, zones, answer, flags, "2.4")

    text = (
        "The counter began anew just before a boundary: each stage by its own readings, and the run adds up."
    )
    reset = [_reading(n, s, v) for n, s, v in ((0, 1, 300_000), (1, 10, 30_000), (2, 20, 3_030_000))]
    late = [S * k // 4 for k in range(1, 81, 2)]
    counted = [300 * t // 1000 if t < 9_900_000 else 300 * (t - 9_900_000) // 1000 for t in late]
    block = {"device_id": 0, "session": 0, "mono_us": late, "power_mw": [400_000] * len(late)}
    power = [block | {"energy_counter_mj": counted}]
    head = "name gpu_energy_j gpu_energy_method"
    rows = _rows(head, ("a", 2725.0, "counter_split"), ("b", 3e3, "counter_tick"))
    answer = {"stages": rows, "gpu_energy_j": 5725.0, "session_energy_mj": [5_725_000]}
    flags = "BoundariesSkipped EdgesCut IntegralBilled ResetIgnored"
    add("reset-beside-a-boundary", text, two, reset, {"power": power}, answer, flags, "2.3")
    outer = Run().stage("outer", 0, 2).stage("a", 0, 1, parent_uid=0).stage("b", 1, 2, parent_uid=0)
    rows = _rows(head, ("outer", 5725.0, "counter_split"), *(row.values() for row in rows))
    text = "A stage with others inside is the sum from boundary to boundary."
    answer = {"stages": rows, "gpu_energy_j": 5725.0, "session_energy_mj": [5_725_000]}
    add(
        "from-boundary-to-boundary",
        text,
        outer,
        reset,
        {"power": power},
        answer,
        f"{flags} ParentSummed",
        "2.3",
    )

    text = "A machine without a GPU: absent, not zero; the packages are all there is."
    bare = Run().stage("a", 0, 1, devices=()).stage("b", 1, 2, devices=())
    head = "name gpu_energy_j gpu_energy_method cpu_energy_j"
    rows = _rows(head, ("a", None, "absent", 500.0), ("b", None, "absent", 860.0))
    answer = {"stages": rows, "gpu_energy_j": None, "cpu_energy_j": 1360.0, "it_energy_j": 1360.0}
    none = [_reading(n, 10 * n, None, None) for n in range(3)]
    add("cpu-alone", text, bare, none, zones, answer, "UnknownAsZero SinglePrecision", "1.2")
    return family
