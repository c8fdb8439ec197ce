"""FLOPs, bytes and memory that a case needs, from its sizes alone; and the time no card can go below.

FLOPs are those of matrix products, two a multiply-add: of every weight matrix for each position (the head
for labels only), and of attention, 4 x width for each pair of a query and a key it may see, causal. A
backward takes twice its forward. With gradient checkpointing every layer's forward is done twice: *model*
FLOPs, of which MFU speaks, do not count the repetition, *done* FLOPs do.

Bytes are those that must at least cross the memory bus: every weight matrix once a pass, every gradient and
weight in the optimizer's step, and in decoding the whole key-value cache. Activations are left out, so that
the roofline stays a bound.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from harness.models.shapes import ModelShape
from harness.planning.cases import Case
from harness.planning.memory import CONTEXT_BYTES, training_memory

if TYPE_CHECKING:
    from harness.planning.cards import Card

WEIGHT_BYTES = 2


@dataclass(frozen=True)
class Phase:
    """A part of a step that ends before the next begins.

    Attributes:
        name: What it does.
        flops: FLOPs done.
        bytes: Bytes that must cross the memory bus.
    """

    name: str
    flops: int
    bytes: int

    def floor_s(self, card: Card) -> float:
        """The time that arithmetic or memory alone takes, whichever is longer."""
        return max(self.flops / card.flops, self.bytes / card.bytes_per_s)


@dataclass(frozen=True)
class Work:
    """What one step of a case takes.

    Attributes:
        tokens: Tokens that J/token and tokens/s divide by, and
        token_kind: which of the four counts that is: "processed" (here no position is padding) or
            "generated".
        model_flops: Without what checkpointing repeats.
        phases: One after another.
    """

    tokens: int
    token_kind: str
    model_flops: int
    phases: tuple[Phase, ...]

    @property
    def done_flops(self) -> int:
        """FLOPs of all phases."""
        return sum(phase.flops for phase in self.phases)

    @property
    def bytes(self) -> int:
        """Bytes of all phases."""
        return sum(phase.bytes for phase in self.phases)

    def floor_s(self, card: Card) -> float:
        """The roofline: the phases' shortest times, added up."""
        return sum(phase.floor_s(card) for phase in self.phases)


def trunk_parameters(shape: ModelShape) -> int:
    """Weights of the matrices between embedding and head."""
    return matrix_parameters(shape) - shape.vocabulary * shape.width


def matrix_parameters(shape: ModelShape) -> int:
    """Weights of all matrices that are multiplied with: all but the embedding, which is looked up."""
    return shape.parameters - shape.vector_elements - shape.vocabulary * shape.width


def trunk_flops(shape: ModelShape, tokens: int, pairs: int) -> int:
    """Forward of the layers.

    Args:
        shape: The model.
        tokens: Positions.
        pairs: Pairs of a query and a key that attention computes, over all rows.
    """
    return 2 * trunk_parameters(shape) * tokens + 4 * shape.layers * shape.width * pairs


def head_flops(shape: ModelShape, tokens: int) -> int:
    """Forward of the output matrix for so many positions."""
    return 2 * shape.vocabulary * shape.width * tokens


def causal_pairs(rows: int, seq_len: int) -> int:
    """Pairs of a query and a key that it may see, itself included."""
    return rows * seq_len * (seq_len + 1) // 2


def work_of(case: Case) -> Work:
    """FLOPs, bytes and tokens of one step."""
    if case.stage == "student_train":
        return _training(case)
    if case.stage == "teacher_logits":
        return _logits(case)
    return _generation(case)


def _training(case: Case) -> Work:
    shape = case.shape
    tokens = case.rows * case.seq_len
    trunk = trunk_flops(shape, tokens, causal_pairs(case.rows, case.seq_len))
    head = head_flops(shape, case.label_tokens)
    # Read in the forward, its repetition and the backward; every gradient is written.
    passes = WEIGHT_BYTES * (3 * matrix_parameters(shape) + shape.parameters)
    # Its gradient is read for the norm and for the update, a weight is read and written.
    step = 4 * WEIGHT_BYTES * shape.parameters
    done = (4 if case.checkpointing else 3) * trunk + 3 * head
    phases = (Phase("forward and backward", done, passes), Phase("optimizer", 0, step))
    return Work(tokens, "processed", 3 * (trunk + head), phases)


def _logits(case: Case) -> Work:
    shape = case.shape
    tokens = case.rows * case.seq_len
    flops = trunk_flops(shape, tokens, causal_pairs(case.rows, case.seq_len))
    flops += head_flops(shape, case.label_tokens)
    return Work(
        tokens, "processed", flops, (Phase("forward", flops, WEIGHT_BYTES * matrix_parameters(shape)),)
    )


def _generation(case: Case) -> Work:
    """The prompts in one pass, then every answer's tokens but its last, one pass each."""
    shape, rows = case.shape, case.rows
    weights = WEIGHT_BYTES * matrix_parameters(shape)
    prefill = trunk_flops(shape, rows * case.seq_len, causal_pairs(rows, case.seq_len))
    phases = [Phase("prompts", prefill + head_flops(shape, rows), weights)]
    for step in range(1, case.new_tokens):
        context = case.seq_len + step
        flops = trunk_flops(shape, rows, rows * context) + head_flops(shape, rows)
        phases.append(Phase("token", flops, weights + cache_bytes(shape, rows, context)))
    flops = sum(phase.flops for phase in phases)
    return Work(rows * case.new_tokens, "generated", flops, tuple(phases))


