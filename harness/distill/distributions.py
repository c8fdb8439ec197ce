"""From a teacher's logits to rows of the logit cache. Torch only, no files; runs where the logits are.

With p_T = softmax(z / T) over the whole vocabulary, a row at T = 1 and one number for each further T say all
there is to say about the stored ids at every T:

    log p_T(i) = log p_1(i) / T - A_T        A_T = log sum_v p_1(v)^(1/T)

Tails are log-sums over the complement, never log(1 - sum), which is noise where the stored ids hold nearly
all.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from harness.distill.cache_format import CacheSpec

FP16_LOWEST = -65504.0


@dataclass(frozen=True)
class DistributionRows:
    """Rows of the cache for R label positions, on the logits' device. Fields as in `cache_format.RowBlock`.

    Attributes:
        ids: int32 [R, K].
        logp: float32 [R, K]; -inf in unused places.
        log_tail: float32 [R].
        a_t: float32 [R, nT].
        target: int64 [R].
        target_logp: float32 [R].
        kept: float32 [R, 1 + nT].
        lengths: int64 [R]; None in mode topk.
        counts: int64 [R, K]; only in mode sample.
    """

    ids: torch.Tensor
    logp: torch.Tensor
    log_tail: torch.Tensor
    a_t: torch.Tensor
    target: torch.Tensor
    target_logp: torch.Tensor
    kept: torch.Tensor
    lengths: torch.Tensor | None = None
    counts: torch.Tensor | None = None

    def for_storage(self) -> dict[str, torch.Tensor]:
        """The tensors in the types the shard wants, log-probabilities in fp16; probability 0 becomes the
        lowest finite fp16, so that p log p is 0 and no NaN.
        """

        def half(values: torch.Tensor) -> torch.Tensor:
            return values.clamp(min=FP16_LOWEST).half()

        result = {
            "ids": self.ids,
            "logp": half(self.logp),
            "log_tail": self.log_tail,
            "a_t": self.a_t,
            "target": self.target,
            "target_logp": half(self.target_logp),
            "kept": self.kept,
        }
        if self.lengths is not None:
            result["lengths"] = self.lengths
        if self.counts is not None:
            result["counts"] = self.counts.to(torch.int32)
        return result


def distribution_rows(
    logits: torch.Tensor, target: torch.Tensor, spec: CacheSpec, uniforms: torch.Tensor | None = None
) -> DistributionRows:
    """Rows of the cache from logits.

    Args:
        logits: float32 [R, V]; overwritten. Beside them at most one more [R, V] exists at a time (in mode
            sample two of twice the width).
        target: int64 [R], the label tokens.
        spec: What a row holds.
        uniforms: float64 [R, k] in [0, 1), see `uniforms_of`; needed in mode sample and only there.
    """
    log_z = torch.logsumexp(logits, dim=1, keepdim=True)
    if spec.mode != "sample":
        # Before the shift by log_z, which can round two unequal logits to one log-probability.
        top, ids = top_k(logits, spec.k)
        top = top - log_z
    logp = logits.sub_(log_z)
    target_logp = logp.gather(1, target[:, None])[:, 0]
    normalisers = [_normaliser(logp, value) for value in spec.temperatures]
    a_t = torch.stack(normalisers, dim=1) if normalisers else logp.new_empty(len(logp), 0)
    lengths = counts = None
    if spec.mode == "sample":
        assert uniforms is not None
        ids, top, counts, lengths = _sampled(logp, uniforms)
    # From here on logp is only the complement.
    log_tail = torch.logsumexp(logp.scatter_(1, ids, -torch.inf), dim=1)
    if spec.mode == "nucleus":
        assert spec.eps is not None
        lengths, log_tail = _nucleus(top, log_tail, spec.eps)
        top = top.masked_fill(torch.arange(spec.k, device=top.device) >= lengths[:, None], -torch.inf)
    kept = [torch.logsumexp(top, dim=1)]
    for column, value in enumerate(spec.temperatures):
        kept.append(torch.logsumexp(top / value, dim=1) - a_t[:, column])
    return DistributionRows(
        ids=ids.to(torch.int32),
        logp=top,
        log_tail=log_tail,
        a_t=a_t,
        target=target,
        target_logp=target_logp,
        kept=torch.stack(kept, dim=1).exp_(),
        lengths=lengths,
        counts=counts,
    )


def _normaliser(logp: torch.Tensor, temperature: float) -> torch.Tensor:
    """A_T of each row, with one temporary of its size where logsumexp(logp / T) takes two."""
    largest = logp.amax(dim=1, keepdim=True)
    terms = (logp - largest).div_(temperature).exp_()
    return terms.sum(dim=1).log_() + largest[:, 0] / temperature


def top_k(values: torch.Tensor, k: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The k largest of each row, descending; of equal values the lower id first, and in.

    torch.topk takes any of equal values, and which one depends on device and shape.

    Args:
        values: [R, V].
        k: At most V.

    Returns:
        Values and int64 ids, [R, k] each.
    """
    top, ids = values.topk(k, dim=1)
    if k < values.shape[1]:
        least = top[:, -1:]
        tied = (values >= least).sum(dim=1) > k
        if bool(tied.any()):
            some, bound = values[tied], least[tied]
            above, equal = some > bound, some == bound
            room = k - above.sum(dim=1, keepdim=True)
            chosen = above | (equal & (equal.cumsum(dim=1) <= room))
            ids[tied] = chosen.nonzero()[:, 1].view(-1, k)
    ids = ids.sort(dim=1).values
    top, order = values.gather(1, ids).sort(dim=1, descending=True, stable=True)
    return top, ids.gather(1, order)


