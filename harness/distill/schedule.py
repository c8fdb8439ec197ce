"""The learning rate over the optimizer steps of a run: linear warm-up, then half a cosine down to zero."""

from __future__ import annotations

import math


def cosine_with_warmup(step: int, *, total: int, warmup: int) -> float:
    """Factor on the peak learning rate for one optimizer step.

    The warm-up ends with the peak at step `warmup - 1`; the cosine would reach zero at step `total`, one past
    the end, so no step is taken with a rate of zero.

    Args:
        step: Optimizer steps taken before this one, from 0; not micro-batches.
        total: Optimizer steps of the whole run.
        warmup: Optimizer steps of the warm-up; one as long as the run leaves the ramp only.
    """
    if step < warmup:
        return (step + 1) / warmup
    if step >= total:
        return 0.0
    return 0.5 * (1.0 + math.cos(math.pi * (step - warmup) / (total - warmup)))
