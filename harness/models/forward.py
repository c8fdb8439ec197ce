"""Hidden states at the label positions of a packed batch, no example seeing another.

Two ways to the same numbers:

    block     a block-diagonal causal mask [B, 1, S, S] for scaled_dot_product_attention; any device.
    varlen    padding removed, the batch one row of N real tokens, attention over segments of any length
              (torch's varlen kernel on a GPU; segment by segment elsewhere, for tests).
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any, Literal

import torch

from harness.models.batches import IGNORED, Batch

Attention = Literal["auto", "block", "varlen"]
_VARLEN = "kit_varlen"


def use_attention(model: Any, attention: Attention) -> Literal["block", "varlen"]:
    """Set a model up for one way; `auto` is varlen for 16-bit weights on a GPU and block otherwise."""
    if attention == "auto":
        weight = model.get_output_embeddings().weight
        attention = "varlen" if weight.is_cuda and weight.dtype == torch.bfloat16 else "block"
    if attention == "varlen":
        from transformers import AttentionInterface

        AttentionInterface.register(_VARLEN, varlen_attention)
        model.set_attn_implementation(_VARLEN)
        return "varlen"
    model.set_attn_implementation("sdpa")
    return "block"


def label_states(
    model: Any, batch: Batch, attention: Literal["block", "varlen"] = "block"
) -> tuple[torch.Tensor, torch.Tensor]:
    """Run the model's body over a batch.

    Args:
        model: A causal language model; its head is not run.
        batch: The batch, on the model's device.
        attention: What `use_attention` returned.

    Returns:
        Hidden states [P, d] of the positions before each label, and the labels [P], row by row in the order
        of `batch.example_rows`.
    """
    body = model.base_model
    if attention == "block":
        hidden = body(
            input_ids=batch.input_ids,
            attention_mask=batch.attention_mask(),
            position_ids=batch.position_ids,
            use_cache=False,
        ).last_hidden_state
        rows, columns = (batch.labels != IGNORED).nonzero(as_tuple=True)
        return hidden[rows, columns - 1], batch.labels[rows, columns]
    real = batch.segment_ids > 0
    labels = batch.labels[real]
    positions = batch.position_ids[real]
    bounds = torch.nonzero(positions == 0).squeeze(1).to(torch.int32)
    bounds = torch.cat([bounds, bounds.new_tensor([len(positions)])])
    longest = int(positions.max()) + 1
    hidden = body(
        input_ids=batch.input_ids[real][None],
        position_ids=positions[None],
        use_cache=False,
        cu_seq_lens_q=bounds,
        cu_seq_lens_k=bounds,
        max_length_q=longest,
        max_length_k=longest,
    ).last_hidden_state[0]
    places = (labels != IGNORED).nonzero().squeeze(1)
    return hidden[places - 1], labels[places]


def varlen_attention(
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None = None,
    *,
    scaling: float | None = None,
    cu_seq_lens_q: torch.Tensor,
    max_length_q: int,
    **_: Any,
) -> tuple[torch.Tensor, None]:
    """Causal attention within segments, as transformers calls it.

    Args:
        module: The attention layer; not looked at.
        query: [1, heads, N, head size].
        key: [1, key heads, N, head size].
        value: [1, key heads, N, head size].
        attention_mask: Not used.
        scaling: Factor on the scores; 1/sqrt(head size) by default.
        cu_seq_lens_q: int32 [segments + 1], where segments begin and the last one ends.
        max_length_q: Length of the longest.

    Returns:
        [1, N, heads, head size], and no attention weights.
    """
    grouped = query.shape[1] != key.shape[1]
    if query.is_cuda:
        from torch.nn.attention.varlen import varlen_attn

        output = varlen_attn(
            query[0].transpose(0, 1),
            key[0].transpose(0, 1),
            value[0].transpose(0, 1),
            cu_seq_lens_q,
            cu_seq_lens_q,
            max_length_q,
            max_length_q,
            scale=scaling,
            window_size=(-1, 0),
            enable_gqa=grouped,
        )
        assert isinstance(output, torch.Tensor)
        return output[None], None
    bounds = cu_seq_lens_q.tolist()
    parts = [
        torch.nn.functional.scaled_dot_product_attention(
            query[:, :, start:end],
            key[:, :, start:end],
            value[:, :, start:end],
            is_causal=True,
            scale=scaling,
            enable_gqa=grouped,
        )
        for start, end in pairwise(bounds)
    ]
    return torch.cat(parts, dim=2).transpose(1, 2), None