def cache_bytes(shape: ModelShape, rows: int, context: int) -> int:
    """Keys and values of so many positions a row."""
    return 2 * shape.layers * shape.kv_width * WEIGHT_BYTES * rows * context


@dataclass(frozen=True)
class Memory:
    """Bytes that a case is stated to take.

    Attributes:
        weights: Of the model.
        standing: What is there all the time, weights included.
        tensors: The most that tensors take at a time.
        context: What the process takes besides.
    """

    weights: int
    standing: int
    tensors: int
    context: int = CONTEXT_BYTES

    @property
    def peak(self) -> int:
        """Of the card's memory, all in all."""
        return self.tensors + self.context


def memory_of(case: Case, *, head_copy: bool = False) -> Memory:
    """What a case takes.

    Args:
        case: The case.
        head_copy: Whether the teacher keeps a float32 copy of its output matrix, as it does where no matrix
            product of bf16 answers in float32 (on a CPU, with torch before 2.8).
    """
    shape = case.shape
    if case.stage == "student_train":
        stated = training_memory(
            shape,
            rows=case.rows,
            seq_len=case.seq_len,
            label_tokens=case.label_tokens,
            checkpointing=case.checkpointing,
            context=0,
        )
        return Memory(stated.weights, stated.standing, stated.peak)
    if case.stage == "teacher_generate":
        return generation_memory(shape, rows=case.rows, prompt=case.seq_len, new_tokens=case.new_tokens)
    return logits_memory(
        shape,
        rows=case.rows,
        seq_len=case.seq_len,
        label_tokens=case.label_tokens,
        k=case.k,
        chunk=case.chunk,
        head_copy=head_copy,
    )


def logits_memory(
    shape: ModelShape,
    *,
    rows: int,
    seq_len: int,
    k: int,
    chunk: int,
    label_tokens: int | None = None,
    head_copy: bool = False,
) -> Memory:
    """What stage teacher_logits takes; arguments as in `Case` and `memory_of`."""
    weights = WEIGHT_BYTES * shape.parameters
    standing = weights + (4 * shape.vocabulary * shape.width if head_copy else 0)
    tokens = rows * seq_len
    labels = tokens if label_tokens is None else label_tokens
    states = (tokens + labels) * shape.width * WEIGHT_BYTES
    # Logits and one more tensor of their size; ids and log-probabilities of this batch and the one before.
    at_head = states + 2 * 4 * min(chunk, labels) * shape.vocabulary
    kept = 2 * labels * k * 6
    return Memory(weights, standing, standing + max(layer_bytes(shape, tokens), at_head) + kept)


def generation_memory(shape: ModelShape, *, rows: int, prompt: int, new_tokens: int) -> Memory:
    """What generation with transformers takes at the most: every prompt of one length, every answer full.

    Args:
        shape: The model.
        rows: Prompts of a batch.
        prompt: Tokens of a prompt.
        new_tokens: Most tokens of an answer.
    """
    weights = WEIGHT_BYTES * shape.parameters
    tokens, last = rows * prompt, prompt + new_tokens
    # Attention with a mask wants as many key heads as query heads: one layer's are copied out.
    wide = 2 * WEIGHT_BYTES * shape.width if shape.kv_heads < shape.heads else 0
    layer = max(layer_bytes(shape, tokens), tokens * (wide + 8 * WEIGHT_BYTES * shape.width))
    at_prompts = cache_bytes(shape, rows, prompt) + layer
    # Logits, also in float32, their softmax, its sorted values, and three tensors of 8 bytes.
    choice = rows * shape.vocabulary * (WEIGHT_BYTES + 3 * 4 + 3 * 8)
    cache = cache_bytes(shape, rows, last)
    # One layer's keys and values exist twice while the cache grows by a place.
    at_last_token = cache + max(choice, cache // shape.layers + rows * last * wide)
    return Memory(weights, weights, weights + max(at_prompts, at_last_token))


def fitting_rows(shape: ModelShape, free_bytes: int, *, prompt: int, new_tokens: int) -> int:
    """Most rows of a generation batch that fit into so much memory beside weights; 0 if not even one."""
    low, high = 0, 1 << 16
    while low < high:
        middle = (low + high + 1) // 2
        memory = generation_memory(shape, rows=middle, prompt=prompt, new_tokens=new_tokens)
        low, high = (middle, high) if memory.tensors - memory.weights <= free_bytes else (low, middle - 1)
    return low


def layer_bytes(shape: ModelShape, tokens: int) -> int:
    """The most that one layer's forward keeps at a time when nothing is kept for a backward.

    Three hidden tensors of the MLP; beside them its input, the residual, the embeddings that the model's own
    loop holds on to, and as much again for rotations and mask.
    """
    return tokens * WEIGHT_BYTES * (3 * shape.mlp + 4 * shape.width)


def leave_out(cases: Iterable[Case], free_bytes: int) -> dict[str, str]:
    """Reasons, by id, for the cases that do not fit into so much free memory."""
    reasons = {}
    for case in cases:
        peak = memory_of(case).peak
        if peak > free_bytes:
            reasons[case.id] = f"takes {peak / 1e9:.1f} GB, {free_bytes / 1e9:.1f} GB are free"
    return reasons
