"""Stage 2: unpack the corpus, drop repeated lines, build a vocabulary and store token ids. One thread."""

from __future__ import annotations

import argparse
import gzip
import hashlib
import re
from collections import Counter
from pathlib import Path

import numpy as np
from events import emit

TOKEN = re.compile(r"[a-z]+|[0-9]+|[^\sa-z0-9]")
PAD = 0


def unique(lines: list[str]) -> list[str]:
    """The lines in order, each once, compared by digest as a corpus too big for memory would need."""
    seen: set[bytes] = set()
    kept: list[str] = []
    for line in lines:
        digest = hashlib.blake2b(line.encode(), digest_size=12).digest()
        if digest not in seen:
            seen.add(digest)
            kept.append(line)
    return kept


def main() -> None:
    """Write `tokens` (lines x longest line, uint16, padded with 0) and `vocabulary` as one .npz file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--corpus", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()

    with gzip.open(options.corpus, "rt", encoding="utf-8") as file:
        lines = file.read().splitlines()
    kept = unique(lines)
    # Shuffled, because repeats thin out the later lines and the held-out lines must be like the rest.
    kept = [kept[index] for index in np.random.default_rng(options.seed).permutation(len(kept))]
    # Two passes over the text instead of every token in memory.
    counts = Counter(token for line in kept for token in TOKEN.findall(line))
    # Ties are broken by spelling, so that ids do not hang on the order of lines.
    vocabulary = ["<pad>", *sorted(counts, key=lambda token: (-counts[token], token))]
    ids = {token: index for index, token in enumerate(vocabulary)}

    rows = [[ids[token] for token in TOKEN.findall(line)] for line in kept]
    tokens = np.full((len(rows), max(map(len, rows))), PAD, dtype=np.uint16)
    for target, row in zip(tokens, rows, strict=True):
        target[: len(row)] = row
    np.savez(options.out, tokens=tokens, vocabulary=np.array(vocabulary))

    emit(tokens_processed=counts.total())
    print(f"{len(lines)} lines, {len(kept)} kept, {counts.total()} tokens, {len(vocabulary)} words")


if __name__ == "__main__":
    main()
