"""Time of a step on a card: FLOPs by formula, bytes fitted to the trace, efficiencies with a range.

A step takes what its matrix products take of the arithmetic, what everything else takes of the memory bus,
and never less than queueing its operations. The bytes of what is no matrix product are sums of coefficients
over the trace of `harness.distill.step_trace` (fitted to seven shapes within 2 %, the decode step within 8
%, held within 10 % by tests): they follow the code as it is, not a bound of what it needs. An optimizer
that moves fewer bytes changes STEP_BYTES.

Efficiencies are not measured on any card here: 70 % of a data sheet's arithmetic and 85 % of its bandwidth
is what well-shaped bf16 products and copies reach in public measurements on Hopper; the ranges are ours.
`calibrated` replaces them by what a run showed.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from harness.models.shapes import ModelShape
from harness.planning.cards import Card
from harness.planning.sums import (
    WEIGHT_BYTES,
    cache_bytes,
    causal_pairs,
    head_flops,
    matrix_parameters,
    trunk_flops,
)

STEP_BYTES = 156.0
"""Clipping and Adafactor with stochastic rounding, a weight."""

# (width, key width, MLP) a position and layer, (width) a position.
_TRAIN = (597.0, 296.0, 32.7, 136.0)
_TRAIN_AGAIN = (750.0, 381.0, 43.8, 130.0)
_FORWARD = (188.0, 85.0, 12.2, 18.0)
_LOSS, _LOSS_WEIGHT = 44.0, 2.0
_ROWS = 87.0
_CACHE, _WIDE, _CHOICE = 12.8, 3.3, 146.0
LAUNCH_S = 6e-6
"""Queueing one operation from Python; between 4 and 10 us."""


@dataclass(frozen=True)
class Range:
    """Low, likely, high."""

    low: float
    likely: float
    high: float

    def __mul__(self, other: float | Range) -> Range:
        """Ends times ends: factors that may be low or high together."""
        if isinstance(other, Range):
            return Range(self.low * other.low, self.likely * other.likely, self.high * other.high)
        return Range(self.low * other, self.likely * other, self.high * other)

    def __add__(self, other: Range) -> Range:
        """Ends plus ends."""
        return Range(self.low + other.low, self.likely + other.likely, self.high + other.high)


NOTHING = Range(0.0, 0.0, 0.0)


@dataclass(frozen=True)
class Efficiency:
    """What a card reaches of its data sheet, and of its power limit while it works.

    Attributes:
        arithmetic: Share of the dense bf16 rate in matrix products.
        bandwidth: Share of the memory bandwidth elsewhere.
        scale: Stage kind to time measured over time planned; empty before a calibration.
        watts: Stage kind to mean power over the board's limit.
    """

    arithmetic: Range = Range(0.55, 0.70, 0.80)
    bandwidth: Range = Range(0.70, 0.85, 0.92)
    scale: tuple[tuple[str, Range], ...] = ()
    watts: tuple[tuple[str, Range], ...] = (
        # 615 to 662 of 700 W in the authors' H100 logs; the others are guesses.
        ("student_train", Range(0.80, 0.90, 0.95)),
        ("teacher_logits", Range(0.75, 0.90, 0.97)),
        ("teacher_generate", Range(0.55, 0.80, 0.95)),
        ("evaluate", Range(0.30, 0.55, 0.85)),
        ("judging", Range(0.40, 0.70, 0.90)),
        ("preprocess", Range(0.09, 0.12, 0.20)),
    )

    def of(self, table: str, kind: str) -> Range:
        """A row of `scale` or `watts`."""
        rows: dict[str, Range] = dict(getattr(self, table))
        return rows.get(kind, Range(1.0, 1.0, 1.0))

    def calibrated(self, scale: dict[str, Range], watts: dict[str, Range]) -> Efficiency:
        """With what runs showed."""
        return replace(
            self,
            scale=tuple({**dict(self.scale), **scale}.items()),
            watts=tuple({**dict(self.watts), **watts}.items()),
        )


@dataclass(frozen=True)
class StepWork:
    """What a step takes.

    Attributes:
        flops: Of matrix products and attention.
        bytes: Of everything else.
        operations: Queued one by one; 0 where an engine replays graphs.
    """

    flops: float
    bytes: float
    operations: float = 0.0

    def seconds(self, card: Card, efficiency: Efficiency) -> Range:
        """How long it takes; the shortest with the best efficiencies."""

        def at(arithmetic: float, bandwidth: float, launch: float) -> float:
            busy = self.flops / (card.flops * arithmetic) + self.bytes / (card.bytes_per_s * bandwidth)
            return max(busy, self.operations * launch)

        a, b = efficiency.arithmetic, efficiency.bandwidth
        return Range(
            at(a.high, b.high, LAUNCH_S / 1.5),
            at(a.likely, b.likely, LAUNCH_S),
            at(a.low, b.low, LAUNCH_S * 1.7),
        )


def training_step(
    shape: ModelShape, *, rows: int, seq_len: int, accumulation: int, checkpointing: bool
) -> StepWork:
    """An optimizer step of stage student_train, rows full."""
    tokens, labels = rows * seq_len, rows * (seq_len - 1)
    trunk = trunk_flops(shape, tokens, causal_pairs(rows, seq_len))
    flops = (4 if checkpointing else 3) * trunk + 3 * head_flops(shape, labels)
    moved = _elementwise(shape, tokens, _TRAIN_AGAIN if checkpointing else _TRAIN)
    moved += _LOSS * labels * shape.vocabulary + _LOSS_WEIGHT * shape.vocabulary * shape.width
    operations = (572.0 if checkpointing else 518.0) * shape.layers + 176
    return StepWork(accumulation * flops, accumulation * moved + STEP_BYTES * shape.parameters, operations)


def forward_step(shape: ModelShape, *, rows: int, seq_len: int, labels: int, cached: bool) -> StepWork:
    """A micro-batch through a teacher, or through a model whose held-out loss is wanted."""
    tokens = rows * seq_len
    flops = trunk_flops(shape, tokens, causal_pairs(rows, seq_len)) + head_flops(shape, labels)
    moved = _elementwise(shape, tokens, _FORWARD) + (_ROWS if cached else 20.0) * labels * shape.vocabulary
    # Weights cross the bus once; with so many rows that is beside the products.
    return StepWork(flops, moved, 59.0 * shape.layers)


def decode_step(shape: ModelShape, *, rows: float, context: float, engine: str) -> StepWork:
    """One token of every row, at a mean context."""
    count = max(1, round(rows))
    flops = trunk_flops(shape, count, round(count * context)) + head_flops(shape, count)
    weights = WEIGHT_BYTES * matrix_parameters(shape)
    if engine == "vllm":
        # Its cache is read where it lies; graphs are replayed.
        return StepWork(
            flops, weights + cache_bytes(shape, count, round(context)) + 30 * rows * shape.vocabulary
        )
    wide = _WIDE * shape.width if shape.kv_heads < shape.heads else 0.0
    moved = weights + rows * context * shape.layers * (_CACHE * shape.kv_width + wide)
    return StepWork(flops, moved + _CHOICE * rows * shape.vocabulary, 59.0 * shape.layers + 41)


def prompt_step(shape: ModelShape, *, tokens: float, prompt: float) -> StepWork:
    """So many tokens of prompts of one length."""
    rows = max(1, round(tokens / prompt))
    flops = trunk_flops(shape, round(tokens), causal_pairs(rows, round(prompt))) + head_flops(shape, rows)
    return StepWork(flops, _elementwise(shape, round(tokens), _FORWARD))


def _elementwise(shape: ModelShape, tokens: int, by: tuple[float, float, float, float]) -> float:
    width, keys, mlp, once = by
    layer = width * shape.width + keys * shape.kv_width + mlp * shape.mlp
    return tokens * (shape.layers * layer + once * shape.width)
