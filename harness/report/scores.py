"""What stands beside the energy: scores with Q, and the idle baseline. Neither enters a total."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from harness.accounting import UNATTRIBUTED, Interval
from harness.accounting.interval import total as interval_total
from harness.accounting.quality import Measured, Quality, quality
from harness.accounting.totals import roots, row_energy

Row = Mapping[str, Any]

HELD_OUT = "heldout"
"""Suite of held-out losses, which enter no Q (4.8): more is worse, and a ratio of nats is no quality."""

_KEY = ("benchmark", "metric", "filter")


@dataclass(frozen=True)
class SuiteScores:
    """Scores of one suite, each of the last stage that reported it.

    Attributes:
        student: rows of evals, by name of the benchmark.
        teacher: the same for the teacher; empty where nothing was compared.
        quality: Q over all benchmarks of either side; None without a teacher, or of held-out losses. A
            teacher at the lowest score there can be counts as one at its floor: the log holds no other.
    """

    suite: str
    student: Mapping[str, Row]
    teacher: Mapping[str, Row]
    quality: Quality | None


@dataclass(frozen=True)
class Baseline:
    """Energy above idle, which no total, ratio or rank is formed from (2.6).

    Attributes:
        power_w: mean power of the idle stages, watts: GPU, CPU and DRAM as far as known.
        above: the run's energy less that power over all of its time.
        duration_us: length of all idle stages.
        short: whether one of them is shorter than the protocol wants.
        both_ends: whether idle time was measured before and after the other stages.
    """

    power_w: Interval
    above: Interval
    duration_us: int
    short: bool
    both_ends: bool


@dataclass(frozen=True)
class _Scale:
    name: str
    floor: float


def suite_scores(evals: Sequence[Row]) -> list[SuiteScores]:
    """Scores by suite, in the order of their stages.

    Args:
        evals: rows of evals.
    """
    found = []
    for suite in dict.fromkeys(row["suite"] for row in evals):
        rows = [row for row in evals if row["suite"] == suite]
        # A suite may be scored in several stages; Q is over all of its benchmarks, whichever stage gave each.
        rows.sort(key=lambda row: row["stage_uid"])
        sides = {
            subject: {_name(row, rows): row for row in rows if row["subject"] == subject}
            for subject in ("student", "teacher")
        }
        judged = sides["teacher"] and suite != HELD_OUT
        q = _quality(sides["student"], sides["teacher"]) if judged else None
        found.append(SuiteScores(str(suite), sides["student"], sides["teacher"], q))
    return found


def _name(row: Row, rows: Sequence[Row]) -> str:
    """The benchmark's name, with its metric and filter where the name alone is not unique."""
    keys = {tuple(other[part] for part in _KEY) for other in rows}
    alike = [key for key in keys if key[0] == row["benchmark"]]
    return str(row["benchmark"]) if len(alike) == 1 else " ".join(str(row[part]) for part in _KEY)


def _quality(student: Mapping[str, Row], teacher: Mapping[str, Row]) -> Quality:
    def measured(side: Mapping[str, Row], other: Mapping[str, Row]) -> dict[str, Measured]:
        return {
            name: Measured(row["score"], row["stderr"])
            for name, row in side.items()
            if row["n_scored"] == row["n_items"] and _same_items(row, other.get(name))
        }

    names = {**student, **teacher}
    suite = [_Scale(name, float(row["score_min"])) for name, row in names.items()]
    return quality(measured(student, teacher), measured(teacher, student), suite)


def _same_items(row: Row, other: Row | None) -> bool:
    if other is None or row["items_sha256"] is None or other["items_sha256"] is None:
        return True
    return bool(row["items_sha256"] == other["items_sha256"])


