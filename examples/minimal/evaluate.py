"""Stage 4: held-out perplexity at the pace of a service: a few lines arrive and are scored, over and over."""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path

import numpy as np
from events import emit
from model import Ids, losses, split


def unigram_perplexity(train: Ids, held_out: Ids, vocabulary: int) -> float:
    """Perplexity of the same labels under the training frequencies alone, one added to every count."""
    counts = np.bincount(train[:, 1:].reshape(-1), minlength=vocabulary) + 1.0
    counts[0] = 0
    labels = held_out[:, 1:].reshape(-1)
    share = counts[labels[labels > 0]] / counts.sum()
    return float(np.exp(-np.log(share).mean()))


def main() -> None:
    """Score the held-out lines, request by request; fail if the model is no better than counting words."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tokens", type=Path, required=True)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--requests", type=int, default=100)
    parser.add_argument("--rate", type=float, default=20.0, help="requests a second")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()

    train, held_out, vocabulary = split(options.tokens)
    with np.load(options.model) as saved:
        params = {name: saved[name] for name in saved.files}

    scored = []
    begun = time.monotonic()
    for number, lines in enumerate(np.array_split(held_out, options.requests)):
        time.sleep(max(0.0, begun + number / options.rate - time.monotonic()))
        scored.append(losses(params, lines))
        emit(tokens_processed=int((lines > 0).sum()), tokens_positions=lines.size)

    perplexity = float(np.exp(np.concatenate(scored).mean()))
    baseline = unigram_perplexity(train, held_out, vocabulary)
    options.out.write_text(json.dumps({"perplexity": perplexity, "unigram_perplexity": baseline}) + "\n")
    print(f"held-out perplexity {perplexity:.2f}, counting words alone {baseline:.2f}")
    if perplexity >= baseline:
        sys.exit("the model has learnt nothing: it is no better than word frequencies")


if __name__ == "__main__":
    main()
