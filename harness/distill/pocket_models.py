"""The pocket profile's models: OLMo-2's architecture about ten thousand times smaller.

What makes one OLMo-2 differ from another is kept: relative depth, width and number of heads, the width of the
MLP in units of the model's, grouped-query attention in the 32B and full attention in the others. Widths are a
32nd, depths about a tenth; the vocabulary is the pocket tokenizer's.
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


@dataclass(frozen=True)
class Shape:
    """The numbers that make a model's size.

    Attributes:
        layers: Transformer blocks.
        width: Width of the residual stream.
        heads: Query heads.
        kv_heads: Key and value heads.
        mlp: Width of the MLP's hidden layer.
    """

    layers: int
    width: int
    heads: int
    kv_heads: int
    mlp: int


OLMO2 = {
    "1b": Shape(16, 2048, 16, 16, 8192),
    "7b": Shape(32, 4096, 32, 32, 11008),
    "13b": Shape(40, 5120, 40, 40, 13824),
    "32b": Shape(64, 5120, 40, 8, 27648),
}
POCKET = {
    "pocket-1b": Shape(2, 48, 2, 2, 192),
    "pocket-7b": Shape(3, 96, 4, 4, 258),
    "pocket-13b": Shape(4, 120, 5, 5, 324),
    "pocket-32b": Shape(6, 120, 5, 1, 648),
}
TEACHER = "pocket-32b"
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
        rope_parameters={"rope_type": "default", "rope_theta": 500000.0},
        rms_norm_eps=1e-6,
        initializer_range=0.02,
    )


def new_model(name: str, *, seed: int, vocabulary: int = VOCABULARY) -> Olmo2ForCausalLM:
    """A pocket model with random weights, the same for the same seed; leaves torch's generator as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Olmo2ForCausalLM(pocket_config(name, vocabulary=vocabulary))


def parameter_count(shape: Shape, vocabulary: int) -> int:
    """Parameters of an OLMo-2 of this shape, embedding and head apart (they are not tied)."""
    head = shape.width // shape.heads
    queries, keys = shape.heads * head, shape.kv_heads * head
    attention = 2 * shape.width * queries + 2 * shape.width * keys + queries + keys
    block = attention + 3 * shape.width * shape.mlp + 2 * shape.width
    return shape.layers * block + 2 * vocabulary * shape.width + shape.width


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
