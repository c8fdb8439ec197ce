"""A teacher trained for a few seconds beats an untrained student clearly: the pocket world can be learned."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from harness.distill.pocket_models import PocketModels, make
from harness.distill.pocket_tasks import examples, is_correct
from harness.distill.preprocess import PreprocessConfig, preprocess
from harness.distill.sources import SourceConfig
from harness.distill.student_train import train
from harness.distill.teacher_train import TeacherTrain
from harness.models.batches import IGNORED, Batcher
from harness.models.chat import ChatEncoder
from harness.models.dataset import TokenDataset

TASK = "arithmetic"


def exact_match(model: Any, encoder: ChatEncoder, count: int) -> float:
    """Share of held-out problems answered exactly, greedily, in one left-padded batch."""
    problems = [example for example in examples(TASK, "eval", count, seed=0) if len(example["messages"]) == 2]
    prompts = [encoder.prompt(problem["messages"][:1]) for problem in problems]
    width = max(len(prompt) for prompt in prompts)
    pad = encoder.tokenizer.pad_token_id
    ids = torch.tensor([[pad] * (width - len(prompt)) + prompt for prompt in prompts])
    mask = torch.tensor([[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts])
    said = model.generate(
        input_ids=ids, attention_mask=mask, max_new_tokens=32, do_sample=False, pad_token_id=pad
    )
    texts = [encoder.tokenizer.decode(line[width:], skip_special_tokens=True) for line in said]
    right = [is_correct(text, problem["answer"]) for text, problem in zip(texts, problems, strict=True)]
    return sum(right) / len(right)


@torch.no_grad()
def held_out_loss(model: Any, data: Path) -> float:
    """Cross-entropy per label token of the validation split."""
    total, labels = 0.0, 0
    batcher = Batcher(
        TokenDataset.open(data, "validation"), seq_len=64, micro_batch=32, seed=0, mode="bucketed"
    )
    for batch in batcher.epoch(0):
        logits = model(
            input_ids=batch.input_ids, attention_mask=batch.attention_mask(), position_ids=batch.position_ids
        ).logits
        wanted = batch.labels[:, 1:].reshape(-1)
        total += torch.nn.functional.cross_entropy(
            logits[:, :-1].flatten(0, 1), wanted, ignore_index=IGNORED, reduction="sum"
        ).item()
        labels += batch.label_tokens
    return total / labels


@pytest.mark.slow
def test_a_short_trained_teacher_beats_an_untrained_student(tmp_path: Path) -> None:
    threads = torch.get_num_threads()
    models = make(PocketModels(out=tmp_path / "models", names=["pocket-7b", "pocket-1b"]))
    data = tmp_path / "data"
    preprocess(
        PreprocessConfig(
            out=data,
            tokenizer=tmp_path / "models" / "tokenizer",
            sources=[
                SourceConfig("pocket", task=TASK, samples=3500, split="train"),
                SourceConfig("pocket", task=TASK, samples=100, split="validation", part="validation"),
            ],
            seq_len=64,
        )
    )
    try:
        summary = train(
            TeacherTrain(model=models[0], dataset=data, out=tmp_path / "teacher", seq_len=64, threads=1)
        )
    finally:
        torch.set_num_threads(threads)
    encoder = ChatEncoder.load(tmp_path / "teacher" / "checkpoint")
    teacher = AutoModelForCausalLM.from_pretrained(tmp_path / "teacher" / "checkpoint").eval()
    student = AutoModelForCausalLM.from_pretrained(models[1]).eval()
    losses = held_out_loss(teacher, data), held_out_loss(student, data)
    scores = exact_match(teacher, encoder, 60), exact_match(student, encoder, 60)
    assert losses[0] < 0.1 * losses[1]
    assert scores[0] > scores[1] + 0.5
    assert summary["best_eval_loss"] == pytest.approx(losses[0], rel=1e-3)
