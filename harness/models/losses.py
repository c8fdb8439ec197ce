"""The loss of all three regimes: alpha * CE + (1 - alpha) * T^2 * KL, through the output matrix, in chunks.

The logits of a chunk of label positions are made, used for value and gradient, and overwritten; nothing of
size [label positions, vocabulary] ever exists. SFT is the same function with alpha = 1.

With a truncated teacher (the ids of a set K a position) three readings of the missing mass are available:

    bucket        everything outside K is one outcome of mass t = exp(log_tail). The optimum has the teacher's
                  probabilities on K and its mass outside. KL_bucket <= KL_full (data processing).
    partial       sum over K only, as the paper's code does. Not a divergence: it can be negative, and its
                  optimum is p/P on K and nothing outside, over-confident by 1/P (P = mass on K).
    renormalised  the teacher scaled to mass 1 on K: the same biased optimum, without the weight P.

At temperature T the teacher is p_T(i) = exp(log p_1(i)/T - A_T) with A_T = log sum_v p_1(v)^(1/T) over the
whole vocabulary, as the cache stores it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, cast

import torch
from torch.autograd.function import once_differentiable

from harness.errors import KitError
from harness.models.head import Head

Tail = Literal["bucket", "partial", "renormalised"]
TAILS: tuple[Tail, ...] = ("bucket", "partial", "renormalised")

CPU_CHUNK_ELEMENTS = 1 << 24
GPU_CHUNK_ELEMENTS = 1 << 27


@dataclass(frozen=True)
class TeacherRows:
    """The teacher's truncated distributions of P label positions, at T = 1.

    Attributes:
        ids: int64 [P, K], distinct within a row; unfilled places hold any id and logp = -inf.
        logp: [P, K], log-probabilities over the whole vocabulary.
        log_tail: [P], log of the mass outside `ids`; -inf for none.
        a_t: Temperature to A_T, [P] each; not needed for T = 1.
    """

    ids: torch.Tensor
    logp: torch.Tensor
    log_tail: torch.Tensor
    a_t: Mapping[float, torch.Tensor] = field(default_factory=dict)

    def within(self, rows: int) -> TeacherRows:
        """The same for a student of fewer rows: the teacher's ids beyond them, which are padding to both,
        become part of the tail.
        """
        beyond = self.ids >= rows
        if not bool(beyond.any()):
            return self
        lost = torch.where(beyond, self.logp, -torch.inf)
        tail = torch.logaddexp(self.log_tail, torch.logsumexp(lost, dim=1))
        kept = torch.where(beyond, -torch.inf, self.logp)
        return TeacherRows(torch.where(beyond, 0, self.ids), kept, tail, self.a_t)

    @classmethod
    def from_cache(cls, rows: Any, device: torch.device | str = "cpu") -> TeacherRows:
        """Rows as `CacheReader.rows` gives them (numpy arrays or tensors), on a device."""

        def tensor(values: Any, dtype: torch.dtype) -> torch.Tensor:
            return torch.as_tensor(values).to(device=device, dtype=dtype, non_blocking=True)

        return cls(
            ids=tensor(rows.ids, torch.int64),
            logp=tensor(rows.logp, torch.float32),
            log_tail=tensor(rows.log_tail, torch.float32),
            a_t={float(key): tensor(value, torch.float32) for key, value in rows.a_t.items()},
        )

    def at(self, temperature: float, tail: Tail) -> tuple[torch.Tensor, torch.Tensor]:
        """Log-probabilities on K [P, K] and log tail mass [P] at a temperature, float64, as the loss reads
        them.

        At T = 1 `log_tail` is used as stored. At another T the tail is what A_T leaves over, within the
        bounds that `log_tail` proves, since the difference of two rounded masses can be worthless.

        Raises:
            KitError: A_T is needed and not stored.
        """
        logp, log_tail = self.logp.double(), self.log_tail.double()
        if temperature != 1.0:
            logp = logp / temperature
            if temperature in self.a_t:
                a_t = self.a_t[temperature].double()
                logp = logp - a_t[:, None]
                rest = _log1mexp(torch.logsumexp(logp, dim=1))
                # x^(1/T) >= x on [0, 1] for T >= 1, summed over the tail; the other way round below 1.
                if temperature > 1.0:
                    rest = torch.maximum(rest, log_tail - a_t)
                    log_tail = torch.where(log_tail > -torch.inf, rest, log_tail)
                else:
                    log_tail = torch.minimum(rest, log_tail / temperature - a_t)
            elif tail != "renormalised":
                stored = ", ".join(f"{known:g}" for known in sorted(self.a_t)) or "nothing else"
                raise KitError(
                    f"the cache has no normaliser for T={temperature:g}",
                    expected=f"T=1 or what it stores: {stored}",
                    fix=f"add {temperature:g} to the temperatures of teacher_logits and rerun it",
                )
        if tail == "renormalised":
            logp = logp - torch.logsumexp(logp, dim=1, keepdim=True)
        if tail != "bucket":
            log_tail = torch.full_like(log_tail, -torch.inf)
        return logp, log_tail


@dataclass(frozen=True)
class LossSum:
    """Sums over the label positions of one micro-batch.

    Attributes:
        total: alpha * CE + (1 - alpha) * T^2 * KL, differentiable once; divide by the label tokens of the
            whole optimizer step.
        ce: Cross-entropy alone, nats, detached.
        kl: KL at T as the tail mode defines it, without T^2, nats, detached; None without a teacher.
    """

    total: torch.Tensor
    ce: torch.Tensor
    kl: torch.Tensor | None


def kd_loss(
    hidden: torch.Tensor,
    weight: torch.Tensor | Head,
    labels: torch.Tensor,
    teacher: TeacherRows | None = None,
    *,
    alpha: float = 1.0,
    temperature: float = 1.0,
    tail: Tail = "bucket",
    chunk: int | None = None,
) -> LossSum:
    """Sum of the distillation loss over label positions.

    Args:
        hidden: [P, d] final hidden states of the positions that predict the labels.
        weight: [V, d] output matrix, or a head with what follows it.
        labels: int64 [P], the label of each position.
        teacher: The teacher's rows in the order of the labels; None only with alpha = 1.
        alpha: Weight of the cross-entropy, in [0, 1]. At 1 the teacher is not looked at: the same bits as
            SFT.
        temperature: T > 0 of the KL term.
        tail: How the mass outside the cached ids is read; see the module.
        chunk: Label positions at a time; by default what keeps one chunk of logits within 64 MB on a CPU and
            512 MB on a GPU.

    Raises:
        KitError: No teacher where one is needed, rows that do not match the labels, or a T without
            normaliser.
        ValueError: alpha, temperature or tail out of range.
    """
    if not 0.0 <= alpha <= 1.0 or not temperature > 0.0 or tail not in TAILS:
        raise ValueError(f"alpha={alpha}, temperature={temperature}, tail={tail!r}")
    logp = ids = log_tail = None
    if alpha < 1.0:
        if teacher is None:
            raise KitError(f"alpha={alpha:g} needs the teacher's rows", expected="a logit cache, or alpha=1")
        if len(teacher.ids) != len(labels):
            raise KitError(f"{len(teacher.ids)} teacher rows for {len(labels)} labels")
        ids = teacher.ids
        logp, log_tail = teacher.at(temperature, tail)
    head = weight if isinstance(weight, Head) else Head(weight)
    if len(labels) and not hidden.is_meta:
        low, high = (int(value) for value in labels.aminmax())
        if low < 0 or high >= head.vocab_size:
            raise KitError(
                f"label {low if low < 0 else high} for a vocabulary of {head.vocab_size}",
                expected="the positions with a label alone (-100 marks those without)",
            )
    if chunk is None:
        elements = CPU_CHUNK_ELEMENTS if hidden.device.type == "cpu" else GPU_CHUNK_ELEMENTS
        chunk = max(32, elements // head.vocab_size)
    wanted = torch.is_grad_enabled()
    total, ce, kl = cast(
        tuple[torch.Tensor, torch.Tensor, torch.Tensor],
        _ChunkedLoss.apply(  # type: ignore[no-untyped-call]
            hidden,
            head.weight,
            head.bias,
            head,
            labels,
            ids,
            logp,
            log_tail,
            alpha,
            temperature,
            chunk,
            wanted,
        ),
    )
    return LossSum(total, ce, None if ids is None else kl)


def sft_loss(
    hidden: torch.Tensor, weight: torch.Tensor | Head, labels: torch.Tensor, *, chunk: int | None = None
) -> LossSum:
    """Sum of the cross-entropy: `kd_loss` with alpha = 1."""
    return kd_loss(hidden, weight, labels, alpha=1.0, chunk=chunk)


class _ChunkedLoss(torch.autograd.Function):
    """Value and gradients in one pass over the chunks, three matrix products each as in a plain backward.

    Saved for the backward: d total / d hidden [P, d], d total / d weight [V, d] and, where the head has a
    bias, d total / d bias [V], in their own types.
    """

    @staticmethod
    def forward(
        ctx: Any,
        hidden: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        head: Head,
        labels: torch.Tensor,
        ids: torch.Tensor | None,
        logp: torch.Tensor | None,
        log_tail: torch.Tensor | None,
        alpha: float,
        temperature: float,
        chunk: int,
        wanted: bool,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        of_hidden = wanted and ctx.needs_input_grad[0]
        of_weight = wanted and ctx.needs_input_grad[1]
        grad_hidden = torch.empty_like(hidden) if of_hidden else None
        grad_weight = torch.zeros_like(weight) if of_weight else None
        grad_bias = None
        if bias is not None and wanted and ctx.needs_input_grad[2]:
            # Summed over the chunks: in no narrower type than the loss.
            grad_bias = torch.zeros(len(bias), dtype=_wide(bias.dtype), device=bias.device)
        any_gradient = of_hidden or of_weight or grad_bias is not None
        # Sums of many rows: float64, so that they do not depend on how the rows were split.
        ce = torch.zeros((), dtype=torch.float64, device=hidden.device)
        kl = torch.zeros_like(ce)
        for start in range(0, len(labels), chunk):
            part = slice(start, start + chunk)
            logits = hidden[part] @ weight.t()
            logits = head.shape_logits(logits.to(_wide(logits.dtype)))
            slope = head.slope(logits) if any_gradient else None
            if ids is None or logp is None or log_tail is None:
                ce_rows, gradient = _cross_entropy(logits, labels[part], any_gradient)
            else:
                ce_rows, kl_rows, gradient = _distill(
                    logits,
                    labels[part],
                    ids[part],
                    logp[part].to(logits.dtype),
                    log_tail[part].to(logits.dtype),
                    alpha,
                    temperature,
                    any_gradient,
                )
                kl += kl_rows.sum(dtype=torch.float64)
            ce += ce_rows.sum(dtype=torch.float64)
            if gradient is not None:
                if slope is not None:
                    gradient.mul_(slope)
                elif head.scale != 1.0:
                    gradient.mul_(head.scale)
                if grad_bias is not None:
                    grad_bias += gradient.sum(0)
                gradient = gradient.to(hidden.dtype)
                if grad_hidden is not None:
                    torch.mm(gradient, weight, out=grad_hidden[part])
                if grad_weight is not None:
                    grad_weight.addmm_(gradient.t(), hidden[part])
            del logits, gradient, slope  # else this chunk would live on beside the next one
        if bias is not None and grad_bias is not None:
            grad_bias = grad_bias.to(bias.dtype)
        ctx.gradients = (grad_hidden, grad_weight, grad_bias)
        total = ce if ids is None else alpha * ce + (1.0 - alpha) * temperature**2 * kl
        dtype = torch.float64 if hidden.dtype == torch.float64 else torch.float32
        total = total.to(dtype, copy=True)
        ctx.mark_non_differentiable(ce, kl)
        return total, ce, kl

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *outputs: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        if ctx.gradients is None:
            raise RuntimeError("the loss's gradients were handed out already: backward works once")
        gradients, ctx.gradients = ctx.gradients, None
        for gradient in gradients:
            if gradient is not None:
                gradient.mul_(outputs[0].to(gradient.dtype))
        return (*gradients, *(None,) * 9)


def _wide(dtype: torch.dtype) -> torch.dtype:
    """The type that logits of this one are made in."""
    return torch.float32 if dtype in (torch.bfloat16, torch.float16) else dtype


def _cross_entropy(
    logits: torch.Tensor, labels: torch.Tensor, gradient: bool
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Cross-entropy of rows and its gradient in the logits, whose memory it takes over."""
    index = labels[:, None]
    chosen = logits.gather(1, index)
    log_sum, exponentials, scale = _exponentials(logits)
    losses = (log_sum - chosen).squeeze(1)
    if not gradient:
        return losses, None
    exponentials.mul_(scale)
    exponentials.scatter_add_(1, index, torch.full_like(chosen, -1.0))
    return losses, exponentials


