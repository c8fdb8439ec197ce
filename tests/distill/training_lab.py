"""A tiny model, a tiny data set that can be learned, and a teacher held in memory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from token_examples import write
from transformers import Olmo2Config, Olmo2ForCausalLM

from harness.distill.adafactor import Adafactor
from harness.distill.train_options import TrainOptions
from harness.distill.trainer import Trainer
from harness.models.batches import Batcher
from harness.models.dataset import Example, TokenDataset
from harness.models.support import prepare

VOCABULARY = 48
SEQ_LEN = 32


def counting_examples(count: int, seed: int) -> list[Example]:
    """Prompt: a start and a stride; response: the numbers that follow, and an end token."""
    random = np.random.default_rng(seed)
    examples = []
    for number in range(count):
        start, stride, length = (int(x) for x in random.integers([5, 1, 3], [30, 4, 9]))
        response = [5 + (start + stride * i) % 40 for i in range(length)] + [1]
        ids = np.array([2, start, stride + 1, 3, *response], dtype=np.int32)
        mask = np.arange(len(ids)) >= 4
        examples.append(Example(f"{seed}-{number}", "count", ids, mask, None))
    return examples


def make_dataset(out: Path, train: int = 40, validation: int = 12) -> Path:
    write(out, counting_examples(train, 1), counting_examples(validation, 2), tokenizer_sha256="t")
    return out


def model_config() -> Olmo2Config:
    return Olmo2Config(
        vocab_size=VOCABULARY,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=64,
        bos_token_id=1,
        eos_token_id=1,
        pad_token_id=0,
    )


def make_model(seed: int = 0, dtype: torch.dtype = torch.float32) -> Olmo2ForCausalLM:
    torch.manual_seed(seed)
    return Olmo2ForCausalLM(model_config()).to(dtype)


class DenseTeacher:
    """Rows of a model's own distributions, top-k with exact tail, made at each call."""

    def __init__(self, dataset: TokenDataset, seed: int = 5, k: int = 10) -> None:
        self._model = make_model(seed).eval()
        self._k = k
        self.calls = 0

    def rows_of(self, batch: Any, *, temperature: float = 1.0) -> Any:
        from types import SimpleNamespace

        from harness.models.forward import label_states

        self.calls += 1
        with torch.no_grad():
            hidden, labels = label_states(self._model, batch)
            logp_all = torch.log_softmax(self._model.lm_head(hidden).float(), dim=1)
        logp, ids = logp_all.topk(self._k, dim=1)
        tail = torch.logsumexp(logp_all.scatter(1, ids, -torch.inf), dim=1)
        a_t = {t: torch.logsumexp(logp_all / t, dim=1) for t in (2.0, 4.0)}
        return SimpleNamespace(ids=ids.int(), logp=logp, log_tail=tail, a_t=a_t, target=labels)


def batcher(dataset: Path, split: str = "train", micro_batch: int = 2, **options: Any) -> Batcher:
    return Batcher(
        TokenDataset.open(dataset, split), seq_len=SEQ_LEN, micro_batch=micro_batch, seed=3, **options
    )


def make_trainer(
    dataset: Path,
    out: Path,
    *,
    model: Any = None,
    micro_batch: int = 2,
    teacher: Any = None,
    validation: bool = True,
    rounding: str = "stochastic",
    mode: str = "packed",
    optimizer: Any = None,
    attention: Any = "auto",
    effective_batch: int | None = None,
    **options: Any,
) -> Trainer:
    out.mkdir(parents=True, exist_ok=True)
    model = make_model() if model is None else model
    chosen: dict[str, Any] = {"lr": 5e-3, "warmup_steps": 2, "max_epochs": 2, **options}
    return Trainer(
        prepare(model, attention=attention, seq_len=SEQ_LEN),
        optimizer or Adafactor(model.parameters(), lr=0.0, scale_parameter=False, rounding=rounding),  # type: ignore[arg-type]
        batcher(dataset, micro_batch=micro_batch, mode=mode, effective_batch=effective_batch),
        batcher(dataset, "validation", micro_batch=4, mode=mode) if validation else None,
        teacher,
        TrainOptions(**chosen),
        out,
        out,
    )
