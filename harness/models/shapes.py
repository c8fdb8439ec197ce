"""Shapes: the sizes of a model that decide its weights, its work and its memory. No torch here."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.errors import KitError

_POSITIONS = "max_position_embeddings"


@dataclass(frozen=True)
class ModelShape:
    """The sizes of an OLMo-2 model.

    Attributes:
        layers: Transformer blocks.
        width: Width of the residual stream.
        heads: Query heads.
        kv_heads: Key and value heads.
        mlp: Width of the MLP's hidden layer.
        vocabulary: Rows of embedding and head, which are not tied.
    """

    layers: int
    width: int
    heads: int
    kv_heads: int
    mlp: int
    vocabulary: int = 100_352

    @classmethod
    def of(cls, config: Any) -> ModelShape:
        """From a transformers configuration."""
        return cls(
            config.num_hidden_layers,
            config.hidden_size,
            config.num_attention_heads,
            config.num_key_value_heads,
            config.intermediate_size,
            config.vocab_size,
        )

    @property
    def kv_width(self) -> int:
        """Width of the keys: key heads times head size."""
        return self.width // self.heads * self.kv_heads

    @property
    def matrices(self) -> list[tuple[int, int, int]]:
        """(rows, columns, how many) of every kind of weight matrix."""
        d, k, f, n = self.width, self.kv_width, self.mlp, self.layers
        return [(d, d, 2 * n), (k, d, 2 * n), (f, d, 2 * n), (d, f, n), (self.vocabulary, d, 2)]

    @property
    def vector_elements(self) -> int:
        """Elements of the norms' weights."""
        return self.layers * (3 * self.width + self.kv_width) + self.width

    @property
    def parameters(self) -> int:
        """Number of weights."""
        return sum(rows * columns * count for rows, columns, count in self.matrices) + self.vector_elements

    @property
    def largest_matrix(self) -> int:
        """Elements of the largest weight matrix."""
        return max(rows * columns for rows, columns, _ in self.matrices)


def positions_of(folder: Path) -> int | None:
    """Positions a model has, from its folder's configuration; None when it does not say.

    Raises:
        KitError: There is no configuration that can be read.
    """
    try:
        known = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        # A model that reads pictures too keeps the text model's sizes apart.
        value = known.get(_POSITIONS, (known.get("text_config") or {}).get(_POSITIONS))
        return None if value is None else int(value)
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise KitError(f"no configuration that can be read: {error}", where=str(folder)) from None


OLMO2 = {
    "1b": ModelShape(16, 2048, 16, 16, 8192),
    "7b": ModelShape(32, 4096, 32, 32, 11_008),
    "13b": ModelShape(40, 5120, 40, 40, 13_824),
    "32b": ModelShape(64, 5120, 40, 8, 27_648),
}
"""The paper's models."""

POCKET = {
    "pocket-1b": ModelShape(2, 48, 2, 2, 192, vocabulary=512),
    "pocket-7b": ModelShape(3, 96, 4, 4, 258, vocabulary=512),
    "pocket-13b": ModelShape(4, 120, 5, 5, 324, vocabulary=512),
    "pocket-32b": ModelShape(6, 120, 5, 1, 648, vocabulary=512),
}
"""The same relations 12,000 to 19,000 times smaller (`harness.distill.pocket_models`)."""
