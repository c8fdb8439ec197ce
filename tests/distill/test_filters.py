"""Which answers are dropped, and the reason given."""

from __future__ import annotations

import pytest

from harness.distill.filters import REASONS, AnswerFilter, FilterConfig, repeated_share
from harness.errors import KitError

SPECIALS = ["<|endoftext|>", "<|user|>"]


@pytest.mark.parametrize(
    ("config", "text", "tokens", "finish", "reason"),
    [
        (FilterConfig(), "fine", range(5), "stop", None),
        (FilterConfig(), " \n", range(5), "stop", "empty"),
        (FilterConfig(), "cut", range(5), "length", "no_end"),
        (FilterConfig(require_end=False), "cut", range(5), "length", None),
        (FilterConfig(min_tokens=6), "short", range(5), "stop", "too_short"),
        (FilterConfig(min_tokens=5, max_tokens=5), "fits", range(5), "stop", None),
        (FilterConfig(max_tokens=4), "long", range(5), "stop", "too_long"),
        (FilterConfig(), "a<|user|>b", range(5), "stop", "special_token"),
        (FilterConfig(), "a�b", range(5), "stop", "broken_text"),
        (FilterConfig(), "loop", [1, 2, 3] * 20, "stop", "repetitive"),
        (FilterConfig(max_repeat=1.0), "loop", [1, 2, 3] * 20, "stop", None),
        (FilterConfig(formats={"sums": r".*Answer: \d+"}), "1+1=2\nAnswer: 2", range(5), "stop", None),
        (FilterConfig(formats={"sums": r".*Answer: \d+"}), "2", range(5), "stop", "wrong_format"),
        (FilterConfig(formats={"other": "x"}), "2", range(5), "stop", None),
        (FilterConfig(formats={"*": "x", "sums": "2"}), "2", range(5), "stop", None),
        (FilterConfig(formats={"*": "x"}), "2", range(5), "stop", "wrong_format"),
        # Several objections: the first of the list is named.
        (FilterConfig(min_tokens=9), "", [1] * 30, "length", "empty"),
        (FilterConfig(min_tokens=9), "x", [1] * 3, "length", "no_end"),
    ],
)
def test_reasons(config: FilterConfig, text: str, tokens: list[int], finish: str, reason: str | None) -> None:
    assert AnswerFilter(config, SPECIALS).reason("sums", text, list(tokens), finish) == reason
    assert reason is None or reason in REASONS


def test_repeated_share_is_the_share_of_ngrams_seen_before() -> None:
    assert repeated_share([1, 2, 3], 4) == 0.0
    assert repeated_share([1, 2, 3, 4], 4) == 0.0
    assert repeated_share([1, 2, 1, 2, 1], 2) == pytest.approx(2 / 4)
    assert repeated_share([7] * 11, 2) == pytest.approx(9 / 10)


def test_settings_that_cannot_be_meant_are_refused() -> None:
    with pytest.raises(KitError, match="no answer can pass"):
        FilterConfig(min_tokens=5, max_tokens=4)
    with pytest.raises(KitError, match="no regular expression"):
        FilterConfig(formats={"sums": "("})
