"""How large a batch a card has room for right now."""

from __future__ import annotations

from typing import Any

from harness.models.shapes import ModelShape
from harness.planning.sums import fitting_rows

KEPT_FREE = 0.05
"""Share of the free memory that is left to fragmentation and to what the sums do not know."""


def rows_that_fit(model: Any, prompt: int, new_tokens: int) -> int:
    """Most prompts of a generation batch of `generation_transformers`; at least 1.

    Args:
        model: On its CUDA device.
        prompt: Tokens of the longest prompt.
        new_tokens: Most tokens of an answer.
    """
    import torch

    cuda: Any = torch.cuda
    device = model.device
    # What the allocator holds and does not use is as good as free.
    unused = cuda.memory_reserved(device) - cuda.memory_allocated(device)
    free = int((cuda.mem_get_info(device)[0] + unused) * (1 - KEPT_FREE))
    return max(1, fitting_rows(ModelShape.of(model.config), free, prompt=prompt, new_tokens=new_tokens))
