"""The published table (arXiv 2605.13981) as vectors: what its figures must give under this protocol."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

from tests.oracle.family import Family, dec, reference

KWH = dec("3.6e6")
TOKENS = 30_000_000

STAGES = {
    "sft-1b": {"preprocess": "0.37", "student_train": "6.30", "evaluate": "0.33"},
    "sft-13b": {"preprocess": "0.37", "student_train": "33.15", "evaluate": "1.08"},
    "kd-1b": {"preprocess": "0.37", "teacher_logits": "11.00", "student_train": "5.20", "evaluate": "0.33"},
    "kd-13b": {"preprocess": "0.37", "teacher_logits": "11.00", "student_train": "30.05", "evaluate": "1.08"},
    "syn-1b": {
        "preprocess": "0.37",
        "teacher_generate": "10.60",
        "student_train": "5.35",
        "evaluate": "0.33",
    },
    "syn-13b": {
        "preprocess": "0.37",
        "teacher_generate": "10.60",
        "student_train": "28.65",
        "evaluate": "1.08",
    },
}
"""kWh by stage."""

TOTALS = {"sft-1b": "7.00", "sft-13b": "34.60", "kd-1b": "16.90", "kd-13b": "42.50", "syn-13b": "40.70"}
"""Printed totals, kWh; synthetic SFT 1B is not printed."""

PER_TOKEN = {
    "sft-1b": ("7.00", "0.84"),
    "sft-7b": ("19.50", "2.34"),
    "sft-13b": ("34.60", "4.15"),
    "kd-1b": ("16.90", "2.03"),
    "kd-13b": ("42.50", "5.10"),
    "syn-13b": ("40.70", "4.88"),
}
"""(kWh, printed J/token)."""


def _teacher(cell: str) -> str | None:
    return next((kwh for kind, kwh in STAGES[cell].items() if kind.startswith("teacher")), None)


def published() -> Family:
    """The table."""
    doc = "The published table: sums of stages, the one denominator behind J/token, N*."
    family = Family("published", doc, "totals", "4")
    for cell, stages in STAGES.items():
        rows: list[dict[str, Any]] = [
            {"stage_uid": k, "stage": kind, "gpu_energy_j": dec(kwh) * KWH}
            for k, (kind, kwh) in enumerate(stages.items())
        ]
        whole, paid = sum(map(dec, stages.values()), Fraction(0)), _teacher(cell)
        assert whole == dec(TOTALS.get(cell, str(float(whole)))), cell
        printed = f"as printed, {TOTALS[cell]} kWh" if cell in TOTALS else "printed nowhere"
        answer = {"it_energy_j": whole * KWH, "teacher_energy_j": paid and dec(paid) * KWH}
        family.add(
            f"sum-{cell}", f"The stages of {cell} add up exactly: {printed}.", {"stages": rows}, "", answer
        )
    for cell, (kwh, printed) in PER_TOKEN.items():
        rows = [{"stage_uid": 0, "stage": "student_train", "gpu_energy_j": dec(kwh) * KWH}]
        given = {"denominator": "reference", "reference_tokens": TOKENS, "stages": rows}
        where = {"op": "joules_per_token", "clause": "4.5"}
        text = f"{kwh} kWh over 30.0 M nominal tokens."
        answer = {"tokens": TOKENS, "j_per_token": dec(kwh) * KWH / TOKENS}
        family.add(f"denominator-{cell}", text, given, "", answer, **where)
        text = f"And that is the printed {printed} to two decimals: every row has the same denominator."
        answer = {"j_per_token": dec(printed)}
        family.add(f"rounding-{cell}", text, given, "", answer, tolerance=0.005 + 1e-9, **where)
    for cell in ("kd-1b", "kd-13b", "syn-1b", "syn-13b"):
        base = "sft-" + cell.split("-")[1]
        energies = (_teacher(cell), STAGES[base]["student_train"], STAGES[cell]["student_train"])
        names = ("teacher", "baseline_student", "distilled_student")
        given = {name: dec(kwh or "") for name, kwh in zip(names, energies, strict=True)}
        found = reference("break_even", given) or {}
        text = f"{found['ratio']:.2f} reuses, so {found['whole']}."
        flag = "BinaryRounding" if cell == "kd-1b" else "RoundedDown"
        family.add(f"reuses-{cell}", text, given, flag, op="break_even", clause="4.6")
    return family
