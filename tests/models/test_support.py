"""The load check: what passes gives the numbers of the model's own logits, what would not is refused."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from harness.errors import KitError
from harness.models.batches import IGNORED, Batch
from harness.models.generation import TokenSampling
from harness.models.generation_transformers import decode
from harness.models.losses import sft_loss
from harness.models.support import prepare

SIZES = {
    "vocab_size": 128,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "head_dim": 8,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
LENGTHS = (40, 25, 33)
CASES: dict[str, dict[str, Any]] = {
    "olmo2": {},
    "mistral": {"sliding_window": 8},
    "gemma2": {"sliding_window": 8, "final_logit_softcapping": 1.0, "attn_logit_softcapping": 2.0},
    "gemma3_text": {"sliding_window": 8},
    "olmo3": {"sliding_window": 8},
    "exaone4": {"sliding_window": 8},
    "granite": {"logits_scaling": 8.0},
    "cohere": {"logit_scale": 0.25},
    "phi": {},
}


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def model_of(name: str, **settings: Any) -> Any:
    """Random weights, enlarged so that differences show; biases that are not zero."""
    torch.manual_seed(0)
    config = AutoConfig.for_model(name, **(SIZES | settings))
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            if parameter.ndim >= 2:
                parameter.mul_(3)
            elif key.endswith("bias"):
                parameter.normal_(0, 0.5)
    return model


def packed() -> tuple[list[torch.Tensor], Batch]:
    """Three examples in one row, all positions but each first one labels."""
    generator = torch.Generator().manual_seed(1)
    examples = [torch.randint(3, 128, (length,), generator=generator) for length in LENGTHS]
    width = sum(LENGTHS) + 10
    ids, segments = torch.zeros(1, width, dtype=torch.int64), torch.zeros(1, width, dtype=torch.int64)
    labels, places = torch.full((1, width), IGNORED), torch.zeros(1, width, dtype=torch.int64)
    start = 0
    for number, example in enumerate(examples, start=1):
        end = start + len(example)
        ids[0, start:end], labels[0, start + 1 : end] = example, example[1:]
        places[0, start:end], segments[0, start:end] = torch.arange(len(example)), number
        start = end
    places[0, start:] = torch.arange(width - start)
    rows = [(number, length - 1) for number, length in enumerate(LENGTHS)]
    count = sum(LENGTHS) - len(LENGTHS)
    return examples, Batch(ids, labels, places, segments, rows, width, sum(LENGTHS), count)


@pytest.mark.parametrize("attention", ["auto", "varlen"])
@pytest.mark.parametrize("name", CASES)
def test_loss_and_gradients_of_packed_rows_are_the_models_own(name: str, attention: Any) -> None:
    """Cross-entropy and the gradient of every weight, against the model's own logits example by example."""
    model = model_of(name, **CASES[name])
    examples, batch = packed()
    if name == "gemma2" and attention == "varlen":
        with pytest.raises(KitError, match="varlen attention has no softcap"):
            prepare(model, attention=attention, seq_len=128)
        return
    prepared = prepare(model, attention=attention, seq_len=128)
    states, labels = prepared.states(batch)
    got = sft_loss(states, prepared.head, labels).total
    got.backward()
    found = {key: value.grad.clone() for key, value in model.named_parameters() if value.grad is not None}
    model.zero_grad()
    model.set_attn_implementation("eager")
    want = sum(
        torch.nn.functional.cross_entropy(
            model(input_ids=example[None], use_cache=False).logits[0, :-1].float(),
            example[1:],
            reduction="sum",
        )
        for example in examples
    )
    want.backward()
    torch.testing.assert_close(got, want.detach(), rtol=1e-5, atol=1e-4)
    wanted = {key: value.grad for key, value in model.named_parameters() if value.grad is not None}
    assert set(found) == set(wanted)
    for key, gradient in wanted.items():
        bound = 1e-4 * float(gradient.abs().max()) + 1e-5
        torch.testing.assert_close(found[key], gradient, rtol=1e-3, atol=bound)


@pytest.mark.parametrize("name", ["olmo2", "mistral", "gemma2", "gemma3_text"])
def test_generation_in_a_batch_keeps_to_the_windows(name: str) -> None:
    """Greedy answers of prompts padded to one length, against the model's own logits of each alone."""
    model = model_of(name, **CASES[name])
    model.set_attn_implementation("eager" if name == "gemma2" else "sdpa")
    prompts = [example.tolist() for example in packed()[0]]
    answers, _ = decode(model, prompts, TokenSampling(6, temperature=0), ends=(-1,))
    model.set_attn_implementation("eager")
    for prompt, answer in zip(prompts, answers, strict=True):
        said: list[int] = []
        for _ in answer:
            logits = model(input_ids=torch.tensor([prompt + said]), use_cache=False).logits[0, -1]
            said.append(int(logits.argmax()))
        assert answer == said


def test_a_recurrent_model_leaks_in_a_packed_row_and_not_alone() -> None:
    model = model_of("jamba", use_mamba_kernels=False)
    with pytest.raises(KitError, match=r"an example sees the others(?s:.*)batching: bucketed"):
        prepare(model, seq_len=128)
    assert prepare(model, batching="bucketed", seq_len=128).difference < 1e-4


def test_a_model_that_cannot_be_told_where_examples_begin_is_refused() -> None:
    with pytest.raises(KitError, match="it takes no positions"):
        prepare(model_of("bloom"), seq_len=128)


def test_the_check_leaves_mode_and_random_numbers_as_they_are() -> None:
    model = model_of("olmo2").train()
    before = torch.get_rng_state()
    assert prepare(model, seq_len=64).model.training
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("name", ["olmo2", "granite"])
def test_16_bits_pass_and_a_fault_of_the_head_does_not(name: str) -> None:
    model = model_of(name, **CASES[name]).bfloat16()
    assert prepare(model, seq_len=64).difference < 0.1
    own = type(model).forward

    def other(self: Any, **given: Any) -> Any:
        output = own(self, **given)
        output.logits = output.logits * 0.5
        return output

    model.forward = other.__get__(model)
    with pytest.raises(KitError, match="logits are not the last hidden state times the output matrix"):
        prepare(model, seq_len=64)
