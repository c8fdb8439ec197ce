"""What a model does between its last hidden state and its logits: one matrix, and at most a bias, a factor
and a soft cap.

    logits = cap(scale * (hidden @ weight.T + bias))        cap(z) = c tanh(z / c)

The loss and the teacher's pass go through this instead of the model's own head, in chunks of label positions.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from harness.errors import KitError

_FACTORS = ("logits_scaling", "logit_scale", "lm_head_multiplier")
_CAPS = ("final_logit_softcapping", "logits_soft_cap")


@dataclass(frozen=True)
class Head:
    """An output matrix and what follows it.

    Attributes:
        weight: [V, d].
        bias: [V]; None for none.
        scale: Factor on the logits.
        softcap: Bound c of the logits; None for none.
    """

    weight: torch.Tensor
    bias: torch.Tensor | None = None
    scale: float = 1.0
    softcap: float | None = None

    @property
    def vocab_size(self) -> int:
        """Rows of the matrix."""
        return int(self.weight.shape[0])

    def shape_logits(self, products: torch.Tensor) -> torch.Tensor:
        """Logits from products [R, V] of states and weight, in their memory; bias included."""
        if self.bias is not None:
            products.add_(self.bias)
        if self.scale != 1.0:
            products.mul_(self.scale)
        if self.softcap is not None:
            products.div_(self.softcap).tanh_().mul_(self.softcap)
        return products

    def slope(self, logits: torch.Tensor) -> torch.Tensor | None:
        """d logits / d products, [R, V], where it is no constant; None where it is `scale`."""
        if self.softcap is None:
            return None
        return logits.div(self.softcap).square_().neg_().add_(1.0).mul_(self.scale)

    def words(self) -> str:
        """What there is beside the matrix; nothing for the matrix alone."""
        parts = ["a bias"] if self.bias is not None else []
        parts += [f"factor {self.scale:.6g}"] if self.scale != 1.0 else []
        parts += [f"soft cap {self.softcap:g}"] if self.softcap is not None else []
        return ", ".join(parts)


def heads_of(model: Any) -> list[Head]:
    """What a model's head may be, from its configuration: a field such as `logits_scaling` divides in one
    family and multiplies in another, so whoever asks compares with the model's own logits.

    Raises:
        KitError: The model has no output matrix.
    """
    layer = model.get_output_embeddings()
    weight = getattr(layer, "weight", None)
    if not isinstance(weight, torch.Tensor) or weight.dim() != 2:
        raise KitError(
            f"no output matrix: its output embeddings are {type(layer).__name__}",
            where=type(model).__name__,
            expected="a causal language model whose head is one matrix",
        )
    config = model.config.get_text_config()
    factors = [1.0]
    for name in _FACTORS:
        value = getattr(config, name, None)
        if isinstance(value, int | float) and value not in (0, 1):
            factors += [1.0 / value, float(value)]
    cap = next((value for name in _CAPS if (value := getattr(config, name, None))), None)
    bias = getattr(layer, "bias", None)
    return [Head(weight, bias, factor, None if cap is None else float(cap)) for factor in factors]


class LogitPass:
    """Hidden states [R, d] to float32 logits [R, V], accumulated in float32; no gradient.

    Args:
        head: The head; its weight is copied to float32 where the device has no mixed matmul.
    """

    def __init__(self, head: Head) -> None:
        weight = head.weight.detach()
        # Products of bfloat16 numbers are exact in float32, so a bfloat16 matmul that accumulates and answers
        # in float32 is as good as one of float32 copies, and ten times faster on tensor cores.
        self._mixed = weight.dtype != torch.float32 and weight.is_cuda and _mixed_matmul()
        if weight.dtype != torch.float32 and not self._mixed:
            weight = weight.float()
        bias = None if head.bias is None else head.bias.detach().float()
        self._head = Head(weight, bias, head.scale, head.softcap)

    def __call__(self, hidden: torch.Tensor) -> torch.Tensor:
        """Logits float32 [R, V] of hidden states [R, d]."""
        weight = self._head.weight.t()
        if self._mixed:
            return self._head.shape_logits(torch.mm(hidden, weight, out_dtype=torch.float32))
        return self._head.shape_logits(hidden.float() @ weight)


def _mixed_matmul() -> bool:
    """Whether this torch has a matmul of bfloat16 that answers in float32 (from 2.8, on CUDA)."""
    major, minor = (int(part) for part in torch.__version__.split(".")[:2])
    return (major, minor) >= (2, 8)
