"""Sums and what is made of them: totals, joules per token, units, facility energy and CO2e, lineage."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

from vector_oracle.build import Family, dec

Json = dict[str, Any]
TEACHER = ("teacher_logits", "teacher_generate")
COLUMNS = {
    "trained": "tokens_trained",
    "processed": "tokens_processed",
    "positions": "tokens_positions",
    "generated": "tokens_generated",
}


def families() -> list[Family]:
    """Families on energies."""
    return [_totals(), _tokens(), _units(), _facility(), _lineage()]


def tops(stages: list[Json]) -> list[Json]:
    """Rows that are not a part of another one."""
    return [row for row in stages if row.get("parent_uid") is None]


def energy(row: Json) -> Fraction | None:
    """What is known of a row."""
    known = [
        row[f"{part}_energy_j"] for part in ("gpu", "cpu", "dram") if row.get(f"{part}_energy_j") is not None
    ]
    return sum(known, Fraction(0)) if known else None


def add_up(rows: list[Json], name: str | None = None) -> Fraction | None:
    """Sum over rows of one column or of all components; None where nothing is known."""
    values = [energy(row) if name is None else row.get(name) for row in rows]
    known = [value for value in values if value is not None]
    return sum(known, Fraction(0)) if known else None


def totals(stages: list[Json]) -> Json:
    """Every figure of `totals`."""
    rows = tops(stages)
    kinds = dict.fromkeys(row["stage"] for row in rows)
    by_kind = {kind: add_up([r for r in rows if r["stage"] == kind]) for kind in kinds}
    return {
        "it_energy_j": add_up(rows),
        "gpu_energy_j": add_up(rows, "gpu_energy_j"),
        "cpu_energy_j": add_up(rows, "cpu_energy_j"),
        "dram_energy_j": add_up(rows, "dram_energy_j"),
        "unattributed_energy_j": by_kind.get("unattributed"),
        "teacher_energy_j": add_up([r for r in rows if r["stage"] in TEACHER]),
        "by_kind": {kind: value for kind, value in by_kind.items() if value is not None},
    }


def row(
    kind: str, gpu: str | None = None, cpu: str | None = None, dram: str | None = None, **more: Any
) -> Json:
    """A row of `stages` with decimal energies."""
    found: Json = {"stage": kind}
    for part, text in (("gpu", gpu), ("cpu", cpu), ("dram", dram)):
        if text is not None:
            found[f"{part}_energy_j"] = dec(text)
    return found | more


def _totals() -> Family:
    family = Family("totals", "A run is the sum of its stages without a parent, unattributed included.")

    def add(name: str, text: str, stages: list[Json], *flags: str) -> None:
        stages = [{"stage_uid": k, **stage} for k, stage in enumerate(stages)]
        family.valid(name, "4", "totals", {"stages": stages}, totals(stages), text, *flags)

    add("one", "One stage.", [row("student_train", "1234.567")])
    add("components", "GPU, CPU and DRAM add up.", [row("student_train", "1000.5", "200.25", "10.125")])
    add(
        "kinds",
        "Sums by kind.",
        [
            row("preprocess", "10.001"),
            row("teacher_logits", "500.002"),
            row("student_train", "300.003"),
            row("evaluate", "20.004"),
            row("student_train", "1.1"),
        ],
    )
    add(
        "teacher",
        "Logits and generation are the teacher's.",
        [row("teacher_logits", "11.5"), row("teacher_generate", "10.25"), row("student_train", "5.5")],
    )
    add(
        "unattributed",
        "Time that belongs to no stage is in the sum.",
        [row("preprocess", "5"), row("student_train", "50"), row("unattributed", "7.5")],
        "HolesLost",
    )
    add(
        "failed",
        "An attempt that failed is in the sum.",
        [
            row("student_train", "40", status="failed"),
            row("student_train", "60", status="completed"),
            row("evaluate", "3", status="partial"),
        ],
        "FailedDropped",
    )
    add(
        "child",
        "A child is not.",
        [row("student_train", "100"), row("evaluate", "20", parent_uid=0)],
        "ParentSummed",
    )
    add(
        "null-gpu",
        "A stage whose GPU energy is unknown adds what is known of it.",
        [row("student_train", "100", "10"), row("evaluate", None, "2")],
    )
    add(
        "nothing-known",
        "Nothing measured anywhere: unknown, not zero.",
        [row("preprocess"), row("student_train")],
        "UnknownAsZero",
    )
    add(
        "cpu-only",
        "A machine without a GPU.",
        [row("student_train", None, "900.5"), row("evaluate", None, "99.5")],
        "UnknownAsZero",
    )
    add("cents", "Ten times 0.1 is 1.", [row("student_train", "0.1") for _ in range(10)])
    add("many", "A thousand and one millijoules, one by one.", [row("x-step", "0.001") for _ in range(101)])
    add(
        "x-kind",
        "A kind of one's own is a kind like any other.",
        [row("x-quantize", "12.5"), row("student_train", "1")],
    )
    return family


def per_token(stages: list[Json], name: str, reference: int | None) -> Json:
    """Tokens of completed student stages without parent; energy of the whole run."""
    rows = [
        r
        for r in tops(stages)
        if r["stage"] == "student_train" and r.get("status", "completed") == "completed"
    ]
    count = reference
    if name != "reference":
        known = [r[COLUMNS[name]] for r in rows if r.get(COLUMNS[name]) is not None]
        count = sum(known) if known else None
    whole = add_up(tops(stages))
    return {"tokens": count, "j_per_token": None if not count or whole is None else whole / count}


def _tokens() -> Family:
    family = Family("tokens", "Joules per token: which tokens, and whose.")

    def add(
        name: str, text: str, denominator: str, stages: list[Json], *flags: str, reference: int | None = None
    ) -> None:
        given: Json = {
            "denominator": denominator,
            "stages": [{"stage_uid": k, **s} for k, s in enumerate(stages)],
        }
        if reference is not None:
            given["reference_tokens"] = reference
        family.valid(
            name,
            "4.5",
            "joules_per_token",
            given,
            per_token(given["stages"], denominator, reference),
            text,
            *flags,
        )

    counts: Json = {"tokens_trained": 800_000, "tokens_processed": 1_000_000, "tokens_positions": 1_310_720}
    run = [
        row("teacher_logits", "500.5", tokens_processed=2_000_000),
        row("student_train", "300.25", **counts),
        row("evaluate", "20", tokens_processed=50_000, tokens_generated=12_345),
    ]
    add("trained", "Unique label tokens of the student.", "trained", run)
    add(
        "processed",
        "Real tokens through the student: the teacher's are not its own.",
        "processed",
        run,
        "StageTokens",
    )
    add("positions", "Padding included.", "positions", run)
    add(
        "reference",
        "The declared count, the same for every pipeline compared.",
        "reference",
        run,
        reference=1_500_000,
    )
    add(
        "named-not-declared",
        "A declared count does not replace the one asked for.",
        "trained",
        run,
        "NominalTokens",
        reference=1_500_000,
    )
    add("reference-undeclared", "None declared: no figure.", "reference", run)
    add("not-counted", "Nobody counted: no figure.", "generated", run, "StageTokens")
    add(
        "null-tokens",
        "A stage that counted nothing adds nothing.",
        "trained",
        [row("student_train", "100", tokens_trained=None), row("student_train", "100", tokens_trained=4_000)],
    )
    add(
        "zero-tokens",
        "No tokens: no figure, and no division by zero.",
        "trained",
        [row("student_train", "100", tokens_trained=0)],
    )
    retry = [
        row("student_train", "80", status="failed", tokens_trained=60_000),
        row("student_train", "120", tokens_trained=100_000),
    ]
    add(
        "failed-attempt",
        "Tokens of a failed attempt are trained again by the next: its energy stays, its tokens do not.",
        "trained",
        retry,
        "FailedTokens",
        "FailedDropped",
    )
    cut = [
        row("student_train", "80", status="interrupted", tokens_trained=60_000),
        row("student_train", "50", status="partial", tokens_trained=20_000),
        row("student_train", "120", tokens_trained=100_000),
    ]
    add(
        "interrupted-attempts",
        "Nor those of attempts that were interrupted or whose end was not seen.",
        "trained",
        cut,
        "FailedTokens",
        "FailedDropped",
    )
    add(
        "child-tokens",
        "Tokens of a child are its parent's.",
        "trained",
        [
            row("student_train", "100", tokens_trained=10_000),
            row("student_train", "30", parent_uid=0, tokens_trained=3_000),
        ],
        "ParentSummed",
    )
    add(
        "unattributed-joules",
        "Waiting is paid by the tokens too.",
        "trained",
        [row("student_train", "100", tokens_trained=10_000), row("unattributed", "25")],
        "HolesLost",
    )
    add(
        "unknown-energy",
        "Unknown energy: no figure.",
        "trained",
        [row("student_train", tokens_trained=10_000)],
        "UnknownAsZero",
    )
    family.invalid(
        "no-such-count",
        "4.5",
        "joules_per_token",
        {"denominator": "words", "stages": run},
        "A denominator that the protocol does not name.",
    )
    return family


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
    add("wh-to-kwh", "Per cent of a joule hide in a Wh.", "1234.5", "Wh", "kWh", wrong)
    add("mwh-to-wh", "A data centre's unit.", "0.0169", "MWh", "Wh", wrong)
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
