"""A judge behind an OpenAI-compatible endpoint. What it draws is unknown: the stage says so, and every total
that holds it is a lower bound.

Such a judge has no weights that could be checked, so it is never the suite's own: its scores carry its own
judge_id, and no Q mixes the two.
"""

from __future__ import annotations

import json
import os
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from harness.errors import KitError
from harness.evaluation.cache import AnswerCache
from harness.evaluation.judge import Judge, Messages, read_rating
from harness.evaluation.suites import JudgeSpec
from harness.models.generation import TokenWork

KEY = "KIT_JUDGE_KEY"
"""Variable with the endpoint's key, which is neither stored nor shown."""
AT_ONCE = 8
TRIES = 4
TIMEOUT_S = 300.0
AGAIN = "Answer with one line: Rating: [[n]], n a whole number from 1 to 10."
_PASSING = (429, 500, 502, 503, 504)


class Endpoint:
    """Chat completions of a model elsewhere, with the methods of `CountedModel` that a judge uses.

    Args:
        url: Of the endpoint, up to and with its version: http://localhost:8000/v1.
        model: Its name there.
        work: Tokens that the endpoint says it read and wrote are added here.
        cache: Answers that are known.
    """

    max_length = 1 << 62

    def __init__(self, url: str, model: str, work: TokenWork, cache: AnswerCache) -> None:
        self._url, self._model, self._work, self._cache = url.rstrip("/"), model, work, cache

    def next_tokens(self, prompts: Sequence[Messages], count: int) -> list[list[tuple[str, float]]]:
        """The likeliest first tokens of each answer with their log-probabilities."""
        settings = {"max_tokens": 1, "logprobs": True, "top_logprobs": count}

        def read(choice: Any) -> list[list[Any]]:
            return [
                [top["token"], top["logprob"]] for top in choice["logprobs"]["content"][0]["top_logprobs"]
            ]

        found = self._asked(prompts, settings, read)
        return [[(str(token), float(value)) for token, value in answer] for answer in found]

    def chat_answers(self, prompts: Sequence[Messages], max_new_tokens: int) -> list[str]:
        """Greedy answers."""
        # An answer without text, as one that was refused or cut in its thoughts, is one that says nothing.
        return self._asked(
            prompts, {"max_tokens": max_new_tokens}, lambda choice: str(choice["message"]["content"] or "")
        )

    def _asked(
        self, prompts: Sequence[Messages], settings: dict[str, Any], read: Callable[[Any], Any]
    ) -> list[Any]:
        requests = [{"messages": prompt, "temperature": 0, "seed": 0, **settings} for prompt in prompts]

        def compute(batch: list[int]) -> list[Any]:
            with ThreadPoolExecutor(AT_ONCE) as pool:
                answers = list(pool.map(self._post, [requests[i] for i in batch]))
            try:
                found = [read(answer["choices"][0]) for answer in answers]
            except (KeyError, IndexError, TypeError) as error:
                raise KitError(
                    f"answers without {error}",
                    where=self._url,
                    expected="chat completions, with logprobs where they are asked for",
                ) from None
            for used in (answer.get("usage") or {} for answer in answers):
                asked = int(used.get("prompt_tokens") or 0)
                self._work.add(TokenWork(asked, asked, int(used.get("completion_tokens") or 0)))
            return found

        return self._cache.in_batches(requests, range(len(requests)), AT_ONCE, compute)

    def _post(self, request: dict[str, Any]) -> Any:
        """One request; a busy or failing endpoint is asked again."""
        body = json.dumps({"model": self._model, **request}).encode()
        headers = {"Content-Type": "application/json"}
        if os.environ.get(KEY):
            headers["Authorization"] = f"Bearer {os.environ[KEY]}"
        for tried in range(TRIES):
            try:
                asked = urllib.request.Request(f"{self._url}/chat/completions", body, headers)
                with urllib.request.urlopen(asked, timeout=TIMEOUT_S) as answer:
                    return json.load(answer)
            except (OSError, ValueError) as error:
                passing = not isinstance(error, urllib.error.HTTPError) or error.code in _PASSING
                if not passing or tried == TRIES - 1:
                    raise KitError(
                        f"gave no answer: {error}",
                        where=self._url,
                        expected="an OpenAI-compatible endpoint",
                        fix=f"look at its URL, the model's name and {KEY}",
                    ) from None
                time.sleep(2.0**tried)
        raise AssertionError


class _Words:
    """Stands for tokenizer and encoder: the endpoint has its own."""

    name_or_path = "the endpoint"

    @property
    def tokenizer(self) -> _Words:
        return self

    def encode(self, text: str, add_special_tokens: bool = True) -> list[str]:
        return [text]

    def prompt(self, messages: Messages) -> Messages:
        return messages


class ApiJudge(Judge):
    """The judge of a suite's prompts that answers from elsewhere."""

    def __init__(self, spec: JudgeSpec, endpoint: Endpoint, name: str) -> None:
        if spec.method != "template":
            raise KitError("is no judge that is asked in words", where=spec.name, expected="--judge DIR")
        own = spec.model_copy(update={"name": name, "revision": "elsewhere", "weights_sha256": None})
        super().__init__(own, endpoint, _Words(), "")

    def _forced_ratings(self, prompts: Sequence[Any]) -> list[int | None]:
        """Asked once more in words: an endpoint does not go on with an answer that was begun for it."""
        asked = [[*prompt, {"role": "user", "content": AGAIN}] for prompt in prompts]
        return [read_rating(text) for text in self._model.chat_answers(asked, self.spec.max_new_tokens)]


def api_judge(
    spec: JudgeSpec, url: str, name: str, prompts_sha256: str, work: TokenWork, cache: Path | None
) -> tuple[Judge, AnswerCache]:
    """The judge behind an endpoint, and what it is known to have said."""
    identity = {"judge": name, "url": url, "spec": spec.model_dump(mode="json"), "prompts": prompts_sha256}
    known = AnswerCache(cache, identity)
    return ApiJudge(spec, Endpoint(url, name, work, known), name), known
