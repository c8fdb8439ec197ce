"""An LM of lm-eval that says what a test tells it to."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from lm_eval.api.model import LM

BENCHMARKS = Path(__file__).resolve().parents[3] / "shared" / "data" / "benchmarks"
NO_DATA = "the published benchmarks are not in ../shared/data/benchmarks"


class Said(LM):  # type: ignore[misc]
    """Answers each request with `say(request)`; keeps what it was asked."""

    def __init__(self, say: Callable[[Any], Any]) -> None:
        super().__init__()
        self.say = say
        self.asked: list[Any] = []

    def generate_until(self, requests: Any, disable_tqdm: bool = True) -> list[Any]:
        self.asked += requests
        return [self.say(request) for request in requests]

    loglikelihood = generate_until
    loglikelihood_rolling = generate_until

    def apply_chat_template(self, messages: Any, **_: Any) -> str:
        return "".join(f"<{message['role']}>{message['content']}" for message in messages)

    def chat_template(self, *_: Any, **__: Any) -> str:
        return "said"

    @property
    def tokenizer_name(self) -> str:
        return "said"
