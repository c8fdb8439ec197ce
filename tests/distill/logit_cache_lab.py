"""Caches of random rows without a teacher, as a module and as a program that can be killed.

`python -m tests.distill.logit_cache_lab OUT worker workers pause_s` says "ready" and writes this worker's
shards of the standard cache. Every row is a function of its example, whoever writes it.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import numpy as np
import numpy.typing as npt

from harness.distill.cache_folder import shard_plan
from harness.distill.cache_format import FORMAT, CacheSpec, RowBlock
from harness.distill.cache_writer import CacheWriter

FINGERPRINT = {
    "format": FORMAT,
    "teacher": {"digest": "t"},
    "data": {"content_digest": "d", "split": "train"},
}
SPEC = CacheSpec(100_352, 100)


def label_counts(examples: int = 40) -> npt.NDArray[np.int64]:
    return np.random.default_rng(5).integers(1, 60, examples).astype(np.int64)


def rows_of_example(spec: CacheSpec, example: int, count: int) -> RowBlock:
    random = np.random.default_rng(example)
    k = spec.k
    logp = -np.sort(random.random((count, k)) * 12, axis=1)
    # Steps of a prime that divides no vocabulary here: distinct within a row.
    ids = ((random.integers(0, spec.vocab_size, (count, 1)) + 7919 * np.arange(k)) % spec.vocab_size).astype(
        np.int32
    )
    lengths = counts = None
    if spec.ragged:
        lengths = random.integers(1, k + 1, count)
    if spec.mode == "sample":
        counts = random.integers(1, 200, (count, k)).astype(np.int32)
    return RowBlock(
        ids=ids,
        logp=logp.astype(np.float16),
        log_tail=-random.random(count).astype(np.float32),
        a_t=random.random((count, len(spec.temperatures))).astype(np.float32),
        target=random.integers(0, spec.vocab_size, count),
        target_logp=logp[:, 0].astype(np.float16),
        kept=random.random((count, 1 + len(spec.temperatures))).astype(np.float32),
        lengths=lengths,
        counts=counts,
    )


def join(blocks: list[RowBlock]) -> RowBlock:
    names = [name for name, value in vars(blocks[0]).items() if value is not None]
    return RowBlock(**{name: np.concatenate([getattr(block, name) for block in blocks]) for name in names})


def write_cache(
    out: Path,
    spec: CacheSpec = SPEC,
    *,
    worker: int = 0,
    workers: int = 1,
    shard_positions: int = 200,
    examples: int = 40,
    pause_s: float = 0.0,
) -> int:
    """Write this worker's missing shards, examples in a shuffled order, some at a time; how many it wrote."""
    counts = label_counts(examples)
    plan = shard_plan(counts, shard_positions)
    written = 0
    with CacheWriter(
        out,
        spec,
        plan,
        FINGERPRINT,
        label_counts=counts,
        keys=lambda first, last: np.arange(first, last, dtype=np.uint64) + np.uint64(2**63),
    ) as writer:
        for shard in writer.pending(worker, workers):
            writer.begin(shard)
            order = (
                np.random.default_rng(shard.index).permutation(np.arange(shard.first, shard.last)).tolist()
            )
            for start in range(0, len(order), 3):
                some = order[start : start + 3]
                block = join([rows_of_example(spec, index, int(counts[index])) for index in some])
                time.sleep(pause_s)
                writer.put(block, [(index, int(counts[index])) for index in some])
            writer.finish()
            written += 1
    return written


def digests(out: Path) -> dict[str, str]:
    """Every file of a folder with its digest."""
    import hashlib

    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(out.iterdir())}


if __name__ == "__main__":
    print("ready", flush=True)
    target, worker, workers, pause = sys.argv[1:]
    write_cache(Path(target), worker=int(worker), workers=int(workers), pause_s=float(pause))
