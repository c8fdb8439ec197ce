"""Weights from a folder, and what a folder that does not load is told."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from harness.errors import KitError


@contextmanager
def loading(folder: Path, expected: str = "config.json and whole safetensors") -> Iterator[None]:
    """Turn whatever others' code raises over a stranger's files into an error about the folder.

    Args:
        folder: Of the model.
        expected: What it should hold.

    Raises:
        KitError: In place of any other exception inside.
    """
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    try:
        yield
    except KitError:
        raise
    except Exception as error:
        raise KitError(
            f"no model that can be loaded: {' '.join(str(error).split())[:300]}",
            where=str(folder),
            expected=f"a Hugging Face folder with {expected}",
        ) from None


def load_causal_model(directory: Path, *, dtype: str, device: str) -> Any:
    """A causal language model on its device, in eval mode. Code that a folder brings is never run.

    Args:
        directory: Model folder.
        dtype: "float32" or "bfloat16".
        device: "cpu", "cuda", ...; weights are read straight to it. "meta" holds shapes and no numbers: the
            files are looked for, every shard opened, names and shapes compared.

    Raises:
        KitError: transformers cannot load the folder.
    """
    import torch
    from transformers import AutoModelForCausalLM

    from harness.models.forward import scores_are_capped, use_attention

    options: dict[str, Any] = {} if device == "cpu" else {"device_map": {"": device}}
    with loading(directory):
        model = AutoModelForCausalLM.from_pretrained(
            directory,
            dtype=getattr(torch, dtype),
            attn_implementation="sdpa",
            local_files_only=True,
            trust_remote_code=False,
            **options,
        )
    if scores_are_capped(model):
        use_attention(model, "eager")
    return model.eval()
