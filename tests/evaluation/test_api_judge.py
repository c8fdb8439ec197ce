"""A judge behind an OpenAI-compatible endpoint, over HTTP."""

from __future__ import annotations

import json
import math
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from harness.errors import KitError
from harness.evaluation import api_judge
from harness.evaluation.cache import AnswerCache
from harness.evaluation.judge import PairAsked, ReplyAsked
from harness.evaluation.suites import JudgeSpec
from harness.models.generation import TokenWork

SPEC = JudgeSpec(name="own", method="template", weights_sha256="a" * 64, max_new_tokens=32)


class Server(ThreadingHTTPServer):
    """Likes answers with "good"; fails the first request."""

    asked: list[dict[str, Any]]
    keys: set[str | None]

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.asked, self.keys = [], set()


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_POST(self) -> None:
        request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.asked.append(request)
        self.server.keys.add(self.headers["Authorization"])
        status, answer = 200, self.answer(request)
        if self.path != "/v1/chat/completions":
            status = 404
        elif len(self.server.asked) == 1:
            status = 503
        body = json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def answer(self, request: dict[str, Any]) -> dict[str, Any]:
        text = request["messages"][-1]["content"]
        if request.get("logprobs"):
            likely = {"m": 0.8, "M": 0.1} if text.index("good") < text.index("bad") else {"M": 0.9}
            tops = [{"token": t, "logprob": math.log(p)} for t, p in likely.items()]
            choice: dict[str, Any] = {"logprobs": {"content": [{"top_logprobs": tops}]}}
        else:
            said = (
                "Rating: [[8]]" if "good" in text else "Well." if "Rating: [[n]]\n" in text else "It is a 3."
            )
            choice = {"message": {"content": "Rating: [[2]]" if text == api_judge.AGAIN else said}}
        return {"choices": [choice], "usage": {"prompt_tokens": 7, "completion_tokens": 2}}

    def log_message(self, *args: Any) -> None:
        return


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setattr(api_judge.time, "sleep", lambda seconds: None)
    with Server() as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


def url(server: Server) -> str:
    return f"http://127.0.0.1:{server.server_address[1]}/v1"


def test_pairs_and_ratings_come_over_http(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(api_judge.KEY, "secret")
    work = TokenWork()
    judge, cache = api_judge.api_judge(SPEC, url(server), "big", "0" * 64, work, tmp_path / "cache.jsonl")
    assert judge.id == "big@elsewhere"  # never the suite's own judge
    pairs = [PairAsked("i", "good", "bad", first) for first in (True, False)]
    assert judge.preferences(pairs) == [pytest.approx(0.8 / 0.9), 1.0]
    replies = [
        ReplyAsked("ability", "words", [{"role": "user", "content": "hello"}], text, None)
        for text in ("good", "poor")
    ]
    assert judge.ratings(replies) == [8, 2]  # the second only when it was asked again
    assert (work.processed, work.generated) == (5 * 7, 5 * 2) and cache.computed == 5
    assert len(server.asked) == 6 and server.keys == {"Bearer secret"}  # one failed and was asked again
    assert {request["model"] for request in server.asked} == {"big"}
    assert "secret" not in (tmp_path / "cache.jsonl").read_text()
    # What is known is not asked again.
    again, cache = api_judge.api_judge(SPEC, url(server), "big", "0" * 64, work, tmp_path / "cache.jsonl")
    assert again.ratings(replies) == [8, 2] and cache.computed == 0 and len(server.asked) == 6


def test_an_endpoint_that_is_none_is_named(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    for wrong in (url(server) + "/elsewhere", "http://127.0.0.1:9/v1"):
        judge, _ = api_judge.api_judge(SPEC, wrong, "big", "0" * 64, TokenWork(), None)
        with pytest.raises(KitError, match="gave no answer") as refused:
            judge.preferences([PairAsked("i", "good", "bad", True)])
        assert wrong in str(refused.value) and api_judge.KEY in str(refused.value)
    # No text, as of an answer that was refused, is nothing said, and not the word None.
    empty = {"choices": [{"message": {"content": None}}]}
    monkeypatch.setattr(Handler, "answer", lambda self, request: empty)
    endpoint = api_judge.Endpoint(url(server), "big", TokenWork(), AnswerCache(None, {}))
    assert endpoint.chat_answers([[{"role": "user", "content": "hello"}]], 8) == [""]
    monkeypatch.setattr(Handler, "answer", lambda self, request: {"choices": [{"message": {}}]})
    judge, _ = api_judge.api_judge(SPEC, url(server), "big", "0" * 64, TokenWork(), None)
    with pytest.raises(KitError, match="with logprobs where they are asked for"):
        judge.preferences([PairAsked("i", "good", "bad", True)])
    with pytest.raises(KitError, match="asked in words"):
        api_judge.api_judge(
            SPEC.model_copy(update={"method": "likelihood"}), url(server), "b", "", TokenWork(), None
        )
