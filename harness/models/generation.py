"""What stage teacher_generate asks of an engine: prompts in, generations out, tokens counted.

An engine keeps two promises. A prompt's output is a function of the model, the sampling and the prompt's own
seed, not of the prompts beside it (up to the arithmetic of the batch, which an engine names in `describe`).
And what it counts as generated is what was sampled: the end token included, padding never.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np
import numpy.typing as npt

from harness.errors import KitError

FinishReason = Literal["stop", "length"]


@dataclass(frozen=True)
class Prompt:
    """One prompt.

    Attributes:
        id: Unique among the prompts.
        token_ids: The conversation up to where the assistant is to speak.
        seed: Decides this prompt's random numbers; in [0, 2^63).
    """

    id: str
    token_ids: tuple[int, ...]
    seed: int


@dataclass(frozen=True)
class TokenSampling:
    """How to sample.

    Attributes:
        max_new_tokens: Most tokens of an answer, the end token included.
        temperature: Divides the logits; 0 takes the likeliest token.
        top_p: Mass of the nucleus: of the likeliest tokens the fewest that hold it; 1 for all.
        ignore_end: Whether an end token ends no answer: each has max_new_tokens.

    Raises:
        KitError: A value out of range.
    """

    max_new_tokens: int
    temperature: float = 1.0
    top_p: float = 1.0
    ignore_end: bool = False

    def __post_init__(self) -> None:
        fine = self.max_new_tokens >= 1 and self.temperature >= 0 and 0 < self.top_p <= 1
        if not fine:
            raise KitError(
                f"cannot sample with {self}",
                expected="max_new_tokens >= 1, temperature >= 0, 0 < top_p <= 1",
            )


@dataclass(frozen=True)
class Generation:
    """What a model answered.

    Attributes:
        text: The answer without its end token; other special tokens stay visible.
        token_ids: As sampled, the end token included.
        finish_reason: "stop": it ended by itself; "length": it was cut at max_new_tokens.
    """

    text: str
    token_ids: tuple[int, ...]
    finish_reason: FinishReason

    @property
    def n_tokens(self) -> int:
        """Tokens sampled."""
        return len(self.token_ids)


@dataclass
class TokenWork:
    """What an engine did.

    Attributes:
        processed: Real tokens through the model: of an answer all but its last, which is never fed back.
        positions: Positions through the model, padding and finished rows included.
        generated: Tokens sampled.
    """

    processed: int = 0
    positions: int = 0
    generated: int = 0

    def add(self, other: TokenWork) -> None:
        """Add another's counts."""
        self.processed += other.processed
        self.positions += other.positions
        self.generated += other.generated


class Generator(Protocol):
    """An engine with a model in it.

    Attributes:
        work: What it did so far.
        one_queue: Whether it schedules any number of prompts by itself and answers each as it ends.
    """

    work: TokenWork
    one_queue: bool

    def answers(
        self, prompts: Sequence[Prompt], sampling: TokenSampling
    ) -> Iterator[tuple[Prompt, Generation]]:
        """Answer every prompt; those that end first come first. `work` has what came, and no more."""

    def describe(self) -> dict[str, Any]:
        """Engine, versions and flags: whatever decides the outputs beside model, prompts and sampling."""


def prompt_seed(seed: int, prompt_id: str) -> int:
    """The seed of a prompt, from the stage's seed and the prompt's id alone."""
    drawn = hashlib.sha256(f"{seed}\n{prompt_id}".encode()).digest()
    return int.from_bytes(drawn[:8], "little") >> 1


def uniforms(seed: int, count: int) -> npt.NDArray[np.float64]:
    """The first `count` random numbers of a prompt, float64 [count] in [0, 1).

    Taken from the raw stream of a counter-based generator, which numpy keeps stable across versions and
    machines; a longer answer begins with the numbers of a shorter one.
    """
    raw = np.random.Philox(key=seed).random_raw(count)
    return (raw >> np.uint64(11)).astype(np.float64) * 2.0**-53


def end_tokens(tokenizer: Any, generation_config: Any) -> tuple[int, ...]:
    """Ids that end an answer: the tokenizer's end token and those of the model's generation settings.

    Raises:
        KitError: There is none, so no answer would ever end.
    """
    named = getattr(generation_config, "eos_token_id", None)
    ids = list(named) if isinstance(named, list | tuple) else [named]
    found = sorted({int(token) for token in (tokenizer.eos_token_id, *ids) if token is not None})
    if not found:
        raise KitError("neither tokenizer nor model names an end token", expected="eos_token")
    return tuple(found)


def as_generation(tokenizer: Any, token_ids: Sequence[int], ends: tuple[int, ...]) -> Generation:
    """A generation from sampled tokens; "stop" where the last one is an end token."""
    ended = bool(token_ids) and token_ids[-1] in ends
    said = list(token_ids[:-1] if ended else token_ids)
    text = tokenizer.decode(said, skip_special_tokens=False, clean_up_tokenization_spaces=False)
    return Generation(str(text), tuple(int(token) for token in token_ids), "stop" if ended else "length")