def idle_baseline(rows: Sequence[Row], idle_min_us: int | None, idle_kinds: Sequence[str]) -> Baseline | None:
    """Mean idle power, and the energy above it; None where no idle stage was measured.

    Args:
        rows: rows of stages, unattributed ones included.
        idle_min_us: length the protocol wants of an idle stage.
        idle_kinds: kinds of stages that are a wait.
    """
    top = [(row, row_energy(row)) for row in roots(rows)]
    idle = [(row, energy) for row, energy in top if row["stage"] in idle_kinds and energy is not None]
    known = [(row, energy) for row, energy in top if energy is not None]
    lengths = [row["mono_end_us"] - row["mono_start_us"] for row, _ in idle]
    if sum(lengths) <= 0:
        return None
    power = interval_total([energy for _, energy in idle]).scale(1e6 / sum(lengths))
    # A hole of a device beside a stage on others takes no time of its own: idle power is the whole machine's.
    alone = [row for row, _ in known if "outside_device_list" not in row.get("flags", ())]
    seconds = sum(row["mono_end_us"] - row["mono_start_us"] for row in alone) / 1e6
    order = sorted(
        (row for row, _ in top if row["stage"] != UNATTRIBUTED),
        key=lambda row: (row["session"], row["mono_start_us"]),
    )
    return Baseline(
        power,
        interval_total([energy for _, energy in known]) - power.scale(seconds),
        sum(lengths),
        min(lengths) < (idle_min_us or 0),
        len(order) > 1 and {order[0]["stage"], order[-1]["stage"]} <= {*idle_kinds},
    )


def score_lines(suites: Sequence[SuiteScores]) -> list[tuple[str, str]]:
    """(name, figures) for the summary of a report."""
    lines = []
    for suite in suites:
        for number, (name, row) in enumerate(suite.student.items()):
            error = "" if row["stderr"] is None else f" ± {row['stderr']:.2g}"
            unit = {"percent": " %", "nats": " nats", "rating_1_10": " of 10"}.get(row["score_unit"], "")
            lost = f", {row['n_unparsed']} of {row['n_items']} not scored" if row["n_unparsed"] else ""
            other = suite.teacher.get(name)
            teacher = "" if other is None else f" (teacher {other['score']:.4g})"
            shown = f"{name} {row['metric']} {row['score']:.4g}{error}{unit}{teacher}{lost}"
            lines.append((suite.suite if number == 0 else "", shown))
        if suite.quality is not None:
            lines.append((f"Q {suite.suite}", _quality_text(suite.quality)))
    return lines


def _quality_text(found: Quality) -> str:
    if found.q is None:
        return f"undefined: {found.reason}"
    text = f"{found.q:.3f}"
    if found.interval is not None:
        text += f" ({found.interval.low:.3f} to {found.interval.high:.3f})"
    text += f" over {len(found.ratios)} benchmarks" if len(found.ratios) != 1 else " over 1 benchmark"
    if found.geometric_mean is not None:
        text += f", geometric mean {found.geometric_mean:.3f}"
    if found.leave_one_out is not None:
        text += f", {found.leave_one_out[0]:.3f} to {found.leave_one_out[1]:.3f} with one left out"
    return text


def as_dicts(suites: Sequence[SuiteScores], baseline: Baseline | None) -> dict[str, Any]:
    """Members of the report's JSON."""
    listed = [
        {
            "suite": suite.suite,
            "student": [dict(row) for row in suite.student.values()],
            "teacher": [dict(row) for row in suite.teacher.values()],
            "q": suite.quality and suite.quality.q,
            "q_low": suite.quality and suite.quality.interval and suite.quality.interval.low,
            "q_high": suite.quality and suite.quality.interval and suite.quality.interval.high,
            "q_reason": suite.quality and suite.quality.reason,
        }
        for suite in suites
    ]
    if baseline is None:
        return {"scores": listed, "idle_baseline": None}
    power, above = baseline.power_w, baseline.above
    figures: dict[str, Any] = {"duration_us": baseline.duration_us}
    figures |= {"short": baseline.short, "both_ends": baseline.both_ends}
    for name, value in (("power_w", power), ("energy_above_idle_j", above)):
        figures |= {name: value.best, f"{name}_low": value.low, f"{name}_high": value.high}
    return {"scores": listed, "idle_baseline": figures}
