"""Which device a stage computes on."""

from __future__ import annotations

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
