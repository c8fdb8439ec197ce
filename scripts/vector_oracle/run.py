"""A run whose counters are known at every boundary, accounted for by differences alone."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from typing import Any

S = 1_000_000

UTC = 1_790_000_000_000_000

Json = dict[str, Any]


class Run:
    """A run whose counters are known at every boundary; answers by differences alone."""

    def __init__(self) -> None:
        self.boundaries: list[Json] = []
        self.stages: list[Json] = []

    def boundary(
        self,
        number: int,
        second: float,
        *values: int,
        session: int = 0,
        shift: int = 0,
        utc: int | None = None,
    ) -> Run:
        """One reading a device; `shift` moves each further device's own tick by so many microseconds."""
        mono = round(second * S)
        for device, value in enumerate(values):
            row = {
                "session": session,
                "boundary": number,
                "device_id": device,
                "mono_us": mono + device * shift,
                "value_mj": value,
            }
            row["t_us"] = (UTC + mono if utc is None else utc) + device * shift
            self.boundaries.append(row)
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
        self.stages.append(
            {
                "stage_uid": len(self.stages),
                "name": name,
                "stage": kind,
                "boundary_start": start,
                "boundary_end": end,
                "device_ids": list(devices),
                **more,
            }
        )
        return self

    def given(self) -> Json:
        """The input of op `account`."""
        return {"stages": self.stages, "boundaries": self.boundaries}

    def _readings(self, session: int) -> dict[int, dict[int, Json]]:
        found: dict[int, dict[int, Json]] = {}
        for row in self.boundaries:
            if row["session"] == session:
                found.setdefault(row["device_id"], {})[row["boundary"]] = row
        return found

    def _mj(self, session: int, start: int, end: int, devices: Sequence[int]) -> list[int]:
        readings = self._readings(session)
        return [readings[d][end]["value_mj"] - readings[d][start]["value_mj"] for d in devices]

    def rows(self) -> list[Json]:
        """Stages as declared, then a row a hole: sessions by number, holes by time."""
        found = []
        for stage in self.stages:
            session = stage.get("session", 0)
            parts = self._mj(session, stage["boundary_start"], stage["boundary_end"], stage["device_ids"])
            found.append(
                {
                    "name": stage["name"],
                    "stage": stage["stage"],
                    "session": session,
                    "gpu_energy_j": Fraction(sum(parts), 1000),
                }
            )
        for session in sorted({row["session"] for row in self.boundaries}):
            found += self._holes(session)
        return found

    def _holes(self, session: int) -> list[Json]:
        """A row a stretch without a stage: of each device, and of all together (the processor's)."""
        spans: dict[tuple[int, int], list[int]] = {}
        readings = self._readings(session)
        roots = [s for s in self.stages if s.get("session", 0) == session and s.get("parent_uid") is None]
        first = readings[min(readings)]
        for span in _free(first, roots):
            spans[span] = []
        for device, rows in readings.items():
            for span in _free(rows, [s for s in roots if device in s["device_ids"]]):
                spans.setdefault(span, []).append(device)
        holes = []
        for (start, end), devices in spans.items():
            long = first[end]["mono_us"] - first[start]["mono_us"]
            if long == 0:
                continue
            row = {"name": "unattributed", "stage": "unattributed", "session": session, "device_ids": devices}
            row |= {"boundary_start": start, "boundary_end": end, "gpu_energy_j": None}
            if devices:
                row["gpu_energy_j"] = Fraction(sum(self._mj(session, start, end, devices)), 1000)
            holes.append(((first[start]["mono_us"], first[end]["mono_us"], devices), row))
        return [row for _, row in sorted(holes, key=lambda pair: pair[0])]

    def expected(self, *more: str) -> Json:
        """Rows and the totals named."""
        rows = self.rows()
        tops = [row for row, stage in zip(rows, self.stages, strict=False) if stage.get("parent_uid") is None]
        tops += rows[len(self.stages) :]
        tops = [row for row in tops if row["gpu_energy_j"] is not None]
        whole = sum((row["gpu_energy_j"] for row in tops), Fraction(0))
        holes = [row["gpu_energy_j"] for row in tops if row["stage"] == "unattributed"]
        teacher = [row["gpu_energy_j"] for row in tops if row["stage"].startswith("teacher_")]
        figures: Json = {
            "gpu_energy_j": whole,
            "unattributed_energy_j": sum(holes, Fraction(0)) if holes else None,
            "teacher_energy_j": sum(teacher, Fraction(0)) if teacher else None,
            "session_energy_mj": self._sessions(),
        }
        return {"stages": rows, **{name: figures[name] for name in ("gpu_energy_j", *more)}}

    def _sessions(self) -> list[int]:
        totals = []
        for session in sorted({row["session"] for row in self.boundaries}):
            energy = 0
            for rows in self._readings(session).values():
                order = sorted(rows, key=lambda n: (rows[n]["mono_us"], n))
                energy += rows[order[-1]]["value_mj"] - rows[order[0]]["value_mj"]
            totals.append(energy)
        return totals


def _free(readings: dict[int, Json], stages: Sequence[Json]) -> list[tuple[int, int]]:
    """Longest stretches between boundaries in which none of the stages runs."""
    order = sorted(readings, key=lambda n: (readings[n]["mono_us"], n))
    place = {number: k for k, number in enumerate(order)}
    taken = {k for s in stages for k in range(place[s["boundary_start"]], place[s["boundary_end"]])}
    found = []
    start = None
    for k, number in enumerate(order):
        free = k < len(order) - 1 and k not in taken
        if free and start is None:
            start = number
        if not free and start is not None:
            found.append((start, number))
            start = None
    return found
