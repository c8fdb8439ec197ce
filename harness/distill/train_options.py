"""What a training run is told, what it counts, and how it ends."""

from __future__ import annotations

from dataclasses import dataclass

from harness.models.losses import Tail


@dataclass(frozen=True)
class TrainOptions:
    """What a regime may not change, and the three numbers that make the regime.

    Attributes:
        lr: Peak learning rate.
        warmup_steps: Optimizer steps of the warm-up.
        max_epochs: Epochs of the horizon; the cosine ends there.
        max_steps: Optimizer steps of the horizon instead, when given.
        clip_norm: Bound on the gradient's norm; 0 for none.
        eval_every_steps: Optimizer steps between evaluations; 0 leaves the one at the end.
        early_stop_eps: See `EarlyStop`.
        patience: See `EarlyStop`.
        alpha: Weight of the cross-entropy; 1 is SFT.
        temperature: T of the KL term.
        tail: How the teacher's missing mass is read.
        gradient_checkpointing: Recompute each layer in the backward.
        state_every_steps: Optimizer steps between saved states; 0 saves with every evaluation and, between
            them, as often as that takes a hundredth of the time; -1 never.
    """

    lr: float
    warmup_steps: int
    max_epochs: int
    max_steps: int | None = None
    clip_norm: float = 1.0
    eval_every_steps: int = 0
    early_stop_eps: float = 2e-3
    patience: int = 3
    alpha: float = 1.0
    temperature: float = 1.0
    tail: Tail = "bucket"
    gradient_checkpointing: bool = False
    state_every_steps: int = 0


@dataclass
class Counters:
    """What has been done, over all attempts of a run; work that a kill undid is not in it.

    Attributes:
        step: Optimizer steps.
        epoch: Epoch the next step draws from, and
        batch: its first micro-batch there.
        trained: Label tokens that entered the loss for the first time.
        label_tokens: Label tokens that entered the loss, counted in every epoch.
        processed: Real tokens through the model in training steps.
        positions: Positions through the model in training steps.
        eval_label_tokens: Label tokens scored in evaluations.
        eval_processed: Real tokens through the model in evaluations.
        eval_positions: Positions through the model in evaluations.
        evaluations: Evaluations.
    """

    step: int = 0
    epoch: int = 0
    batch: int = 0
    trained: int = 0
    label_tokens: int = 0
    processed: int = 0
    positions: int = 0
    eval_label_tokens: int = 0
    eval_processed: int = 0
    eval_positions: int = 0
    evaluations: int = 0


@dataclass(frozen=True)
class TrainResult:
    """How a run ended.

    Attributes:
        counters: What was done.
        total_steps: The horizon.
        stopped: "early" or "horizon".
        best_step: Step of the kept checkpoint.
        best_eval_loss: Its evaluation loss; None without a validation split.
        final_eval_loss: That of the last step.
        final_loss: Training loss of the last step.
    """

    counters: Counters
    total_steps: int
    stopped: str
    best_step: int | None
    best_eval_loss: float | None
    final_eval_loss: float | None
    final_loss: float | None
