"""Rows of the cache against dense distributions in float64: ids, masses, tails, normalisers, gradients."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.distill.cache_format import CacheSpec
from harness.distill.distributions import DistributionRows, distribution_rows, top_k, uniforms_of
from harness.models.losses import TeacherRows, kd_loss

TEMPERATURES = (1.5, 2.0, 4.0)


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def logits_of(rows: int, vocabulary: int, sd: float, seed: int = 0) -> torch.Tensor:
    return torch.randn(rows, vocabulary, generator=torch.Generator().manual_seed(seed)) * sd


def rows_of(logits: torch.Tensor, spec: CacheSpec, seed: int = 1) -> DistributionRows:
    target = torch.randint(0, logits.shape[1], (len(logits),), generator=torch.Generator().manual_seed(seed))
    uniforms = uniforms_of(spec.seed, [(7, len(logits))], spec.k) if spec.seed is not None else None
    return distribution_rows(logits.clone(), target, spec, uniforms)


@pytest.mark.parametrize("sd", [0.1, 2.5, 12.0])
@pytest.mark.parametrize(("vocabulary", "k"), [(1000, 100), (128, 128), (70_000, 5)])
def test_topk_rows_equal_the_dense_float64_distribution(vocabulary: int, k: int, sd: float) -> None:
    logits = logits_of(24, vocabulary, sd)
    rows = rows_of(logits, CacheSpec(vocabulary, k, temperatures=TEMPERATURES))
    dense = torch.log_softmax(logits.double(), dim=1)
    ids = rows.ids.long()
    assert torch.equal(ids, torch.argsort(-logits, dim=1, stable=True)[:, :k])
    assert torch.allclose(rows.logp.double(), dense.gather(1, ids), rtol=1e-6, atol=2e-6)
    assert torch.allclose(rows.target_logp.double(), dense.gather(1, rows.target[:, None])[:, 0], atol=2e-6)
    rest = torch.logsumexp(dense.scatter(1, ids, -torch.inf), dim=1)
    assert torch.allclose(rows.log_tail.double(), rest, rtol=1e-6, atol=5e-6)
    assert (rest == -torch.inf).all() == (k == vocabulary)
    for column, temperature in enumerate(TEMPERATURES):
        exact = torch.logsumexp(dense / temperature, dim=1)
        assert torch.allclose(rows.a_t[:, column].double(), exact, rtol=1e-6, atol=5e-6)


def test_a_tail_that_one_minus_the_sum_cannot_see() -> None:
    logits = torch.full((1, 1000), -40.0)
    logits[0, :3] = torch.tensor([0.0, -1.0, -2.0])
    rows = rows_of(logits, CacheSpec(1000, 3, temperatures=()))
    assert math.exp(float(rows.log_tail)) < 1e-14 < abs(1 - float(rows.logp.exp().sum())) + 1e-13
    exact = torch.logsumexp(torch.log_softmax(logits.double(), dim=1)[:, 3:], dim=1)
    assert float(rows.log_tail) == pytest.approx(float(exact), abs=1e-5)


@pytest.mark.parametrize("temperature", [1.0, 2.0, 4.0, 1.5])
def test_one_row_at_t_1_gives_the_dense_distribution_at_every_t(temperature: float) -> None:
    logits = logits_of(16, 2000, 3.0)
    rows = rows_of(logits, CacheSpec(2000, 100, temperatures=TEMPERATURES))
    a_t = rows.a_t[:, TEMPERATURES.index(temperature)] if temperature != 1 else torch.zeros(16)
    found = torch.exp(rows.logp / temperature - a_t[:, None]).double()
    dense = torch.softmax(logits.double() / temperature, dim=1)
    assert torch.allclose(found, dense.gather(1, rows.ids.long()), rtol=1e-5)
    # and as the loss reads it, in the precision of the shard
    stored = rows.for_storage()
    teacher = TeacherRows(
        ids=stored["ids"].long(),
        logp=stored["logp"].float(),
        log_tail=stored["log_tail"],
        a_t={value: stored["a_t"][:, column] for column, value in enumerate(TEMPERATURES)},
    )
    logp, log_tail = teacher.at(temperature, "bucket")
    assert torch.allclose(logp.exp(), dense.gather(1, rows.ids.long()), rtol=8e-3)
    outside = 1 - dense.gather(1, rows.ids.long()).sum(dim=1)
    assert torch.allclose(log_tail.exp(), outside, rtol=0.01, atol=5e-4)
    column = 0 if temperature == 1 else 1 + TEMPERATURES.index(temperature)
    assert torch.allclose(rows.kept[:, column].double(), 1 - outside, rtol=1e-4)


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10**6), k=st.integers(1, 12), vocabulary=st.integers(12, 40))
def test_ties_go_to_the_lower_id(seed: int, k: int, vocabulary: int) -> None:
    random = np.random.default_rng(seed)
    values = torch.from_numpy(random.integers(0, 4, (5, vocabulary)).astype(np.float32))
    values[random.random(values.shape) < 0.1] = -torch.inf
    top, ids = top_k(values, k)
    for row in range(5):
        expected = sorted(range(vocabulary), key=lambda item: (-float(values[row, item]), item))[:k]
        assert ids[row].tolist() == expected
        assert top[row].tolist() == values[row, expected].tolist()


@pytest.mark.parametrize("eps", [0.5, 0.1, 0.01, 1e-4])
def test_a_nucleus_is_the_smallest_that_holds_enough(eps: float) -> None:
    logits = logits_of(64, 300, 6.0, seed=5)
    rows = rows_of(logits, CacheSpec(300, 40, "nucleus", TEMPERATURES, eps=eps))
    dense = torch.softmax(logits.double(), dim=1)
    ordered = dense.sort(dim=1, descending=True).values.cumsum(dim=1)
    assert rows.lengths is not None
    lengths = rows.lengths.tolist()
    assert len(set(lengths)) > 1 and min(lengths) < 40
    for row, length in enumerate(lengths):
        enough = int((ordered[row] < 1 - eps).sum()) + 1
        assert length == min(enough, 40)
        exact = float(dense[row, torch.argsort(-dense[row])[length:]].sum())
        assert math.exp(float(rows.log_tail[row])) == pytest.approx(exact, rel=1e-4)
        assert (rows.logp[row, length:] == -torch.inf).all()
        assert float(rows.kept[row, 0]) == pytest.approx(1 - exact, rel=1e-5)


def test_draws_are_a_function_of_seed_and_example_alone() -> None:
    alone = uniforms_of(3, [(11, 4)], 50)
    among = uniforms_of(3, [(5, 2), (11, 4), (9, 1)], 50)
    assert torch.equal(among[2:6], alone)
    assert not torch.equal(uniforms_of(4, [(11, 4)], 50), alone)
    assert float(alone.min()) >= 0 and float(alone.max()) < 1


def test_samples_are_distinct_ids_whose_counts_add_up() -> None:
    logits = logits_of(30, 500, 3.0)
    logits[:, 100:200] = -torch.inf
    rows = rows_of(logits, CacheSpec(500, 50, "sample", TEMPERATURES, seed=2))
    assert rows.counts is not None and rows.lengths is not None
    dense = torch.log_softmax(logits.double(), dim=1)
    for row in range(30):
        length = int(rows.lengths[row])
        ids = rows.ids[row, :length].long()
        assert len(set(ids.tolist())) == length
        assert int(rows.counts[row].sum()) == 50 and (rows.counts[row, :length] > 0).all()
        assert (rows.logp[row, length:] == -torch.inf).all() and not ((ids >= 100) & (ids < 200)).any()
        assert torch.allclose(rows.logp[row, :length].double(), dense[row, ids], atol=5e-6)
        assert (rows.logp[row, 1:length] <= rows.logp[row, : length - 1]).all()
        rest = torch.logsumexp(dense[row].scatter(0, ids, -torch.inf), dim=0)
        assert float(rows.log_tail[row]) == pytest.approx(float(rest), abs=1e-5)


@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_the_gradient_from_samples_is_unbiased(temperature: float) -> None:
    """Mean over 20,000 draws of one teacher row against the gradient of the full distribution, per logit."""
    vocabulary, draws, repeats = 20, 8, 20_000
    logits = logits_of(1, vocabulary, 1.5, seed=3)
    spec = CacheSpec(vocabulary, draws, "sample", (2.0,), seed=0)
    target = torch.zeros(repeats, dtype=torch.int64)
    uniforms = uniforms_of(0, [(1, repeats)], draws)
    rows = distribution_rows(logits.repeat(repeats, 1), target, spec, uniforms)
    assert rows.counts is not None
    weights = rows.counts.double() / draws
    if temperature != 1:
        shift = rows.logp.double() * (1 / temperature - 1) - rows.a_t[:, :1]
        weights = torch.where(rows.counts > 0, weights * shift.exp(), 0)
    student = torch.softmax(logits_of(1, vocabulary, 1.0, seed=4).double() / temperature, dim=1)
    # d/dz of -sum_i w_i log q_i, divided by nothing: (sum w) q - w
    full = torch.zeros(repeats, vocabulary, dtype=torch.float64).scatter_add_(1, rows.ids.long(), weights)
    gradients = full.sum(dim=1, keepdim=True) * student - full
    exact = student[0] - torch.softmax(logits[0].double() / temperature, dim=0)
    error = gradients.mean(dim=0) - exact
    standard = gradients.std(dim=0) / math.sqrt(repeats)
    assert (error.abs() < 4.5 * standard + 1e-12).all()
    assert float(gradients.std(dim=0).max()) > 0.05


def test_topk_rows_train_towards_the_full_teacher_when_nothing_is_cut() -> None:
    """Values and gradients of the KD loss from rows with K = V against the dense float64 loss."""
    vocabulary, size = 50, 8
    random = torch.Generator().manual_seed(0)
    teacher_logits = logits_of(6, vocabulary, 2.0)
    rows = rows_of(teacher_logits, CacheSpec(vocabulary, vocabulary, temperatures=(2.0, 4.0)))
    hidden = torch.randn(6, size, generator=random, dtype=torch.float64)
    weight = torch.randn(vocabulary, size, generator=random, dtype=torch.float64)
    for temperature in (1.0, 2.0, 4.0):
        teacher = TeacherRows(
            rows.ids.long(), rows.logp, rows.log_tail, {2.0: rows.a_t[:, 0], 4.0: rows.a_t[:, 1]}
        )
        found = hidden.clone().requires_grad_()
        loss = kd_loss(found, weight, rows.target, teacher, alpha=0.0, temperature=temperature)
        loss.total.backward()
        dense = hidden.clone().requires_grad_()
        log_q = torch.log_softmax(dense @ weight.t() / temperature, dim=1)
        p = torch.softmax(teacher_logits.double() / temperature, dim=1)
        exact = temperature**2 * (p * (p.log() - log_q)).sum()
        exact.backward()
        assert found.grad is not None and dense.grad is not None
        assert loss.total.item() == pytest.approx(exact.item(), rel=1e-5)
        assert torch.allclose(found.grad, dense.grad, rtol=1e-4, atol=1e-5)
