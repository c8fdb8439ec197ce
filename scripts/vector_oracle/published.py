"""The published table (arXiv 2605.13981) as vectors: what its figures must give under this protocol."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

from vector_oracle.build import Family, dec
from vector_oracle.decisions import n_star

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


def families() -> list[Family]:
    """One family."""
    family = Family(
        "published", "The published table: sums of stages, the one denominator behind J/token, N*."
    )
    for cell, stages in STAGES.items():
        rows = [
            {"stage_uid": k, "stage": kind, "gpu_energy_j": dec(kwh) * KWH}
            for k, (kind, kwh) in enumerate(stages.items())
        ]
        whole = sum((dec(kwh) for kwh in stages.values()), Fraction(0))
        if cell in TOTALS:
            assert whole == dec(TOTALS[cell]), cell
        wanted: dict[str, Any] = {"it_energy_j": whole * KWH}
        paid = [dec(kwh) * KWH for kind, kwh in stages.items() if kind.startswith("teacher")]
        wanted["teacher_energy_j"] = paid[0] if paid else None
        printed = f"as printed, {TOTALS[cell]} kWh" if cell in TOTALS else "printed nowhere"
        family.valid(
            f"sum-{cell}",
            "4",
            "totals",
            {"stages": rows},
            wanted,
            f"The stages of {cell} add up exactly: {printed}.",
        )
    for cell, (kwh, printed) in PER_TOKEN.items():
        joules = dec(kwh) * KWH
        rows = [{"stage_uid": 0, "stage": "student_train", "gpu_energy_j": joules}]
        given = {"denominator": "reference", "reference_tokens": TOKENS, "stages": rows}
        exact = joules / TOKENS
        assert abs(exact - dec(printed)) <= dec("0.005"), cell
        family.valid(
            f"denominator-{cell}",
            "4.5",
            "joules_per_token",
            given,
            {"tokens": TOKENS, "j_per_token": exact},
            f"{kwh} kWh over 30.0 M nominal tokens.",
        )
        family.valid(
            f"rounding-{cell}",
            "4.5",
            "joules_per_token",
            given,
            {"j_per_token": dec(printed)},
            f"And that is the printed {printed} to two decimals: every row has the same denominator.",
            tolerance={"abs": 0.005 + 1e-9},
        )
    for cell, base in (
        ("kd-1b", "sft-1b"),
        ("kd-13b", "sft-13b"),
        ("syn-1b", "sft-1b"),
        ("syn-13b", "sft-13b"),
    ):
        kinds = STAGES[cell]
        teacher = dec(next(kwh for kind, kwh in kinds.items() if kind.startswith("teacher")))
        students = dec(STAGES[base]["student_train"]), dec(kinds["student_train"])
        given = {"teacher": teacher, "baseline_student": students[0], "distilled_student": students[1]}
        answer = n_star(teacher, *students)
        flags = ("BinaryRounding",) if cell == "kd-1b" else ("RoundedDown",)
        ratio = f"{float(answer['ratio']):.2f}"
        family.valid(
            f"reuses-{cell}",
            "4.6",
            "break_even",
            given,
            answer,
            f"{ratio} reuses, so {answer['whole']}.",
            *flags,
        )
    return [family]
