"""The optimizer against transformers' in float32, and what rounding does to small updates."""

from __future__ import annotations

import pytest
import torch

from harness.distill.adafactor import ROUNDINGS, Adafactor, copy_stochastic


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def weights(dtype=torch.float32):
    generator = torch.Generator().manual_seed(1)
    shapes = [(24, 10), (10,), (3, 7, 5), ()]
    return [torch.nn.Parameter((torch.randn(s, generator=generator) * 0.02).to(dtype)) for s in shapes]


def give_gradients(parameters, step):
    generator = torch.Generator().manual_seed(100 + step)
    for parameter in parameters:
        parameter.grad = torch.randn(parameter.shape, generator=generator).to(parameter.dtype) * 3


@pytest.mark.parametrize("scale_parameter", [False, True])
@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_follows_transformers(scale_parameter, weight_decay, dtype):
    transformers = pytest.importorskip("transformers")
    ours, theirs = weights(dtype), weights(dtype)
    first = Adafactor(
        ours, lr=1e-2, scale_parameter=scale_parameter, weight_decay=weight_decay, rounding="nearest"
    )
    second = transformers.Adafactor(
        theirs,
        lr=1e-2,
        scale_parameter=scale_parameter,
        weight_decay=weight_decay,
        relative_step=False,
        warmup_init=False,
    )
    for step in range(20):
        for group in (*first.param_groups, *second.param_groups):
            group["lr"] = 1e-2 * (step + 1)
        give_gradients(ours, step)
        give_gradients(theirs, step)
        first.step()
        second.step()
    for mine, other in zip(ours, theirs, strict=True):
        if dtype == torch.float32:
            torch.testing.assert_close(mine, other, rtol=2e-6, atol=2e-7)
        else:  # an update at the edge of two bfloat16 may fall either way
            torch.testing.assert_close(mine, other, rtol=2**-7, atol=1e-4)


def movement(rounding, scale_parameter, steps=100):
    """Mean movement against the update's sign, as a share of the intended one (lr 5e-5, weights of 0.02)."""
    generator = torch.Generator().manual_seed(3)
    start = (torch.randn(100, 100, generator=generator) * 0.02).bfloat16()
    direction = torch.randn(100, 100, generator=generator).sign()
    parameter = torch.nn.Parameter(start.clone())
    optimizer = Adafactor([parameter], lr=5e-5, scale_parameter=scale_parameter, rounding=rounding)
    for _ in range(steps):
        parameter.grad = direction.bfloat16()
        optimizer.step()
    # A gradient of +-1 makes an update of RMS 1: each step should move every weight by lr (x its RMS).
    intended = 5e-5 * steps * (start.float().pow(2).mean().sqrt().item() if scale_parameter else 1.0)
    return ((start.float() - parameter.detach().float()) * direction).mean().item() / intended


def test_stochastic_rounding_keeps_the_movement_that_nearest_loses():
    assert movement("nearest", True) < 0.1  # the paper's KD setting: nearly everything is lost
    assert 0.5 < movement("nearest", False) < 0.95  # its SFT setting: a part is lost
    for scale_parameter in (True, False):
        assert movement("stochastic", scale_parameter) == pytest.approx(1.0, abs=0.05)
    # A master copy moves as intended; its bfloat16 image lags by rounding only.
    assert movement("master", False) == pytest.approx(1.0, abs=0.02)


def test_stochastic_rounding_is_unbiased_and_takes_a_neighbour():
    value = torch.full((400_000,), 1.0 + 0.3 * 2**-7)
    target = torch.empty_like(value, dtype=torch.bfloat16)
    copy_stochastic(target, value, torch.Generator().manual_seed(0))
    assert set(target.unique().tolist()) == {1.0, 1.0 + 2**-7}
    up = (target > 1.0).float().mean().item()
    assert up == pytest.approx(0.3, abs=5 * (0.3 * 0.7 / len(value)) ** 0.5)
    copy_stochastic(target, -value, torch.Generator().manual_seed(0))
    assert (-target > 1.0).float().mean().item() == pytest.approx(0.3, abs=0.005)


def test_stochastic_rounding_leaves_exact_and_special_values():
    special = torch.tensor([0.0, -0.0, 1.0, -2.5, torch.inf, -torch.inf, torch.nan])
    target = torch.empty(7, dtype=torch.bfloat16)
    copy_stochastic(target, special, torch.Generator().manual_seed(0))
    torch.testing.assert_close(target.float(), special, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("rounding", ROUNDINGS)
def test_exported_state_goes_on_bit_for_bit(rounding):
    results = []
    for stop in (None, 5):
        parameters = weights(torch.bfloat16)
        names = {parameter: f"w{i}" for i, parameter in enumerate(parameters)}
        optimizer = Adafactor(parameters, lr=1e-3, scale_parameter=False, rounding=rounding, seed=7)
        for step in range(10):
            if step == stop:
                saved = {key: value.clone() for key, value in optimizer.export(names).items()}
                optimizer = Adafactor(parameters, lr=1e-3, scale_parameter=False, rounding=rounding, seed=8)
                optimizer.restore(saved, names)
            give_gradients(parameters, step)
            optimizer.step()
        results.append([parameter.detach().clone() for parameter in parameters])
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


def test_same_seed_same_weights():
    def run(seed):
        parameters = weights(torch.bfloat16)
        optimizer = Adafactor(parameters, lr=1e-3, scale_parameter=False, seed=seed)
        for step in range(3):
            give_gradients(parameters, step)
            optimizer.step()
        return parameters[0].detach()

    assert torch.equal(run(1), run(1)) and not torch.equal(run(1), run(2))


def test_gradients_are_left_alone_and_missing_ones_skipped():
    parameters = weights()
    optimizer = Adafactor(parameters, lr=1e-3, scale_parameter=True)
    give_gradients(parameters, 0)
    parameters[1].grad = None
    before, gradient = parameters[1].detach().clone(), parameters[0].grad.clone()
    optimizer.step()
    assert torch.equal(parameters[0].grad, gradient) and torch.equal(parameters[1], before)
    with pytest.raises(ValueError, match="rounding"):
        Adafactor(parameters, lr=1e-3, scale_parameter=True, rounding="up")
