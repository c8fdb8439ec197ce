"""The pocket profile's teacher, trained from scratch: what AI2 did for the paper's 32B.

    python -m harness.distill.teacher_train --model models/pocket-32b --dataset data/teacher --out teacher

The trainer is the students', on the teacher's own data. As in the paper nobody is charged for the teacher's
making: the stage is recorded under the kind `x-teacher_train`, with its energy, and stays out of the totals
of the regimes. It is resumed, counted and reported as any training.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from harness.distill.arguments import run_stage
from harness.distill.student_train import StudentTrain, train


@dataclass(frozen=True, kw_only=True)
class TeacherTrain(StudentTrain):
    """Train the pocket teacher from scratch; the same settings as a student's, with other defaults."""

    lr: float = field(default=3e-3, metadata={"help": "peak learning rate"})
    warmup_steps: int = field(default=30, metadata={"help": "optimizer steps of linear warm-up"})
    max_epochs: int = field(default=1, metadata={"help": "horizon in epochs"})
    effective_batch: int = field(default=8, metadata={"help": "examples of an optimizer step"})
    micro_batch: int = field(default=8, metadata={"help": "rows of a forward pass"})
    batching: Literal["packed", "bucketed"] = field(
        default="bucketed", metadata={"help": "bucketed: short examples of like length together"}
    )
    seq_len: int = field(default=128, metadata={"help": "positions of a row at most"})
    precision: Literal["float32", "bfloat16"] = field(
        default="float32", metadata={"help": "type of weights and arithmetic"}
    )
    patience: int = field(default=0, metadata={"help": "evaluations without improvement that end the run"})


def main() -> int:
    """Run as a program."""
    return run_stage(TeacherTrain, train)


if __name__ == "__main__":
    raise SystemExit(main())
