"""Stage 3: train the model with Adam. Matrix products on every core."""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from events import emit
from model import Ids, Params, examples, forward, initial, split


def gradients(params: Params, lines: Ids) -> tuple[float, int, Params]:
    """Mean loss in nats over the label tokens, their number, and the gradient for every parameter."""
    contexts, labels = examples(lines)
    inputs, hidden, log_p = forward(params, contexts)
    real = np.flatnonzero(labels)
    loss = -float(log_p[real, labels[real]].mean())

    d_logits = np.exp(log_p)
    d_logits[np.arange(len(labels)), labels] -= 1
    d_logits[labels == 0] = 0
    d_logits /= len(real)
    d_hidden = (d_logits @ params["outer"].T) * (hidden > 0)
    d_inputs = (d_hidden @ params["inner"].T).reshape(len(contexts) * contexts.shape[1], -1)
    # One sorted sum a row instead of np.add.at, which is slow for repeated indices.
    order = np.argsort(contexts.reshape(-1), kind="stable")
    rows, starts = np.unique(contexts.reshape(-1)[order], return_index=True)
    d_embed = np.zeros_like(params["embed"])
    d_embed[rows] = np.add.reduceat(d_inputs[order], starts)
    return loss, len(real), {"embed": d_embed, "inner": inputs.T @ d_hidden, "outer": hidden.T @ d_logits}


def main() -> None:
    """Train for a fixed number of steps on lines never seen twice, and save the weights."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tokens", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=240)
    parser.add_argument("--batch", type=int, default=96, help="lines in each step")
    parser.add_argument("--rate", type=float, default=4e-3)
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()

    lines, _, vocabulary = split(options.tokens)
    rng = np.random.default_rng(options.seed)
    order = rng.permutation(len(lines))[: options.steps * options.batch].reshape(options.steps, -1)
    params = initial(vocabulary, rng)
    mean = {name: np.zeros_like(value) for name, value in params.items()}
    square = {name: np.zeros_like(value) for name, value in params.items()}

    for step, chosen in enumerate(order, start=1):
        batch = lines[chosen]
        loss, labels, grads = gradients(params, batch)
        rate = options.rate * (1 - (step - 1) / options.steps)
        for name, grad in grads.items():
            mean[name] += 0.1 * (grad - mean[name])
            square[name] += 0.01 * (grad * grad - square[name])
            corrected = mean[name] / (1 - 0.9**step)
            params[name] -= rate * corrected / (np.sqrt(square[name] / (1 - 0.99**step)) + 1e-8)
        # Trained: labels that entered the loss. Processed: real tokens read. Positions: padding as well.
        emit(tokens_trained=labels, tokens_processed=int((batch > 0).sum()), tokens_positions=batch.size)
        if step % 40 == 0 or step == 1:
            print(f"step {step:4d}  loss {loss:.3f} nats a token", flush=True)

    np.savez(options.out, **params)  # type: ignore[arg-type]
    emit(event="checkpoint", step=options.steps, loss=round(loss, 4))


if __name__ == "__main__":
    main()
