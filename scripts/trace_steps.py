"""`make trace`: memory, bytes a weight and operations of one step of every stage, from meta tensors of the
real shapes.

No GPU and no weights; under three minutes on two cores. Beside each trace stands the sum by formula that
`kit preflight` and `kit plan` use. Exit code 1 where they are more than 5 % apart.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from harness.distill.step_trace import StepTrace, trace_generation, trace_logits, trace_training
from harness.models.shapes import OLMO2
from harness.planning.memory import training_memory
from harness.planning.sums import generation_memory, logits_memory

APART = 0.05
ROWS, SEQ = 4, 1024
LABELS = ROWS * (SEQ - 1)


def _training(size: str, *, checkpointing: bool, teacher_ids: int = 0) -> tuple[StepTrace, int]:
    shape = OLMO2[size]
    stated = training_memory(
        shape, rows=ROWS, seq_len=SEQ, label_tokens=LABELS, checkpointing=checkpointing, context=0
    )
    return trace_training(shape, checkpointing=checkpointing, teacher_ids=teacher_ids), stated.peak


def _logits() -> tuple[StepTrace, int]:
    shape = OLMO2["32b"]
    stated = logits_memory(shape, rows=ROWS, seq_len=SEQ, k=100, chunk=512, label_tokens=LABELS)
    return trace_logits(shape), stated.tensors


def _generation(rows: int) -> tuple[StepTrace, int]:
    shape, sizes = OLMO2["32b"], {"rows": rows, "prompt": 1000, "new_tokens": 1024}
    return trace_generation(shape, **sizes), generation_memory(shape, **sizes).tensors


STEPS: dict[str, Callable[[], tuple[StepTrace, int]]] = {
    "student_train 1b, sft": lambda: _training("1b", checkpointing=False),
    "student_train 1b, kd": lambda: _training("1b", checkpointing=False, teacher_ids=100),
    "student_train 7b, sft": lambda: _training("7b", checkpointing=False),
    "student_train 13b, sft, checkpointing": lambda: _training("13b", checkpointing=True),
    "teacher_logits 32b": _logits,
    "teacher_generate 32b, transformers, 16 rows": lambda: _generation(16),
}


def main() -> int:
    """Trace, compare, print."""
    print(
        f"{'':44}{'trace GB':>9}{'sum GB':>8}{'apart':>8}{'B/weight':>10}{'of it step':>12}{'operations':>12}"
    )
    worst = 0.0
    for name, run in STEPS.items():
        traced, stated = run()
        apart = stated / traced.peak_bytes - 1
        worst = max(worst, abs(apart))
        step = f"{traced.bytes_per_weight('clip', 'optimizer'):.0f}" if "clip" in traced.phases else "-"
        print(
            f"{name:44}{traced.peak_bytes / 1e9:9.2f}{stated / 1e9:8.2f}{apart:+8.1%}"
            f"{traced.bytes / traced.weights:10.0f}{step:>12}{traced.operations:12,}",
            flush=True,
        )
    print(
        "Tensors only; the CUDA context comes on top. B/weight: bytes that a step reads and writes, "
        "nothing fused, over the weights; of it step: clipping and optimizer."
    )
    return 1 if worst > APART else 0


if __name__ == "__main__":
    sys.exit(main())
