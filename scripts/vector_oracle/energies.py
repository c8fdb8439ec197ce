"""Sums of stages, and joules per token."""

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
    """Totals and tokens."""
    return [_totals(), _tokens()]


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
        figures = totals(stages)
        if "UnknownAsZero" not in flags:
            figures = {key: value for key, value in figures.items() if value is not None}
        family.valid(name, "4", "totals", {"stages": stages}, figures, text, *flags)

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
