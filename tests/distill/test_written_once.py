"""Weights of a best evaluation are written once: the state links to the checkpoint's files."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from harness.distill.checkpoint import State, StateFolder, Writer, host_copy, save_model
from tests.distill import generation_lab as lab
from tests.distill import pocket_fixtures


def test_a_state_with_the_checkpoints_weights_links_to_them(tmp_path: Path) -> None:
    tokenizer = pocket_fixtures.save(tmp_path / "tokenizer")
    model, states = lab.tiny_model(), StateFolder(tmp_path / "state")
    weights = host_copy(model.state_dict())
    checkpoint = tmp_path / "checkpoint"
    save_model(model, checkpoint, tokenizer, weights)
    states.save(1, State({}, {"x": torch.ones(1)}, {"n": 1}), checkpoint)
    (linked,) = (tmp_path / "state").glob("step-*/model*.safetensors")
    assert linked.stat().st_ino == (checkpoint / "model.safetensors").stat().st_ino
    # A better checkpoint takes the folder; the state keeps the weights it was saved with.
    with torch.no_grad():
        model.lm_head.weight.add_(1.0)
    save_model(model, checkpoint, tokenizer)
    found = states.load()
    assert found is not None and found.trainer == {"n": 1} and found.model.keys() == weights.keys()
    assert all(torch.equal(found.model[name], tensor) for name, tensor in weights.items())
    states.save(2, State(host_copy(model.state_dict()), {"x": torch.ones(1)}, {"n": 2}))
    later = states.load()
    assert later is not None and not torch.equal(later.model["lm_head.weight"], weights["lm_head.weight"])


def test_what_is_written_beside_training_is_what_was_there_when_it_was_asked_for(tmp_path: Path) -> None:
    model, writer = lab.tiny_model(), Writer()
    weights = host_copy(model.state_dict())
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    order: list[int] = []
    writer.submit(lambda: order.append(1))
    writer.submit(lambda: save_model(model, tmp_path / "out", tmp_path, weights))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    writer.submit(lambda: order.append(2))
    writer.wait()
    assert order == [1, 2]
    from safetensors.torch import load_file

    kept = load_file(tmp_path / "out" / "model.safetensors")
    assert all(torch.equal(tensor, before[name]) for name, tensor in kept.items())

    def full() -> None:
        raise OSError("No space left on device")

    writer.submit(full)
    with pytest.raises(OSError, match="No space"):
        writer.wait()
    writer.wait()


def test_shared_memory_stays_shared_in_the_copy() -> None:
    one = torch.ones(4)
    copies = host_copy({"a": one, "b": one, "c": torch.ones(4)})
    assert copies["a"].data_ptr() == copies["b"].data_ptr() != copies["c"].data_ptr()
    assert copies["a"].data_ptr() != one.data_ptr()
