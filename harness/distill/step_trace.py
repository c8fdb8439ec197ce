"""One step of a stage's own code with the real shapes on meta tensors: memory, bytes and operations of it.

No weight exists and nothing is computed: a dispatch mode sees every operation that the code would queue on a
card, with the shapes and types of what it reads and writes. From that follow

    peak_bytes    the most that tensors hold at a time, storages rounded up to 512 bytes as CUDA's allocator
    does operations    what would be queued: about one kernel each; views are none
    bytes         read and written, each input once for an operation: what memory must move if nothing is
    fused flops         of matrix products, two a multiply-add; attention is left out (`planning.sums` has it)

What the trace cannot see: memory inside an operation (workspaces of cuBLAS, of sorts), fragmentation, the
CUDA context. `planning.memory` adds those; its sums are held to the trace by tests.

Left out of the code that is traced, because meta tensors have no values: choosing label positions, and the
tie-break of the k likeliest tokens.
"""

from __future__ import annotations

import weakref
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from unittest import mock

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from harness.distill import distributions
from harness.distill.adafactor import Adafactor, Rounding, clip_gradients
from harness.distill.cache_format import CacheSpec
from harness.models.losses import TeacherRows, kd_loss
from harness.models.shapes import ModelShape

_PAGE = 512
_VIEWS = frozenset(
    [
        "view",
        "_unsafe_view",
        "t",
        "transpose",
        "slice",
        "select",
        "unsqueeze",
        "squeeze",
        "expand",
        "permute",
        "detach",
        "alias",
        "as_strided",
        "reshape",
        "split",
        "unbind",
        "_reshape_alias",
        "lift_fresh",
        "split_with_sizes",
        "diagonal",
        "unfold",
    ]
)
_UNREAD = frozenset(
    [
        "zeros",
        "zeros_like",
        "empty",
        "empty_like",
        "fill_",
        "zero_",
        "randint",
        "full_like",
        "new_zeros",
        "ones_like",
    ]
)
_UNWRITTEN = frozenset(["empty", "empty_like", "empty_strided", "new_empty"])
_BY_INDEX = frozenset(
    ["gather", "embedding", "scatter_add_", "scatter_", "scatter", "index", "_index_put_impl_", "index_put_"]
)
_PRODUCTS = frozenset(["mm", "addmm", "addmm_", "bmm", "baddbmm", "linear"])
_ATTENTION = "kit_traced"


@dataclass
class PhaseCount:
    """What a part of a step does.

    Attributes:
        operations: Operations that are no views.
        bytes: Bytes read and written.
        other_bytes: Of these, those of operations that are no matrix products.
        flops: FLOPs of matrix products.
    """

    operations: int = 0
    bytes: int = 0
    other_bytes: int = 0
    flops: int = 0


@dataclass(frozen=True)
class StepTrace:
    """A traced step.

    Attributes:
        weight_bytes: Of the model.
        weights: Number of weights.
        peak_bytes: See the module.
        peaks: The most within each phase.
        phases: Phase to what it does.
    """

    weight_bytes: int
    weights: int
    peak_bytes: int
    peaks: dict[str, int]
    phases: dict[str, PhaseCount] = field(default_factory=dict)

    @property
    def operations(self) -> int:
        """Of the whole step."""
        return sum(phase.operations for phase in self.phases.values())

    @property
    def bytes(self) -> int:
        """Of the whole step."""
        return sum(phase.bytes for phase in self.phases.values())

    @property
    def flops(self) -> int:
        """Of the whole step's matrix products."""
        return sum(phase.flops for phase in self.phases.values())

    def bytes_per_weight(self, *phases: str) -> float:
        """Bytes that some phases move, over the number of weights."""
        return sum(self.phases[name].bytes for name in phases) / self.weights


