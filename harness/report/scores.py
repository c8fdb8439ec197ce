"""What stands beside the energy: scores with Q, and the idle baseline. Neither enters a total."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

from harness.accounting import UNATTRIBUTED, Interval
from harness.accounting.interval import total as interval_total
from harness.accounting.item_scores import ItemScores, PairedQuality, paired_quality
from harness.accounting.quality import Z95, Measured, Quality, quality
from harness.accounting.totals import roots, row_energy
from harness.bundle.reader import event_detail
from harness.errors import KitError

if TYPE_CHECKING:
    from harness.evaluation.suites import Suite

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
        quality: Q over the benchmarks of the suite by its file; of a suite that has none here over all
            benchmarks of either side, and a teacher at the lowest score there can be counts as one at its
            floor. None without a teacher, or of held-out losses.
        items: scores of the student's items by name of the benchmark, of those that Q is over.
        first_preferred: by benchmark, what its judge gave whichever of two answers it saw first; 0.5 without
            a bias of place.
    """

    suite: str
    student: Mapping[str, Row]
    teacher: Mapping[str, Row]
    quality: Quality | None
    items: Mapping[str, ItemScores] = field(default_factory=dict)
    first_preferred: Mapping[str, float] = field(default_factory=dict)

    @property
    def judges(self) -> list[str]:
        """judge_id of whoever judged the student."""
        return list(dict.fromkeys(str(row["judge_id"]) for row in self.student.values() if row["judge_id"]))


class Baseline(NamedTuple):
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


class _Scale(NamedTuple):
    name: str
    floor: float


def suite_scores(
    evals: Sequence[Row], items: Sequence[Row] = (), events: Sequence[Row] = ()
) -> list[SuiteScores]:
    """Scores by suite, in the order of their stages.

    Args:
        evals: rows of evals.
        items: rows of eval_items.
        events: rows of events.
    """
    found = []
    places = {
        (event["stage_uid"], str(told.get("benchmark"))): float(told["first_preferred"])
        for event in events
        if event["kind"] == "stage_event" and "judge_of_pairs" in str(event["detail"])
        for told in [event_detail(event).get("report")]
        if isinstance(told, dict) and isinstance(told.get("first_preferred"), int | float)
    }
    for suite in dict.fromkeys(row["suite"] for row in evals):
        rows = [row for row in evals if row["suite"] == suite]
        # A suite may be scored in several stages; Q is over all of its benchmarks, whichever stage gave each.
        rows.sort(key=lambda row: row["stage_uid"])
        sides = {
            subject: {_name(row, rows): row for row in rows if row["subject"] == subject}
            for subject in ("student", "teacher")
        }
        judged = sides["teacher"] and suite != HELD_OUT
        scales = _scales(str(suite), sides["student"], sides["teacher"])
        q = _quality(sides["student"], sides["teacher"], scales) if judged else None
        own = {scale.name: sides["student"].get(scale.name) for scale in scales}
        listed = {name: _items_of(row, items) for name, row in own.items() if row is not None}
        place = {name: p for (uid, name), p in places.items() if any(row["stage_uid"] == uid for row in rows)}
        found.append(SuiteScores(str(suite), sides["student"], sides["teacher"], q, listed, place))
    return found


def _scales(suite: str, student: Mapping[str, Row], teacher: Mapping[str, Row]) -> list[_Scale]:
    """What Q is over: by the suite's file, else every benchmark of either side."""
    names = {**student, **teacher}
    known = _definition(suite)
    if known is None:
        return [_Scale(name, float(row["score_min"])) for name, row in names.items()]
    scales = []
    for benchmark in known.benchmarks:
        key = (benchmark.name, benchmark.metric, benchmark.filter)
        alike = [name for name, row in names.items() if tuple(row[part] for part in _KEY) == key]
        scales.append(_Scale(alike[0] if alike else benchmark.name, benchmark.floor))
    return scales


