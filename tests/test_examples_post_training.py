"""The examples that audit other post-training: their plans, and each way on a pocket model in a few steps."""

from __future__ import annotations

import argparse
import importlib.util
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")

import torch
from transformers import AutoModelForCausalLM

from harness.audit.plan import load_plan
from harness.distill.preprocess import PreprocessConfig, preprocess
from harness.distill.sources import SourceConfig

FOLDER = Path(__file__).resolve().parents[1] / "examples" / "post_training"


@pytest.fixture(scope="module")
def example() -> Any:
    spec = importlib.util.spec_from_file_location("post_training", FOLDER / "post_training.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def options(example: Any, tmp_path_factory: pytest.TempPathFactory) -> argparse.Namespace:
    work = tmp_path_factory.mktemp("post")
    example.start(argparse.Namespace(out=work / "model"))
    sources = [SourceConfig("pocket", samples=60)]
    preprocess(PreprocessConfig(out=work / "data", tokenizer=work / "model", sources=sources, seq_len=128))
    return argparse.Namespace(
        model=work / "model", dataset=work / "data", steps=2, lr=1e-2, rank=2, share=0.5
    )


@pytest.mark.parametrize("way", ["lora", "prune", "quantize"])
def test_the_pipeline_is_a_plan_that_ends_in_the_held_out_loss(way: str, tmp_path: Path) -> None:
    plan = load_plan(FOLDER / f"{way}.yaml", run_dir=tmp_path / "run")
    assert [stage.name for stage in plan.stages] == ["model", "data", way, "before", "evaluate"]
    assert "held-out" in " ".join(plan.stages[-1].argv)


def weights(model: Any) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


def test_lora_moves_the_projections_alone_and_merges_into_them(
    example: Any, options: argparse.Namespace
) -> None:
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_pretrained(options.model, dtype=torch.float32)
    before = weights(model)
    example.lora(model, options)
    after = weights(model)
    assert before.keys() == after.keys()
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert moved and all(name.endswith(("q_proj.weight", "v_proj.weight")) for name in moved)
    change = after[min(moved)] - before[min(moved)]
    assert torch.linalg.matrix_rank(change, rtol=1e-4) <= options.rank


def test_pruned_weights_stay_zero_while_the_others_are_trained(
    example: Any, options: argparse.Namespace
) -> None:
    model = AutoModelForCausalLM.from_pretrained(options.model, dtype=torch.float32)
    before = [layer.weight.clone() for layer in example.linears(model)]
    example.prune(model, options)
    for old, layer in zip(before, example.linears(model), strict=True):
        zeros = (layer.weight == 0).float().mean().item()
        assert zeros == pytest.approx(0.5, abs=0.02)
        kept = layer.weight != 0
        assert not torch.equal(old[kept], layer.weight[kept])


def test_eight_bits_are_at_most_half_a_step_off(example: Any, options: argparse.Namespace) -> None:
    model = AutoModelForCausalLM.from_pretrained(options.model, dtype=torch.float32)
    before = [layer.weight.detach().clone() for layer in example.linears(model)]
    example.quantize(model, options)
    for old, layer in zip(before, example.linears(model), strict=True):
        step = old.abs().amax(dim=1, keepdim=True) / 127
        assert ((old - layer.weight).abs() <= step * 0.5001).all()
        assert max(len(row.unique()) for row in layer.weight) <= 255
