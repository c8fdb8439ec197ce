"""What the stages take of a card's memory and of disks: sums, from settings and shapes alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from harness.experiments.pipelines import SHARED
from harness.models.shapes import ModelShape
from harness.planning.memory import CONTEXT_BYTES, training_memory
from harness.planning.sums import WEIGHT_BYTES, cache_bytes, fitting_rows, generation_memory, logits_memory
from harness.preflight.stages import Outlook, Stage

USABLE = 0.985
"""Share of a card's memory that one process gets: the driver keeps the rest (84 of 85.5 GB of an H100)."""

VLLM_BESIDE_BYTES = 3_500_000_000
"""What vLLM takes beside weights and cache: activations of its largest step, CUDA graphs, logits. Not
measured."""


LONGEST_ASKED, LONGEST_ALONE = 2048, 512
"""Tokens of the prompts of a batch, taken to be so long: dialogues, worked examples and what a judge reads;
and questions alone. Few are longer."""


@dataclass(frozen=True)
class Need:
    """Memory of a stage.

    Attributes:
        peak: Bytes of the card, context included.
        note: Where it depends on something.
        slots: Of an engine: sequences of the longest length that the cache holds at once.
    """

    peak: int
    note: str = ""
    slots: int | None = None


def stage_memory(stage: Stage, card_bytes: int) -> Need | None:
    """What a stage takes of a card with so much memory; None where it uses none or its model is unknown."""
    config, shape = stage.config, stage.model.shape if stage.model else None
    if config is None or shape is None:
        return None
    if stage.program == "student_train":
        return Need(_training(config, shape))
    if stage.program in ("evaluate", "judging"):
        return _evaluation(stage, shape)
    size = 4 if getattr(config, "dtype", "bfloat16") == "float32" else WEIGHT_BYTES
    wider = (size - WEIGHT_BYTES) * shape.parameters
    if stage.program == "teacher_logits":
        rows, seq_len = config.micro_batch, config.seq_len or 1024
        memory = logits_memory(shape, rows=rows, seq_len=seq_len, k=config.k, chunk=config.chunk)
        return Need(memory.peak + wider)
    if stage.program == "teacher_generate":
        return _generation(config, shape, card_bytes, wider)
    return None


def _evaluation(stage: Stage, shape: ModelShape) -> Need | None:
    """The suite's batches at their longest; before a model's answers its held-out loss."""
    suite = stage.suite
    if suite is None:
        return None
    rows, dtype, peaks = suite.batch_size, suite.dtype, []
    if stage.program == "judging":
        assert suite.judge is not None
        dtype, lengths = suite.judge.dtype, {(LONGEST_ASKED, suite.judge.max_new_tokens)}
    else:
        # A forward as in teacher_logits, its head in chunks.
        held = logits_memory(shape, rows=stage.config.eval_batch, seq_len=1024, k=1, chunk=1337)
        peaks.append((held.peak, "the held-out loss"))
        lengths = {
            (LONGEST_ASKED if b.shots or b.adapter == "dialogues" else LONGEST_ALONE, b.max_new_tokens or 1)
            for b in suite.benchmarks
        }
    for prompt, said in lengths:
        peak = generation_memory(shape, rows=rows, prompt=prompt, new_tokens=said).peak
        peaks.append((peak, f"{rows} prompts of {prompt:,} tokens and answers of {said:,} at once"))
    peak, note = max(peaks)
    return Need(peak + (2 if dtype == "float32" else 0) * shape.parameters, note)


def _training(config: Any, shape: ModelShape) -> int:
    memory = training_memory(
        shape,
        rows=config.micro_batch,
        seq_len=config.seq_len,
        weight_bytes=4 if config.precision == "float32" else 2,
        rounding=config.rounding,
        checkpointing=config.gradient_checkpointing,
        temperature=config.temperature if config.regime == "kd" else 1.0,
        accumulation=-(-config.effective_batch // config.micro_batch),
    )
    return memory.peak


def _generation(config: Any, shape: ModelShape, card_bytes: int, wider: int) -> Need:
    prompt, weights = 1023, WEIGHT_BYTES * shape.parameters
    if config.engine == "vllm":
        length = config.vllm.max_model_len or 4096
        given = int(card_bytes * config.vllm.gpu_memory_utilization)
        room = given - weights - VLLM_BESIDE_BYTES
        slots = max(0, room // cache_bytes(shape, 1, length))
        least = weights + VLLM_BESIDE_BYTES + cache_bytes(shape, 1, length)
        if not slots:
            return Need(int(least / config.vllm.gpu_memory_utilization), "one sequence", 0)
        return Need(given, f"vLLM; its cache holds {slots} full sequences of {length}", slots)
    rows = config.batch_size
    if rows is None:
        free = int(card_bytes * USABLE) - weights - wider - CONTEXT_BYTES
        rows = fitting_rows(shape, int(free * 0.95), prompt=prompt, new_tokens=config.max_new_tokens)
        note = f"sized from free memory: {rows} of the longest prompts at once"
    else:
        note = f"{rows} prompts of up to {prompt} tokens at once"
    memory = generation_memory(shape, rows=max(1, rows), prompt=prompt, new_tokens=config.max_new_tokens)
    return Need(memory.peak + wider, note, rows)


@dataclass(frozen=True)
class Disk:
    """Bytes on disks over a whole run, at the most.

    Attributes:
        fetched: Of assets, all of them; `missing` of it is not there yet.
        missing: See there.
        data: Tokenised data sets, the logit cache and the teacher's answers.
        checkpoints: Of all students.
        transient: The largest student's states and a checkpoint beside the one it replaces.
    """

    fetched: int = 0
    missing: int = 0
    data: int = 0
    checkpoints: int = 0
    transient: int = 0

    @property
    def runs(self) -> int:
        """In the output folder."""
        return self.data + self.checkpoints + self.transient


def disk_of(outlook: Outlook, label_tokens: float | None, tokens: float | None) -> Disk:
    """Sum the disks.

    Args:
        outlook: The stages.
        label_tokens: Label positions of the training split; None: the data are left out.
        tokens: Its tokens.
    """
    fetched = sum(asset.bytes for asset in outlook.assets.values())
    there = sum(outlook.store.fetched_bytes(asset) for asset in outlook.assets.values())
    data = 0
    if tokens is not None and label_tokens is not None:
        # int32 ids and a bit of mask; the synthetic set is small beside them.
        data += int(tokens * 4.2) * len(outlook.of("preprocess"))
        for stage in outlook.of("teacher_logits"):
            spec = stage.config.spec(
                stage.model.shape.vocabulary if stage.model and stage.model.shape else 100_352
            )
            data += int(label_tokens * spec.bytes_per_position)
    sizes = [
        stage.model.shape.parameters * (4 if stage.config.precision == "float32" else 2)
        for stage in outlook.of("student_train")
        if stage.run != SHARED and stage.model is not None and stage.model.shape is not None
    ]
    # A state of its own beside the best checkpoint, and the next of each while it is written.
    transient = 3 * max(sizes, default=0)
    return Disk(fetched, max(0, fetched - there), data, sum(sizes), transient)
