"""A small language model in numpy: the next token from the eight before it, through one hidden layer."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

CONTEXT = 8
HELD_OUT = 2_000

Array = NDArray[np.float32]
Ids = NDArray[np.int64]
Params = dict[str, Array]


def split(path: Path) -> tuple[Ids, Ids, int]:
    """Training lines, held-out lines (both lines x tokens, padded with 0) and the size of the vocabulary."""
    with np.load(path) as data:
        tokens = data["tokens"].astype(np.int64)
        return tokens[HELD_OUT:], tokens[:HELD_OUT], len(data["vocabulary"])


def initial(vocabulary: int, rng: np.random.Generator, width: int = 48, hidden: int = 512) -> Params:
    """Random weights, scaled so that activations start near one."""

    def normal(rows: int, columns: int, scale: float) -> Array:
        return (rng.standard_normal((rows, columns)) * scale).astype(np.float32)

    return {
        "embed": normal(vocabulary, width, 0.3),
        "inner": normal(CONTEXT * width, hidden, (CONTEXT * width) ** -0.5),
        "outer": normal(hidden, vocabulary, hidden**-0.5),
    }


def examples(lines: Ids) -> tuple[Ids, Ids]:
    """Contexts (positions x CONTEXT) and labels (positions); a line's first token is never a label."""
    padded = np.pad(lines, ((0, 0), (CONTEXT - 1, 0)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, CONTEXT, axis=1)[:, :-1]
    return windows.reshape(-1, CONTEXT), lines[:, 1:].reshape(-1)


def forward(params: Params, contexts: Ids) -> tuple[Array, Array, Array]:
    """Inputs, hidden activations and log-probabilities (positions x vocabulary)."""
    inputs = params["embed"][contexts].reshape(len(contexts), -1)
    hidden = np.maximum(inputs @ params["inner"], 0)
    logits = hidden @ params["outer"]
    logits -= logits.max(axis=1, keepdims=True)
    return inputs, hidden, logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))


def losses(params: Params, lines: Ids) -> Array:
    """Negative log-likelihood in nats of every real label token, padding left out."""
    contexts, labels = examples(lines)
    _, _, log_p = forward(params, contexts)
    real = np.flatnonzero(labels)
    picked: Array = log_p[real, labels[real]]
    return -picked
