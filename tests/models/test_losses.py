"""The chunked loss against a dense float64 computation, values and gradients; identities of its tail."""

from __future__ import annotations

import pytest
import torch

from harness.errors import KitError
from harness.models.head import Head
from harness.models.losses import TeacherRows, kd_loss, sft_loss

P, D, V, K = 23, 12, 61, 9


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def problem(dtype=torch.float64, seed=0, scale=1.5):
    generator = torch.Generator().manual_seed(seed)
    hidden = torch.randn(P, D, generator=generator, dtype=torch.float64)
    weight = torch.randn(V, D, generator=generator, dtype=torch.float64) * scale / D**0.5
    labels = torch.randint(V, (P,), generator=generator)
    teacher = torch.log_softmax(torch.randn(P, V, generator=generator, dtype=torch.float64) * 2, dim=1)
    return hidden.to(dtype), weight.to(dtype), labels, teacher


def truncate(teacher, k, temperatures=(2.0, 4.0)):
    """A cache's rows from a dense teacher [P, V], exact: tail as logsumexp of the complement."""
    logp, ids = teacher.topk(k, dim=1)
    rest = teacher.scatter(1, ids, -torch.inf)
    a_t = {t: torch.logsumexp(teacher / t, dim=1) for t in temperatures}
    return TeacherRows(ids, logp, torch.logsumexp(rest, dim=1), a_t)


def oracle(hidden, weight, labels, teacher, rows, alpha, temperature, tail):
    """The definition, dense, by autograd: the teacher at T over all V, coarsened as `tail` says."""
    logits = hidden @ weight.t()
    ce = torch.nn.functional.cross_entropy(logits, labels, reduction="sum")
    log_q = torch.log_softmax(logits / temperature, dim=1)
    log_p = torch.log_softmax(teacher / temperature, dim=1)
    inside = torch.zeros_like(log_p, dtype=torch.bool).scatter(1, rows.ids, True)
    p = log_p.exp() * inside
    if tail == "renormalised":
        p = p / p.sum(dim=1, keepdim=True)
    kl = (torch.special.xlogy(p, p) - p * log_q).sum()
    if tail == "bucket":
        t = (log_p.exp() * ~inside).sum(dim=1)
        r = (log_q.exp() * ~inside).sum(dim=1)
        keep = t > 0
        kl = kl + (t[keep] * (t[keep].log() - r[keep].log())).sum()
    return alpha * ce + (1 - alpha) * temperature**2 * kl, ce, kl


