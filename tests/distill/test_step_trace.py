"""The trace of a step on meta tensors: against closed forms, and the sums of memory against it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from harness.distill.step_trace import trace_generation, trace_logits, trace_training
from harness.models.shapes import ModelShape
from harness.planning import sums
from harness.planning.memory import training_memory

SHAPES = {
    "many heads": ModelShape(2, 512, 4, 4, 1376, vocabulary=20_000),
    "grouped heads": ModelShape(2, 512, 8, 2, 2048, vocabulary=10_000),
}
ROWS, SEQ = 4, 512
LABELS = ROWS * (SEQ - 1)


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_products_and_weights_are_those_of_the_closed_form(shape: ModelShape) -> None:
    trunk, head = sums.trunk_flops(shape, ROWS * SEQ, 0), sums.head_flops(shape, LABELS)
    plain = trace_training(shape, rows=ROWS, seq_len=SEQ)
    assert plain.weight_bytes == 2 * shape.parameters
    assert plain.phases["forward"].flops == trunk
    assert plain.phases["loss"].flops == 3 * head
    assert plain.phases["backward"].flops == 2 * trunk
    again = trace_training(shape, rows=ROWS, seq_len=SEQ, checkpointing=True)
    # Of a layer that is run again nothing is left out; the last product of the backward's repetition is
    # needed.
    assert again.phases["backward"].flops == 3 * trunk
    assert trace_logits(shape, rows=ROWS, seq_len=SEQ).phases["forward"].flops == trunk
    made = trace_generation(shape, rows=ROWS, prompt=SEQ, new_tokens=8)
    assert made.phases["token"].flops == sums.trunk_flops(shape, ROWS, 0) + sums.head_flops(shape, ROWS)


@pytest.mark.parametrize("accumulation", [1, 2])
@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_the_sum_of_training_is_the_trace(shape: ModelShape, checkpointing: bool, accumulation: int) -> None:
    for ids, temperature in ((0, 1.0), (100, 4.0)):
        traced = trace_training(
            shape,
            rows=ROWS,
            seq_len=SEQ,
            checkpointing=checkpointing,
            accumulation=accumulation,
            teacher_ids=ids,
            temperature=temperature,
        )
        stated = training_memory(
            shape,
            rows=ROWS,
            seq_len=SEQ,
            label_tokens=LABELS,
            checkpointing=checkpointing,
            accumulation=accumulation,
            temperature=temperature,
            context=0,
        )
        assert stated.peak == pytest.approx(traced.peak_bytes, rel=0.05)


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_the_sums_of_the_teachers_stages_are_the_trace(shape: ModelShape) -> None:
    sizes = {"rows": 64, "prompt": 300, "new_tokens": 200}
    traced = trace_generation(shape, **sizes)
    stated = sums.generation_memory(shape, **sizes)
    assert stated.tensors == pytest.approx(traced.peak_bytes, rel=0.05)
    logits = trace_logits(shape, rows=ROWS, seq_len=SEQ)
    said = sums.logits_memory(shape, rows=ROWS, seq_len=SEQ, k=100, chunk=512, label_tokens=LABELS)
    assert said.tensors == pytest.approx(logits.peak_bytes, rel=0.05)


def test_the_batch_that_fits_is_the_largest_that_does() -> None:
    shape, sizes = SHAPES["grouped heads"], {"prompt": 300, "new_tokens": 200}
    free = 1_000_000_000
    rows = sums.fitting_rows(shape, free, **sizes)
    room = [sums.generation_memory(shape, rows=n, **sizes) for n in (rows, rows + 1)]
    assert room[0].tensors - room[0].weights <= free < room[1].tensors - room[1].weights
    assert sums.fitting_rows(shape, 0, **sizes) == 0


@pytest.mark.models
def test_the_papers_models_within_five_per_cent() -> None:
    script = Path(__file__).parents[2] / "scripts/trace_steps.py"
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=1800, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "student_train 13b" in done.stdout and "teacher_logits 32b" in done.stdout