def _distill(
    logits: torch.Tensor,
    labels: torch.Tensor,
    ids: torch.Tensor,
    logp: torch.Tensor,
    log_tail: torch.Tensor,
    alpha: float,
    temperature: float,
    gradient: bool,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
    """Cross-entropy and KL of rows, and the gradient of the loss in the logits, whose memory it takes over.

    With q the student at T, R = 1 - Q its mass outside K, p and t the teacher's masses and c = sum p + t:
    T d KL / d z = c q - p on K, and s (c R - t) outside, s being the softmax over the complement alone.
    R comes from the logsumexp over the complement, never from 1 - Q.
    """
    index = labels[:, None]
    chosen = logits.gather(1, index)
    known = logp > -torch.inf
    soft: torch.Tensor
    if temperature != 1.0:
        soft = logits / temperature
        log_sum_ce, hard, hard_scale = _exponentials(logits)
    else:
        soft = logits
    student = soft.gather(1, ids).masked_fill(~known, -torch.inf)
    # An unfilled place must not hide a token of the complement: it points at the row's first id instead.
    hidden_ids = torch.where(known, ids, ids[:, :1])
    soft.scatter_(1, hidden_ids, -torch.inf)
    log_rest, rest, rest_scale = _exponentials(soft)
    log_sum = torch.logaddexp(log_rest, torch.logsumexp(student, dim=1, keepdim=True))
    if temperature == 1.0:
        log_sum_ce, hard = log_sum, rest
    losses_ce = (log_sum_ce - chosen).squeeze(1)

    log_q = (student - log_sum).masked_fill(~known, 0.0)
    log_r = log_rest - log_sum
    p, t = logp.exp(), log_tail.exp()[:, None]
    # 0 log 0 = 0: for places without mass, and for the tail of a row that holds the whole vocabulary.
    t = torch.where(log_rest > -torch.inf, t, 0.0)
    losses_kl = torch.where(known, p * (logp - log_q), 0.0).sum(dim=1)
    losses_kl += torch.where(t > 0.0, t * (log_tail[:, None] - log_r), 0.0).squeeze(1)
    if not gradient:
        return losses_ce, losses_kl, None

    mass = p.sum(dim=1, keepdim=True) + t
    weight = (1.0 - alpha) * temperature
    q, r = torch.where(known, log_q.exp(), 0.0), log_r.exp()
    outside = weight * (mass * r - t)
    inside = weight * (mass * q - p)
    if temperature == 1.0:
        # The cross-entropy's softmax is the same one: q on K, r * s outside.
        outside += alpha * r
        inside += alpha * q
        hard.mul_(outside * rest_scale)
    else:
        hard.mul_(alpha * hard_scale)
        hard.addcmul_(rest, outside * rest_scale)
    hard.scatter_add_(1, hidden_ids, torch.where(known, inside, 0.0))
    hard.scatter_add_(1, index, torch.full_like(chosen, -alpha))
    return losses_ce, losses_kl, hard


def _exponentials(logits: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Log-sum-exp [n, 1], the exponentials in the logits' memory, and the factor that makes them a softmax.

    A row of -inf only (a complement without members) gives -inf, zeros and 0.
    """
    top = logits.amax(dim=1, keepdim=True)
    top = torch.where(top > -torch.inf, top, 0.0)
    exponentials = logits.sub_(top).exp_()
    total = exponentials.sum(dim=1, keepdim=True)
    return top + total.log(), exponentials, torch.where(total > 0.0, 1.0 / total, 0.0)


def _log1mexp(x: torch.Tensor) -> torch.Tensor:
    """log(1 - exp(x)) for x <= 0; -inf from 0 on."""
    x = x.clamp(max=0.0)
    return torch.where(x > -0.6931471805599453, (-torch.expm1(x)).log(), torch.log1p(-torch.exp(x)))
