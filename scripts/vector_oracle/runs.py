"""Whole runs: boundaries that stages share, nesting, holes, sessions, records of interrupted runs."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction

from vector_oracle.build import Family
from vector_oracle.run import UTC, Run, S


def families() -> list[Family]:
    """Families on runs."""
    return [_boundaries(), _nesting(), _unattributed(), _sessions(), _snapshots()]


def _boundaries() -> Family:
    family = Family(
        "boundaries",
        "A boundary is one counter tick; the stage before ends on it and the stage after begins on it.",
    )

    def add(name: str, text: str, run: Run, *flags: str, show: tuple[str, ...] = ()) -> None:
        family.valid(name, "2.3", "account", run.given(), run.expected(*show), text, *flags)

    pair = Run().boundary(0, 10.0, 1_000).boundary(1, 20.02, 2_505_000).boundary(2, 50.04, 17_515_000)
    add(
        "shared-tick",
        "Two stages with a boundary in common: its tick is billed once.",
        pair.stage("a", 0, 1, "preprocess").stage("b", 1, 2),
        show=("unattributed_energy_j",),
    )
    chain = Run()
    for k in range(6):
        chain.boundary(k, 5 + 7.3 * k, 123 + 1_111_111 * k * k)
    for k, kind in enumerate(("prerun", "preprocess", "teacher_logits", "student_train", "evaluate")):
        chain.stage(kind, k, k + 1, kind)
    add(
        "chain",
        "Five stages back to back add up to the whole, to the millijoule.",
        chain,
        "SinglePrecision",
        show=("session_energy_mj", "teacher_energy_j"),
    )
    touching = Run().boundary(0, 1, 0).boundary(1, 5, 400_000).boundary(2, 5, 400_000).boundary(3, 9, 900_000)
    add(
        "two-numbers-one-tick",
        "Two boundaries on one tick: no hole of no length appears between them.",
        touching.stage("a", 0, 1).stage("b", 2, 3),
        show=("unattributed_energy_j",),
    )
    cards = Run().boundary(0, 3, 100, 900, shift=13_000).boundary(1, 63, 30_000_100, 24_000_900, shift=13_000)
    add(
        "two-devices",
        "Each device has its own tick and its own counter; the stage is their sum.",
        cards.stage("train", 0, 1, devices=(0, 1)),
        show=("session_energy_mj",),
    )
    eight = (
        Run()
        .boundary(0, 0, *[k * 1_000_003 for k in range(8)], shift=11_000)
        .boundary(1, 100, *[k * 1_000_003 + 50_000_000 + 7 * k for k in range(8)], shift=11_000)
    )
    add("eight-devices", "Eight devices.", eight.stage("train", 0, 1, devices=tuple(range(8))))
    utc = (
        Run()
        .boundary(0, 100, 0, utc=UTC)
        .boundary(1, 160, 30_000_000, utc=UTC + 3_660 * S)
        .boundary(2, 190, 36_000_000, utc=UTC + 3_690 * S)
    )
    utc.stage("a", 0, 1).stage("b", 1, 2)
    wanted = utc.expected()
    for row, length in zip(wanted["stages"], (60, 30), strict=True):
        row["duration_us"] = length * S
    family.valid(
        "duration-is-monotonic",
        "3.2",
        "account",
        utc.given(),
        wanted,
        "UTC was set forward by an hour during stage a: it lasted 60 s.",
        "WallClock",
    )
    return family


def _nesting() -> Family:
    family = Family("nesting", "A stage inside another one is a part of it and is not added again.")

    def add(name: str, text: str, run: Run, *flags: str) -> None:
        family.valid(name, "5.1.4", "account", run.given(), run.expected("session_energy_mj"), text, *flags)

    def base() -> Run:
        run = Run()
        for k, value in enumerate((0, 1_000_000, 9_000_000, 10_000_000, 30_000_000, 31_000_000)):
            run.boundary(k, 10.0 * k, value)
        return run

    add(
        "one-child",
        "A validation inside training.",
        base().stage("train", 0, 5).stage("validate", 2, 3, "evaluate", parent_uid=0),
        "ParentSummed",
    )
    add(
        "two-children",
        "Two validations.",
        base()
        .stage("train", 0, 5)
        .stage("v1", 1, 2, "evaluate", parent_uid=0)
        .stage("v2", 3, 4, "evaluate", parent_uid=0),
        "ParentSummed",
    )
    add(
        "children-tile",
        "Children that fill their parent: parent = sum of the children, the run has it once.",
        base().stage("train", 0, 5).stage("one", 0, 2, parent_uid=0).stage("two", 2, 5, parent_uid=0),
        "ParentSummed",
    )
    add(
        "grandchild",
        "Two levels deep.",
        base()
        .stage("train", 0, 5)
        .stage("epoch", 1, 4, parent_uid=0)
        .stage("validate", 2, 3, "evaluate", parent_uid=1),
        "ParentSummed",
    )
    add(
        "child-before-parent",
        "The order of rows does not matter: a child may be listed first.",
        base().stage("validate", 2, 3, "evaluate", parent_uid=1).stage("train", 1, 5),
        "ParentSummed",
        "HolesLost",
    )
    add(
        "child-and-neighbour",
        "A child does not hide the hole beside its parent.",
        base().stage("train", 1, 4).stage("validate", 2, 3, "evaluate", parent_uid=0),
        "ParentSummed",
        "HolesLost",
    )
    add(
        "no-parents",
        "The same windows as neighbours, for comparison.",
        base().stage("a", 0, 2).stage("b", 2, 5),
    )
    return family


def _unattributed() -> Family:
    family = Family(
        "unattributed",
        "What lies between the first and the last boundary in no stage is a stage of its own; a run adds up.",
    )

    def add(name: str, text: str, run: Run, *flags: str) -> None:
        wanted = run.expected("unattributed_energy_j", "session_energy_mj")
        family.valid(name, "2.4", "account", run.given(), wanted, text, *flags)

    def base(count: int = 6) -> Run:
        run = Run()
        for k in range(count):
            run.boundary(k, 4.0 * k + 0.123_456, 777 + 1_234_567 * k + 89 * k * k)
        return run

    add("between", "A wait between two stages.", base(4).stage("a", 0, 1).stage("b", 2, 3), "HolesLost")
    add(
        "none",
        "Nothing between them: no row, and the sum is unknown rather than made up.",
        base(3).stage("a", 0, 1).stage("b", 1, 2),
    )
    add(
        "two-holes",
        "Two waits are two rows.",
        base(6).stage("a", 0, 1).stage("b", 2, 3).stage("c", 4, 5),
        "HolesLost",
    )
    add(
        "merged",
        "Boundaries inside a hole that no stage uses do not cut it.",
        base(6).stage("a", 0, 1).stage("b", 4, 5),
        "HolesLost",
    )
    add(
        "before-first-stage",
        "The meter began before the first stage did.",
        base(3).stage("a", 1, 2),
        "HolesLost",
    )
    add("after-last-stage", "And ended after the last.", base(3).stage("a", 0, 1), "HolesLost")
    add(
        "long-idle",
        "A run that mostly waited says so.",
        Run()
        .boundary(0, 0, 0)
        .boundary(1, 10, 4_000_000)
        .boundary(2, 3_610, 256_000_000)
        .boundary(3, 3_620, 260_000_000)
        .stage("a", 0, 1)
        .stage("b", 2, 3),
        "HolesLost",
    )
    cards = (
        Run()
        .boundary(0, 0, 10, 20)
        .boundary(1, 30, 9_000_010, 2_100_020)
        .boundary(2, 60, 18_000_010, 11_000_020)
    )
    add(
        "idle-device",
        "A stage that uses one of two cards: the other one's energy in that time belongs to nobody.",
        cards.stage("small", 0, 1, devices=(0,)).stage("large", 1, 2, devices=(0, 1)),
        "HolesLost",
    )
    outside = (
        Run()
        .boundary(0, 0, 10, 20)
        .boundary(1, 30, 9_000_010, 2_100_020)
        .boundary(2, 60, 18_000_010, 4_200_020)
    )
    add(
        "unused-device",
        "A card that no stage uses.",
        outside.stage("a", 0, 1, devices=(0,)).stage("b", 1, 2, devices=(0,)),
        "HolesLost",
    )

    def pair() -> Run:
        run = Run()
        for k in range(4):
            run.boundary(k, 5.0 * k, 1_000_000 * k, 3_000_000 * k + 7)
        return run

    one_start = pair().stage("a", 1, 3, devices=(0,)).stage("b", 2, 3, devices=(1,))
    add(
        "holes-of-one-start",
        "Two devices idle from one boundary on: the shorter hole comes first.",
        one_start,
        "HolesLost",
    )
    common = pair().stage("a", 0, 1, devices=(0,)).stage("b", 2, 3, devices=(1,))
    add(
        "common-wait",
        "Devices whose holes overlap: each has its own row, and what they share has one without a device, "
        "for CPU and DRAM.",
        common,
        "HolesLost",
        "UnknownAsZero",
    )
    failed = (
        base(5)
        .stage("train", 0, 1, status="failed")
        .stage("train", 2, 3, attempt=2, status="interrupted")
        .stage("train", 3, 4, attempt=3)
    )
    add("failed-attempts", "Attempts that failed keep their energy.", failed, "HolesLost", "FailedDropped")
    return family


def _sessions() -> Family:
    family = Family(
        "sessions",
        "A resumed run has several lives of the meter; clocks and counters compare only inside one.",
    )

    def add(name: str, text: str, run: Run, *flags: str, clause: str = "5.2.3") -> None:
        family.valid(name, clause, "account", run.given(), run.expected("session_energy_mj"), text, *flags)

    two = Run().boundary(0, 900, 5_000_000).boundary(1, 960, 29_000_000)
    two.boundary(0, 12, 41_000_000, session=1).boundary(1, 132, 95_000_000, session=1)
    two.stage("train", 0, 1, status="interrupted").stage("train", 0, 1, attempt=2, session=1)
    add(
        "two",
        "Both sessions count; the time between them is not of the run.",
        two,
        "FirstSession",
        "FailedDropped",
    )
    rebooted = Run().boundary(0, 900, 990_000_000).boundary(1, 960, 1_020_000_000)
    rebooted.boundary(0, 15, 100, session=1).boundary(1, 75, 30_000_100, session=1)
    rebooted.stage("a", 0, 1).stage("b", 0, 1, session=1)
    add(
        "machine-restarted",
        "The counter began anew with the machine: no reset, another session.",
        rebooted,
        "FirstSession",
    )
    eleven = Run()
    for k in (0, 2, 10):
        eleven.boundary(0, 50 - k, 1_000 * k, session=k).boundary(
            1, 60 - k, 1_000 * k + 1_000_000, session=k
        ).boundary(2, 70, 1_000 * k + 1_500_000 + k, session=k)
        eleven.stage(f"part-{k}", 0, 1, session=k)
    add(
        "ten-after-two", "Session 10 comes after session 2.", eleven, "FirstSession", "HolesLost", "TextOrder"
    )
    both = Run().boundary(0, 10, 0).boundary(1, 20, 4_000_000).boundary(2, 25, 4_500_000)
    both.boundary(0, 10, 9_000_000, session=1).boundary(1, 20, 12_000_000, session=1).boundary(
        2, 22, 12_100_000, session=1
    )
    both.stage("a", 0, 1).stage("b", 0, 1, session=1)
    add("holes-in-each", "Each session has holes of its own.", both, "FirstSession", "HolesLost")
    return family


def _snapshots() -> Family:
    family = Family(
        "snapshots",
        "Cumulative records of a run that was interrupted: the last one counts, by time and number, alone.",
    )

    def add(name: str, text: str, steps: Sequence[tuple[str, int, int, int]], *flags: str) -> None:
        records = [
            {"file": f, "step": n, "t_end_us": UTC + s * S, "gpu_energy_j": Fraction(j)}
            for f, n, s, j in steps
        ]
        last = max(records, key=lambda r: (r["t_end_us"], r["step"]))
        wanted = {key: last[key] for key in ("step", "file", "gpu_energy_j")}
        family.valid(
            name, "2.2", "last_snapshot", {"t_start_us": UTC, "records": records}, wanted, text, *flags
        )

    add("one", "A single record.", [("step_100.json", 100, 60, 24_000)])
    add(
        "numbers-not-text",
        "step_9800 sorts behind step_22200 as text; the authors' own logs have this case.",
        [
            ("step_200.json", 200, 120, 48_000),
            ("step_9800.json", 9_800, 5_880, 2_352_000),
            ("step_22200.json", 22_200, 13_320, 5_328_000),
        ],
        "Lexicographic",
        "SnapshotsSummed",
    )
    add(
        "ten-and-nine",
        "9 and 10.",
        [("snapshot-9.json", 9, 900, 90_000), ("snapshot-10.json", 10, 1_000, 100_000)],
        "Lexicographic",
        "SnapshotsSummed",
    )
    add(
        "in-any-order",
        "The order in which they are listed says nothing.",
        [("c.json", 300, 30, 3_000), ("a.json", 100, 10, 1_000), ("b.json", 200, 20, 2_000)],
        "SnapshotsSummed",
    )
    add(
        "same-second",
        "Two records of one moment: the higher step.",
        [("snapshot-99.json", 99, 1_000, 99_000), ("snapshot-100.json", 100, 1_000, 100_000)],
        "Lexicographic",
        "SnapshotsSummed",
    )
    add(
        "padded",
        "Padded names sort alike either way.",
        [("step-00009.json", 9, 900, 90_000), ("step-00010.json", 10, 1_000, 100_000)],
        "SnapshotsSummed",
    )
    return family