class _Tally(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Sees every operation; counts what is on the meta device."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.phase = "build"
        self.counts: dict[str, PhaseCount] = defaultdict(PhaseCount)
        self.peaks: Counter[str] = Counter()
        self._live: dict[int, int] = {}
        self._now = 0

    def track(self, tensor: Any) -> None:
        """Count a tensor's storage for as long as it lives."""
        if not isinstance(tensor, torch.Tensor) or tensor.device.type != "meta":
            return
        storage = tensor.untyped_storage()
        key, size = storage._cdata, -(-storage.nbytes() // _PAGE) * _PAGE
        if key not in self._live:
            self._live[key] = size
            self._now += size
            weakref.finalize(storage, self._gone, key)
        self.peaks[self.phase] = max(self.peaks[self.phase], self._now)

    def enter(self, phase: str) -> None:
        """A phase begins; what lives counts for it."""
        self.phase = phase
        self.peaks[phase] = max(self.peaks[phase], self._now)

    def _gone(self, key: int) -> None:
        self._now -= self._live.pop(key, 0)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        written = [leaf for leaf in tree_leaves(out) if isinstance(leaf, torch.Tensor)]
        for tensor in written:
            self.track(tensor)
        name = func._schema.name.partition("::")[2]
        if name in _VIEWS:
            return out
        read = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)]
        if not any(tensor.device.type == "meta" for tensor in (*read, *written)):
            return out
        once = {(t.untyped_storage()._cdata, t.storage_offset(), tuple(t.shape)): t.nbytes for t in read}
        into, out_of = sum(tensor.nbytes for tensor in written), sum(once.values())
        if name in _BY_INDEX:
            # As many elements as are picked, not the whole table.
            out_of = 2 * min([*(tensor.nbytes for tensor in read[1:]), out_of])
            into = into if name == "embedding" else out_of
        count = self.counts[self.phase]
        count.operations += 1
        moved = (0 if name in _UNREAD else out_of) + (0 if name in _UNWRITTEN else into)
        count.bytes += moved
        count.other_bytes += 0 if name in _PRODUCTS else moved
        if name in _PRODUCTS:
            given = [leaf for leaf in args if isinstance(leaf, torch.Tensor) and leaf.dim() >= 2]
            left, right = given[-2:]  # the one before them is what is added to
            count.flops += 2 * left.numel() * right.shape[0 if name == "linear" else -1]
        return out

    def result(self, shape: ModelShape, size: int, phases: tuple[str, ...]) -> StepTrace:
        """The trace of some phases."""
        peaks = {name: self.peaks[name] for name in phases}
        return StepTrace(
            weight_bytes=size * shape.parameters,
            weights=shape.parameters,
            peak_bytes=max(peaks.values()),
            peaks=peaks,
            phases={name: self.counts[name] for name in phases},
        )


class _MetaAdafactor(Adafactor):
    """On the meta device there are no random numbers."""

    def _generator(self, device: torch.device) -> Any:
        return None


def trace_training(
    shape: ModelShape,
    *,
    rows: int = 4,
    seq_len: int = 1024,
    accumulation: int = 1,
    checkpointing: bool = False,
    rounding: Rounding = "stochastic",
    teacher_ids: int = 0,
    temperature: float = 1.0,
) -> StepTrace:
    """The second optimizer step of stage student_train (the first makes the optimizer's state).

    Args:
        shape: The student.
        rows: Rows of a micro-batch, full; all positions but each row's first are labels.
        seq_len: Positions of a row.
        accumulation: Micro-batches of a step.
        checkpointing: Whether layers are computed again in the backward.
        rounding: As in `adafactor`.
        teacher_ids: Ids of a cache row for kd; 0 for sft.
        temperature: Of the KL term.

    Returns:
        Phases forward, loss, backward, clip, optimizer.
    """
    tokens, labels = rows * seq_len, rows * (seq_len - 1)
    model = _model(shape)
    with _traced(model, _varlen) as tally:
        if checkpointing:
            model.gradient_checkpointing_enable({"use_reentrant": False})
        model.train()
        optimizer = _MetaAdafactor(model.parameters(), lr=1e-5, scale_parameter=False, rounding=rounding)
        ids = _meta(1, tokens, dtype=torch.int64)
        places, targets = (_meta(labels, dtype=torch.int64) for _ in range(2))
        for step in ("first", ""):
            for _ in range(accumulation):
                tally.enter(f"{step}forward")
                states = model.base_model(input_ids=ids, position_ids=ids, use_cache=False).last_hidden_state[
                    0
                ]
                states = states[places]
                tally.enter(f"{step}loss")
                rows_of = _teacher_rows(labels, teacher_ids, temperature)
                weight = model.get_output_embeddings().weight
                alpha = 0.5 if teacher_ids else 1.0
                loss = kd_loss(states, weight, targets, rows_of, alpha=alpha, temperature=temperature)
                del rows_of, states
                tally.enter(f"{step}backward")
                (loss.total / labels).backward()  # type: ignore[no-untyped-call]
                del loss
            tally.enter(f"{step}clip")
            clip_gradients(optimizer, 1.0)
            tally.enter(f"{step}optimizer")
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
    return tally.result(shape, 2, ("forward", "loss", "backward", "clip", "optimizer"))


