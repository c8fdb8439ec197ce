"""What a reader applies to joules: units, PUE and grid intensity, inherited energy."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

from vector_oracle.build import Family, dec

Json = dict[str, Any]


def families() -> list[Family]:
    """Units, facility, lineage."""
    return [_units(), _facility(), _lineage()]


def _units() -> Family:
    family = Family(
        "units", "1 kWh = 3.6e6 J, exactly; 1 lb = 453.59237 g; a unit that is not known is an error."
    )
    joules = {
        "uJ": dec("1e-6"),
        "mJ": dec("1e-3"),
        "J": dec("1"),
        "kJ": dec("1e3"),
        "MJ": dec("1e6"),
        "Wh": dec("3600"),
        "kWh": dec("3.6e6"),
        "MWh": dec("3.6e9"),
    }
    pound = dec("453.59237")
    grams = {
        "g/kWh": dec("1"),
        "kg/kWh": dec("1000"),
        "kg/MWh": dec("1"),
        "g/MJ": dec("3.6"),
        "t/MWh": dec("1000"),
        "t/GWh": dec("1"),
        "lb/kWh": pound,
        "lb/MWh": pound / 1000,
    }

    def add(name: str, text: str, value: str, unit: str, to: str, *flags: str) -> None:
        table = joules if unit in joules else grams
        given = {"value": dec(value), "from": unit, "to": to}
        family.valid(
            name, "1.4", "convert", given, {"value": dec(value) * table[unit] / table[to]}, text, *flags
        )

    wrong = "KwhTruncated"
    add("kwh-to-j", "The paper's constant.", "1", "kWh", "J", wrong)
    add("j-to-kwh", "Back.", "3600000", "J", "kWh", wrong)
    add("mj-to-j", "A GPU counter.", "3000234", "mJ", "J")
    add("uj-to-j", "A RAPL zone.", "262143328850", "uJ", "J")
    add("wh-to-kwh", "Per cent of a joule hide in a Wh.", "1234.5", "Wh", "kWh")
    add("mwh-to-wh", "A data centre's unit.", "0.0169", "MWh", "Wh")
    add("kwh-to-mj", "To megajoules.", "16.90", "kWh", "MJ", wrong)
    add("j-to-j", "The same unit.", "0.1", "J", "J")
    add(
        "lb-per-mwh",
        "eGRID prints lb/MWh: 823.1 lb/MWh are 373.35 g/kWh, not 823.1.",
        "823.1",
        "lb/MWh",
        "g/kWh",
        "PoundAsKilogram",
    )
    add("kg-per-mwh", "kg/MWh and g/kWh are the same number.", "373.4", "kg/MWh", "g/kWh")
    add("g-per-mj", "Per megajoule.", "100", "g/MJ", "g/kWh")
    add("g-to-lb", "And back to pounds.", "373.35", "g/kWh", "lb/MWh", "PoundAsKilogram")
    add("t-per-gwh", "Tonnes per gigawatt-hour.", "56.4", "t/GWh", "g/kWh")
    family.invalid(
        "unknown-unit",
        "1.4",
        "convert",
        {"value": 5.0, "from": "kWhr", "to": "J"},
        "A unit that is not in the table.",
        "UnknownUnitGuessed",
    )
    family.invalid(
        "no-unit",
        "1.4",
        "convert",
        {"value": 5.0, "from": "", "to": "J"},
        "No unit at all.",
        "UnknownUnitGuessed",
    )
    family.invalid(
        "case-matters",
        "1.4",
        "convert",
        {"value": 5.0, "from": "MJ", "to": "mj"},
        "mj is not mJ, and neither is MJ.",
        "UnknownUnitGuessed",
    )
    family.invalid(
        "other-quantity",
        "1.4",
        "convert",
        {"value": 5.0, "from": "kWh", "to": "g/kWh"},
        "Energy is no intensity.",
        "UnknownUnitGuessed",
    )
    family.invalid(
        "power-is-not-energy",
        "1.4",
        "convert",
        {"value": 300.0, "from": "W", "to": "J"},
        "Watts are no joules without a time.",
        "UnknownUnitGuessed",
    )
    return family


def _facility() -> Family:
    family = Family("facility", "PUE and grid intensity, applied by the reader to IT joules.")

    def add(name: str, text: str, it: str, pue: str, grams: str | None, *flags: str) -> None:
        given: Json = {"it_energy_j": dec(it), "pue": dec(pue)}
        building = dec(it) * dec(pue)
        kg = None
        if grams is not None:
            given["g_co2e_per_kwh"] = dec(grams)
            kg = building / dec("3.6e6") * dec(grams) / 1000
        family.valid(
            name, "1.3", "facility", given, {"facility_energy_j": building, "co2e_kg": kg}, text, *flags
        )

    add("pue-one", "No overhead.", "60840000", "1", "412.5")
    add(
        "pue",
        "A PUE of 1.2 and 100 g/kWh: 16.9 kWh become 20.28 kWh and 2.028 kg.",
        "60840000",
        "1.2",
        "100",
        "PueForgotten",
    )
    add("without-grid", "Without a grid factor there is no CO2e.", "60840000", "1.58", None)
    add("clean-grid", "A grid of 0 g/kWh.", "3600000", "1.1", "0")
    add("nothing", "No energy, no emissions.", "0", "1.5", "400")
    add("small", "One joule.", "1", "1.56", "551.59", "PueForgotten")
    family.invalid(
        "below-one",
        "1.3",
        "facility",
        {"it_energy_j": 100.0, "pue": 0.95, "g_co2e_per_kwh": 100.0},
        "A building uses at least what its machines use.",
        "PueBelowOne",
    )
    family.invalid(
        "zero-pue", "1.3", "facility", {"it_energy_j": 100.0, "pue": 0.0}, "Nor nothing.", "PueBelowOne"
    )
    return family


def _lineage() -> Family:
    family = Family("lineage", "An artifact that another run paid for is charged once.")

    def add(name: str, text: str, artifacts: list[Json], *flags: str) -> None:
        paid = {
            a["artifact_id"]: a["origin_energy_j"]
            for a in artifacts
            if a["role"] == "consumed" and a["origin_energy_j"] is not None
        }
        wanted = sum(paid.values(), Fraction(0)) if paid else None
        family.valid(
            name,
            "2.5",
            "inherited_energy",
            {"artifacts": artifacts},
            {"inherited_energy_j": wanted},
            text,
            *flags,
        )

    def edge(mark: str, role: str, joules: str | None, uid: int = 0) -> Json:
        return {
            "artifact_id": f"sha256:{mark * 64}",
            "role": role,
            "stage_uid": uid,
            "origin_energy_j": None if joules is None else dec(joules),
        }

    add("one", "One cache.", [edge("a", "consumed", "39600000")])
    add(
        "read-twice",
        "Read by two stages: paid once.",
        [edge("a", "consumed", "39600000", 1), edge("a", "consumed", "39600000", 2)],
        "TeacherTwice",
    )
    add("two", "Two artifacts.", [edge("a", "consumed", "39600000"), edge("b", "consumed", "1332000.5")])
    add(
        "own-product",
        "What the run made itself is in its own joules.",
        [edge("a", "produced", "39600000"), edge("b", "consumed", "1000")],
    )
    add(
        "unknown",
        "Nobody knows what it cost: unknown, not free.",
        [edge("a", "consumed", None)],
        "UnknownAsZero",
    )
    add("none", "Nothing inherited.", [], "UnknownAsZero")
    return family
