"""The pocket profile's data: three procedural task families with answers that can be checked.

| family | mirrors | what it asks |
|---|---|---|
| instructions | TULU-3 SFT mixture | short commands on words: repeat, reverse, sort, count, ... |
| arithmetic | OpenR1-Math-220k | word problems of one to four additions and subtractions, solved in steps |
| programs | codeforces-cots | straight-line programs on digits, traced line by line |

Example i of (family, split, seed) is drawn from its own generator, so a set of any size begins with every
smaller one. A problem belongs to the split its text hashes to: no problem is in two splits, whatever the
seeds and sizes. Responses end in their answer, after "Answer: " where they show their steps.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

from harness.errors import KitError

Split = Literal["train", "validation", "eval"]
FAMILIES = ("instructions", "arithmetic", "programs")

# Of 20 slots of the hash: 16 train, 2 validation, 2 eval.
_SLOTS: dict[Split, range] = {"train": range(16), "validation": range(16, 18), "eval": range(18, 20)}
_TRIES = 200

WORDS = (
    *("bird", "door", "fish", "hat", "jar", "kite", "lamp", "moon"),
    *("nest", "oak", "pear", "rose", "ship", "tree", "vase", "wolf"),
)
NAMES = ("Ada", "Ben", "Cleo", "Dan", "Eve", "Finn", "Gus", "Hana")
THINGS = ("apples", "books", "coins", "eggs", "keys", "nuts", "pens", "shells")
GAINS = ("buys", "finds", "gets")
LOSSES = ("loses", "sells", "lends")


@dataclass(frozen=True)
class Turn:
    """One question with its full response and the answer a checker looks for."""

    prompt: str
    response: str
    answer: str


def examples(family: str, split: Split, count: int, seed: int, start: int = 0) -> Iterator[dict[str, Any]]:
    """Examples start, start + 1, ... of a family and split in the Examples format.

    Args:
        family: One of FAMILIES.
        split: "train", "validation" or "eval"; disjoint whatever the other arguments are.
        count: How many.
        seed: Which endless sequence to take them from.
        start: Index of the first one.

    Raises:
        KitError: An unknown family or split.
    """
    if family not in _MAKERS or split not in _SLOTS:
        raise KitError(
            f"no pocket task {family!r}, split {split!r}",
            expected=f"one of {', '.join(FAMILIES)}; train, validation or eval",
        )
    for index in range(start, start + count):
        source = random.Random(f"{seed}/{family}/{split}/{index}")
        turns = [_turn_of_split(family, split, source)]
        if family == "instructions" and source.random() < 0.15:
            turns.append(_turn_of_split(family, split, source))
        messages = []
        for turn in turns:
            messages.append({"role": "user", "content": turn.prompt})
            messages.append({"role": "assistant", "content": turn.response})
        yield {
            "id": f"{family}-{split}-{seed}-{index}",
            "task": family,
            "messages": messages,
            "answer": turns[-1].answer,
        }


def extract_answer(response: str) -> str:
    """What a response answers: the text after its last "Answer: ", or all of it where there is none."""
    return response.rpartition("Answer: ")[2].strip()


def is_correct(response: str, answer: str) -> bool:
    """Whether a response's answer is exactly the expected one."""
    return extract_answer(response) == answer


def split_of(prompt: str) -> Split:
    """The one split that a problem belongs to."""
    slot = int.from_bytes(hashlib.sha256(prompt.encode()).digest()[:4], "little") % 20
    return next(name for name, slots in _SLOTS.items() if slot in slots)


def _turn_of_split(family: str, split: Split, source: random.Random) -> Turn:
    for _ in range(_TRIES):
        turn = _MAKERS[family](source)
        if split_of(turn.prompt) == split:
            return turn
    raise AssertionError(f"{_TRIES} draws without a problem of {split}: chance below 1e-9")


def _instructions(source: random.Random) -> Turn:
    words = source.sample(WORDS, source.choice((1, 2, 2, 2, 3, 3, 3, 4)))
    listed = " ".join(words)
    kind = source.choice(tuple(COMMANDS))
    command, solve = COMMANDS[kind]
    answer = solve(words)
    return Turn(f"{command}: {listed}", answer, answer)


COMMANDS: dict[str, tuple[str, Callable[[list[str]], str]]] = {
    "repeat": ("Repeat the words", " ".join),
    "reverse": ("Reverse the words", lambda words: " ".join(reversed(words))),
    "sort": ("Sort the words", lambda words: " ".join(sorted(words))),
    "capitals": ("Write in capitals", lambda words: " ".join(words).upper()),
    "first": ("Name the first word", lambda words: words[0]),
    "last": ("Name the last word", lambda words: words[-1]),
    "count": ("Count the words", lambda words: str(len(words))),
    "double": ("Say every word twice", lambda words: " ".join(word for word in words for _ in range(2))),
}


def _arithmetic(source: random.Random) -> Turn:
    thing = source.choice(THINGS)
    total = source.randint(0, 9)
    story = [f"{source.choice(NAMES)} has {total} {thing}"]
    steps = []
    for _ in range(source.choice((1, 1, 2, 2, 3))):
        change = _change(total, source)
        verb = source.choice(GAINS if change > 0 else LOSSES)
        story.append(f"{verb} {abs(change)}")
        steps.append(f"{total}{change:+d}={total + change}")
        total += change
    return Turn(f"{', '.join(story)}. How many {thing}?", f"{' '.join(steps)} Answer: {total}", str(total))


def _programs(source: random.Random) -> Turn:
    values: dict[str, int] = {}
    lines, trace = [], []
    for number in range(source.choice((2, 2, 3, 3, 4))):
        # Mostly a new variable; now and then an old one gets another value.
        target = source.choice(sorted(values)) if values and source.random() < 0.15 else "abcd"[len(values)]
        if number == 0 or source.random() < 0.3:
            value = source.randint(0, 9)
            lines.append(f"{target}={value}")
        else:
            name = source.choice(sorted(values))
            change = _change(values[name], source)
            value = values[name] + change
            lines.append(f"{target}={name}{change:+d}")
        values[target] = value
        trace.append(f"{target}={value}")
    asked = source.choice(sorted(values))
    answer = f"{asked}={values[asked]}"
    return Turn(f"Run: {'; '.join(lines)}; print {asked}", f"{' '.join(trace)} Answer: {answer}", answer)


def _change(value: int, source: random.Random) -> int:
    """A number to add or take away, other than 0, that keeps a digit a digit."""
    return source.choice([change for change in range(-value, 10 - value) if change])


_MAKERS: dict[str, Callable[[random.Random], Turn]] = {
    "instructions": _instructions,
    "arithmetic": _arithmetic,
    "programs": _programs,
}
