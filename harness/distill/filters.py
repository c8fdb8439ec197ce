"""Which of a teacher's answers a student learns from. Every answer that is dropped says why.

The rules look at one answer each and in this order; the first that objects names the reason:

    empty          nothing but white space
    no_end         cut at max_new_tokens: a student would learn to stop in mid-sentence, or never
    too_short, too_long    in tokens, the end token included
    special_token  a role tag or another special token inside the answer: the template would break on it
    broken_text    bytes that are no UTF-8
    repetitive     a loop: too many n-grams of tokens that were there before
    wrong_format   not of the form asked of its task
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from harness.errors import KitError

REASONS = (
    "empty",
    "no_end",
    "too_short",
    "too_long",
    "special_token",
    "broken_text",
    "repetitive",
    "wrong_format",
)


@dataclass(frozen=True)
class FilterConfig:
    """What is asked of an answer."""

    require_end: bool = field(default=True, metadata={"help": "drop answers cut at max_new_tokens"})
    min_tokens: int = field(default=1, metadata={"help": "fewest tokens, the end token included"})
    max_tokens: int | None = field(default=None, metadata={"help": "most tokens; null: no bound"})
    repeat_ngram: int = field(default=8, metadata={"help": "tokens of the n-grams that loops are found by"})
    max_repeat: float = field(
        default=0.5, metadata={"help": "largest share of n-grams seen before in the answer; 1: any"}
    )
    formats: Mapping[str, str] = field(
        default_factory=dict,
        metadata={"help": "task to regular expression that the whole answer must match; '*': all others"},
    )

    def __post_init__(self) -> None:
        fine = self.min_tokens >= 0 and self.repeat_ngram >= 1 and 0 <= self.max_repeat <= 1
        if not fine or (self.max_tokens is not None and self.max_tokens < self.min_tokens):
            raise KitError(f"no answer can pass {self}", where="filters")
        for task, pattern in self.formats.items():
            try:
                re.compile(pattern)
            except re.error as error:
                raise KitError(
                    f"{pattern!r} is no regular expression: {error}", where=f"formats: {task}"
                ) from None


class AnswerFilter:
    """Judges answers.

    Args:
        config: What is asked.
        specials: Texts of the tokenizer's special tokens.
    """

    def __init__(self, config: FilterConfig, specials: Sequence[str]) -> None:
        self._config = config
        self._specials = tuple(specials)
        self._formats = {task: re.compile(pattern, re.DOTALL) for task, pattern in config.formats.items()}

    def reason(self, task: str, text: str, token_ids: Sequence[int], finish_reason: str) -> str | None:
        """Why to drop an answer; None to keep it."""
        config = self._config
        form = self._formats.get(task, self._formats.get("*"))
        tests = {
            "empty": not text.strip(),
            "no_end": config.require_end and finish_reason != "stop",
            "too_short": len(token_ids) < config.min_tokens,
            "too_long": config.max_tokens is not None and len(token_ids) > config.max_tokens,
            "special_token": any(special in text for special in self._specials),
            "broken_text": "�" in text,
            "repetitive": repeated_share(token_ids, config.repeat_ngram) > config.max_repeat,
            "wrong_format": form is not None and form.fullmatch(text.strip()) is None,
        }
        return next((name for name in REASONS if tests[name]), None)


def repeated_share(token_ids: Sequence[int], n: int) -> float:
    """Share of an answer's n-grams that occurred before in it; 0 where it has none."""
    total = len(token_ids) - n + 1
    if total <= 0:
        return 0.0
    distinct = len({tuple(token_ids[start : start + n]) for start in range(total)})
    return 1.0 - distinct / total
