"""Items of the pocket suite: five kinds of benchmark over the tasks that the pocket models learn.

They are problems of the "eval" split, which no training or validation set holds. A kind and a seed give an
endless sequence; a suite takes the first of it.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any

from harness.distill.pocket_tasks import COMMANDS, FAMILIES, examples
from harness.errors import KitError
from harness.evaluation.items import Item

CHOICES = 4
TURNS = (2, 3)


def make_items(kind: str, count: int, seed: int) -> list[Item]:
    """The first items of a kind.

    Raises:
        KitError: No such kind.
    """
    if kind not in KINDS:
        raise KitError(f"no pocket items {kind!r}", expected=f"one of {', '.join(KINDS)}")
    return list(islice(KINDS[kind](seed), count))


def _problems(family: str, seed: int) -> Iterator[tuple[str, str, str]]:
    """(question, whole answer, what is graded) without end; of a conversation the first question."""
    start = 0
    while True:
        for example in examples(family, "eval", 32, seed, start):
            asked, told = example["messages"][:2]
            answer = told["content"].rpartition("Answer: ")[2]
            yield asked["content"], told["content"], answer
        start += 32


def _arithmetic(seed: int) -> Iterator[Item]:
    for number, (question, _, answer) in enumerate(_problems("arithmetic", seed)):
        yield Item(f"arithmetic/{number}", {"question": question, "answer": answer})


def _instructions(seed: int) -> Iterator[Item]:
    for number, (prompt, _, answer) in enumerate(_problems("instructions", seed)):
        yield Item(f"instructions/{number}", {"prompt": prompt, "answer": answer})


def _choices(seed: int) -> Iterator[Item]:
    sources = {family: _problems(family, seed) for family in FAMILIES}
    number = 0
    while True:
        for family, source in sources.items():
            question, told, answer = next(source)
            wrong = _wrong(family, question, told, answer)
            if len(wrong) < CHOICES - 1:
                continue
            draw = random.Random(f"{seed}/choices/{question}")
            choices = [told, *draw.sample(wrong, CHOICES - 1)]
            draw.shuffle(choices)
            content: dict[str, Any] = {
                "question": question,
                "choices": choices,
                "answer": choices.index(told),
            }
            yield Item(f"choices/{number}", content)
            number += 1


def _wrong(family: str, question: str, told: str, answer: str) -> list[str]:
    """Answers that look like the right one: another command's, or another digit at the end."""
    if family == "instructions":
        words = question.partition(": ")[2].split()
        others = {solve(words) for _, solve in COMMANDS.values()}
        return sorted(others - {told})
    steps = told[: -len(answer)]
    head, digit = answer[:-1], int(answer[-1])
    return [f"{steps}{head}{(digit + gap) % 10}" for gap in range(1, 10)]


def _pairs(seed: int) -> Iterator[Item]:
    """Instructions with a baseline: every other one right, the rest another problem's answer."""
    sources = [_problems(family, seed) for family in FAMILIES]
    number = 0
    while True:
        for family, source in zip(FAMILIES, sources, strict=True):
            question, told, _ = next(source)
            _, other, _ = next(source)
            content = {
                "dataset": family,
                "instruction": question,
                "output": told if number % 2 == 0 else other,
                "generator": "pocket-baseline",
            }
            yield Item(f"pairs/{number}", content)
            number += 1


def _dialogues(seed: int) -> Iterator[Item]:
    """Two or three questions of one family in a dialogue, answered rightly; the family is the task."""
    sources = {family: _problems(family, seed) for family in FAMILIES}
    number = 0
    while True:
        for family, source in sources.items():
            history = []
            for _ in range(TURNS[number % len(TURNS)]):
                question, told, _ = next(source)
                history.append({"user": question, "bot": told})
            yield Item(f"dialogues/{number}", {"task": family, "id": number, "history": history}, family)
            number += 1


KINDS: dict[str, Callable[[int], Iterator[Item]]] = {
    "arithmetic": _arithmetic,
    "choices": _choices,
    "instructions": _instructions,
    "pairs": _pairs,
    "dialogues": _dialogues,
}
