"""The pocket profile's models: OLMo-2's architecture, 12,000 to 19,000 times smaller.

What makes one OLMo-2 differ from another is kept: relative depth, width and number of heads, the width of the
MLP in units of the model's, grouped-query attention in the 32B and full attention in the others. Widths are a
43rd, heads an eighth, depths about a tenth; the vocabulary is the pocket tokenizer's.

| pocket | layers | width | heads / kv | MLP | parameters | stands for | parameters | layers, width |
|---|---|---|---|---|---|---|---|---|
| pocket-1b | 2 | 48 | 2 / 2 | 192 | 123,312 | OLMo-2 1B | 1.485 B | 16, 2048 |
| pocket-7b | 3 | 96 | 4 / 4 | 258 | 433,056 | OLMo-2 7B | 7.299 B | 32, 4096 |
| pocket-13b | 4 | 120 | 5 / 5 | 324 | 821,880 | OLMo-2 13B | 13.716 B | 40, 5120 |
| pocket-32b | 6 | 120 | 5 / 1 | 648 | 1,732,344 | OLMo-2 32B | 32.234 B | 64, 5120 |
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import torch
from transformers import Olmo2Config, Olmo2ForCausalLM
from transformers.utils.logging import disable_progress_bar

from harness.distill.arguments import run_stage, write_config
from harness.distill.checkpoint import replace_folder, save_model
from harness.distill.pocket_tokenizer import VOCABULARY, save_tokenizer
from harness.errors import KitError
from harness.models.shapes import POCKET

TEACHER = "pocket-32b"
POST_NORM = 0.3
STUDENTS = ("pocket-1b", "pocket-7b", "pocket-13b")


def pocket_config(name: str, *, vocabulary: int = VOCABULARY, positions: int = 512) -> Olmo2Config:
    """Configuration of a pocket model.

    Args:
        name: One of POCKET.
        vocabulary: Rows of the embedding.
        positions: Longest sequence.

    Raises:
        KitError: No such model.
    """
    if name not in POCKET:
        raise KitError(f"no pocket model {name!r}", expected=f"one of {', '.join(POCKET)}")
    shape = POCKET[name]
    return Olmo2Config(
        vocab_size=vocabulary,
        hidden_size=shape.width,
        intermediate_size=shape.mlp,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.kv_heads,
        max_position_embeddings=positions,
        bos_token_id=0,
        eos_token_id=0,
        pad_token_id=1,
        # 500,000 in OLMo-2, for thousands of positions; here they are tens.
        rope_parameters={"rope_type": "default", "rope_theta": 100.0},
        rms_norm_eps=1e-6,
        initializer_range=0.02,
    )


def new_model(name: str, *, seed: int, vocabulary: int = VOCABULARY) -> Olmo2ForCausalLM:
    """A pocket model with random weights, the same for the same seed; leaves torch's generator as it was.

    OLMo-2 scales what a block adds to the size of 1 and starts embeddings at 0.02: the blocks drown the
    tokens until training, over trillions of them, has put that right. Here embeddings start at 1 and blocks
    at POST_NORM. Training loss of pocket-7b after 0.3 M tokens: 0.64 instead of 1.07.
    """
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        model = Olmo2ForCausalLM(pocket_config(name, vocabulary=vocabulary))
        for part, weight in model.named_parameters():
            if "embed_tokens" in part:
                weight.normal_(std=1.0)
            elif weight.ndim == 2 and "lm_head" not in part:
                weight.normal_(std=weight.shape[1] ** -0.5)
            elif "post_" in part:
                weight.fill_(POST_NORM)
        return model


@dataclass(frozen=True)
class PocketModels:
    """Make the pocket models, with random weights, and their tokenizer: in place of fetching."""

    out: Path = field(metadata={"help": "gets tokenizer/ and a model folder by each name"})
    names: list[str] = field(
        default_factory=lambda: list(POCKET), metadata={"help": "which models; all by default"}
    )
    seed: int = field(
        default=0, metadata={"help": "of the weights and of the text the tokenizer is trained on"}
    )


def make(config: PocketModels) -> list[Path]:
    """Run the program; a folder that is there already is left alone.

    Returns:
        The model folders; each holds the tokenizer too and can stand wherever a model of the paper does.
    """
    disable_progress_bar()
    write_config(config, config.out)
    tokenizer = config.out / "tokenizer"
    if not tokenizer.exists():
        replace_folder(tokenizer, lambda folder: save_tokenizer(folder, seed=config.seed))
    folders = []
    for name in config.names:
        folder = config.out / name
        folders.append(folder)
        if not folder.exists():
            save_model(new_model(name, seed=config.seed), folder, tokenizer)
    return folders


def main() -> int:
    """Run as a program."""
    return run_stage(PocketModels, make)


if __name__ == "__main__":
    raise SystemExit(main())
