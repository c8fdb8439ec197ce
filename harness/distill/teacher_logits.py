"""Stage teacher_logits: run the teacher once over a split and cache what it predicts at every label.

    python -m harness.distill.teacher_logits --teacher DIR --dataset DIR --out DIR

One pass at T = 1 serves every temperature of the sweep (`distributions`). Only label positions are kept, and
only they go through the output matrix, in chunks, in float32. Batches are made shard by shard, from the
shard's examples alone: what is computed together does not depend on the number of workers, nor on where a
killed run stopped; on one machine the same shard has the same bits.

Memory of the paper's teacher on one card of 80 GB (85.5e9 bytes), micro_batch 4 x seq_len 1024, chunk 512:

    32.23 B weights in bfloat16                                     64.5 GB
    hidden states, attention of one layer (4,096 x 5,120, bf16)      0.3
    MLP of one layer, 3 x 4,096 x 27,648 in bf16                     0.7
    float32 logits of a chunk, twice 512 x 100,352                   0.4
    rows on the card and in pinned memory                            0.0
    CUDA context, cuBLAS workspace, allocator                        1.5
                                                              sum   67.4 GB

No KV cache, no autograd graph. The host holds one shard, 0.9 GB.
"""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
import transformers

from harness.distill.arguments import run_stage, write_config
from harness.distill.cache_folder import LOCK, Shard, example_key, locked, read_manifest, shard_plan
from harness.distill.cache_format import FORMAT, LITTLE_MASS, CacheSpec, Mode
from harness.distill.cache_writer import CacheWriter
from harness.distill.distributions import uniforms_of
from harness.distill.logit_cache import MORE_MASS, CacheReader, check_temperature
from harness.distill.reporting import ProgressLine, report_event, report_tokens
from harness.distill.teacher_logits_model import LogitTeacher, TeacherIdentity, teacher_identity
from harness.errors import KitError
from harness.models.batches import Batch, collate, pack
from harness.models.dataset import TokenDataset
from harness.models.devices import chosen_device, repeat_bits, use_threads
from harness.models.vocabulary import check_vocabulary


@dataclass(frozen=True)
class TeacherLogitsConfig:
    """Cache the teacher's distribution at every label position of a data set."""

    teacher: Path = field(metadata={"help": "Model folder of the teacher: config.json and safetensors."})
    dataset: Path = field(metadata={"help": "Data set folder that preprocess made."})
    out: Path = field(metadata={"help": "Folder of the cache; a run that was stopped goes on there."})
    split: Literal["train", "validation"] = field(default="train", metadata={"help": "Split to cache."})
    mode: Mode = field(
        default="topk",
        metadata={"help": "Ids of a row: the k likeliest, a nucleus of mass 1 - eps, or k random draws."},
    )
    k: int = field(
        default=100, metadata={"help": "Most ids a row holds; in mode sample the number of draws."}
    )
    eps: float = field(default=0.02, metadata={"help": "Mass that a nucleus may leave out."})
    temperatures: tuple[float, ...] = field(
        default=(1.0, 2.0, 4.0), metadata={"help": "Temperatures that students will train at."}
    )
    tail: Literal["bucket", "renormalised", "partial"] = field(
        default="bucket",
        metadata={"help": "What the students' loss will do with the mass outside; bounds the temperatures."},
    )
    teacher_revision: str | None = field(
        default=None,
        metadata={"help": "Commit of the teacher's weights; names them instead of a digest of every byte."},
    )
    dtype: Literal["float32", "bfloat16"] = field(
        default="bfloat16", metadata={"help": "Type of weights and activations; logits are always float32."}
    )
    device: str = field(default="auto", metadata={"help": "cpu, cuda, or auto: cuda where there is one."})
    batching: Literal["packed", "bucketed"] = field(
        default="packed",
        metadata={
            "help": "Several examples a row, apart from each other, or one example a row, like lengths."
        },
    )
    seq_len: int | None = field(
        default=None, metadata={"help": "Positions of a packed row; the data set's seq_len by default."}
    )
    micro_batch: int = field(default=4, metadata={"help": "Rows a forward pass."})
    chunk: int = field(default=512, metadata={"help": "Label positions a pass through the output matrix."})
    shard_positions: int = field(
        default=1 << 21, metadata={"help": "Label positions a shard; 2 M are 0.9 GB."}
    )
    worker: int = field(default=0, metadata={"help": "Number of this worker, from 0."})
    workers: int = field(default=1, metadata={"help": "Workers that share the shards."})
    seed: int = field(default=0, metadata={"help": "Of the draws in mode sample."})
    threads: int | None = field(default=None, metadata={"help": "CPU threads; torch's choice by default."})

    def spec(self, vocab_size: int) -> CacheSpec:
        """What a row holds.

        Raises:
            KitError: A temperature that truncated rows cannot serve, or settings that do not fit.
        """
        stored = tuple(sorted({value for value in self.temperatures if value != 1}))
        for value in stored:
            check_temperature(value, self.tail, stored)
        return CacheSpec(
            vocab_size=vocab_size,
            k=self.k,
            mode=self.mode,
            temperatures=stored,
            eps=self.eps if self.mode == "nucleus" else None,
            seed=self.seed if self.mode == "sample" else None,
        )


