"""TRL's SFTTrainer and ours on the same batches of pocket data: the same loss at every step.

Same initial weights, same optimizer (ours), same schedule, same examples in the same batches and order. TRL
gets ready-made tokens and labels; what differs is the loop and the loss.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("trl", reason="TRL is not installed")

EXAMPLES, BATCH, SEQ_LEN = 24, 4, 256
LR, WARMUP = 1e-3, 20


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Tokenizer, data set and student as the pocket profile makes them."""
    from harness.distill.pocket_models import new_model
    from harness.distill.pocket_tokenizer import VOCABULARY, save_tokenizer
    from harness.distill.preprocess import PreprocessConfig, preprocess
    from harness.distill.sources import SourceConfig

    student = tmp_path / "student"
    save_tokenizer(student)
    new_model("pocket-1b", seed=0, vocabulary=VOCABULARY).save_pretrained(student)
    sources = [
        SourceConfig(kind="pocket", split="train", samples=EXAMPLES),
        SourceConfig(kind="pocket", split="validation", samples=60),
    ]
    preprocess(PreprocessConfig(out=tmp_path / "set", tokenizer=student, sources=sources, seq_len=SEQ_LEN))
    return tmp_path


def trained(folder: Path, *, by_trl: bool) -> tuple[list[float], float]:
    """Loss of every step of an epoch, and cross-entropy on the validation split afterwards."""
    import torch
    from transformers import AutoModelForCausalLM

    from harness.distill.adafactor import Adafactor
    from harness.models.batches import Batcher
    from harness.models.dataset import TokenDataset
    from harness.models.forward import label_states
    from harness.models.losses import sft_loss

    torch.set_num_threads(1)
    split = TokenDataset.open(folder / "set", "train")
    batcher = Batcher(split, seq_len=SEQ_LEN, micro_batch=BATCH, seed=0, mode="bucketed")
    model: Any = AutoModelForCausalLM.from_pretrained(folder / "student")
    optimizer = Adafactor(model.parameters(), lr=LR, scale_parameter=False)
    train = with_trl if by_trl else with_ours
    losses = train(model, optimizer, split, batcher, folder)
    held_out = Batcher(
        TokenDataset.open(folder / "set", "validation"), seq_len=SEQ_LEN, micro_batch=16, seed=0
    )
    model.eval()
    total, labels = 0.0, 0
    with torch.no_grad():
        for batch in held_out.epoch(0):
            hidden, targets = label_states(model, batch)
            total += sft_loss(hidden, model.lm_head.weight, targets).ce.item()
            labels += batch.label_tokens
    return losses, total / labels


def with_ours(model: Any, optimizer: Any, split: Any, batcher: Any, folder: Path) -> list[float]:
    from harness.distill.train_options import TrainOptions
    from harness.distill.trainer import Trainer
    from harness.models.support import prepare

    out = folder / "ours"
    out.mkdir()
    options = TrainOptions(lr=LR, warmup_steps=WARMUP, max_epochs=1, state_every_steps=-1)
    ready = prepare(model, seq_len=SEQ_LEN)
    Trainer(ready, optimizer, batcher, None, None, options, out, folder / "student").run()
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return [line["loss"] for line in lines if "loss" in line]


def with_trl(model: Any, optimizer: Any, split: Any, batcher: Any, folder: Path) -> list[float]:
    """SFTTrainer over the examples in the order of our batches, a step a batch."""
    import torch
    from datasets import Dataset
    from transformers import PreTrainedTokenizerFast
    from trl import SFTConfig, SFTTrainer

    from harness.distill.schedule import cosine_with_warmup

    def row(index: int) -> dict[str, list[int]]:
        ids, mask = split.arrays(index)
        labels = [int(token) if label else -100 for token, label in zip(ids, mask, strict=True)]
        return {"input_ids": ids.tolist(), "labels": labels}

    plan = batcher.plan(0)
    config = SFTConfig(
        output_dir=str(folder / "trl"),
        per_device_train_batch_size=BATCH,
        num_train_epochs=1,
        max_grad_norm=1.0,
        logging_steps=1,
        save_strategy="no",
        report_to="none",
        train_sampling_strategy="sequential",
        dataset_kwargs={"skip_prepare_dataset": True},
        gradient_checkpointing=False,
        bf16=False,
        use_cpu=True,
        disable_tqdm=True,
        remove_unused_columns=False,
    )
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: cosine_with_warmup(step, total=len(plan), warmup=WARMUP)
    )
    trainer = SFTTrainer(
        model=model,
        args=config,
        train_dataset=Dataset.from_list([row(rows[0]) for batch in plan for rows in batch]),
        processing_class=PreTrainedTokenizerFast.from_pretrained(str(folder / "student")),
        optimizers=(optimizer, schedule),
    )
    trainer.train()
    return [line["loss"] for line in trainer.state.log_history if "loss" in line]


@pytest.mark.slow
def test_trl_and_ours_have_the_same_losses(folder: Path) -> None:
    theirs, their_validation = trained(folder, by_trl=True)
    ours, validation = trained(folder, by_trl=False)
    assert len(theirs) == len(ours) == EXAMPLES // BATCH
    assert ours == pytest.approx(theirs, abs=2e-5)
    assert validation == pytest.approx(their_validation, abs=2e-5)
    assert ours[-1] < ours[0]
