"""The shapes and what is tried with them, as data.

Amounts of a case are those of one step: a training step of the paper's micro-batch (4 x 1024, all of them
labels but each row's first), a micro-batch through the teacher, or a batch of prompts answered with a few
tokens.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

from harness.distill.memory import ModelShape

StageKind = Literal["student_train", "teacher_logits", "teacher_generate"]


@dataclass(frozen=True)
class Olmo2:
    """The sizes of an OLMo-2 model: the arguments of its configuration that decide work and memory.

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

    @property
    def shape(self) -> ModelShape:
        """As the memory sum takes it."""
        kv_width = self.width // self.heads * self.kv_heads
        return ModelShape(self.layers, self.width, kv_width, self.mlp, self.vocabulary)


@dataclass(frozen=True)
class Case:
    """One stage with one shape.

    Attributes:
        stage: What is done.
        model: Name of the shape.
        config: The shape.
        rows: Rows of a micro-batch; prompts of a batch.
        seq_len: Positions of a row; tokens of a prompt.
        new_tokens: Tokens that answer a prompt; 0 where nothing is generated.
        k: Ids of a row of the logit cache.
        chunk: Label positions a pass through the teacher's head.
    """

    stage: StageKind
    model: str
    config: Olmo2
    rows: int = 4
    seq_len: int = 1024
    new_tokens: int = 0
    k: int = 100
    chunk: int = 512

    @property
    def id(self) -> str:
        """A name for tables and logs."""
        return f"{self.stage}_{self.model}"

    @property
    def label_tokens(self) -> int:
        """Labels of a micro-batch."""
        return self.rows * (self.seq_len - 1)

    def as_json(self) -> dict[str, Any]:
        """The case as a JSON object, for the program that runs it."""
        return asdict(self)

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Case:
        """The inverse of `as_json`."""
        return cls(**{**value, "config": Olmo2(**value["config"])})


OLMO2 = {
    "1b": Olmo2(16, 2048, 16, 16, 8192),
    "7b": Olmo2(32, 4096, 32, 32, 11_008),
    "13b": Olmo2(40, 5120, 40, 40, 13_824),
    "32b": Olmo2(64, 5120, 40, 8, 27_648),
}
MINIATURE = {
    "1b": Olmo2(2, 48, 2, 2, 192, vocabulary=512),
    "7b": Olmo2(3, 96, 4, 4, 258, vocabulary=512),
    "13b": Olmo2(4, 120, 5, 5, 324, vocabulary=512),
    "32b": Olmo2(6, 120, 5, 1, 648, vocabulary=512),
}
"""The same relations a thousand times smaller, for a rehearsal on the CPU."""

# What the paper runs first: should time run out, the rest is left out.
_ORDER: tuple[tuple[StageKind, str], ...] = (
    ("student_train", "1b"),
    ("student_train", "7b"),
    ("student_train", "13b"),
    ("teacher_logits", "32b"),
    ("teacher_generate", "32b"),
    ("teacher_logits", "13b"),
    ("teacher_generate", "13b"),
    ("teacher_logits", "7b"),
    ("teacher_generate", "7b"),
    ("teacher_logits", "1b"),
    ("teacher_generate", "1b"),
)


def card_cases() -> list[Case]:
    """What is tried on a card."""
    return [
        Case(stage, name, OLMO2[name], rows=16, seq_len=256, new_tokens=64)
        if stage == "teacher_generate"
        else Case(stage, name, OLMO2[name])
        for stage, name in _ORDER
    ]


def miniature_cases() -> list[Case]:
    """What a rehearsal tries: the stages' code on small models, one of each and two of training."""
    tried: list[tuple[StageKind, str]] = [
        ("student_train", "1b"),
        ("student_train", "13b"),
        ("teacher_logits", "32b"),
        ("teacher_generate", "32b"),
    ]
    return [
        Case(stage, name, MINIATURE[name], rows=4, seq_len=16, new_tokens=8, k=20, chunk=32)
        if stage == "teacher_generate"
        else Case(stage, name, MINIATURE[name], rows=4, seq_len=64, k=20, chunk=32)
        for stage, name in tried
    ]