def run(config: TeacherLogitsConfig) -> None:
    """Run the stage: every shard of this worker that is not there yet.

    Raises:
        KitError: Anything wrong with teacher, data, settings or the folder; what is finished stays.
    """
    if not 0 <= config.worker < config.workers:
        raise KitError(f"worker {config.worker} of {config.workers}", expected="0 <= worker < workers")
    if min(config.micro_batch, config.chunk) < 1:
        raise KitError("micro_batch and chunk", expected="at least 1")
    dataset = TokenDataset.open(config.dataset, config.split)
    identity = teacher_identity(config.teacher, config.teacher_revision)
    check_vocabulary(config.teacher, config.dataset, rows=identity.vocab_size)
    device = chosen_device(config.device)
    if device.startswith("cuda"):
        repeat_bits(strict=False)  # a forward alone: nothing in it warns
    use_threads(config.threads)
    spec = config.spec(identity.vocab_size)
    plan = shard_plan(dataset.label_counts, config.shard_positions)
    seq_len = config.seq_len or int(dataset.meta["seq_len"])
    fingerprint = _fingerprint(config, dataset, identity, device, seq_len)
    with CacheWriter(
        config.out,
        spec,
        plan,
        fingerprint,
        label_counts=dataset.label_counts,
        keys=lambda first, last: _keys(dataset, first, last),
    ) as writer:
        # The folder is the same whoever made it, so its config.json names no worker.
        with locked(config.out / LOCK):
            write_config(dataclasses.replace(config, worker=0, workers=1), config.out)
        pending = writer.pending(config.worker, config.workers)
        if pending:
            _check_space(config.out, sum(shard.rows for shard in pending) * spec.bytes_per_position)
            teacher = LogitTeacher.load(
                config.teacher,
                dtype=config.dtype,
                device=device,
                batching=config.batching,
                seq_len=seq_len,
                vocab_size=identity.vocab_size,
            )
            _run_shards(config, teacher, dataset, spec, seq_len, pending, writer)
    _report(config.out, len(plan))


def shard_batches(
    dataset: TokenDataset, shard: Shard, batching: str, seq_len: int, micro_batch: int
) -> Iterator[Batch]:
    """The batches of a shard, each of its examples once.

    A function of the shard's examples and the settings alone: no seed, no state.

    Args:
        dataset: The split.
        shard: Examples [first, last).
        batching: "packed" or "bucketed".
        seq_len: Most positions of a row.
        micro_batch: Rows of a batch.
    """
    lengths = dataset.lengths[shard.first : shard.last]
    if lengths.max() > seq_len:
        raise KitError(
            f"an example of {lengths.max()} tokens does not fit seq_len {seq_len}",
            where=f"{dataset.directory.name}/{dataset.split}",
            fix="give the seq_len of preprocess",
        )
    if batching == "packed":
        rows = pack(lengths, seq_len)
    else:
        rows = [[index] for index in np.argsort(-lengths, kind="stable").tolist()]
    for start in range(0, len(rows), micro_batch):
        part = rows[start : start + micro_batch]
        # As wide as the fullest row, not as seq_len: the last rows of a shard are seldom full.
        yield collate(dataset, [[shard.first + item for item in row] for row in part])


