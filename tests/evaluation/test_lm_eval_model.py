"""The model in lm-eval's clothes: answers and likelihoods are those of lm-eval's own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM

from harness.errors import KitError
from harness.evaluation.lm_eval_model import CountedModel
from harness.models.generation import TokenWork
from tests.distill import generation_lab as lab
from tests.distill import pocket_fixtures

torch.set_num_threads(1)


def requests(texts: Sequence[str], settings: dict[str, Any]) -> list[Instance]:
    return [
        Instance("generate_until", {}, (text, dict(settings)), number) for number, text in enumerate(texts)
    ]


def chat(text: str) -> str:
    return f"<|endoftext|><|user|>\n{text}\n<|assistant|>\n"


QUESTIONS = ("Sort the words: oak egg", "a", "Count the words: a b c d", "Run mod 10: a=1")
TEXTS = [chat(question) for question in QUESTIONS]


def ours(model: Any, batch_size: int = 3) -> CountedModel:
    return CountedModel(model, pocket_fixtures.tokenizer(), batch_size=batch_size, work=TokenWork())


@pytest.mark.parametrize("until", [[], ["e"], ["a", "answer", "\n"]])
def test_answers_are_those_of_lm_evals_own_model(until: list[str]) -> None:
    for seed in range(4):
        model = lab.tiny_model(seed, end_bias=6.0)
        settings = {"until": until, "do_sample": False, "max_gen_toks": 16}
        theirs = HFLM(pretrained=model, tokenizer=pocket_fixtures.tokenizer(), batch_size=3)
        expected = theirs.generate_until(requests(TEXTS, settings), disable_tqdm=True)
        assert ours(model).generate_until(requests(TEXTS, settings)) == expected


SHOWN = "Sort the words: oak nest. nest oak. Count the words: a b. 2. Name the last word: fish hat. hat. "


@pytest.mark.parametrize("batch_size", [2, 16])
def test_likelihoods_are_those_of_lm_evals_own_model(batch_size: int) -> None:
    model = lab.tiny_model(3)
    pairs = [
        *((SHOWN + f"Run: a={n}; print a", f" a={m}") for n in range(5) for m in (n, 1, 7)),
        *(("Reverse the words: " + "oak " * n, said) for n in (1, 2) for said in (" oak", " hat ship moon")),
        ("", "hello"),
    ]
    asked = [Instance("loglikelihood", {}, pair, number) for number, pair in enumerate(pairs)]
    theirs = HFLM(pretrained=model, tokenizer=pocket_fixtures.tokenizer(), batch_size=4)
    expected = theirs.loglikelihood(asked, disable_tqdm=True)
    counted = ours(model, batch_size)
    found = counted.loglikelihood(asked)
    assert [total for total, _ in found] == pytest.approx([total for total, _ in expected], abs=2e-4)
    assert [greedy for _, greedy in found] == [bool(greedy) for _, greedy in expected]
    # What fifteen rows have in common went through the model once.
    whole = sum(len(counted.tok_encode(context + said)) for context, said in pairs)
    assert 0 < counted.work.processed < whole / 2 and counted.work.generated == 0


def test_short_rows_are_not_padded_to_the_longest() -> None:
    pairs = [([first] + [2 + first] * length, [5]) for first, length in enumerate((60, 3, 58, 20, 4, 22), 2)]
    model = lab.tiny_model(3)
    together = ours(model, batch_size=16)
    found = together.log_likelihoods(pairs)
    alone = [ours(model).log_likelihoods([pair])[0] for pair in pairs]
    assert found == pytest.approx(alone, abs=2e-4)
    assert together.work.processed == sum(len(prompt) for prompt, _ in pairs)
    assert together.work.positions == 2 * 5 + 2 * 23 + 2 * 61


def test_the_likeliest_next_tokens_are_the_models() -> None:
    model = lab.tiny_model(1)
    prompts = [pocket_fixtures.tokenizer()(text)["input_ids"] for text in TEXTS]
    found = ours(model).next_tokens(prompts, 5)
    for prompt, listed in zip(prompts, found, strict=True):
        with torch.no_grad():
            dense = torch.log_softmax(model(input_ids=torch.tensor([prompt])).logits[0, -1], dim=-1)
        best = dense.topk(5)
        assert [token for token, _ in listed] == best.indices.tolist()
        assert [value for _, value in listed] == pytest.approx(best.values.tolist(), abs=1e-4)


def test_what_would_be_wrong_is_refused() -> None:
    model = ours(lab.tiny_model(), 2)
    with pytest.raises(KitError, match="whole texts"):
        model.loglikelihood_rolling([])
    sampling = {"until": [], "do_sample": True, "temperature": 0.5, "max_gen_toks": 4}
    with pytest.raises(KitError, match="asks for sampling"):
        model.generate_until(requests(TEXTS, sampling))
    long = Instance("loglikelihood", {}, ("oak " * 400, "hat"), 0)
    with pytest.raises(KitError, match="is another question"):
        model.loglikelihood([long])
