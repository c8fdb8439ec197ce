"""What is common cancels: ratios and N* of energies that share scales."""

from __future__ import annotations

from typing import Any

from tests.oracle.family import Family, dec

Json = dict[str, Any]
TWICE, GAIN, PROGRAM = ["0", "2"], ["0.95", "1.05"], ["0.8", "1.2"]


def _part(scales: str, joules: str, share: str) -> Json:
    """A part of an energy: joules with a relative half-width."""
    best, rel = dec(joules), dec(share)
    return {"scales": scales.split(), "best": best, "low": best * (1 - rel), "high": best * (1 + rel)}


def _given(scales: dict[str, list[str]], **energies: list[tuple[str, str, str]]) -> Json:
    ranges = {name: [dec(end) for end in ends] for name, ends in scales.items()}
    return {"scales": ranges} | {name: [_part(*part) for part in parts] for name, parts in energies.items()}


def shared_scales() -> Family:
    """Ratios, then N*."""
    doc = "Ratios and N* of energies that share scales: a sensor's gain, an estimate's watts per CPU second."
    family = Family("shared-scales", doc, "shared_ratio", "4.4")
    estimate, mixed = {"cpu": TWICE}, {"gpu-0": GAIN, "cpu": TWICE}
    two = {"gpu-0": GAIN, "gpu-1": GAIN, "cpu": TWICE}
    for name, text, scales, one, other, *flags in (
        ("estimate",
         "An estimate of nothing to twice itself is common to both: 280 J are more than 122 J.",
         estimate, [("cpu", "280", "0.2")], [("cpu", "122", "0.2")], "ScalesApart NothingOverNothing"),
        ("same-gain", "One sensor: its gain cancels.", {"gpu-0": GAIN},
         [("gpu-0", "20000", "0.003")], [("gpu-0", "9000", "0.003")], "ScalesApart"),
        ("other-gain", "Two sensors: their gains do not.", {"gpu-0": GAIN, "gpu-1": GAIN},
         [("gpu-0", "20000", "0.003")], [("gpu-1", "9000", "0.003")]),
        ("mixed", "A measured GPU and an estimated CPU.", mixed,
         [("gpu-0", "20000", "0.003"), ("cpu", "1000", "0.2")],
         [("gpu-0", "9000", "0.003"), ("cpu", "600", "0.2")], "ScalesApart"),
        ("program", "Watts per CPU second of one program on one machine: a scale on a scale.",
         {"cpu": TWICE, "train": PROGRAM},
         [("cpu train", "113", "0.01")], [("cpu train", "122", "0.01")],
         "ScalesApart NothingOverNothing"),
        ("no-scale", "Nothing is shared: interval arithmetic.", {},
         [("", "280", "0.2")], [("", "122", "0.2")]),
        ("estimate-over-measured", "Only one of them is an estimate: from nothing up.", estimate,
         [("cpu", "280", "0.2")], [("", "122", "0.01")]),
    ):  # fmt: skip
        family.add(name, text, _given(scales, one=one, other=other), *flags)
    given = _given(estimate, one=[("cpu", "280", "0.2")], other=[("cpu", "0", "0")])
    family.refuse("nothing", "No energy is a multiple of nothing.", given)
    names = ("teacher", "baseline_student", "distilled_student")
    students = {"cpu": TWICE, "logits": PROGRAM, "train": PROGRAM}
    gpu = [("16000", "900"), ("9000", "600"), ("7500", "500")]
    same = [[("gpu-0", a, "0.003"), ("cpu", b, "0.2")] for a, b in gpu]
    for name, text, scales, energies, *flags in (
        ("each-alone", "20 % on each of three alone: N* is 2.4 or never.", estimate,
         [[("cpu", joules, "0.2")] for joules in ("165.8", "122", "113")], "ScalesApart RoundedDown"),
        ("students-share", "The two students are one program: its 20 % cancel in their ratio.", students,
         [[("cpu logits", "165.8", "0")], [("cpu train", "122", "0.01")], [("cpu train", "113", "0.01")]],
         "ScalesApart NothingOverNothing RoundedDown"),
        ("one-gpu", "Teacher and students on one GPU.", mixed, same, "ScalesApart RoundedDown"),
        ("two-gpus", "The teacher ran on another GPU.", two,
         [[("gpu-1", "16000", "0.003"), ("cpu", "900", "0.2")], *same[1:]], "ScalesApart RoundedDown"),
        ("sign-flips", "Distilling saves GPU and costs CPU: at twice the estimate it never pays.", mixed,
         [same[0], [("gpu-0", "9000", "0.003"), ("cpu", "400", "0.2")],
          [("gpu-0", "8700", "0.003"), ("cpu", "600", "0.2")]], "ScalesApart"),
        ("never", "The student with a teacher takes more, whatever the scale.", estimate,
         [[("cpu", joules, "0.01")] for joules in ("165.8", "113", "122")], "NegativeN ScalesApart"),
    ):  # fmt: skip
        given = _given(scales, **dict(zip(names, energies, strict=True)))
        family.add(f"n-{name}", text, given, *flags, op="shared_break_even")
    return family
