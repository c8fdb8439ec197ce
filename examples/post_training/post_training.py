"""LoRA, pruning and quantization of a pocket model, as stages to be audited.

A stage reads folders, writes one, and reports its tokens; everything between is a few lines of torch.

    python post_training.py start --out DIR
    python post_training.py lora|prune|quantize --model DIR --dataset DIR --out DIR
"""

from __future__ import annotations

import argparse
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import AutoModelForCausalLM, AutoTokenizer

from harness.distill.pocket_models import PocketModels, make
from harness.distill.pocket_teacher import kept_root
from harness.distill.reporting import report_event, report_tokens
from harness.models.batches import Batcher
from harness.models.dataset import TokenDataset
from harness.models.forward import label_states
from harness.models.losses import sft_loss


def start(options: argparse.Namespace) -> None:
    """The kit's trained pocket model with its tokenizer, as a folder of transformers."""
    made = options.out.with_name("made")
    make(PocketModels(out=made, names=["pocket-32b"]))
    shutil.copytree(made / "pocket-32b", options.out)
    shutil.copytree(made / "tokenizer", options.out, dirs_exist_ok=True)
    shutil.copy(kept_root() / "model.safetensors", options.out / "model.safetensors")


class Lora(nn.Module):
    """A frozen linear layer plus a trained product of two thin matrices."""

    def __init__(self, layer: nn.Linear, rank: int) -> None:
        super().__init__()
        self.layer = layer.requires_grad_(False)
        self.down = nn.Parameter(torch.randn(rank, layer.in_features) / layer.in_features**0.5)
        self.up = nn.Parameter(torch.zeros(layer.out_features, rank))

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        """The layer's output with the correction."""
        found: torch.Tensor = self.layer(states) + states @ self.down.T @ self.up.T
        return found

    def merged(self) -> nn.Linear:
        """One linear layer again, for a checkpoint that any program reads."""
        self.layer.weight.data += self.up @ self.down
        return self.layer


def lora(model: Any, options: argparse.Namespace) -> None:
    """Train rank-r corrections of the attention's projections, then merge them."""
    model.requires_grad_(False)
    for block in model.model.layers:
        for name in ("q_proj", "v_proj"):
            setattr(block.self_attn, name, Lora(getattr(block.self_attn, name), options.rank))
    train(model, options)
    for block in model.model.layers:
        for name in ("q_proj", "v_proj"):
            setattr(block.self_attn, name, getattr(block.self_attn, name).merged())


def prune(model: Any, options: argparse.Namespace) -> None:
    """Set the smallest weights of each linear layer to zero, and train the others a little."""
    masks = {}
    for layer in linears(model):
        bound = layer.weight.abs().flatten().kthvalue(int(options.share * layer.weight.numel())).values
        masks[layer] = layer.weight.abs() > bound

    def keep_zeros() -> None:
        with torch.no_grad():
            for layer, mask in masks.items():
                layer.weight.mul_(mask)

    keep_zeros()
    train(model, options, after_step=keep_zeros)


def quantize(model: Any, options: argparse.Namespace) -> None:
    """Round each row of each linear layer to eight bits. The weights are unpacked again for the evaluation:
    its loss is that of eight bits, its energy is not that of a kernel for eight bits.
    """
    for layer in linears(model):
        scale = layer.weight.data.abs().amax(dim=1, keepdim=True).clamp(min=1e-12) / 127
        layer.weight.data = (layer.weight.data / scale).round().to(torch.int8) * scale


def linears(model: Any) -> list[nn.Linear]:
    """The linear layers of the blocks; the output matrix stays."""
    return [part for part in model.model.layers.modules() if isinstance(part, nn.Linear)]


def train(model: Any, options: argparse.Namespace, after_step: Callable[[], None] = lambda: None) -> None:
    """A few steps of AdamW on label tokens; each batch's tokens are reported to the meter."""
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=options.lr)
    seen: set[int] = set()
    for batch in batches(options):
        hidden, labels = label_states(model, batch)
        loss = sft_loss(hidden, model.get_output_embeddings().weight, labels)
        (loss.total / batch.label_tokens).backward()
        optimizer.step()
        optimizer.zero_grad()
        after_step()
        new = sum(count for index, count in batch.example_rows if index not in seen)
        seen |= {index for index, _ in batch.example_rows}
        report_tokens(trained=new, processed=batch.real_tokens, positions=batch.positions)


def batches(options: argparse.Namespace) -> Iterator[Any]:
    """As many batches as steps, epoch after epoch."""
    split = TokenDataset.open(options.dataset, "train")
    made = Batcher(split, seq_len=int(split.meta["seq_len"]), micro_batch=8, seed=0, mode="bucketed")
    for step in range(options.steps):
        epoch, number = divmod(step, made.batches_per_epoch(0))
        yield made.batch(epoch, number)


def main() -> None:
    """One stage."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("way", choices=["start", "lora", "prune", "quantize"])
    parser.add_argument("--model", type=Path)
    parser.add_argument("--dataset", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--rank", type=int, default=4)
    parser.add_argument("--share", type=float, default=0.5, help="of the weights that are pruned")
    options = parser.parse_args()
    torch.manual_seed(0)
    if options.way == "start":
        start(options)
        return
    model = AutoModelForCausalLM.from_pretrained(options.model, dtype=torch.float32)
    {"lora": lora, "prune": prune, "quantize": quantize}[options.way](model, options)
    model.save_pretrained(options.out)
    AutoTokenizer.from_pretrained(options.model).save_pretrained(options.out)
    zeros = sum(int((layer.weight == 0).sum()) for layer in linears(model))
    report_event("post_training", way=options.way, zero_weights=zeros)


if __name__ == "__main__":
    main()
