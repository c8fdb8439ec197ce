"""Which device a stage computes on."""

from __future__ import annotations

import os

from harness.errors import KitError


def chosen_device(name: str) -> str:
    """The device's name for torch.

    Args:
        name: As in a stage's configuration: a name of torch's, or auto for cuda where there is one.

    Raises:
        KitError: A GPU is asked for, and torch can use none.
    """
    import torch

    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if name.startswith("cuda") and not torch.cuda.is_available():
        raise KitError("no GPU that torch can use", where="device", fix="--device cpu")
    return name


def use_threads(count: int | None) -> None:
    """Have torch compute with so many CPU threads; None leaves its own choice.

    Raises:
        KitError: There can be no such number of threads.
    """
    import torch

    if count is not None:
        if count < 1:
            raise KitError(f"threads {count}", expected="at least 1")
        torch.set_num_threads(count)


STRICT_COST = (
    "Attention's backward adds in a fixed order: 21 % slower in a published measurement (FlashAttention 3), "
    "not measured here"
)


def repeat_bits(*, strict: bool) -> None:
    """Have torch choose algorithms that give equal bits; before the first use of CUDA.

    Not strict, all but the backward of fused attention repeats, which then only warns. Strict, that repeats
    too, and an operation that has no repeatable form raises.

    Raises:
        KitError: Strict, and the environment sets up cuBLAS otherwise.
    """
    import torch

    # cuBLAS reads this at its first call; without it two streams give other bits.
    workspace = os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    if strict and workspace not in (":4096:8", ":16:8"):
        raise KitError(
            f"CUBLAS_WORKSPACE_CONFIG={workspace}", expected=":4096:8, with which cuBLAS repeats its bits"
        )
    torch.use_deterministic_algorithms(True, warn_only=not strict)
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
