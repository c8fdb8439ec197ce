"""Every family of tokenizer is asked the same items."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from harness.evaluation.items import Item
from harness.evaluation.lm_eval_model import CountedModel
from harness.evaluation.lm_eval_tasks import score
from harness.evaluation.suites import read_suite, suite_file
from harness.models.generation import TokenWork
from tests.distill import generation_lab as lab

torch.set_num_threads(1)
MINI = {benchmark.name: benchmark for benchmark in read_suite(suite_file("distill-5-mini")).benchmarks}
SPECIAL = ["<|end|>", "<|pad|>", "<unk>"]
CORPUS = [f"Question: what is {n} + 1?\nAnswer: {c}. {n + 1}\n" for n in range(40) for c in "ABCD"] * 2
FAMILIES: dict[str, Any] = {
    "byte-level BPE": (models.BPE(), pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()),
    "byte-level BPE, single digits": (
        models.BPE(),
        pre_tokenizers.Sequence(
            [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
        ),
        decoders.ByteLevel(),
    ),
    "SentencePiece BPE": (models.BPE(unk_token="<unk>"), pre_tokenizers.Metaspace(), decoders.Metaspace()),
    "SentencePiece unigrams": (models.Unigram(), pre_tokenizers.Metaspace(), decoders.Metaspace()),
}


def tokenizer(family: str) -> PreTrainedTokenizerFast:
    model, splits, decoder = FAMILIES[family]
    made = Tokenizer(model)
    made.pre_tokenizer, made.decoder = splits, decoder
    alphabet = sorted(
        {*"".join(CORPUS), *"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789#+-.,?:()"}
    )
    given: dict[str, Any] = {"vocab_size": 300, "special_tokens": SPECIAL, "show_progress": False}
    if isinstance(model, models.Unigram):
        trainer: Any = trainers.UnigramTrainer(unk_token="<unk>", initial_alphabet=alphabet, **given)
    else:
        letters = pre_tokenizers.ByteLevel.alphabet() if "byte" in family else alphabet
        trainer = trainers.BpeTrainer(initial_alphabet=letters, **given)
    made.train_from_iterator([*CORPUS, *alphabet], trainer)
    names = dict(zip(("eos_token", "pad_token", "unk_token"), SPECIAL, strict=True))
    return PreTrainedTokenizerFast(tokenizer_object=made, **names)


class Recorded(CountedModel):
    """Keeps the tokens it is asked to score; every letter is as likely as its place."""

    asked: list[tuple[tuple[int, ...], tuple[int, ...]]]

    def _loglikelihood_tokens(self, requests: Any, **_: Any) -> list[tuple[float, bool]]:
        self.asked = [(tuple(context), tuple(said)) for _, context, said in requests]
        return [(-float(number % 4), False) for number in range(len(requests))]


@pytest.fixture(scope="module")
def prompts() -> dict[str, tuple[Any, list[str]]]:
    """By family: the score, and the text that each request's tokens stand for."""

    def items(count: int, word: str) -> list[Item]:
        content = {"subject": "anatomy", "choices": list("wxyz")}
        return [
            Item(f"anatomy/{n}", {**content, "question": f"{word} {n}?", "answer": n % 4}, "anatomy")
            for n in range(count)
        ]

    found = {}
    for family in FAMILIES:
        made = tokenizer(family)
        lm = Recorded(lab.tiny_model(0), made, batch_size=4, work=TokenWork())
        (result,) = score(MINI["mmlu"], items(4, "asked"), items(5, "shown"), lm)
        texts = [made.decode([*context, *said]) for context, said in lm.asked]
        # Four letters after one context: of the same tokens, and different from each other.
        for first in range(0, len(lm.asked), 4):
            contexts, letters = zip(*lm.asked[first : first + 4], strict=True)
            assert len(set(contexts)) == 1 and len(set(letters)) == 4 and all(letters), family
            assert [made.decode(list(letter)).strip() for letter in letters] == list("ABCD"), family
        assert not any(made.unk_token_id in (*context, *said) for context, said in lm.asked), family
        found[family] = (result, texts)
    return found


def test_every_family_is_asked_the_same_items(prompts: dict[str, tuple[Any, list[str]]]) -> None:
    reference, texts = prompts["byte-level BPE"]
    assert len(texts) == 16 and texts[0].count("shown") == 5 and texts[0].count("asked 0?") == 1
    for family, (result, asked) in prompts.items():
        assert result.items_sha256 == reference.items_sha256, family
        assert result.item_sha256 == reference.item_sha256 and result.n_scored == 4, family
        assert result.item_scores == reference.item_scores == (1.0, 0.0, 0.0, 0.0), family
        # SentencePiece writes breaks of lines and runs of blanks as it likes; words and letters are the same.
        assert [text.split() for text in asked] == [text.split() for text in texts], family
