"""Hidden states at the label positions of a packed batch, no example seeing another.

Three ways to the same numbers:

    block     a block-diagonal causal mask [B, 1, S, S], any device: transformers makes it from positions that
              start again, with each layer's own window.
    masked    the same mask made here, for models that make theirs without looking at positions.
    varlen    padding removed, the batch one row of N real tokens, attention over segments of any length
              (torch's varlen kernel on a GPU; segment by segment elsewhere, for tests).

`support.prepare` sets a model up and compares what comes out with the model's own logits.
"""

from __future__ import annotations

from importlib.util import find_spec
from inspect import signature
from itertools import pairwise
from typing import Any, Literal

import torch

from harness.errors import KitError
from harness.models.batches import IGNORED, Batch

Attention = Literal["auto", "block", "varlen"]
Way = Literal["block", "masked", "varlen"]
_VARLEN = "kit_varlen"


def ways(model: Any, attention: Attention) -> list[tuple[Way, str]]:
    """(way, attention of transformers) to try in turn: varlen for 16-bit weights on a GPU where torch has it
    (2.10), torch's own attention under a mask, and the model's plain one for what those leave out.
    """
    weight = next(model.parameters())
    fits = weight.is_cuda and weight.dtype == torch.bfloat16
    found: list[tuple[Way, str]] = []
    if attention == "varlen" or (
        attention == "auto" and fits and find_spec("torch.nn.attention.varlen") is not None
    ):
        found.append(("varlen", _VARLEN))
    if attention == "varlen":
        return found
    if not scores_are_capped(model):
        found.append(("block", "sdpa"))
    found.append(("block", "eager"))
    return [*found, *[("masked", name) for _, name in found if name != _VARLEN]]


def windows_of(model: Any) -> list[int]:
    """Windows and chunks of attention that a model's configuration names, in positions."""
    config = model.config.get_text_config()
    names = ("sliding_window", "attention_chunk_size", "window_size", "attention_window_size")
    values = [getattr(config, name, None) for name in names]
    return [value for value in values if isinstance(value, int) and value > 0]


def scores_are_capped(model: Any) -> bool:
    """Whether attention has a soft cap on its scores. Torch's attention leaves that out in silence, and at
    random weights it shows in no logit.
    """
    return getattr(model.config.get_text_config(), "attn_logit_softcapping", None) is not None


def use_attention(model: Any, name: str) -> None:
    """Set a model's attention by one of the names of `ways`."""
    if name == _VARLEN:
        from transformers import AttentionInterface

        AttentionInterface.register(_VARLEN, varlen_attention)
    if model.config._attn_implementation != name:
        model.set_attn_implementation(name)


def label_states(model: Any, batch: Batch, attention: Way = "block") -> tuple[torch.Tensor, torch.Tensor]:
    """Run the model's body over a batch.

    Args:
        model: A causal language model; its head is not run.
        batch: The batch, on the model's device.
        attention: The way its attention was set up for.

    Returns:
        Hidden states [P, d] of the positions before each label, and the labels [P], row by row in the order
        of `batch.example_rows`.
    """
    body = model.base_model
    if attention != "varlen":
        # A model without positions of its own takes none, and is right where no example follows another.
        given: dict[str, Any] = {"position_ids": batch.position_ids} if takes_positions(model) else {}
        if attention == "masked":
            given["attention_mask"] = _mask_of(model, batch)
        hidden = body(input_ids=batch.input_ids, use_cache=False, **given).last_hidden_state
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


def _mask_of(model: Any, batch: Batch) -> Any:
    """The batch's mask as the model's layers take it: by kind of layer, and added to the scores where the
    attention is the plain one.
    """
    config = model.config.get_text_config()
    window, kinds = getattr(config, "sliding_window", None), getattr(config, "layer_types", None)
    mask = batch.attention_mask()
    near = mask if not window else mask.triu(1 - window)
    if model.config._attn_implementation == "eager":
        weight = next(model.parameters())
        hidden = torch.finfo(weight.dtype).min
        mask, near = (torch.zeros_like(m, dtype=weight.dtype).masked_fill_(~m, hidden) for m in (mask, near))
    if window and kinds and "sliding_attention" in kinds:
        return {"full_attention": mask, "sliding_attention": near}
    return mask if kinds else near


def takes_positions(model: Any) -> bool:
    """Whether a model can be told where its examples begin."""
    return "position_ids" in signature(type(model.base_model).forward).parameters


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
    sliding_window: int | None = None,
    **others: Any,
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
        sliding_window: Positions that one sees, itself included; None for all before it.
        others: What else the layer asks for; a soft cap or sinks are refused.

    Returns:
        [1, N, heads, head size], and no attention weights.

    Raises:
        KitError: The layer asks for what this attention has not.
    """
    for name in ("softcap", "s_aux"):
        if others.get(name) is not None:
            raise KitError(f"varlen attention has no {name}", fix="attention: auto")
    window = -1 if sliding_window is None else sliding_window - 1
    grouped = query.shape[1] != key.shape[1]
    if query.is_cuda:
        from torch.nn.attention.varlen import varlen_attn

        known = signature(varlen_attn).parameters
        if grouped and "enable_gqa" not in known:
            # torch before 2.12: as many key heads as query heads.
            groups = query.shape[1] // key.shape[1]
            key, value = (tensor.repeat_interleave(groups, dim=1) for tensor in (key, value))
        options: dict[str, Any] = {"enable_gqa": grouped} if "enable_gqa" in known else {}
        if window >= 0 and "window_size" not in known:
            raise KitError("this torch's varlen attention has no sliding window", fix="attention: auto")
        options |= {"window_size": (window, 0)} if "window_size" in known else {"is_causal": True}
        output = varlen_attn(
            query[0].transpose(0, 1),
            key[0].transpose(0, 1),
            value[0].transpose(0, 1),
            cu_seq_lens_q,
            cu_seq_lens_q,
            max_length_q,
            max_length_q,
            scale=scaling,
            **options,
        )
        assert isinstance(output, torch.Tensor)
        return output[None], None
    bounds = cu_seq_lens_q.tolist()
    parts = []
    for start, end in pairwise(bounds):
        seen = None
        if 0 <= window < end - start:
            seen = torch.ones(end - start, end - start, dtype=torch.bool).tril().triu(-window)
        part = torch.nn.functional.scaled_dot_product_attention(
            query[:, :, start:end],
            key[:, :, start:end],
            value[:, :, start:end],
            attn_mask=seen,
            is_causal=seen is None,
            scale=scaling,
            enable_gqa=grouped,
        )
        parts.append(part)
    return torch.cat(parts, dim=2).transpose(1, 2), None
