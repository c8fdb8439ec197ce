"""Whether a teacher pays: amortization, N*, T*."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any

from vector_oracle.build import Family, dec

Json = dict[str, Any]


def families() -> list[Family]:
    """Amortization, reuses, serving."""
    return [_amortize(), _reuses(), _serving()]


def _amortize() -> Family:
    family = Family("amortization", "One run three ways: marginal, amortized over N, full.")

    def add(name: str, text: str, own: str, teacher: str, reuses: int, *flags: str) -> None:
        given = {"own_j": dec(own), "teacher_j": dec(teacher), "reuses": reuses}
        answer = {
            "marginal_j": dec(own),
            "amortized_j": dec(own) + dec(teacher) / reuses,
            "full_j": dec(own) + dec(teacher),
        }
        family.valid(name, "4.6", "amortize", given, answer, text, *flags)

    add("one", "Used once, the teacher is paid in full.", "5.90", "11.00", 1)
    add("ten", "Ten students share the teacher; each trains alone.", "5.90", "11.00", 10, "OwnAmortized")
    add("three", "Thirds.", "19440000", "39600000", 3, "OwnAmortized")
    add("no-teacher", "Without a teacher the three are one.", "7.00", "0", 5, "OwnAmortized")
    add("million", "A million reuses leave the student.", "5.90", "11.00", 1_000_000, "OwnAmortized")
    family.invalid(
        "zero", "4.6", "amortize", {"own_j": 5.9, "teacher_j": 11.0, "reuses": 0}, "Used by nobody."
    )
    family.invalid(
        "negative",
        "4.6",
        "amortize",
        {"own_j": 5.9, "teacher_j": 11.0, "reuses": -3},
        "Used by fewer than nobody.",
    )
    family.invalid(
        "fraction",
        "4.6",
        "amortize",
        {"own_j": 5.9, "teacher_j": 11.0, "reuses": 2.5},
        "Used by half a student.",
    )
    return family


def n_star(teacher: Fraction | None, base: Fraction | None, distilled: Fraction | None) -> Json:
    """Case, exact ratio and whole number of N*."""
    nothing: Json = {"case": "undefined", "ratio": None, "whole": None}
    if teacher is None or base is None or distilled is None or min(teacher, base, distilled) < 0:
        return nothing
    saving = base - distilled
    if teacher == 0 and saving >= 0:
        return {"case": "always", "ratio": Fraction(0), "whole": 1}
    if saving <= 0:
        return nothing | {"case": "never"}
    return {"case": "finite", "ratio": teacher / saving, "whole": max(1, math.ceil(teacher / saving))}


def _known(text: str | None) -> Fraction | None:
    return None if text is None else dec(text)


def _reuses() -> Family:
    family = Family(
        "reuses", "N*: the smallest whole number of reuses from which a teacher has paid for itself."
    )

    def add(name: str, text: str, energies: tuple[str | None, str | None, str | None], *flags: str) -> None:
        values = [_known(energy) for energy in energies]
        given = dict(zip(("teacher", "baseline_student", "distilled_student"), values, strict=True))
        family.valid(name, "4.6", "break_even", given, n_star(*values), text, *flags)

    add(
        "exact",
        "11.00 / (6.30 - 5.20) is 10 in decimals; in binary it is 10.000000000000004, and its ceiling 11.",
        ("11.00", "6.30", "5.20"),
        "BinaryRounding",
    )
    add("exact-tenths", "0.3 / (0.3 - 0.2) = 3.", ("0.3", "0.3", "0.2"), "BinaryRounding")
    add("whole", "3 exactly.", ("3", "2", "1"))
    add(
        "rounded-up",
        "3.2 reuses are 4: after 3 the teacher is not paid back.",
        ("3.2", "2", "1"),
        "RoundedDown",
    )
    add("just-above", "10.01 are 11.", ("10.01", "2", "1"), "RoundedDown")
    add("half", "2.5 are 3.", ("2.5", "2", "1"), "RoundedDown")
    add(
        "below-one",
        "A teacher cheaper than one saving is paid back by the first student.",
        ("0.25", "2", "1"),
        "RoundedDown",
    )
    add("no-saving", "The students cost the same: never.", ("11.00", "5.20", "5.20"), "NegativeN")
    add(
        "dearer",
        "The distilled student costs more: never, not minus eleven.",
        ("11.00", "5.20", "6.20"),
        "NegativeN",
    )
    add("free-teacher", "Nothing to pay back and a saving: always.", ("0", "6.30", "5.20"), "FreeTeacher")
    add(
        "free-teacher-no-saving",
        "Nothing to pay back, nothing saved: always, it costs no more.",
        ("0", "5.20", "5.20"),
        "FreeTeacher",
    )
    add(
        "free-teacher-dearer",
        "Nothing to pay back, but the student costs more: never.",
        ("0", "5.20", "6.30"),
        "NegativeN",
    )
    add("teacher-unknown", "An unknown teacher: undefined.", (None, "6.30", "5.20"), "UnknownAsZero")
    add("student-unknown", "An unknown student: undefined.", ("11.00", "6.30", None), "UnknownAsZero")
    add("baseline-unknown", "An unknown baseline: undefined.", ("11.00", None, "5.20"), "UnknownAsZero")
    add("negative-energy", "No energy is negative: undefined.", ("-11.00", "6.30", "5.20"), "NegativeN")
    add("joules", "In joules as in kWh.", ("39600000", "22680000", "18720000"))
    add("millions", "A saving of a millijoule.", ("39600000", "22680000.001", "22680000"), "BinaryRounding")

    def band(
        name: str,
        text: str,
        teacher: str,
        base: str,
        distilled: str,
        share: str,
        flag: str = "BinaryRounding",
    ) -> None:
        rel = dec(share)
        t, b, d = dec(teacher), dec(base), dec(distilled)
        given = {"teacher": t}
        for key, value in (("baseline_student", b), ("distilled_student", d)):
            given[key] = {"best": value, "low": value * (1 - rel), "high": value * (1 + rel)}  # type: ignore[assignment]
        least, most = b * (1 - rel) - d * (1 + rel), b * (1 + rel) - d * (1 - rel)
        answer = n_star(t, b, d) | {"low": t / most, "high": t / least if least > 0 else "inf"}
        family.valid(name, "4.4", "break_even", given, answer, text, flag)

    band("three-per-cent", "3 % on both students: 10 becomes 7.6 ... 14.6.", "11.00", "6.30", "5.20", "0.03")
    band("one-per-cent", "1 %.", "11.00", "6.30", "5.20", "0.01")
    band(
        "ten-per-cent",
        "10 %: the saving may be nothing, and N* has no upper end.",
        "11.00",
        "6.30",
        "5.20",
        "0.1",
    )
    band(
        "large-student",
        "The same 3 % on the 13B students leave no upper end either.",
        "11.00",
        "33.15",
        "30.05",
        "0.06",
        "RoundedDown",
    )
    return family


def t_star(extra: Fraction | None, ref: Fraction | None, student: Fraction | None) -> Json:
    """Case, exact ratio and whole number of served tokens."""
    nothing: Json = {"case": "undefined", "ratio": None, "whole": None}
    if extra is None or ref is None or student is None or min(ref, student) < 0:
        return nothing
    saving = ref - student
    if extra <= 0:
        return {"case": "always", "ratio": Fraction(0), "whole": 0} if saving >= 0 else nothing
    if saving <= 0:
        return nothing | {"case": "never"}
    return {"case": "finite", "ratio": extra / saving, "whole": math.ceil(extra / saving)}


def _serving() -> Family:
    family = Family("serving", "T*: served tokens after which a costlier training has paid.")

    def add(name: str, text: str, energies: tuple[str | None, str | None, str | None], *flags: str) -> None:
        values = [_known(energy) for energy in energies]
        given = dict(zip(("extra_train_j", "j_ref", "j_student"), values, strict=True))
        family.valid(name, "4.7", "serving_break_even", given, t_star(*values), text, *flags)

    add(
        "paper-formula",
        "9.90 kWh more for training, 4.15 against 0.84 J a token.",
        ("35640000", "4.15", "0.84"),
        "RoundedDown",
    )
    add("whole", "A million tokens exactly.", ("500000", "0.8", "0.3"))
    add("exact", "3 / (1.2 - 0.9) = 10 in decimals.", ("3", "1.2", "0.9"), "BinaryRounding")
    add("dearer-to-serve", "Dearer to train and to serve: never.", ("1000", "0.5", "0.7"), "NegativeN")
    add("same-to-serve", "No saving: never.", ("1000", "0.5", "0.5"), "NegativeN")
    add(
        "cheaper-both",
        "Cheaper to train and to serve: always, after no token.",
        ("-1000", "0.7", "0.5"),
        "NegativeN",
    )
    add("free-training", "No extra cost and no saving: always.", ("0", "0.5", "0.5"), "FreeTeacher")
    add(
        "another-question",
        "Cheaper to train, dearer to serve: the quotient is where it stops to pay. Undefined.",
        ("-1000", "0.5", "0.7"),
        "NegativeN",
    )
    add("unknown", "Unknown serving energy: undefined.", ("1000", None, "0.5"), "UnknownAsZero")
    add("negative-joules", "No token costs less than nothing.", ("1000", "0.5", "-0.1"), "NegativeN")
    add("tiny-saving", "A nanojoule a token.", ("1", "0.000000002", "0.000000001"))
    return family
