"""A tiny teacher with the pocket tokenizer, its data set, and small helpers for the generation tests."""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any

import torch
from transformers import Olmo2Config, Olmo2ForCausalLM

from harness.distill.pocket_tasks import FAMILIES, examples
from harness.distill.pocket_tokenizer import VOCABULARY
from harness.distill.preprocess import PreprocessConfig, preprocess
from harness.distill.sources import SourceConfig
from harness.models.chat import ChatEncoder
from harness.models.generation import Prompt, prompt_seed
from tests.distill import pocket_fixtures


def tiny_model(seed: int = 0, *, end_bias: float = 0.0) -> Olmo2ForCausalLM:
    """Two layers with random weights; `end_bias` makes the end token (id 0) likelier at every step."""
    config = Olmo2Config(
        vocab_size=VOCABULARY,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=256,
        bos_token_id=0,
        eos_token_id=0,
        pad_token_id=1,
        initializer_range=0.3,
    )
    torch.manual_seed(seed)
    model = Olmo2ForCausalLM(config).eval()
    if end_bias:
        with torch.no_grad():
            # The last norm's outputs have unit size: a constant direction of the head adds up to a bias.
            head = model.lm_head.weight
            head[0] = end_bias * head[0] / head[0].norm()
    return model


@functools.cache
def encoder() -> ChatEncoder:
    return ChatEncoder(pocket_fixtures.tokenizer())


def prompts(count: int, seed: int = 0) -> list[Prompt]:
    """Prompts of the three families, of many lengths."""
    found = []
    for family in FAMILIES:
        for example in examples(family, "train", count, 3):
            ids = tuple(encoder().prompt(example["messages"][:1]))
            found.append(Prompt(example["id"], ids, prompt_seed(seed, example["id"])))
    return found


def save_teacher(out: Path, **options: Any) -> Path:
    tiny_model(**options).save_pretrained(out)
    return pocket_fixtures.save(out)


def save_dataset(out: Path, tokenizer: Path, samples: int = 60) -> Path:
    preprocess(
        PreprocessConfig(
            out=out,
            tokenizer=tokenizer,
            sources=[SourceConfig("pocket", samples=samples)],
            seq_len=128,
            validation_fraction=0.2,
            seed=1,
        )
    )
    return out


def reported(path: Path) -> dict[str, int]:
    """Token counts of an events file, added up."""
    total: dict[str, int] = {}
    for line in path.read_text().splitlines():
        for name, value in json.loads(line).items():
            if name.startswith("tokens_"):
                total[name] = total.get(name, 0) + value
    return total