@pytest.mark.parametrize("temperature", [1.0, 2.0, 4.0])
@pytest.mark.parametrize("k", [K, V])
@pytest.mark.parametrize("tail", ["bucket", "partial", "renormalised"])
@pytest.mark.parametrize("alpha", [0.0, 0.3, 1.0])
def test_value_and_gradients_equal_the_dense_oracle(temperature, k, tail, alpha):
    hidden, weight, labels, teacher = problem()
    rows = truncate(teacher, k)
    got = [hidden.clone().requires_grad_(), weight.clone().requires_grad_()]
    want = [hidden.clone().requires_grad_(), weight.clone().requires_grad_()]
    result = kd_loss(*got, labels, rows, alpha=alpha, temperature=temperature, tail=tail, chunk=7)
    (result.total / 3).backward()
    total, ce, kl = oracle(*want, labels, teacher, rows, alpha, temperature, tail)
    (total / 3).backward()
    torch.testing.assert_close(result.total, total, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(result.ce, ce.detach(), rtol=1e-12, atol=0)
    if alpha < 1:
        torch.testing.assert_close(result.kl, kl.detach(), rtol=1e-10, atol=1e-12)
    for ours, theirs in zip(got, want, strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_gradients_equal_central_differences(temperature):
    """Every coordinate of both arguments (gradcheck would call backward twice)."""
    hidden, weight, labels, teacher = problem()
    rows = truncate(teacher[:4], K)
    leaves = [hidden[:4].clone().requires_grad_(), weight.clone().requires_grad_()]

    def loss():
        return kd_loss(*leaves, labels[:4], rows, alpha=0.4, temperature=temperature, chunk=3).total

    loss().backward()
    for leaf in leaves:
        flat, numeric = leaf.detach().view(-1), torch.empty(leaf.numel(), dtype=torch.float64)
        for place in range(leaf.numel()):
            with torch.no_grad():
                before = flat[place].item()
                flat[place] = before + 1e-6
                above = loss()
                flat[place] = before - 1e-6
                numeric[place] = (above - loss()) / 2e-6
                flat[place] = before
        torch.testing.assert_close(leaf.grad.view(-1), numeric, rtol=1e-6, atol=1e-8)


def test_full_kl_at_every_temperature_from_one_cache():
    """With K = V the bucket form is the full KL: torch's own kl_div, at T in {1, 2, 4}."""
    hidden, weight, labels, teacher = problem()
    rows = truncate(teacher, V)
    for temperature in (1.0, 2.0, 4.0):
        got = kd_loss(hidden, weight, labels, rows, alpha=0.0, temperature=temperature).kl
        want = torch.nn.functional.kl_div(
            torch.log_softmax(hidden @ weight.t() / temperature, dim=1),
            torch.log_softmax(teacher / temperature, dim=1),
            reduction="sum",
            log_target=True,
        )
        torch.testing.assert_close(got, want, rtol=1e-11, atol=1e-12)


def test_bucket_is_at_most_the_full_kl_and_the_gap_is_the_tails_own_divergence():
    hidden, weight, labels, teacher = problem()
    rows = truncate(teacher, K)
    log_q = torch.log_softmax(hidden @ weight.t(), dim=1)
    inside = torch.zeros_like(log_q, dtype=torch.bool).scatter(1, rows.ids, True)
    full = (teacher.exp() * (teacher - log_q)).sum()
    bucket = kd_loss(hidden, weight, labels, rows, alpha=0.0).kl
    p_tail = torch.log_softmax(teacher.masked_fill(inside, -torch.inf), dim=1)
    q_tail = torch.log_softmax(log_q.masked_fill(inside, -torch.inf), dim=1)
    parts = torch.where(inside, 0.0, p_tail.exp() * (p_tail - q_tail))
    gap = (rows.log_tail.exp() * parts.sum(dim=1)).sum()
    assert bucket <= full
    torch.testing.assert_close(full - bucket, gap, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(
    ("tail", "mass_right"), [("bucket", True), ("partial", False), ("renormalised", False)]
)
def test_optimum(tail, mass_right):
    """Minimised to the end, the bucket has p on K and the right mass outside; the others p/P and nothing."""
    _, _, labels, teacher = problem()
    rows = truncate(teacher[:3], K)
    logits = torch.zeros(
        V, 3, dtype=torch.float64, requires_grad=True
    )  # a weight, so that hidden = I picks it
    optimizer = torch.optim.LBFGS([logits], lr=1, max_iter=2000, tolerance_grad=1e-10, tolerance_change=1e-16)
    eye = torch.eye(3, dtype=torch.float64)

    def closure():
        optimizer.zero_grad()
        loss = kd_loss(eye, logits, labels[:3], rows, alpha=0.0, tail=tail).total
        loss.backward()
        return loss

    optimizer.step(closure)
    q = torch.softmax(logits.detach().t(), dim=1)
    p, mass = rows.logp.exp(), rows.logp.exp().sum(dim=1, keepdim=True)
    assert mass.min() > 0.5 and mass.max() < 0.999
    wanted = p if mass_right else p / mass
    torch.testing.assert_close(q.gather(1, rows.ids), wanted, rtol=2e-3, atol=1e-4)


def test_partial_sum_can_be_negative():
    """It is no divergence: a student that is over-confident by 1/P gets P log P < 0."""
    _, _, labels, teacher = problem()
    rows = truncate(teacher, K)
    weight = torch.full((V, P), -60.0, dtype=torch.float64)
    weight.t().scatter_(1, rows.ids, rows.logp)
    eye = torch.eye(P, dtype=torch.float64)
    mass = rows.logp.exp().sum(dim=1)
    got = kd_loss(eye, weight, labels, rows, alpha=0.0, tail="partial").kl
    torch.testing.assert_close(got, (mass * mass.log()).sum(), rtol=1e-9, atol=1e-9)
    assert got < 0


def test_a_teacher_of_mass_almost_one_keeps_its_tail():
    """log(1 - sum) in float32 loses a tail of 1e-9 on both sides; logsumexp over the complement does not."""
    teacher = torch.full((4, V), -30.0, dtype=torch.float64)
    teacher[:, 5] = 20.0
    teacher = torch.log_softmax(teacher, dim=1)
    rows = truncate(teacher, K)
    hidden = torch.eye(4, dtype=torch.float64)
    student = (teacher + 0.3 * torch.sin(torch.arange(V)))[:4].t().contiguous()  # logits like the teacher's
    exact = torch.log_softmax(student.t(), dim=1).scatter(1, rows.ids, -torch.inf).logsumexp(1)
    assert exact.max() < -40  # 1 - Q is exactly 0 in float32
    single = TeacherRows(rows.ids, rows.logp.float(), rows.log_tail.float())
    weight = student.float().requires_grad_()
    result = kd_loss(hidden.float(), weight, torch.full((4,), 5), single, alpha=0.0)
    result.total.backward()
    assert torch.isfinite(result.total) and torch.isfinite(weight.grad).all()
    wide = student.clone().requires_grad_()
    kd_loss(hidden, wide, torch.full((4,), 5), rows, alpha=0.0).total.backward()
    outside = torch.ones(V, dtype=torch.bool)
    outside[rows.ids[0]] = False
    assert wide.grad[outside].abs().max() > 0
    torch.testing.assert_close(weight.grad[outside].double(), wide.grad[outside], rtol=1e-3, atol=0)


@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_half_precision_cache_stays_close(temperature):
    """fp16 log-probabilities as the cache stores them move the loss by less than 0.1 %."""
    hidden, weight, labels, teacher = problem()
    rows = truncate(teacher, K)
    stored = TeacherRows(
        rows.ids, rows.logp.half().float(), rows.log_tail.float(), {t: a.float() for t, a in rows.a_t.items()}
    )
    exact = kd_loss(hidden, weight, labels, rows, alpha=0.0, temperature=temperature).total
    got = kd_loss(hidden, weight, labels, stored, alpha=0.0, temperature=temperature).total
    assert abs(got / exact - 1) < 1e-3


def test_log_tail_is_used_as_stored_at_t1_and_bounded_at_others():
    _, _, _, teacher = problem()
    rows = truncate(teacher, K)
    odd = TeacherRows(rows.ids, rows.logp, rows.log_tail - 0.7, rows.a_t)
    assert torch.equal(odd.at(1.0, "bucket")[1], rows.log_tail - 0.7)
    torch.testing.assert_close(
        rows.at(2.0, "bucket")[1].exp() + rows.at(2.0, "bucket")[0].exp().sum(1),
        torch.ones(P, dtype=torch.float64),
    )
    broken = TeacherRows(rows.ids, rows.logp + 10.0, rows.log_tail, rows.a_t)  # masses above one
    assert torch.equal(broken.at(2.0, "bucket")[1], rows.log_tail - rows.a_t[2.0])


def test_unfilled_places_change_nothing():
    """Nucleus rows hold fewer than K ids: the rest has logp = -inf and any id, even one of the complement."""
    hidden, weight, labels, teacher = problem()
    rows = truncate(teacher, K)
    for filler in (0, int(rows.ids[0, 0]), 17):
        padded = TeacherRows(
            torch.cat([rows.ids, torch.full((P, 4), filler)], dim=1),
            torch.cat([rows.logp, torch.full((P, 4), -torch.inf, dtype=torch.float64)], dim=1),
            rows.log_tail,
            rows.a_t,
        )
        for temperature in (1.0, 2.0):
            results = []
            for teacher_rows in (rows, padded):
                leaf = weight.clone().requires_grad_()
                loss = kd_loss(hidden, leaf, labels, teacher_rows, alpha=0.5, temperature=temperature)
                loss.total.backward()
                results.append((loss.total.detach(), leaf.grad))
            torch.testing.assert_close(results[0], results[1], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_sft_is_kd_with_alpha_one_bit_for_bit(dtype):
    hidden, weight, labels, teacher = problem(dtype)
    rows = truncate(teacher, K)
    results = []
    for call in (
        lambda h, w: sft_loss(h, w, labels),
        lambda h, w: kd_loss(h, w, labels, rows, alpha=1.0, temperature=4.0),
    ):
        leaves = hidden.clone().requires_grad_(), weight.clone().requires_grad_()
        loss = call(*leaves).total
        loss.backward()
        results.append((loss.detach(), leaves[0].grad, leaves[1].grad))
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_low_precision_stays_close_to_float64(dtype):
    hidden, weight, labels, teacher = problem(dtype)
    rows = truncate(teacher, K)
    leaves = hidden.clone().requires_grad_(), weight.clone().requires_grad_()
    kd_loss(*leaves, labels, rows, alpha=0.5, temperature=2.0, chunk=8).total.backward()
    wide = hidden.double().requires_grad_(), weight.double().requires_grad_()
    oracle(*wide, labels, teacher, rows, 0.5, 2.0, "bucket")[0].backward()
    bound = 1e-5 if dtype == torch.float32 else 2e-2
    for ours, theirs in zip(leaves, wide, strict=True):
        error = (ours.grad.double() - theirs.grad).norm() / theirs.grad.norm()
        assert ours.grad.dtype == dtype and error < bound


def test_chunks_do_not_matter_and_sums_add_up():
    hidden, weight, labels, teacher = problem()
    rows = truncate(teacher, K)
    whole = kd_loss(hidden, weight, labels, rows, alpha=0.5, chunk=P).total
    for chunk in (1, 5, 22, 1000):
        other = kd_loss(hidden, weight, labels, rows, alpha=0.5, chunk=chunk).total
        torch.testing.assert_close(other, whole, rtol=1e-13, atol=0)
    halves = [
        kd_loss(
            hidden[part],
            weight,
            labels[part],
            TeacherRows(rows.ids[part], rows.logp[part], rows.log_tail[part]),
            alpha=0.5,
        ).total
        for part in (slice(0, 10), slice(10, P))
    ]
    torch.testing.assert_close(sum(halves), whole, rtol=1e-13, atol=0)


def test_without_gradients_and_without_labels():
    hidden, weight, labels, _ = problem()
    with torch.no_grad():
        value = sft_loss(hidden.requires_grad_(), weight, labels)
    assert not value.total.requires_grad and value.kl is None
    empty = sft_loss(hidden[:0], weight.requires_grad_(), labels[:0])
    empty.total.backward()
    assert empty.total == 0 and weight.grad.abs().max() == 0
    with pytest.raises(RuntimeError):
        empty.total.backward()


def test_refusals():
    hidden, weight, labels, teacher = problem()
    rows = truncate(teacher, K)
    with pytest.raises(KitError, match="needs the teacher"):
        kd_loss(hidden, weight, labels, alpha=0.5)
    with pytest.raises(KitError, match=r"no normaliser for T=3[\s\S]*2, 4[\s\S]*teacher_logits"):
        kd_loss(hidden, weight, labels, rows, alpha=0.5, temperature=3.0)
    kd_loss(hidden, weight, labels, rows, alpha=0.5, temperature=3.0, tail="renormalised")
    with pytest.raises(KitError, match="23 teacher rows for 22 labels"):
        kd_loss(hidden[1:], weight, labels[1:], rows, alpha=0.5)
    with pytest.raises(ValueError):
        kd_loss(hidden, weight, labels, rows, alpha=1.5)


def test_no_tensor_of_positions_by_vocabulary_is_made():
    """Every allocation during forward and backward, seen by the dispatcher, is at most a chunk of logits."""
    from torch.utils._python_dispatch import TorchDispatchMode

    largest = 0

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            nonlocal largest
            result = function(*args, **(kwargs or {}))
            for tensor in result if isinstance(result, tuple | list) else (result,):
                if isinstance(tensor, torch.Tensor):
                    largest = max(largest, tensor.numel())
            return result

    vocabulary, positions = 997, 64
    hidden, weight = (
        torch.randn(positions, 8, requires_grad=True),
        torch.randn(vocabulary, 8, requires_grad=True),
    )
    teacher = torch.log_softmax(torch.randn(positions, vocabulary), dim=1)
    rows = truncate(teacher, 10)
    with Watch():
        kd_loss(
            hidden,
            weight,
            torch.zeros(positions, dtype=torch.long),
            rows,
            alpha=0.5,
            temperature=2.0,
            chunk=8,
        ).total.backward()
    assert largest == 8 * vocabulary


@pytest.mark.parametrize("cap", [None, 1.3])
@pytest.mark.parametrize("alpha, temperature", [(1.0, 1.0), (0.4, 1.0), (0.0, 2.0)])
def test_a_head_with_bias_factor_and_cap_has_the_gradients_of_the_dense_one(cap, alpha, temperature):
    hidden, weight, labels, teacher = problem()
    bias = torch.randn(V, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    rows = truncate(teacher, V)
    leaves = [tensor.clone().requires_grad_() for tensor in (hidden, weight, bias)]
    loss = kd_loss(
        leaves[0],
        Head(leaves[1], leaves[2], 0.7, cap),
        labels,
        rows,
        alpha=alpha,
        temperature=temperature,
        chunk=7,
    )
    (2.0 * loss.total).backward()
    dense = [tensor.clone().requires_grad_() for tensor in (hidden, weight, bias)]
    logits = 0.7 * (dense[0] @ dense[1].t() + dense[2])
    logits = logits if cap is None else cap * torch.tanh(logits / cap)
    eye = torch.eye(V, dtype=torch.float64)
    total, ce, _ = oracle(logits, eye, labels, teacher, rows, alpha, temperature, "bucket")
    (2.0 * total).backward()
    torch.testing.assert_close(loss.total, total.detach())
    torch.testing.assert_close(loss.ce, ce.detach())
    for got, want in zip(leaves, dense, strict=True):
        torch.testing.assert_close(got.grad, want.grad)


@pytest.mark.parametrize("label", [-100, V])
def test_a_label_without_a_row_is_a_clear_error(label):
    hidden, weight, labels, _ = problem()
    labels[3] = label
    with pytest.raises(KitError, match=f"label {label} for a vocabulary of {V}"):
        sft_loss(hidden, weight, labels)
