"""What a judge is worth: agreement with stored annotations, and its biases of place and of length."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from harness.errors import KitError
from harness.evaluation.judge import Judge, PairAsked

ANNOTATIONS = "alpaca_eval/*.annotations.json"
"""Below the folder of benchmarks: instruction, output_1, output_2, preference (2: the second is better)."""
KNOWN = Path(__file__).parent / "data" / "judges.yaml"


@dataclass(frozen=True)
class JudgeWorth:
    """Of pairs that the judge compared in both orders. A tie counts as half of either answer.

    Attributes:
        pairs: Pairs asked.
        unparsed: Pairs of which an order could not be read.
        agreement: Share of the judge's choices that are the annotation's; 0.5 where only place decides.
        first_preferred: Mean probability of whichever answer was shown first; 0.5 without a bias.
        longer_preferred: Share of its choices that are the longer answer; the annotations' share is
        longer_annotated.
        same_in_both_orders: Share of pairs on which both orders prefer the same answer.
    """

    pairs: int
    unparsed: int
    agreement: float
    first_preferred: float
    longer_preferred: float
    longer_annotated: float
    same_in_both_orders: float


def read_annotations(folder: Path) -> list[dict[str, Any]]:
    """Stored annotations below a folder of benchmarks.

    Raises:
        KitError: There are none, or they are something else.
    """
    paths = sorted(folder.glob(ANNOTATIONS))
    if not paths:
        raise KitError("has no annotations", where=str(folder), expected=ANNOTATIONS)
    try:
        rows = [row for path in paths for row in json.loads(path.read_text(encoding="utf-8"))]
        return [row for row in rows if 1.0 <= float(row["preference"]) <= 2.0]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise KitError(f"holds no annotations ({error})", where=str(paths[0])) from None


def worth(judge: Judge, annotations: Sequence[dict[str, Any]]) -> JudgeWorth:
    """Ask a judge every pair in both orders.

    Raises:
        KitError: No pair could be read.
    """
    asked = [
        PairAsked(row["instruction"], row["output_2"], row["output_1"], first)
        for row in annotations
        for first in (True, False)
    ]
    shares = judge.preferences(asked)
    read = [
        (row, first, second)
        for row, first, second in zip(annotations, shares[0::2], shares[1::2], strict=True)
        if first is not None and second is not None
    ]
    if not read:
        raise KitError(f"none of {len(annotations)} pairs could be read", where=judge.id, exit_code=1)
    count = len(read)
    humans = [_side(float(row["preference"]), 1.5) for row, _, _ in read]
    own = [(_side(first, 0.5), _side(second, 0.5)) for _, first, second in read]
    longer = [_side(len(row["output_2"]), len(row["output_1"])) for row, _, _ in read]
    return JudgeWorth(
        pairs=len(annotations),
        unparsed=len(annotations) - count,
        agreement=_alike([(a, b) for sides, b in zip(own, humans, strict=True) for a in sides]),
        first_preferred=sum(first + 1.0 - second for _, first, second in read) / (2 * count),
        longer_preferred=_alike([(a, b) for sides, b in zip(own, longer, strict=True) for a in sides]),
        longer_annotated=_alike(list(zip(humans, longer, strict=True))),
        same_in_both_orders=sum(first == second for first, second in own) / count,
    )


def _side(value: float, middle: float) -> float:
    """1 for the second answer of a pair, 0 for the first, 1/2 for a tie."""
    return 0.5 if value == middle else float(value > middle)


def _alike(sides: Sequence[tuple[float, float]]) -> float:
    """Share of pairs of sides that are the same; a tie is half of either."""
    return sum(1.0 - abs(a - b) for a, b in sides) / len(sides)


def known_judges() -> list[dict[str, Any]]:
    """What is published of judges."""
    found: list[dict[str, Any]] = yaml.safe_load(KNOWN.read_text(encoding="utf-8"))
    return found


def published(judge: str) -> str:
    """What is published of a judge, in words; and what it may be held against.

    Args:
        judge: Its name, or its judge_id: name@revision.
    """
    table = {str(row["judge"]): row for row in known_judges()}
    row, people = table.get(judge.partition("@")[0]), table["humans"]["agreement_pct"]
    if row is None:
        return (
            f"nothing is published of its agreement with humans, who agree among themselves on {people} %; "
            "kit evaluate JUDGE --judge-check measures it"
        )
    text = f"agrees with {row['against']} on {row['agreement_pct']} % (published)"
    text += (
        "" if row["prefers_longer"] is None else f", prefers the longer answer in {row['prefers_longer']:.0%}"
    )
    return text + f"; humans among themselves {people} %"
