"""The paper's design rules (arXiv 2605.13981, sections 5 and 6), each said with the figures at hand.

A rule is a question to the data. Where they lack a cell, or the intervals allow both answers, it says that
the data cannot decide, never what the paper found instead.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from harness.accounting import Interval, ParetoPoint, break_even
from harness.accounting.pareto import dominates, dominates_surely
from harness.accounting.rounding import J_PER_KWH, break_even_text, quantity, significant
from harness.accounting.shared_scales import at, ratio
from harness.accounting.totals import lower_bound, roots, row_energy
from harness.advice.choices import Choice, Choices, find, share
from harness.experiments.lineage import stage_rows
from harness.models.shapes import OLMO2
from harness.planning.cards import named_card
from harness.planning.steps import Efficiency, StepWork, decode_step, forward_step

UNDECIDED = "the data cannot decide"

RULES = {
    "one-off": "Used once, a teacher's output costs more than it saves: train directly.",
    "reuse": "Reuse before you regenerate: the teacher's cost is divided by the number of students.",
    "alpha": "Tune alpha before temperature.",
    "prompts": "Cut prompts and their number before you lengthen answers.",
    "smaller-teacher": "A smaller teacher lowers N*.",
    "development": "Count what was tried: failed attempts and sweeps.",
}
"""Id -> what the rule says."""


@dataclass(frozen=True)
class Sentence:
    """What the figures say to a rule.

    Attributes:
        rule: its id.
        text: the sentence, with numbers.
        decided: whether the data decide it.
    """

    rule: str
    text: str
    decided: bool


def sentences(given: Choices) -> list[Sentence]:
    """All rules over the figures at hand, in the order of `RULES`."""
    return [Sentence(rule, *said) for rule, look in _LOOKS.items() for said in look(given)]


Said = tuple[str, bool]
"""A sentence, and whether the data decide it."""


def _pairs(given: Choices) -> Iterator[tuple[Choice, Choice]]:
    """Each distilled student of the grid with direct training of the same size."""
    for choice in given.grid:
        direct = find(given.grid, "sft", choice.size)
        if choice.regime != "sft" and direct is not None:
            yield choice, direct


def _one_off(given: Choices) -> Iterator[Said]:
    for choice, direct in _pairs(given):
        points = [
            ParetoPoint(c.name, at(cost, {}), c.quality, cost)
            for c in (direct, choice)
            if (cost := c.cost()) is not None and c.quality is not None
        ]
        if len(points) < 2:
            lacking = choice if choice.unknown else direct
            yield f"{choice.name}: {UNDECIDED}, {lacking.unknown} of {lacking.name} not known", False
            continue
        theirs, ours = points
        costs = _times(given, choice, direct)
        said = f"{choice.name}: {costs} for {ours.quality.best - theirs.quality.best:+.2f} of Q"
        if dominates_surely(theirs, ours, given.scales):
            yield f"{said}: {direct.name} is better in both", True
        elif dominates(theirs, ours):
            yield f"{said}; that {direct.name} is better in both {UNDECIDED}", False
        elif doubtful(ours.quality, theirs.quality):
            yield f"{said}, a tie in Q: whether it buys anything {UNDECIDED}", False
        else:
            yield f"{said}: neither beats the other", True


def doubtful(one: Interval, other: Interval) -> bool:
    """Whether two figures overlap, and not because both are exact."""
    return one.overlaps(other) and one.half_width + other.half_width > 0


def _times(given: Choices, choice: Choice, direct: Choice) -> str:
    ours, theirs = choice.cost(), direct.cost()
    times = None if ours is None or theirs is None else ratio(ours, theirs, given.scales)
    if times is None:
        return "an unknown multiple of the energy"
    ends = "" if times.low == times.high else f" ({times.low:.2f} to {times.high:.2f})"
    return f"{times.best:.2f}{ends} times the energy of {direct.name}"


def _reuse(given: Choices) -> Iterator[Said]:
    for choice, direct in _pairs(given):
        if choice.student is None or direct.student is None or not choice.teacher:
            yield f"{choice.name}: {UNDECIDED}, the energy of its stages is not known", False
            continue
        even = given.break_even(choice, direct)
        whole = choice.cost()
        part = None if whole is None else ratio(choice.teacher, whole, given.scales)
        teacher = "" if part is None else f"the teacher is {part.best:.0%} of the first student's energy; "
        yield f"{choice.name}: {teacher}N* against {direct.name}: {break_even_text(even)}", even.resolved


def _first_knob(given: Choices, regime: str, first: str, second: str) -> Iterator[Said]:
    """How far each of two settings moves Q and energy while the other stays at its value in the grid."""
    cells = [c for c in given.choices if c.regime == regime and c.unknown is None and c.seed == 0]
    swept = dict.fromkeys(c.size for c in cells if not c.is_default)
    if not swept:
        yield f"{UNDECIDED}: no sweep of {first} and {second} is among the runs", False
    for size in swept:
        base = find([c for c in cells if c.is_default], regime, size)
        if base is None:
            yield f"{size.upper()}: {UNDECIDED}, the cell that the sweeps are around is not there", False
            continue
        lines = {
            name: [c for c in cells if c.size == size and c.setting[other] == base.setting[other]]
            for name, other in ((first, second), (second, first))
        }
        if single := [name for name, line in lines.items() if len(line) < 2]:
            yield f"{base.name}: {UNDECIDED}, {single[0]} was not swept", False
            continue
        moves, doubt = {}, 0.0
        for name, line in lines.items():
            q = [c.quality for c in line if c.quality is not None]
            joules = [at(cost, {}).best for c in line if (cost := c.cost()) is not None]
            moves[name] = max(v.best for v in q) - min(v.best for v in q)
            doubt = max(doubt, *(v.half_width for v in q))
            moves[name + " energy"] = max(joules) - min(joules)
        said = "; ".join(
            f"{name} moves Q by {moves[name]:.3f} and energy by {energy_text(given, moves[name + ' energy'])}"
            for name in (first, second)
        )
        decided = abs(moves[first] - moves[second]) > doubt
        yield f"{base.name}: {said}" + ("" if decided else f"; Q is ±{doubt:.3f}: {UNDECIDED}"), decided


def _smaller_teacher(given: Choices) -> Iterator[Said]:
    if given.unit != "kWh":
        yield f"{UNDECIDED}: one teacher was measured, and pocket models are not planned", False
        return
    card, known = named_card("h100-sxm"), Efficiency()
    for choice, direct in _pairs(given):
        if choice.student is None or direct.student is None or not choice.teacher:
            continue
        big, small = (_teacher_step(choice.regime, size) for size in ("32b", "13b"))
        times = small.seconds(card, known).likely / big.seconds(card, known).likely
        evens = [
            break_even(teacher, direct.student, choice.student, scales=given.scales)
            for teacher in (choice.teacher, share(choice.teacher, times))
        ]
        if evens[0].case != "finite" or given.break_even(choice, direct).withheld:
            continue
        yield (
            f"{choice.name}: planned, not measured: a 13B teacher takes {times:.2f} of the time of the 32B, "
            f"N* {break_even_text(evens[0])} becomes {break_even_text(evens[1])} if the student stayed as "
            f"good, on which {UNDECIDED}",
            False,
        )


def _teacher_step(regime: str, size: str) -> StepWork:
    if regime == "kd":
        return forward_step(OLMO2[size], rows=4, seq_len=1024, labels=3072, cached=True)
    return decode_step(OLMO2[size], rows=32, context=500.0, engine="vllm")


def _development(given: Choices) -> Iterator[Said]:
    """By the logs themselves: what several students share is in one of them and was paid once."""
    if not given.runs:
        yield f"{UNDECIDED}: failed attempts and the energy of sweeps are not published", False
        return
    rows = [(row, extra) for folder, extra in given.runs for row in roots(stage_rows(folder))]
    known = [(row, extra, energy.best) for row, extra in rows if (energy := row_energy(row)) is not None]
    whole = math.fsum(joules for _, _, joules in known)
    if not whole or any(lower_bound(row) for row, _ in rows):
        yield f"{UNDECIDED}: the energy of a part of the runs is unknown", False
        return
    failed = math.fsum(joules for row, _, joules in known if row["status"] != "completed")
    tried = math.fsum(joules for _, extra, joules in known if extra)
    yield (
        f"of {energy_text(given, whole)} in these runs, sweeps and repeats took {tried / whole:.0%} and "
        f"attempts that failed {failed / whole:.0%}; runs in other folders are not counted",
        True,
    )


_LOOKS: dict[str, Callable[[Choices], Iterator[Said]]] = {
    "one-off": _one_off,
    "reuse": _reuse,
    "alpha": lambda given: _first_knob(given, "kd", "alpha", "temperature"),
    "prompts": lambda given: _first_knob(given, "synthetic_sft", "prompts", "max_new_tokens"),
    "smaller-teacher": _smaller_teacher,
    "development": _development,
}


def energy_text(given: Choices, joules: float, low: float | None = None, high: float | None = None) -> str:
    """An energy in the unit of its source."""
    if given.unit == "J":
        return quantity(joules, "J", low, high)
    least, most = (None if end is None else end / J_PER_KWH for end in (low, high))
    return f"{significant(joules / J_PER_KWH, least, most)} kWh"
