"""The shapes and what is tried with them, as data.

Amounts of a case are those of one step: a training step of the paper's micro-batch (4 x 1024, all of them
labels but each row's first), a micro-batch through the teacher, or a batch of prompts answered with a few
tokens.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

from harness.models.shapes import OLMO2, POCKET, ModelShape

StageKind = Literal["student_train", "teacher_logits", "teacher_generate"]


@dataclass(frozen=True)
class Case:
    """One stage with one shape.

    Attributes:
        stage: What is done.
        model: Name of the shape.
        shape: The shape.
        rows: Rows of a micro-batch; prompts of a batch.
        seq_len: Positions of a row; tokens of a prompt.
        new_tokens: Tokens that answer a prompt; 0 where nothing is generated.
        k: Ids of a row of the logit cache.
        chunk: Label positions a pass through the teacher's head.
        checkpointing: Whether training computes its layers again in the backward.
    """

    stage: StageKind
    model: str
    shape: ModelShape
    rows: int = 4
    seq_len: int = 1024
    new_tokens: int = 0
    k: int = 100
    chunk: int = 512
    checkpointing: bool = True

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
        return cls(**{**value, "shape": ModelShape(**value["shape"])})


# What the paper runs first: should time run out, the rest is left out. Training as in profile `paper`,
# answers in batches that an 80 GB card has room for at full length.
_TRAINED: tuple[tuple[str, bool], ...] = (("1b", False), ("7b", False), ("13b", True))
_ANSWERED: tuple[tuple[str, int], ...] = (("32b", 16), ("7b", 64))


def card_cases() -> list[Case]:
    """What is tried on a card."""
    trained = [Case("student_train", name, OLMO2[name], checkpointing=again) for name, again in _TRAINED]
    answered = [
        Case("teacher_generate", name, OLMO2[name], rows=rows, seq_len=300, new_tokens=64)
        for name, rows in _ANSWERED
    ]
    return [*trained, Case("teacher_logits", "32b", OLMO2["32b"]), *answered]


def miniature_cases() -> list[Case]:
    """What a rehearsal tries: the stages' code on small models, one of each and two of training."""
    tried: list[tuple[StageKind, str]] = [
        ("student_train", "1b"),
        ("student_train", "13b"),
        ("teacher_logits", "32b"),
        ("teacher_generate", "32b"),
    ]
    return [
        Case(stage, name, POCKET[f"pocket-{name}"], rows=4, seq_len=16, new_tokens=8, k=20, chunk=32)
        if stage == "teacher_generate"
        else Case(stage, name, POCKET[f"pocket-{name}"], rows=4, seq_len=64, k=20, chunk=32)
        for stage, name in tried
    ]
