"""What training one student needs in GPU memory: a sum over named parts, as a function of the configuration.

OLMo-2 13B on one 80 GB card (85.5e9 B, about 84 usable): bfloat16 weights and gradients, Adafactor with
stochastic rounding, gradient checkpointing, 4 x 1024 positions, at worst all of them labels. GB = 1e9 B:

    weights                                              27.4
    gradients                                            27.4
    optimizer state (factored second moments, float32)    0.02
    the largest of three moments that do not coincide     4.3
      loss      checkpoints 1.7, final norm 0.2, label states 0.1, chunk 0.8, head's gradient 1.0: 3.8
      backward  checkpoints 1.7, one layer again 1.4, gradients in it 0.5: 3.5
      step      two float32 tensors of the largest matrix (head, 514 M) 4.1, random bits 0.2: 4.3
    context, libraries, allocator's slack                 3.0
    peak                                                 62.2     fits, 22 GB to spare

What does not fit, by the same sum: no checkpointing (+55), AdamW with bfloat16 moments (+55), a master copy
in float32 (+55). So for 13B on one card stochastic rounding is the only remedy for the rounding of bfloat16;
for 1B and 7B a master copy fits too.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from harness.models.shapes import ModelShape

NOISE_PIECE = 1 << 24
"""Weights rounded at a time (`adafactor`)."""

CONTEXT_BYTES = 3_000_000_000
"""CUDA context, library workspaces and the allocator's slack: 1.5 to 3 GB in practice."""


@dataclass(frozen=True)
class TrainingMemory:
    """Bytes by part; the peak is the standing parts, the largest moment and the context.

    With one micro-batch a step there are no gradients before the backward, and in the backward they come as
    activations go: so gradients stand beside activations only where several micro-batches add up.

    Attributes:
        weights: Of the model.
        gradients: One for every weight.
        optimizer_state: Second moments, and the master copy where there is one.
        checkpoints: Every layer's input.
        kept_layers: Activations of all layers, where they are not made again.
        layer: Activations of one layer.
        layer_gradients: Gradients in a layer that live at a time.
        final_norm: Activations between the last layer and the loss.
        label_states: Hidden states of the labels and their gradients.
        loss_chunk: One chunk of logits.
        head_gradient: The head's gradient of one micro-batch, before it is added to the others.
        step_temporaries: Of the optimizer, for the largest matrix.
        context: What the process takes besides tensors.
        accumulated: Whether gradients of an earlier micro-batch are there when the next one runs.
    """

    weights: int
    gradients: int
    optimizer_state: int
    checkpoints: int
    kept_layers: int
    layer: int
    layer_gradients: int
    final_norm: int
    label_states: int
    loss_chunk: int
    head_gradient: int
    step_temporaries: int
    context: int
    accumulated: bool = False

    @property
    def standing(self) -> int:
        """What is there all the time, the gradients only where they are accumulated."""
        return self.weights + self.optimizer_state + (self.gradients if self.accumulated else 0)

    @property
    def at_loss(self) -> int:
        """On top of that when the loss is computed."""
        forward = self.checkpoints + self.kept_layers + self.final_norm
        return forward + self.label_states + self.loss_chunk + self.head_gradient

    @property
    def at_backward(self) -> int:
        """On top when the topmost layer runs backward."""
        return self.checkpoints + max(self.kept_layers, self.layer) + self.layer_gradients

    @property
    def peak(self) -> int:
        """The most at any time, context included."""
        at_step = self.step_temporaries + (0 if self.accumulated else self.gradients)
        return self.standing + max(self.at_loss, self.at_backward, at_step) + self.context


def training_memory(
    shape: ModelShape,
    *,
    rows: int,
    seq_len: int,
    label_tokens: int | None = None,
    weight_bytes: int = 2,
    rounding: Literal["nearest", "stochastic", "master"] = "stochastic",
    checkpointing: bool = True,
    loss_chunk: int | None = None,
    temperature: float = 1.0,
    accumulation: int = 1,
    context: int = CONTEXT_BYTES,
) -> TrainingMemory:
    """Sum the memory of a training step.

    Args:
        shape: The model.
        rows: Rows of a micro-batch.
        seq_len: Positions of a row.
        label_tokens: Labels of a micro-batch; every position by default.
        weight_bytes: 2 for bfloat16, 4 for float32; of weights, gradients and activations.
        rounding: As in `adafactor`; "master" keeps a float32 copy of 16-bit weights.
        checkpointing: Whether layers are computed again in the backward.
        loss_chunk: Label positions a chunk; the loss's own choice on a GPU by default.
        temperature: Another one than 1 needs a second chunk in float32.
        accumulation: Micro-batches of an optimizer step.
        context: What the process takes besides tensors.
    """
    d, kv, mlp, size = shape.width, shape.kv_width, shape.mlp, weight_bytes
    tokens = rows * seq_len
    labels = tokens if label_tokens is None else label_tokens
    half = size < 4
    state = sum(4 * (a + b) * count for a, b, count in shape.matrices) + 4 * shape.vector_elements
    if half and rounding == "master":
        state += 4 * shape.parameters
    # A norm works in float32 and keeps its input and its normalised input there.
    norm = 8
    attention = (3 * d + 2 * kv) * size  # q, k after rotation; v; what attention gave; o_proj's input
    per_token = norm * (3 * d + kv) + attention + d * size + 4 * mlp * size
    layer = tokens * per_token
    block_input = tokens * d * size
    chunk = labels if loss_chunk is None else min(loss_chunk, labels)
    if loss_chunk is None:
        chunk = min(labels, max(32, (1 << 27) // shape.vocabulary))
    per_logit = max(4 + (size if half else 0), 8 if temperature != 1.0 else 0)
    noise = 12 * min(NOISE_PIECE, shape.largest_matrix) if half and rounding == "stochastic" else 0
    return TrainingMemory(
        weights=shape.parameters * size,
        gradients=shape.parameters * size,
        optimizer_state=state,
        # Without checkpointing a block's input is among what its first products keep.
        checkpoints=shape.layers * block_input if checkpointing else 0,
        kept_layers=0 if checkpointing else shape.layers * layer,
        layer=layer,
        # In a norm's backward five float32 tensors and one more, or two of the MLP's.
        layer_gradients=tokens * max(d * (20 + size), 2 * mlp * size),
        final_norm=tokens * d * (norm + size),
        label_states=2 * labels * d * size,
        loss_chunk=chunk * shape.vocabulary * per_logit,
        head_gradient=shape.vocabulary * d * size,
        step_temporaries=8 * shape.largest_matrix + noise,
        context=context,
        accumulated=accumulation > 1,
    )
