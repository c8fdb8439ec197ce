"""The held-out loss against a dense computation, one example at a time."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from harness.evaluation.held_out import held_out_loss
from harness.models.dataset import TokenDataset
from harness.models.generation import TokenWork
from tests.distill import generation_lab as lab
from tests.distill import pocket_fixtures
from tests.distill.token_examples import make_examples, write

torch.set_num_threads(1)


def test_it_is_the_mean_over_label_tokens_whatever_the_batch(tmp_path: Path) -> None:
    data = lab.save_dataset(tmp_path / "data", pocket_fixtures.save(tmp_path / "tokenizer"))
    dataset = TokenDataset.open(data, "validation")
    model = lab.tiny_model()
    total, labels, tokens = 0.0, 0, 0
    for example in dataset:
        ids = torch.tensor(example.input_ids.tolist())
        with torch.no_grad():
            logp = torch.log_softmax(model(input_ids=ids[None]).logits[0].double(), dim=1)
        mask = torch.from_numpy(example.label_mask.copy())
        total -= float(logp[:-1].gather(1, ids[1:, None])[:, 0][mask[1:]].sum())
        labels += int(mask.sum())
        tokens += len(ids)
    for rows in (1, 5):
        work = TokenWork()
        found = held_out_loss(model, dataset, seq_len=128, rows=rows, work=work)
        assert found is not None and found.label_tokens == labels
        assert found.loss == pytest.approx(total / labels, rel=1e-5)
        assert work.processed == tokens and work.positions >= tokens and work.generated == 0


def test_an_empty_split_has_no_loss(tmp_path: Path) -> None:
    write(tmp_path, make_examples(3), seq_len=64)
    dataset = TokenDataset.open(tmp_path, "validation")
    assert held_out_loss(lab.tiny_model(), dataset, seq_len=64, rows=2, work=TokenWork()) is None
