"""AlpacaEval 2: a model's answers against a baseline's, one instruction a pair; and benchmarks of its form.

An item is an instruction with the baseline's answer. The score is the mean probability that the judge
prefers the model's answer.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from harness.distill.reporting import report_event
from harness.errors import KitError
from harness.evaluation import length_control
from harness.evaluation.items import Item
from harness.evaluation.judge import Judge, PairAsked
from harness.evaluation.scores import VOID_SHARE, Score
from harness.evaluation.suites import Benchmark

WHOLE = 805
"""Items of AlpacaEval; the length control is of all of them."""


def answer(benchmark: Benchmark, items: Sequence[Item], model: Any, encoder: Any) -> list[list[str]]:
    """One answer to each item's instruction."""
    prompts = [encoder.prompt([{"role": "user", "content": item.content["instruction"]}]) for item in items]
    return [[text] for text in model.chat_answers(prompts, benchmark.max_new_tokens)]


def judge_answers(
    benchmark: Benchmark,
    items: Sequence[Item],
    answers: Sequence[Sequence[str]],
    judge: Judge,
    data: Path | None,
) -> list[Score]:
    """Win rate in percent, and where it can be had the one at equal lengths.

    Args:
        benchmark: The benchmark.
        items: In order.
        answers: What `answer` gave.
        judge: Compares.
        data: Folder of benchmarks, for instructions' difficulties.
    """
    spec = judge.spec
    pairs, orders = [], []
    for item, said in zip(items, answers, strict=True):
        shown = (True, False) if spec.orders == "both" else (shown_first(item, spec.seed),)
        orders.append(len(shown))
        pairs += [
            PairAsked(item.content["instruction"], said[0], item.content["output"], first) for first in shown
        ]
    judged = judge.preferences(pairs)
    place = None if spec.method == "likelihood" else first_preferred(pairs, judged)
    report_event("judge_of_pairs", benchmark=benchmark.name, judge=judge.id, first_preferred=place)
    rest = iter(judged)
    shares = [_mean([next(rest) for _ in range(count)]) for count in orders]
    scores = [None if share is None else 100.0 * share for share in shares]
    unparsed = sum(share is None for share in shares)
    void = None
    if unparsed > VOID_SHARE * len(items):
        void = f"{unparsed} of {len(items)} comparisons could not be read"
    texts = tuple(said[0] for said in answers)
    known: dict[str, Any] = {"judge": judge.id, "answers": texts, "first_preferred": place}
    found = [Score.of(benchmark, items=items, scores=scores, void=void, **known)]
    difficulties = None if data is None else data / length_control.DIFFICULTIES
    wanted = length_control.METRIC in benchmark.also and len(items) == WHOLE and not unparsed
    if wanted and difficulties is not None and difficulties.exists():
        lengths = [
            len(item.content["output"]) - len(said[0]) for item, said in zip(items, answers, strict=True)
        ]
        rate = controlled(lengths, [share or 0.0 for share in shares], difficulties)
        known |= {"metric": length_control.METRIC, "external": rate, "n_scored": len(items)}
        found.append(Score.of(benchmark, items=items, scores=scores, **known))
    return found


def _mean(shares: Sequence[float | None]) -> float | None:
    """Of all orders; None where one could not be read, since the other alone has the bias of place."""
    known = [share for share in shares if share is not None]
    return sum(known) / len(known) if len(known) == len(shares) else None


def controlled(gaps: Sequence[int], shares: Sequence[float], difficulties: Path) -> float:
    """The win rate at equal lengths, in percent, without the published regularisation.

    Args:
        gaps: Characters of the baseline's answer less those of the model's, an item each.
        shares: Probability that the model's is better.
        difficulties: The instructions' difficulties.

    Raises:
        KitError: The difficulties are of other items.
    """
    hard = length_control.read_difficulties(difficulties)
    if len(hard) != len(gaps):
        raise KitError(f"has {len(hard)} difficulties", where=str(difficulties), expected=str(len(gaps)))
    _, weight, bias = length_control.fit(shares, gaps, np.asarray(hard))
    return length_control.predict(hard, weight, bias)


def shown_first(item: Item, seed: int) -> bool:
    """Whether the model's answer is shown first: drawn from the seed and the item alone."""
    return hashlib.sha256(f"{seed}\n{item.sha256}".encode()).digest()[0] % 2 == 0


def first_preferred(pairs: Sequence[PairAsked], shares: Sequence[float | None]) -> float | None:
    """Mean probability of whatever was shown first: 0.5 for a judge without a bias of position."""
    known = [
        share if pair.model_first else 1.0 - share
        for pair, share in zip(pairs, shares, strict=True)
        if share is not None
    ]
    return sum(known) / len(known) if known else None