@torch.inference_mode()
def trace_logits(
    shape: ModelShape, *, rows: int = 4, seq_len: int = 1024, k: int = 100, chunk: int = 512
) -> StepTrace:
    """A micro-batch of stage teacher_logits; phases forward and head."""
    labels = rows * (seq_len - 1)
    model = _model(shape)
    with _traced(model, _masked) as tally, mock.patch.object(distributions, "top_k", torch.topk):
        tally.enter("forward")
        ids, mask = (
            _meta(rows, seq_len, dtype=torch.int64),
            _meta(rows, 1, seq_len, seq_len, dtype=torch.bool),
        )
        states = model.base_model(
            input_ids=ids, attention_mask=mask, position_ids=ids, use_cache=False
        ).last_hidden_state
        states = states.view(-1, shape.width)[_meta(labels, dtype=torch.int64)]
        tally.enter("head")
        weight = model.get_output_embeddings().weight
        spec = CacheSpec(vocab_size=shape.vocabulary, k=k, temperatures=(2.0, 4.0))
        parts = []
        for start in range(0, labels, chunk):
            some = states[start : start + chunk]
            logits = _float_product(some, weight)
            target = _meta(len(some), dtype=torch.int64)
            parts.append(distributions.distribution_rows(logits, target, spec).for_storage())
            del logits
        {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
    return tally.result(shape, 2, ("forward", "head"))


@torch.inference_mode()
def trace_generation(shape: ModelShape, *, rows: int, prompt: int, new_tokens: int) -> StepTrace:
    """The first and the last step of a batch of `generation_transformers`; phases prompts and token.

    Args:
        shape: The teacher.
        rows: Prompts of the batch, padded to one length.
        prompt: That length.
        new_tokens: Most tokens of an answer.
    """
    from transformers import DynamicCache

    from harness.models.generation import TokenSampling
    from harness.models.generation_transformers import pick

    sampling = TokenSampling(new_tokens, 0.7, 0.9)
    model = _model(shape)
    with _traced(model, _masked) as tally:
        last = prompt + new_tokens - 1
        for phase, seen, given in (("prompts", 0, prompt), ("token", last - 1, 1)):
            tally.enter(phase)
            cache = DynamicCache(config=model.config)
            heads, size = shape.kv_heads, shape.width // shape.heads
            for layer in range(shape.layers if seen else 0):
                kept = [_meta(rows, heads, seen, size, dtype=torch.bfloat16) for _ in range(2)]
                cache.update(*kept, layer)
                del kept
            tally.counts.pop(phase, None)  # the cache's making is no part of the step
            ids = _meta(rows, given, dtype=torch.int64)
            mask = _meta(rows, 1, given, seen + given, dtype=torch.bool)
            logits = model(
                input_ids=ids,
                attention_mask=mask,
                position_ids=ids,
                past_key_values=cache,
                use_cache=True,
                logits_to_keep=1,
            ).logits[:, -1]
            pick(logits, sampling, _meta(rows, dtype=torch.float64))
            del logits, cache
    return tally.result(shape, 2, ("prompts", "token"))


def _model(shape: ModelShape) -> Any:
    from transformers import AutoModelForCausalLM, Olmo2Config

    settings = Olmo2Config(
        vocab_size=shape.vocabulary,
        hidden_size=shape.width,
        intermediate_size=shape.mlp,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.kv_heads,
        max_position_embeddings=4096,
        bos_token_id=0,
        eos_token_id=0,
        pad_token_id=1,
    )
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(settings, dtype=torch.bfloat16, attn_implementation="sdpa")


@contextmanager
def _traced(model: Any, attention: Any) -> Iterator[_Tally]:
    from transformers import AttentionInterface

    AttentionInterface.register(_ATTENTION, attention)
    model.set_attn_implementation(_ATTENTION)
    tally = _Tally()
    for tensor in (*model.parameters(), *model.buffers()):
        tally.track(tensor)
    with tally:
        yield tally


def _varlen(
    module: Any, query: Any, key: Any, value: Any, mask: Any, *, scaling: Any = None, **_: Any
) -> Any:
    """Attention over packed rows as training has it on a card: one fused operation, heads not expanded."""
    from torch.nn.attention.varlen import varlen_attn

    count = query.shape[2]
    bounds = _meta(9, dtype=torch.int32)
    queries, keys, values = (tensor[0].transpose(0, 1) for tensor in (query, key, value))
    grouped = query.shape[1] != key.shape[1]
    output: Any = varlen_attn(
        queries,
        keys,
        values,
        bounds,
        bounds,
        count,
        count,
        scale=scaling,
        window_size=(-1, 0),
        enable_gqa=grouped,
    )
    return output[None], None


def _masked(
    module: Any, query: Any, key: Any, value: Any, mask: Any, *, scaling: Any = None, **_: Any
) -> Any:
    """Attention with a mask as transformers' "sdpa" has it on a card: key heads are expanded, then one fused
    operation with the mask as a bias.
    """
    from transformers.integrations.sdpa_attention import repeat_kv

    groups = module.num_key_value_groups
    key, value = repeat_kv(key, groups), repeat_kv(value, groups)
    bias = None if mask is None else mask.to(query.dtype).expand(-1, query.shape[1], -1, -1)
    output = torch.ops.aten._scaled_dot_product_efficient_attention(
        query, key, value, bias, False, 0.0, False, scale=scaling
    )[0]
    return output.transpose(1, 2), None


def _float_product(states: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """A product of bfloat16 that answers in float32, as on a card: made without a float32 copy of the
    weight."""
    return torch.empty(len(states), len(weight), dtype=torch.float32, device="meta")


def _teacher_rows(labels: int, ids: int, temperature: float) -> TeacherRows | None:
    if not ids:
        return None
    normalisers = {} if temperature == 1.0 else {temperature: _meta(labels, dtype=torch.float32)}
    return TeacherRows(
        _meta(labels, ids, dtype=torch.int64),
        _meta(labels, ids, dtype=torch.float32),
        _meta(labels, dtype=torch.float32),
        normalisers,
    )


def _meta(*size: int, dtype: torch.dtype) -> torch.Tensor:
    return torch.zeros(size, dtype=dtype, device="meta")