def _definition(suite: str) -> Suite | None:
    """The suite's file; None where the name is not one of its digests, or a part of its items was asked."""
    if "@" not in suite:
        return None
    from harness.evaluation.suites import suite_named

    try:
        return suite_named(suite)
    except KitError:
        return None


def _items_of(row: Row, items: Sequence[Row]) -> ItemScores:
    named = ("stage_uid", "subject", *_KEY)
    mine = [item for item in items if all(item[part] == row[part] for part in named)]
    mine.sort(key=lambda item: int(item["item"]))
    groups = [item.get("group") for item in mine]
    return ItemScores(
        [item["score"] for item in mine],
        groups if any(groups) else (),
        "group_mean" if row["aggregation"] == "group_mean" else "mean",
    )


def paired(ours: SuiteScores, theirs: SuiteScores) -> PairedQuality | None:
    """Q of one run's student less that of another's, item by item; None where they were not asked the same.

    Both must have been compared with one teacher: the same scores of the same model.
    """
    if ours.suite != theirs.suite or ours.items.keys() != theirs.items.keys() or not ours.items:
        return None
    taught = {}
    for name in ours.items:
        rows = [side.get(name) for run in (ours, theirs) for side in (run.student, run.teacher)]
        if any(row is None for row in rows):
            return None
        mine, teacher, other, again = (row for row in rows if row is not None)
        alike = [
            (row["items_sha256"], row["judge_id"], row["score_unit"]) for row in (mine, teacher, other, again)
        ]
        if len(set(alike)) > 1 or mine["items_sha256"] is None:
            return None
        if (teacher["score"], teacher["model_sha256"]) != (again["score"], again["model_sha256"]):
            return None
        taught[name] = float(teacher["score"])
    return paired_quality(ours.items, theirs.items, taught)


def _name(row: Row, rows: Sequence[Row]) -> str:
    """The benchmark's name, with its metric and filter where the name alone is not unique."""
    keys = {tuple(other[part] for part in _KEY) for other in rows}
    alike = [key for key in keys if key[0] == row["benchmark"]]
    parts = [str(row[part]) for part in _KEY if (part, row[part]) != ("filter", "none")]
    return str(row["benchmark"]) if len(alike) == 1 else " ".join(parts)


def _quality(student: Mapping[str, Row], teacher: Mapping[str, Row], suite: Sequence[_Scale]) -> Quality:
    def measured(side: Mapping[str, Row], other: Mapping[str, Row]) -> dict[str, Measured]:
        return {
            name: Measured(row["score"], row["stderr"])
            for name, row in side.items()
            if row["n_scored"] == row["n_items"] and _same_items(row, other.get(name))
        }

    over = {scale.name for scale in suite}
    sides = measured(student, teacher), measured(teacher, student)
    ours, theirs = ({name: score for name, score in side.items() if name in over} for side in sides)
    return quality(ours, theirs, suite)


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
            error = "" if row["stderr"] is None else f" ± {Z95 * row['stderr']:.2g}"
            unit = {"percent": " %", "nats": " nats", "rating_1_10": " of 10"}.get(row["score_unit"], "")
            lost = f", {row['n_unparsed']} of {row['n_items']} not scored" if row["n_unparsed"] else ""
            other = suite.teacher.get(name)
            teacher = "" if other is None else f" (teacher {other['score']:.4g})"
            metric = "" if name != row["benchmark"] else f" {row['metric']}"
            shown = f"{name}{metric} {row['score']:.4g}{error}{unit}{teacher}{lost}"
            lines.append((suite.suite if number == 0 else "", shown))
        if suite.judges:
            from harness.evaluation.judge_check import published

            lines += [("judge", f"{judge}: {published(judge)}") for judge in suite.judges]
        for name, place in suite.first_preferred.items():
            lines.append(("judge", f"{name}: gives what it sees first {place:.2f} (no bias of place: 0.5)"))
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
            "judges": suite.judges,
            "first_preferred": dict(suite.first_preferred),
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
