"""Runs whose counters were read at every boundary, and how a boundary cuts them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tests.oracle.family import Family, reference

Json = dict[str, Any]
S = 1_000_000
UTC = 1_790_000_000_000_000
HOLE = ("device_ids", "boundary_start", "boundary_end")


class Run:
    """A run to be built up: boundaries, then stages between them."""

    def __init__(self) -> None:
        self.boundaries: list[Json] = []
        self.stages: list[Json] = []

    def boundary(self, number: int, second: float, *values: int, session: int = 0, shift: int = 0) -> Run:
        """A counter in mJ for each device; every further device's tick is `shift` microseconds later."""
        for device, value in enumerate(values):
            mono = round(second * S) + device * shift
            row = {"session": session, "boundary": number, "device_id": device, "mono_us": mono}
            self.boundaries.append(row | {"value_mj": value, "t_us": UTC + mono})
        return self

    def stage(
        self,
        name: str,
        start: int,
        end: int,
        kind: str = "student_train",
        devices: Sequence[int] = (0,),
        **more: Any,
    ) -> Run:
        """A stage between two boundaries."""
        row = {"stage_uid": len(self.stages), "name": name, "stage": kind, "boundary_start": start}
        self.stages.append(row | {"boundary_end": end, "device_ids": list(devices), **more})
        return self

    def stages_at(self, *stages: str) -> Run:
        """Stages on device 0 as `name start end`."""
        for name, start, end in map(str.split, stages):
            self.stage(name, int(start), int(end))
        return self

    def add_to(self, family: Family, name: str, text: str, flags: str = "", show: str = "") -> None:
        """Add it to a family: its rows, the GPU's joules, and the totals named.

        Without failed reads a run adds up to the last reading of each device less its first.
        """
        given = {"stages": self.stages, "boundaries": self.boundaries}
        found = reference("account", given)
        assert found is not None, name
        span: dict[tuple[int, int], list[Json]] = {}
        for row in self.boundaries:
            span.setdefault((row["session"], row["device_id"]), []).append(row)
        ends = [(rows[0]["value_mj"], rows[-1]["value_mj"]) for rows in span.values()]
        assert round(found["gpu_energy_j"] * 1000) == sum(last - first for first, last in ends), name
        answer = {"stages": [row_of(row) for row in found["stages"]]}
        answer |= {key: found[key] for key in ("gpu_energy_j", *show.split())}
        family.add(name, text, given, flags, answer)


def row_of(row: Json) -> Json:
    """What a vector says of a row of `stages`."""
    hole = HOLE if row["stage"] == "unattributed" else ()
    return {key: row[key] for key in ("name", "stage", "session", *hole, "gpu_energy_j")}


def boundaries() -> Family:
    """Shared boundaries."""
    doc = "A boundary is one counter tick; the stage before ends on it and the stage after begins on it."
    family = Family("boundaries", doc, "account", "2.3")
    pair = Run().boundary(0, 10.0, 1_000).boundary(1, 20.02, 2_505_000).boundary(2, 50.04, 17_515_000)
    pair.stage("a", 0, 1, "preprocess").stage("b", 1, 2)
    text, waits = "Two stages with a boundary in common: its tick is billed once.", "unattributed_energy_j"
    pair.add_to(family, "shared-tick", text, show=waits)
    chain = Run()
    for k, kind in enumerate(("prerun", "preprocess", "teacher_logits", "student_train", "evaluate", "")):
        chain.boundary(k, 5 + 7.3 * k, 123 + 1_111_111 * k * k)
        if kind:
            chain.stage(kind, k, k + 1, kind)
    text = "Five stages back to back add up to the whole, to the millijoule."
    chain.add_to(family, "chain", text, "SinglePrecision", "session_energy_mj teacher_energy_j")
    touching = Run().boundary(0, 1, 0).boundary(1, 5, 400_000).boundary(2, 5, 400_000).boundary(3, 9, 900_000)
    text = "Two boundaries on one tick: no hole of no length appears between them."
    touching.stages_at("a 0 1", "b 2 3").add_to(family, "two-numbers-one-tick", text, show=waits)
    cards = Run().boundary(0, 3, 100, 900, shift=13_000).boundary(1, 63, 30_000_100, 24_000_900, shift=13_000)
    text = "Each device has its own tick and its own counter; the stage is their sum."
    cards.stage("train", 0, 1, devices=(0, 1)).add_to(family, "two-devices", text, show="session_energy_mj")
    eight = Run().boundary(0, 0, *[k * 1_000_003 for k in range(8)], shift=11_000)
    eight.boundary(1, 100, *[k * 1_000_003 + 50_000_000 + 7 * k for k in range(8)], shift=11_000)
    eight.stage("train", 0, 1, devices=range(8)).add_to(family, "eight-devices", "Eight devices.")
    utc = Run().boundary(0, 100, 0).boundary(1, 160, 30_000_000).boundary(2, 190, 36_000_000)
    for row, second in zip(utc.boundaries, (0, 3_660, 3_690), strict=True):
        row["t_us"] = UTC + second * S
    given = {"stages": utc.stages_at("a 0 1", "b 1 2").stages, "boundaries": utc.boundaries}
    rows = [("a", 30_000.0, 60), ("b", 6_000.0, 30)]
    answer: Json = {
        "stages": [
            {"name": n, "stage": "student_train", "session": 0, "gpu_energy_j": j, "duration_us": s * S}
            for n, j, s in rows
        ],
        "gpu_energy_j": 36_000.0,
    }
    text = "UTC was set forward by an hour during stage a: it lasted 60 s."
    family.add("duration-is-monotonic", text, given, "WallClock", answer, clause="3.2")
    return family
