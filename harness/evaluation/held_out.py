"""Cross-entropy per label token on a data set's validation split: what training minimises, on unseen data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from harness.errors import KitError
from harness.models.batches import Batcher, Mode
from harness.models.dataset import TokenDataset
from harness.models.generation import TokenWork
from harness.models.losses import sft_loss
from harness.models.support import prepare


@dataclass(frozen=True)
class HeldOut:
    """Held-out loss.

    Attributes:
        loss: Nats per label token.
        label_tokens: How many it is the mean of.
    """

    loss: float
    label_tokens: int


@torch.inference_mode()
def held_out_loss(
    model: Any, dataset: TokenDataset, *, seq_len: int, rows: int, work: TokenWork
) -> HeldOut | None:
    """The loss of a model in eval mode; None where the split is empty.

    Args:
        model: A causal language model on its device.
        dataset: The validation split.
        seq_len: Positions of a packed row.
        rows: Rows of a forward pass; the loss does not depend on it.
        work: What was done is added here.
    """
    if not len(dataset):
        return None
    mode: Mode = "packed"
    try:
        prepared = prepare(model, seq_len=seq_len)
    except KitError:  # one example a row then: more padding, the same loss
        mode = "bucketed"
        prepared = prepare(model, batching=mode, seq_len=seq_len)
    device = prepared.head.weight.device
    batches = Batcher(dataset, seq_len=seq_len, micro_batch=rows, seed=0, mode=mode)
    total = torch.zeros((), dtype=torch.float64, device=device)
    labels = 0
    for number in range(batches.batches_per_epoch(0)):
        batch = batches.batch(0, number).to(device)
        hidden, targets = prepared.states(batch)
        total += sft_loss(hidden, prepared.head, targets).ce
        labels += batch.label_tokens
        work.add(TokenWork(processed=batch.real_tokens, positions=batch.positions))
    return HeldOut(total.item() / labels, labels)
