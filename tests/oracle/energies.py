"""Energies of stages: sums, joules per token, above idle, and what a reader applies to them."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from typing import Any

from tests.oracle.faults import need, wrong
from tests.oracle.power import Json

PARTS = ("gpu", "cpu", "dram")
TEACHER = ("teacher_logits", "teacher_generate")
TOKENS = ("trained", "processed", "positions", "generated")


def _tops(stages: Sequence[Json]) -> list[Json]:
    """Rows that are not a part of another one."""
    return [row for row in stages if wrong("ParentSummed") or row.get("parent_uid") is None]


def _completed(stages: Sequence[Json]) -> list[Json]:
    return [row for row in stages if row.get("status", "completed") == "completed"]


def _counted(stages: Sequence[Json]) -> list[Json]:
    """Rows whose energy is in the sum."""
    rows = _tops(stages)
    if wrong("HolesLost"):
        rows = [row for row in rows if row["stage"] != "unattributed"]
    return _completed(rows) if wrong("FailedDropped") else rows


def add_up(rows: Sequence[Json], *parts: str) -> Any:
    """Joules of these parts, of all by default, as far as they are known; None where nothing is."""
    values = [row.get(f"{part}_energy_j") for row in rows for part in parts or PARTS]
    known = [value for value in values if value is not None]
    return sum(known, Fraction(0)) if known or wrong("UnknownAsZero") else None


def totals(given: Json) -> Json:
    """Sums of a run over its stages without a parent."""
    rows = _counted(given["stages"])
    names = dict.fromkeys(row["stage"] for row in rows)
    kinds = {name: add_up([row for row in rows if row["stage"] == name]) for name in names}
    teacher = [row for row in rows if row["stage"] in TEACHER]
    return {
        "it_energy_j": add_up(rows),
        **{f"{part}_energy_j": add_up(rows, part) for part in PARTS},
        "unattributed_energy_j": kinds.get("unattributed"),
        "teacher_energy_j": add_up(teacher) if teacher else None,
        "by_kind": {kind: energy for kind, energy in kinds.items() if energy is not None},
    }


def joules_per_token(given: Json) -> Json:
    """Energy of the whole run over the tokens of its completed student stages."""
    name, reference = given["denominator"], given.get("reference_tokens")
    need(name in (*TOKENS, "reference"), "no such denominator")
    count = reference
    if name != "reference" and not (wrong("NominalTokens") and reference):
        rows = _tops(given["stages"])
        if not wrong("StageTokens"):
            rows = [row for row in rows if row["stage"] == "student_train"]
        if not wrong("FailedTokens"):
            rows = _completed(rows)
        if not wrong("SupersededTokens"):
            commands = [row for row in rows if row.get("command_sha256")]
            last = {row.get("name"): row for row in sorted(commands, key=lambda row: row.get("attempt", 1))}
            rows = [row for row in rows if not row.get("command_sha256") or last[row.get("name")] is row]
        counts = [row.get(f"tokens_{name}") for row in rows]
        known = [count for count in counts if count is not None]
        whole = len(known) == len(counts) or wrong("UncountedSkipped") or wrong("StageTokens")
        count = sum(known) if known and whole else None
    energy = add_up(_counted(given["stages"]))
    return {"tokens": count, "j_per_token": energy / count if count and energy is not None else None}


def above_idle(given: Json) -> Json:
    """Mean power of the idle stages, and the energy above it over the run's own time."""
    known = [row for row in _counted(given["stages"]) if add_up([row]) is not None]
    idle = [row for row in known if row["stage"] == "idle"][: 1 if wrong("FirstIdleAlone") else None]
    if not idle:
        return dict.fromkeys(("idle_power_w", "above_idle_j"), 0 if wrong("UnknownAsZero") else None)

    def seconds(rows: Sequence[Json]) -> Fraction:
        return Fraction(sum(row["mono_end_us"] - row["mono_start_us"] for row in rows), 10**6)

    power = add_up(idle) / seconds(idle)
    if wrong("IdleMeanOfMeans"):
        power = sum(add_up([row]) / seconds([row]) for row in idle) / len(idle)
    return {"idle_power_w": power, "above_idle_j": add_up(known) - power * seconds(known)}


POUND_G = Fraction("453.59237")
JOULES = {"uJ": "1e-6", "mJ": "1e-3", "J": "1", "kJ": "1e3", "MJ": "1e6", "Wh": "3600", "kWh": "3.6e6"}
JOULES |= {"MWh": "3.6e9"}
GRAMS = {"g/kWh": "1", "kg/kWh": "1e3", "kg/MWh": "1", "g/MJ": "3.6", "t/MWh": "1e3", "t/GWh": "1"}


def convert(given: Json) -> Json:
    """A value in another unit of energy or of grid intensity."""
    joules = {unit: Fraction(text) for unit, text in JOULES.items()}
    grams = {unit: Fraction(text) for unit, text in GRAMS.items()}
    pound = 1000 if wrong("PoundAsKilogram") else POUND_G
    grams |= {"lb/kWh": Fraction(pound), "lb/MWh": Fraction(pound, 1000)}
    if wrong("KwhTruncated"):
        joules |= {"Wh": Fraction(1000), "kWh": Fraction(10**6), "MWh": Fraction(10**9)}
    for table in (joules, grams):
        if given["from"] in table and given["to"] in table:
            return {"value": given["value"] * table[given["from"]] / table[given["to"]]}
    need(wrong("UnknownUnitGuessed"), "units that do not fit")
    return {"value": given["value"]}


def facility(given: Json) -> Json:
    """Energy of the building, then its emissions."""
    need(given["pue"] >= 1 or wrong("PueBelowOne"), "a PUE below 1")
    building, grams = given["it_energy_j"] * given["pue"], given.get("g_co2e_per_kwh")
    base = given["it_energy_j"] if wrong("PueForgotten") else building
    kg = None if grams is None else base / Fraction("3.6e6") * grams / 1000
    return {"facility_energy_j": building, "co2e_kg": kg}


def inherited_energy(given: Json) -> Json:
    """What consumed artifacts cost the runs that made them, each once; two of one run and energy are one."""
    consumed = [row for row in given["artifacts"] if row["role"] == "consumed"]
    rows = [row for row in consumed if row["origin_energy_j"] is not None]
    if any(row.get("origin_run_id") for row in consumed if row not in rows) and not wrong("UnknownAsZero"):
        return {"inherited_energy_j": None}
    each = [row["origin_energy_j"] for row in rows]
    if not wrong("TeacherTwice"):
        payers = {(row.get("origin_run_id") or row["artifact_id"], row["origin_energy_j"]) for row in rows}
        each = [energy for _, energy in sorted(payers)]
    if not each:
        return {"inherited_energy_j": 0 if wrong("UnknownAsZero") else None}
    return {"inherited_energy_j": sum(each)}
