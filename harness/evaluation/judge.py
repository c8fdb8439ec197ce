"""A model that judges: which of two answers is better, or how good one answer is.

Two methods. `template` asks in words: a pair is decided by the probabilities of one token, a rating is read
from text. `likelihood` asks nothing: it is how likely the judge itself would have said an answer, for
judges too small to follow instructions. What cannot be read is counted as unparsed; it is neither dropped
nor a zero.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from harness.errors import KitError
from harness.evaluation.suites import SHOWN_DIGITS, JudgeSpec
from harness.files import file_digest
from harness.spec.canonical import canonical_json

Messages: TypeAlias = list[dict[str, str]]

LABELS = ("m", "M")
"""Names of the two answers of a pair, in the order shown."""
TOP = 5
"""Next tokens looked at; a label that is not among them has probability 0."""
RATING = re.compile(r"Rating:\s*\[\[\s*(\d{1,2})\s*\]\]")
FORCED = "Rating: [["
"""What the judge's answer begins with when it is asked again; the likeliest number follows."""
TOP_AGAIN = 20
"""Next tokens among which a number is looked for."""
_NUMBER_TOKENS = 2

_NUMBERS = frozenset(str(number) for number in range(1, 11))

PAIR_SYSTEM = (
    "You compare two answers to one instruction, as a careful reader who wanted it carried out would. "
    "Helpful, correct and complete answers are better; length by itself is no merit."
)
PAIR_USER = """Two models were given this instruction:

<instruction>
{instruction}
</instruction>

The answer of model m:

<answer model="m">
{first}
</answer>

The answer of model M:

<answer model="M">
{second}
</answer>

Which answer is better? Reply with the model's name alone: m or M."""
RATING_SYSTEM = (
    "You rate one reply of an assistant in a conversation, on the ability named below. Look at that first; a "
    "reply that is wrong, or that ignores what was said before, rates low however well it is written."
)
RATING_USER = """Ability: {ability}
{definition}

The conversation so far:

{dialogue}
{reference}
The assistant's reply that you rate:

<reply>
{reply}
</reply>

Give a whole number from 1 (fails) to 10 (could not be better). Reason in at most two sentences, then end
with the line Rating: [[n]]"""


def template_digest(texts: Mapping[str, str]) -> str:
    """Digest of everything a judge is told, the definitions of abilities included."""
    own = {
        "pair_system": PAIR_SYSTEM,
        "pair_user": PAIR_USER,
        "rating_system": RATING_SYSTEM,
        "rating_user": RATING_USER,
        "forced": f"{FORCED} {TOP_AGAIN}",
        "labels": "".join(LABELS),
        "rating": RATING.pattern,
    }
    return hashlib.sha256(canonical_json({**own, **texts})).hexdigest()


def weight_files(folder: Path) -> list[Path]:
    """A model folder's weights, by name.

    Raises:
        KitError: It has none.
    """
    weights = sorted(folder.glob("*.safetensors"))
    if not weights:
        raise KitError(
            "holds no weights",
            where=str(folder),
            expected="config.json and *.safetensors",
            fix="name the folder of a whole model; hf download gets one with all of its files",
        )
    return weights


def weights_digest(folder: Path) -> str:
    """Digest of the names and contents of a model folder's weights.

    Raises:
        KitError: It has none.
    """
    named = {path.name: file_digest(path) for path in weight_files(folder)}
    return hashlib.sha256(canonical_json(named)).hexdigest()


def read_rating(text: str) -> int | None:
    """The last rating in a text, 1 to 10; None where there is none, or another number."""
    found = RATING.findall(text)
    if not found:
        return None
    rating = int(found[-1])
    return rating if 1 <= rating <= 10 else None


@dataclass(frozen=True)
class PairAsked:
    """Two answers to compare.

    Attributes:
        instruction: What was asked.
        model: The model's answer.
        baseline: The other one.
        model_first: Whether the model's answer is shown first.
    """

    instruction: str
    model: str
    baseline: str
    model_first: bool


@dataclass(frozen=True)
class ReplyAsked:
    """A reply to rate.

    Attributes:
        ability: What it is rated on.
        definition: Of the ability.
        history: The conversation up to the reply, the user's turn last.
        reply: The model's.
        reference: A right reply, where there is one.
    """

    ability: str
    definition: str
    history: Messages
    reply: str
    reference: str | None