def uniforms_of(seed: int, keys_and_counts: Sequence[tuple[int, int]], draws: int) -> torch.Tensor:
    """Random numbers for the rows of examples, float64 [rows, draws] in [0, 1).

    Those of an example depend on the seed and the example's key alone: not on its batch, worker or shard.

    Args:
        seed: Of the cache.
        keys_and_counts: (64-bit key, label positions) of each example.
        draws: Numbers a row.
    """
    parts = []
    for key, count in keys_and_counts:
        raw = np.random.Philox(key=np.array([seed, key], dtype=np.uint64)).random_raw(count * draws)
        parts.append((raw >> np.uint64(11)).astype(np.float64) * 2.0**-53)
    flat = np.concatenate(parts) if parts else np.empty(0)
    return torch.from_numpy(flat.reshape(-1, draws))


def _sampled(
    logp: torch.Tensor, uniforms: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Draw from each row by inversion; distinct ids by falling probability, with counts.

    Returns:
        ids, logp, counts [R, N] and lengths [R]. Unused places repeat the row's first id, with logp -inf and
        count 0.
    """
    draws = uniforms.shape[1]
    cumulative = logp.double().exp_().cumsum(dim=1)
    points = uniforms.to(logp.device) * cumulative[:, -1:]
    # The first id whose cumulative mass exceeds the point: never one of probability 0.
    drawn = torch.searchsorted(cumulative, points, right=True).clamp_(max=logp.shape[1] - 1)
    drawn = drawn.sort(dim=1).values
    new = torch.ones_like(drawn, dtype=torch.bool)
    new[:, 1:] = drawn[:, 1:] != drawn[:, :-1]
    group = new.cumsum(dim=1) - 1
    lengths = group[:, -1] + 1
    counts = torch.zeros_like(drawn).scatter_add_(1, group, torch.ones_like(drawn))
    ids = drawn[:, :1].repeat(1, draws).scatter_(1, group, drawn)
    unused = torch.arange(draws, device=ids.device) >= lengths[:, None]
    top = logp.gather(1, ids).masked_fill_(unused, -torch.inf)
    # The ids rise within a row, so the stable sort leaves equal probabilities in their order.
    top, order = top.sort(dim=1, descending=True, stable=True)
    return ids.gather(1, order), top, counts.gather(1, order), lengths


def _nucleus(top: torch.Tensor, log_tail: torch.Tensor, eps: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Fewest leading ids outside which at most eps of the mass lies, and the log of what lies outside."""
    beyond = top.flip(1).logcumsumexp(dim=1).flip(1)
    # after[:, j]: log mass outside the first j + 1 ids.
    after = torch.cat([torch.logaddexp(beyond[:, 1:], log_tail[:, None]), log_tail[:, None]], dim=1)
    lengths = ((after > np.log(eps)).sum(dim=1) + 1).clamp_(max=top.shape[1])
    return lengths, after.gather(1, lengths[:, None] - 1)[:, 0]