def _run_shards(
    config: TeacherLogitsConfig,
    teacher: LogitTeacher,
    dataset: TokenDataset,
    spec: CacheSpec,
    seq_len: int,
    pending: list[Shard],
    writer: CacheWriter,
) -> None:
    progress = ProgressLine("teacher_logits", sum(shard.rows for shard in pending), unit="positions")
    for shard in pending:
        writer.begin(shard)
        keys = _keys(dataset, shard.first, shard.last)
        for batch in shard_batches(dataset, shard, config.batching, seq_len, config.micro_batch):
            if int(batch.input_ids.max()) >= spec.vocab_size:
                raise KitError(
                    f"token {int(batch.input_ids.max())} in a data set for a teacher of {spec.vocab_size}",
                    where=shard.name,
                    fix="preprocess with the teacher's tokenizer",
                )
            uniforms = None
            if spec.mode == "sample":
                assert spec.seed is not None
                drawn = [(int(keys[index - shard.first]), count) for index, count in batch.example_rows]
                uniforms = uniforms_of(spec.seed, drawn, spec.k)
            writer.put(teacher.rows(batch, spec, chunk=config.chunk, uniforms=uniforms), batch.example_rows)
            report_tokens(processed=batch.real_tokens, positions=batch.positions)
            progress.advance(batch.label_tokens, tokens=batch.real_tokens)
        writer.finish()
    writer.close()
    progress.close()


def _keys(dataset: TokenDataset, first: int, last: int) -> npt.NDArray[np.uint64]:
    return np.array([example_key(dataset.example(index).id) for index in range(first, last)], dtype=np.uint64)


def _fingerprint(
    config: TeacherLogitsConfig, dataset: TokenDataset, teacher: TeacherIdentity, device: str, seq_len: int
) -> dict[str, Any]:
    """What the cache is a cache of, and under made_with what else decides its bits."""
    meta = dataset.meta
    return {
        "format": FORMAT,
        "teacher": teacher.describe(config.dtype),
        "data": {
            "content_digest": meta["content_digest"],
            "split": config.split,
            "tokenizer_sha256": meta.get("tokenizer_sha256"),
            "template_sha256": meta.get("template_sha256"),
            "examples": len(dataset),
            "label_positions": int(dataset.label_counts.sum()),
        },
        "shard_positions": config.shard_positions,
        "made_with": {
            "device": torch.cuda.get_device_name(device) if device.startswith("cuda") else "cpu",
            "threads": None if device.startswith("cuda") else torch.get_num_threads(),
            "torch": torch.__version__,
            "transformers": transformers.__version__,
            "batching": config.batching,
            "seq_len": seq_len,
            "micro_batch": config.micro_batch,
            "chunk": config.chunk,
        },
    }


def _check_space(out: Path, needed: int) -> None:
    free = shutil.disk_usage(out).free
    if needed > free:
        raise KitError(
            f"the shards still to come take {needed / 1e9:.1f} GB, {free / 1e9:.1f} GB are free",
            where=str(out),
            fix="free space there, or lower --k; finished shards are kept",
        )


def _report(out: Path, shards: int) -> None:
    """Say what the cache holds, once all of its shards are there."""
    if len(read_manifest(out)) < shards:
        print(f"teacher_logits: this worker's shards are done, others of the {shards} are not")
        return
    reader = CacheReader.open(out)
    per_position = reader.bytes / max(1, reader.positions)
    mass = {f"{value:g}": share for value, share in reader.kept_mass.items()}
    print(
        f"teacher_logits: {reader.positions:,} label positions in {shards} shards, {per_position:.1f} bytes "
        "each; the stored ids hold"
    )
    low = [value for value, share in mass.items() if share < LITTLE_MASS and reader.spec.mode != "sample"]
    for value, share in mass.items():
        print(f"  {share:7.1%} at T={value} of the teacher's mass{'  LITTLE MASS' if value in low else ''}")
    if low:
        print(
            f"teacher_logits: at T={', '.join(low)} a student sees most of the teacher as one outcome. To "
            f"change it: {MORE_MASS}; by mass instead of number, mode: nucleus, eps: 0.02 takes fewer bytes "
            "where the teacher is sure"
        )
    report_event(
        "logit_cache",
        label_positions=reader.positions,
        bytes_per_position=per_position,
        kept_mass=mass,
        little_mass_at=low,
    )


def main() -> int:
    """The stage's command line."""
    return run_stage(TeacherLogitsConfig, run)


if __name__ == "__main__":
    raise SystemExit(main())
