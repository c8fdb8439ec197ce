"""Speed and size of the logit cache beside the reference harness: python scripts/bench_logit_cache.py

Writes a cache of random rows (k = 100, V = 100,352) and reads it back as training batches, on one core:
packed batches of random whole examples across shards, with the label check. The reference's figures are those
of its own code path on a two-core machine: Python lists to Arrow float64 and int64 for every padded position.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import numpy.typing as npt
import torch

from harness.distill.cache_folder import shard_plan
from harness.distill.cache_format import FORMAT, CacheSpec, RowBlock
from harness.distill.cache_writer import CacheWriter
from harness.distill.logit_cache import CacheReader

VOCABULARY = 100_352
BATCH_POSITIONS = 4096


def main() -> None:
    """Write, read, print one table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--positions", type=int, default=400_000, help="label positions of the cache")
    parser.add_argument(
        "--labels", type=int, default=357, help="mean labels an example (the reference's data)"
    )
    parser.add_argument("--k", type=int, default=100)
    parser.add_argument("--shards", type=int, default=4)
    parser.add_argument("--out", type=Path, help="where to write; a temporary folder by default")
    options = parser.parse_args()
    torch.set_num_threads(1)
    random = np.random.default_rng(0)
    examples = max(1, options.positions // options.labels)
    counts = random.integers(1, 2 * options.labels, examples).astype(np.int64)
    spec = CacheSpec(VOCABULARY, options.k)
    with tempfile.TemporaryDirectory(dir=options.out) as directory:
        out = Path(directory)
        cpu_us, wall_us = write(out, spec, counts, -(-int(counts.sum()) // options.shards))
        reader = CacheReader.open(out)
        per_s = read(reader, counts)
        size = reader.bytes / reader.positions
        print(f"{reader.positions:,} label positions, k={options.k}, V={VOCABULARY:,}, nT=2, ", end="")
        print(f"{len(reader.records)} shards, {examples:,} examples, one core")
        print(f"{'':34}{'here':>10}{'reference':>12}{'bar':>10}")
        print(f"{'reader, M positions/s':34}{per_s / 1e6:10.2f}{0.13:12.2f}{'>= 1':>10}")
        print(f"{'writer, CPU us a position':34}{cpu_us:10.2f}{13.7:12.1f}{'<= 1':>10}")
        print(f"{'writer, wall us (fsync included)':34}{wall_us:10.2f}{'':>12}{'':>10}")
        print(f"{'bytes a label position':34}{spec.bytes_per_position:10d}{1628:12d}{'<= 431':>10}")
        print(f"{'  with headers and example index':34}{size:10.2f}")


def write(
    out: Path, spec: CacheSpec, counts: npt.NDArray[np.int64], shard_positions: int
) -> tuple[float, float]:
    """Write a cache; processor and wall microseconds a position of packing, hashing, writing and fsync."""
    block = random_block(np.random.default_rng(0), BATCH_POSITIONS, spec.k)
    positions = int(counts.sum())
    wall_s, cpu_s = time.perf_counter(), time.process_time()
    with CacheWriter(
        out,
        spec,
        shard_plan(counts, shard_positions),
        {"format": FORMAT, "data": {}},
        label_counts=counts,
        keys=lambda first, last: np.arange(first, last, dtype=np.uint64),
    ) as writer:
        for shard in writer.pending():
            writer.begin(shard)
            # Examples arrive out of order, as packing makes them do.
            order = np.random.default_rng(shard.index).permutation(np.arange(shard.first, shard.last))
            for part in batches(order, counts):
                rows = int(counts[part].sum())
                fields = {name: value[:rows] for name, value in vars(block).items() if value is not None}
                writer.put(RowBlock(**fields), [(int(index), int(counts[index])) for index in part])
            writer.finish()
    wall_s, cpu_s = time.perf_counter() - wall_s, time.process_time() - cpu_s
    return cpu_s / positions * 1e6, wall_s / positions * 1e6


def read(reader: CacheReader, counts: npt.NDArray[np.int64], repeats: int = 3) -> float:
    """Positions a second of processor time into batches, labels compared; the median of some epochs."""
    order = np.random.default_rng(1).permutation(len(counts))
    parts = batches(order, counts)
    labels = [reader.rows(part).target for part in parts]
    speeds = []
    for _ in range(repeats):
        start_s = time.process_time()
        for part, label in zip(parts, labels, strict=True):
            reader.rows(part, label)
        speeds.append(int(counts.sum()) / (time.process_time() - start_s))
    return statistics.median(speeds)


def batches(order: npt.NDArray[np.int64], counts: npt.NDArray[np.int64]) -> list[npt.NDArray[np.int64]]:
    """Runs of examples with at most BATCH_POSITIONS labels together."""
    parts, start, total = [], 0, 0
    for place, count in enumerate(counts[order].tolist()):
        if total + count > BATCH_POSITIONS:
            parts.append(order[start:place])
            start, total = place, 0
        total += count
    return [*parts, order[start:]]


def random_block(random: np.random.Generator, rows: int, k: int) -> RowBlock:
    """Rows of any content: speed does not depend on it."""
    logp = -np.sort(random.random((rows, k), dtype=np.float32) * 12, axis=1)
    return RowBlock(
        ids=random.integers(0, VOCABULARY, (rows, k), dtype=np.int32),
        logp=logp.astype(np.float16),
        log_tail=random.random(rows, dtype=np.float32) - 3,
        a_t=random.random((rows, 2), dtype=np.float32),
        target=random.integers(0, VOCABULARY, rows),
        target_logp=logp[:, 0].astype(np.float16),
        kept=random.random((rows, 3), dtype=np.float32),
    )


if __name__ == "__main__":
    main()
