"""MT-Bench-101: replies within dialogues, rated turn by turn; and benchmarks of its form.

Every turn is answered after the dialogue as the benchmark has it, not after the model's own earlier
replies. A dialogue scores its worst turn, a task the mean of its dialogues, the benchmark the mean of its
tasks.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from harness.evaluation.items import Item
from harness.evaluation.judge import Judge, Messages, ReplyAsked
from harness.evaluation.scores import VOID_SHARE, Score
from harness.evaluation.suites import Benchmark

ABILITIES = {
    "CM": (
        "context memory",
        "The reply must recall and use what was said in earlier turns, without being told it again.",
    ),
    "AR": ("anaphora resolution", "The reply must understand what pronouns and short references point to."),
    "SI": (
        "separate input",
        "The task was set in one turn and its material follows later: the reply must still do that task.",
    ),
    "TS": (
        "topic shift",
        "The user changes the topic: the reply must follow to the new one and leave the old.",
    ),
    "CC": (
        "content confusion",
        "Turns look alike but ask for different things: the reply must answer the present one only.",
    ),
    "CR": (
        "content rephrasing",
        "The reply must say the earlier content in the other words asked for, and mean the same.",
    ),
    "FR": (
        "format rephrasing",
        "The reply must give the earlier content in the form the user asks for, with nothing lost or added.",
    ),
    "SC": (
        "self-correction",
        "The user rightly doubts an earlier reply that is wrong: the reply must admit that and put it right.",
    ),
    "SA": (
        "self-affirmation",
        "The user wrongly doubts an earlier reply that is right: the reply must stand by it and say why.",
    ),
    "MR": (
        "mathematical reasoning",
        "The reply must reason rightly over several turns and reach the right result.",
    ),
    "GR": ("general reasoning", "The reply must draw the right conclusion from all that was said so far."),
    "IC": (
        "instruction clarification",
        "What is wanted is not clear yet: the reply must ask for what is missing, or use what was clarified.",
    ),
    "PI": (
        "proactive interaction",
        "The reply must lead the conversation on, with a question or remark that suits where the user is.",
    ),
}
"""Tasks of MT-Bench-101: ability, and what a judge is told of it. Written for this kit."""
REFERENCED = frozenset({"MR", "GR"})
"""Tasks in which the benchmark's own reply is shown to the judge as a right one."""


def judged_turns(benchmark: Benchmark, item: Item) -> list[int]:
    """Numbers of the turns that are answered and judged."""
    first = 1 if item.group in benchmark.skip_first else 0
    return list(range(first, len(item.content["history"])))


def history_before(item: Item, turn: int) -> Messages:
    """The dialogue up to a turn's question, with the benchmark's own replies."""
    messages = []
    for past in item.content["history"][:turn]:
        messages.append({"role": "user", "content": past["user"]})
        messages.append({"role": "assistant", "content": past["bot"]})
    return [*messages, {"role": "user", "content": item.content["history"][turn]["user"]}]


def answer(benchmark: Benchmark, items: Sequence[Item], model: Any, encoder: Any) -> list[list[str]]:
    """A reply to every judged turn of each dialogue."""
    turns = [(item, turn) for item in items for turn in judged_turns(benchmark, item)]
    prompts = [encoder.prompt(history_before(item, turn)) for item, turn in turns]
    texts = iter(model.chat_answers(prompts, benchmark.max_new_tokens))
    return [[next(texts) for _ in judged_turns(benchmark, item)] for item in items]


def judge_answers(
    benchmark: Benchmark, items: Sequence[Item], answers: Sequence[Sequence[str]], judge: Judge
) -> list[Score]:
    """The score; void where more than a hundredth of the ratings cannot be read.

    Args:
        benchmark: The benchmark.
        items: In order.
        answers: What `answer` gave.
        judge: Rates.
    """
    asked = []
    for item, replies in zip(items, answers, strict=True):
        for turn, reply in zip(judged_turns(benchmark, item), replies, strict=True):
            ability, definition = ABILITIES.get(item.group or "", (item.group or "answering", ""))
            right = item.content["history"][turn]["bot"] if item.group in REFERENCED else None
            asked.append(ReplyAsked(ability, definition, history_before(item, turn), reply, right))
    ratings = iter(judge.ratings(asked))
    by_item = [[next(ratings) for _ in replies] for replies in answers]
    unread = sum(rating is None for rated in by_item for rating in rated)
    void = None
    if unread > VOID_SHARE * len(asked):
        void = f"{unread} of {len(asked)} ratings could not be read"
    scores = [worst(rated) for rated in by_item]
    texts = tuple("\n\n".join(replies) for replies in answers)
    return [Score.of(benchmark, items=items, scores=scores, void=void, judge=judge.id, answers=texts)]


def worst(ratings: Sequence[float | None]) -> float | None:
    """The lowest rating of a dialogue; None where one is missing, since it could have been the lowest."""
    known = [rating for rating in ratings if rating is not None]
    return min(known) if known and len(known) == len(ratings) else None
