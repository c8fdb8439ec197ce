"""An answer for a terminal, and as a record for programs."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence
from typing import Any

from harness.accounting import Interval
from harness.accounting.pareto import Standing
from harness.accounting.rounding import with_ends
from harness.advice.advise import Answer, Option, Question
from harness.advice.choices import Choices
from harness.advice.rules import RULES, UNDECIDED, Sentence, doubtful, energy_text
from harness.text import aligned

MOST_ROWS = 12
"""Options shown; JSON has all."""


def answer_lines(
    given: Choices, question: Question, answer: Answer, said: Sequence[Sentence], width: int = 80
) -> list[str]:
    """Headline, table of options and, where given, what the figures say to each design rule.

    Sentences are wrapped at 80 columns at most, the table is as wide as the terminal allows.
    """
    room, width = width, min(80, width)
    lines = _wrapped(width, f"advice from {given.source}")
    if any(choice.basis == "estimated" for choice in given.choices):
        lines += _wrapped(width, "The energies are estimated, not measured.")
    lines += ["", *_wrapped(width, _headline(given, question, answer)), ""]
    lines += _table(given, question, answer, room)
    for rule, meaning in RULES.items() if said else ():
        lines += ["", *_wrapped(width, f"rule {rule}: {meaning} Here:", "", "  ")]
        for sentence in said:
            if sentence.rule == rule:
                lines += _wrapped(width, sentence.text, "  ", "    ")
    return lines


def _wrapped(width: int, text: str, first: str = "", rest: str = "") -> list[str]:
    return textwrap.wrap(text, width, initial_indent=first, subsequent_indent=rest, break_long_words=False)


def _headline(given: Choices, question: Question, answer: Answer) -> str:
    asked = [f"each teacher's output used {question.reuses} times"] if question.reuses > 1 else ["used once"]
    if question.budget_j is not None:
        asked.insert(0, f"under {energy_text(given, question.budget_j)}")
    words = f"{', '.join(asked)}: "
    words = words[:1].upper() + words[1:]
    best = answer.best
    if best is None:
        cheapest = answer.options[0]
        return f"{words}nothing fits; the cheapest is {cheapest.name} with {_cost(given, cheapest)}."
    said = f"{words}{best.name}, Q {_q(best.quality)} for {_cost(given, best)}."
    if best.fit == "may be over":
        most = energy_text(given, best.absolute.high)
        said += f" With all that the meters may be off it takes up to {most}, more than the budget."
    doubted = [o for o in answer.rivals if doubtful(o.quality, best.quality)]
    if doubted:
        names = ", ".join(o.name for o in doubted[:3])
        more = f" and {len(doubted) - 3} more" if len(doubted) > 3 else ""
        said += f" Whether its Q is higher than that of {names}{more}, {UNDECIDED}"
        said += f"; the cheapest of them is {doubted[0].name}."
    if answer.undecided:
        names = ", ".join(choice.name for choice in answer.undecided)
        said += f" Without figures, and so neither ruled out nor in: {names}."
    return said


def _table(given: Choices, question: Question, answer: Answer, width: int) -> Iterator[str]:
    asked = question.budget_j is not None
    rows = [["option", "energy", "Q", *(["budget"] if asked else []), "stands"]]
    shown = list(zip(answer.options, answer.standings, strict=True))
    if len(shown) > MOST_ROWS:
        shown = [(o, s) for o, s in shown if s.may_be_on_frontier and not s.ties] or shown
    for option, standing in shown[:MOST_ROWS]:
        fit = [option.fit] if asked else []
        rows.append([option.name, _cost(given, option), _q(option.quality), *fit, _stands(standing)])
    yield from aligned(rows, width)
    left = len(answer.options) - min(len(shown), MOST_ROWS)
    if left:
        yield f"({left} more in --json)"


def _stands(standing: Standing) -> str:
    if standing.dominated_by:
        return f"beaten by {standing.dominated_by[0]}"
    if standing.ties:
        return f"a tie with {standing.ties[0]}"
    return "on the frontier"


def _cost(given: Choices, option: Option) -> str:
    cost = option.stated
    if given.unit == "J":
        return with_ends(cost, "J")
    text = energy_text(given, cost.best, cost.low, cost.high)
    if cost.low == cost.high:
        return text
    return f"{text} ({energy_text(given, cost.low)} to {energy_text(given, cost.high)})"


def _q(quality: Interval) -> str:
    if quality.low == quality.high:
        return f"{quality.best:.2f}"
    return f"{quality.best:.3f} ({quality.low:.3f} to {quality.high:.3f})"


def as_json(given: Choices, question: Question, answer: Answer, said: Sequence[Sentence]) -> dict[str, Any]:
    """Everything, for programs; energies in joules."""
    return {
        "kind": "advice/1",
        "source": given.source,
        "question": vars(question),
        "best": None if answer.best is None else answer.best.name,
        "rivals": [option.name for option in answer.rivals],
        "undecided": [{"name": c.name, "unknown": c.unknown} for c in answer.undecided],
        "options": [
            {
                "name": option.name,
                "basis": sorted({choice.basis for choice in option.choices}),
                "energy_j": vars(option.stated),
                "energy_against_budget_j": vars(option.absolute),
                "quality": vars(option.quality),
                "budget": option.fit,
                "dominated_by": list(standing.dominated_by),
                "ties": list(standing.ties),
            }
            for option, standing in zip(answer.options, answer.standings, strict=True)
        ],
        "rules": [vars(sentence) | {"meaning": RULES[sentence.rule]} for sentence in said],
    }
