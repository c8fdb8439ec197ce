"""The procedural tasks: right answers, splits apart, endless and stable."""

from __future__ import annotations

import itertools
import re

import pytest

from harness.distill.pocket_tasks import FAMILIES, examples, extract_answer, is_correct, split_of
from harness.errors import KitError

SPLITS = ("train", "validation", "eval")


def solve(task: str, prompt: str) -> str:
    """An independent reading of the question."""
    if task == "arithmetic":
        total = 0
        for verb, number in re.findall(r"(has|buys|finds|gets|loses|sells|lends) (\d+)", prompt):
            total += -int(number) if verb in ("loses", "sells", "lends") else int(number)
        return str(total)
    if task == "programs":
        values: dict[str, int] = {}
        *lines, asked = prompt.removeprefix("Run: ").split("; ")
        for line in lines:
            name, _, expression = line.partition("=")
            values[name] = eval(expression, {}, values)
        name = asked.removeprefix("print ")
        return f"{name}={values[name]}"
    command, _, rest = prompt.partition(": ")
    words = rest.split(" ")
    return {
        "Repeat the words": rest,
        "Reverse the words": " ".join(words[::-1]),
        "Sort the words": " ".join(sorted(words)),
        "Write in capitals": rest.upper(),
        "Name the first word": words[0],
        "Name the last word": words[-1],
        "Count the words": str(len(words)),
        "Say every word twice": " ".join(f"{word} {word}" for word in words),
    }[command]


@pytest.mark.parametrize("family", FAMILIES)
def test_every_answer_is_right_and_found_in_its_response(family: str) -> None:
    kinds = set()
    for example in examples(family, "train", 400, seed=1):
        assert example["task"] == family
        prompts = [message["content"] for message in example["messages"][0::2]]
        responses = [message["content"] for message in example["messages"][1::2]]
        assert [message["role"] for message in example["messages"]] == ["user", "assistant"] * len(prompts)
        for prompt, response in zip(prompts, responses, strict=True):
            assert extract_answer(response) == solve(family, prompt)
            kinds.add(prompt.partition(":")[0] if family == "instructions" else len(prompt) // 12)
        assert extract_answer(responses[-1]) == example["answer"]
        assert is_correct(responses[-1] + "\n", example["answer"])
        assert not is_correct(responses[-1] + "0", example["answer"])
    assert len(kinds) == 8 if family == "instructions" else len(kinds) >= 3


def test_steps_are_shown_and_right() -> None:
    for example in examples("arithmetic", "train", 200, seed=2):
        steps = example["messages"][1]["content"].partition(" Answer")[0].split(" ")
        for step in steps:
            left, _, right = step.partition("=")
            assert 0 <= eval(left) == int(right) <= 9
        for before, after in itertools.pairwise(steps):
            assert before.partition("=")[2] == re.match(r"\d+", after)[0]  # type: ignore[index]


def test_no_problem_is_in_two_splits_whatever_the_seeds() -> None:
    seen: dict[str, str] = {}
    for family, split, seed in itertools.product(FAMILIES, SPLITS, (0, 7)):
        for example in examples(family, split, 300, seed):  # type: ignore[arg-type]
            for message in example["messages"][0::2]:
                assert split_of(message["content"]) == split
                assert seen.setdefault(message["content"], split) == split


def test_a_set_begins_with_every_smaller_one_and_seeds_differ() -> None:
    large = list(examples("programs", "train", 50, 3))
    assert list(examples("programs", "train", 20, 3)) == large[:20]
    assert list(examples("programs", "train", 20, 3, start=30)) == large[30:]
    assert len({example["id"] for example in large}) == 50
    other = [example["messages"] for example in examples("programs", "train", 50, 4)]
    assert sum(example["messages"] in other for example in large) < 10


def test_some_conversations_have_two_turns() -> None:
    turns = [len(example["messages"]) for example in examples("instructions", "train", 300, 0)]
    assert 0.05 < turns.count(4) / 300 < 0.3 and set(turns) == {2, 4}


def test_an_unknown_family_is_refused() -> None:
    with pytest.raises(KitError, match="no pocket task 'poems'"):
        list(examples("poems", "train", 1, 0))