class Judge:
    """A judge with a model behind it.

    Args:
        spec: Of the suite.
        model: `CountedModel`.
        encoder: `ChatEncoder` of its tokenizer.
        digest: Of its weights.

    Raises:
        KitError: A label is more than one token, or the weights are not the suite's.
    """

    def __init__(self, spec: JudgeSpec, model: Any, encoder: Any, digest: str) -> None:
        if spec.weights_sha256 is not None and spec.weights_sha256 != digest:
            raise KitError(
                f"the judge's weights are {digest[:SHOWN_DIGITS]}",
                where=spec.name,
                expected=f"{spec.weights_sha256[:SHOWN_DIGITS]}, as in the suite",
            )
        self.spec = spec
        self.id = f"{spec.name}@{spec.revision or digest[:SHOWN_DIGITS]}"
        self._model = model
        self._encoder = encoder
        self._labels: tuple[Any, ...] = ()
        if spec.method == "template":
            self._labels = label_tokens(encoder.tokenizer)

    def preferences(self, pairs: Sequence[PairAsked]) -> list[float | None]:
        """Probability that the model's answer is the better one; None where neither label was likely."""
        if self.spec.method == "likelihood":
            return self._likelier(pairs)
        prompts = [self._encoder.prompt(_pair_messages(pair)) for pair in pairs]
        fitting = [prompt for prompt in prompts if len(prompt) <= self._model.max_length]
        answers = iter(self._model.next_tokens(fitting, TOP))
        found: list[float | None] = []
        for pair, prompt in zip(pairs, prompts, strict=True):
            if len(prompt) > self._model.max_length:
                found.append(None)
                continue
            likely = {token: math.exp(value) for token, value in next(answers)}
            first, second = (likely.get(token, 0.0) for token in self._labels)
            if first + second == 0.0:
                found.append(None)
                continue
            share = first / (first + second)
            found.append(share if pair.model_first else 1.0 - share)
        return found

    def ratings(self, replies: Sequence[ReplyAsked]) -> list[float | None]:
        """A rating from 1 to 10 of each reply; None where none could be read, also when asked again."""
        if self.spec.method == "likelihood":
            return self._likelihood_ratings(replies)
        prompts = [self._encoder.prompt(_rating_messages(reply)) for reply in replies]
        room = self._model.max_length - self.spec.max_new_tokens - _NUMBER_TOKENS - 16
        fits = [number for number, prompt in enumerate(prompts) if len(prompt) <= room]
        texts = self._model.chat_answers([prompts[n] for n in fits], self.spec.max_new_tokens)
        found: dict[int, int | None] = {n: read_rating(text) for n, text in zip(fits, texts, strict=True)}
        again = [number for number in fits if found[number] is None]
        found |= dict(zip(again, self._forced_ratings([prompts[n] for n in again]), strict=True))
        return [found.get(number) for number in range(len(replies))]

    def _forced_ratings(self, prompts: Sequence[Any]) -> list[int | None]:
        """The number that the judge would write after `FORCED`; None where none is likely."""
        tokenizer = self._encoder.tokenizer
        opening = tokenizer.encode(FORCED, add_special_tokens=False)
        begun, digits = [], []
        for prompt, likely in zip(
            prompts, self._model.next_tokens([[*p, *opening] for p in prompts], TOP_AGAIN), strict=True
        ):
            texts = [(token, str(tokenizer.decode([token])).strip()) for token, _ in likely]
            number = next(((t, text) for t, text in texts if text in _NUMBERS), None)
            digits.append(None if number is None else number[1])
            if number is not None:
                begun.append([*prompt, *opening, number[0]])
        # A tokenizer of single digits writes 10 in two.
        rest = iter(self._model.chat_answers(begun, _NUMBER_TOKENS))
        numbers = [None if text is None else text + _digits(next(rest)) for text in digits]
        return [None if text is None else read_rating(f"{FORCED}{text}]]") for text in numbers]

    def _likelier(self, pairs: Sequence[PairAsked]) -> list[float | None]:
        asked = [
            (self._encoder.prompt([{"role": "user", "content": pair.instruction}]), self._said(text))
            for pair in pairs
            for text in (pair.model, pair.baseline)
        ]
        totals = self._model.log_likelihoods(asked)
        return [1.0 / (1.0 + math.exp(min(700.0, theirs - ours))) for ours, theirs in _twos(totals)]

    def _likelihood_ratings(self, replies: Sequence[ReplyAsked]) -> list[float | None]:
        """1 + 9 x the geometric mean of the probabilities of the reply's tokens."""
        asked = [(self._encoder.prompt(reply.history), self._said(reply.reply)) for reply in replies]
        totals = self._model.log_likelihoods(asked)
        return [
            1.0 + 9.0 * math.exp(total / len(said)) for total, (_, said) in zip(totals, asked, strict=True)
        ]

    def _said(self, text: str) -> list[int]:
        tokenizer = self._encoder.tokenizer
        return [*tokenizer.encode(text, add_special_tokens=False), tokenizer.eos_token_id]


def label_tokens(tokenizer: Any) -> tuple[Any, ...]:
    """The labels as tokens.

    Raises:
        KitError: A label is not one token of its own.
    """
    found = [tokenizer.encode(label, add_special_tokens=False) for label in LABELS]
    if any(len(tokens) != 1 for tokens in found) or found[0] == found[1]:
        raise KitError(
            f"cannot name answers {' and '.join(LABELS)} in one token each ({found})",
            where=str(getattr(tokenizer, "name_or_path", "the judge's tokenizer")),
            expected="a judge whose tokenizer has them",
        )
    return tuple(tokens[0] for tokens in found)


def _digits(text: str) -> str:
    """The digits that a text begins with."""
    return text[: len(text) - len(text.lstrip("0123456789"))]


def _twos(values: Sequence[float]) -> list[tuple[float, float]]:
    return list(zip(values[0::2], values[1::2], strict=True))


def _pair_messages(pair: PairAsked) -> Messages:
    first, second = (pair.model, pair.baseline) if pair.model_first else (pair.baseline, pair.model)
    text = PAIR_USER.format(instruction=pair.instruction, first=first, second=second)
    return [{"role": "system", "content": PAIR_SYSTEM}, {"role": "user", "content": text}]


def _rating_messages(reply: ReplyAsked) -> Messages:
    dialogue = "\n\n".join(f"{turn['role'].capitalize()}: {turn['content']}" for turn in reply.history)
    reference = "" if reply.reference is None else f"\nA right reply would be:\n\n{reply.reference}\n"
    text = RATING_USER.format(
        ability=reply.ability,
        definition=reply.definition,
        dialogue=dialogue,
        reference=reference,
        reply=reply.reply,
    )
    return [{"role": "system", "content": RATING_SYSTEM}, {"role": "user", "content": text}]
