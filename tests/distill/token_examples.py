"""Random tokenised examples, and a data set made of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from harness.models.dataset import DatasetWriter, Example


def make_examples(count: int, seed: int = 0, longest: int = 40) -> list[Example]:
    random = np.random.default_rng(seed)
    examples = []
    for number in range(count):
        length = int(random.integers(2, longest + 1))
        mask = random.random(length) < 0.5
        mask[0], mask[-1] = False, True
        ids = random.integers(0, 1000, length).astype(np.int32)
        examples.append(Example(f"e-{number}", "copy", ids, mask, None if number % 3 else f"answer {number}"))
    return examples


def write(
    out: Path, train: list[Example], validation: list[Example] | None = None, **meta: object
) -> dict[str, object]:
    with DatasetWriter(out) as writer:
        for example in train:
            writer.add("train", example)
        for example in validation or []:
            writer.add("validation", example)
        return writer.publish(dict(meta))
