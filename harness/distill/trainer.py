"""The one training loop of all three regimes: SFT, logit KD and SFT on synthetic data.

A regime is a loss and its inputs (`alpha` and a `Teacher`), nothing else: optimizer, schedule, clipping,
evaluation, early stopping, batches and counting are the same code with the same numbers. An optimizer step
takes so many examples, never across an epoch's end, and divides their summed loss by the label tokens of them
all, so that its gradient does not depend on how they were packed into rows or split into micro-batches.

Counting, in the protocol's words: *trained* are the label tokens of an example when it enters the loss for
the first time (every later epoch counts none); *processed* and *positions* count every forward pass in the
stage, evaluation included. Label tokens over all epochs, and evaluation's own share, are in the metrics, the
summary and the events.
"""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any, Protocol

import torch

from harness.distill.adafactor import Adafactor, clip_gradients
from harness.distill.checkpoint import State, StateFolder, Writer, host_copy, recover_folder, save_model
from harness.distill.early_stop import EarlyStop
from harness.distill.reporting import ProgressLine, report_event, report_tokens
from harness.distill.schedule import cosine_with_warmup
from harness.distill.train_options import Counters, TrainOptions, TrainResult
from harness.errors import KitError
from harness.files import write_json
from harness.models.batches import Batch
from harness.models.losses import LossSum, TeacherRows, kd_loss
from harness.models.support import Prepared

STATE_EVERY_S = 5.0
"""Least time between two states that are saved for no evaluation."""


class Batches(Protocol):
    """What the trainer needs of a `Batcher`."""

    def batch(self, epoch: int, k: int) -> Batch:
        """Batch k of an epoch."""

    def batches_per_epoch(self, epoch: int) -> int:
        """Number of batches of an epoch."""

    def steps(self, epoch: int) -> Iterable[range]:
        """The batches of each optimizer step of an epoch, in order."""


class Teacher(Protocol):
    """What the trainer needs of a `CacheReader`."""

    def rows_of(self, batch: Batch, *, temperature: float) -> Any:
        """`CacheRows` for the labels of a batch, in their order; refuses a batch of another data set."""


class Trainer:
    """Trains one model into one folder.

    Args:
        prepared: A causal language model of transformers, on its device, as `support.prepare` gives it.
        optimizer: Over the model's parameters.
        train: Training batches.
        validation: Validation batches; None for none, and then no early stop either.
        teacher: The cache's rows; needed where alpha < 1.
        options: See there.
        out: Gets checkpoint/, state/ and metrics.jsonl; a run that was killed there is gone on with.
        tokenizer: Folder whose tokenizer goes with the checkpoint.
    """

    def __init__(
        self,
        prepared: Prepared,
        optimizer: Adafactor,
        train: Batches,
        validation: Batches | None,
        teacher: Teacher | None,
        options: TrainOptions,
        out: Path,
        tokenizer: Path,
    ) -> None:
        self._prepared = prepared
        self._model = model = prepared.model
        self._optimizer = optimizer
        self._train = train
        self._validation = validation
        self._teacher = teacher
        spec = getattr(teacher, "spec", None)
        self._teacher_rows = 0 if spec is None else int(spec.vocab_size)
        self._options = options
        self._out = out
        self._tokenizer = tokenizer
        self._device = next(model.parameters()).device
        self._names = {parameter: name for name, parameter in model.named_parameters()}
        if options.gradient_checkpointing:
            model.gradient_checkpointing_enable({"use_reentrant": False})
        self._counters = Counters()
        self._stop = EarlyStop(options.early_stop_eps, options.patience)
        self._states = StateFolder(out / "state")
        self._writer = Writer()
        self._kept_step: int | None = None
        self._saved_s = self._state_cost_s = 0.0
        self._metrics = out / "metrics.jsonl"
        self._reported_step = 0
        self._last: dict[str, float | None] = {"loss": None, "eval_loss": None}

    @property
    def total_steps(self) -> int:
        """The horizon: max_steps, or max_epochs times the steps of the first epoch."""
        if self._options.max_steps is not None:
            return self._options.max_steps
        return self._options.max_epochs * sum(1 for _ in self._train.steps(0))

    def run(self) -> TrainResult:
        """Train from where the folder stands to the horizon or the early stop."""
        self._resume()
        options, counters, total = self._options, self._counters, self.total_steps
        progress = ProgressLine("student_train", total, done=counters.step)
        evaluated = counters.step
        self._saved_s = time.monotonic()
        self._model.train()
        for epoch, first, batches in self._steps(total):
            if self._stop.stop:
                break
            start_s = time.monotonic()
            record = self._step(epoch, batches, total)
            counters.step += 1
            counters.epoch, counters.batch = epoch, first + len(batches)
            record["tokens_per_s"] = round(record["real_tokens"] / max(1e-9, time.monotonic() - start_s), 1)
            self._write(record)
            progress.advance(tokens=record["real_tokens"], note=f"loss {record['loss']:.4f}")
            at_end = counters.step == total
            if at_end or (options.eval_every_steps and counters.step % options.eval_every_steps == 0):
                self._evaluate()
                evaluated = counters.step
            if not at_end and self._state_is_due(evaluated == counters.step):
                self._save_state()
        self._writer.wait()
        progress.close()
        return TrainResult(
            counters,
            total,
            "early" if counters.step < total else "horizon",
            self._stop.best_step,
            None if self._stop.best == math.inf else self._stop.best,
            self._last["eval_loss"],
            self._last["loss"],
        )

    def clear_state(self) -> None:
        """Remove the state of a run that is over."""
        self._states.clear()

    def _steps(self, total: int) -> Iterator[tuple[int, int, list[tuple[Batch, TeacherRows | None]]]]:
        """Epoch, first batch and batches of the optimizer steps that remain; on a GPU made one step ahead."""
        plan = self._plan(total - self._counters.step)
        if self._device.type == "cpu":
            for epoch, first, numbers in plan:
                yield epoch, first, [self._load(epoch, number) for number in numbers]
            return
        with ThreadPoolExecutor(1) as pool:
            waiting = None
            for epoch, first, numbers in plan:
                job = pool.submit(lambda e, n: [self._load(e, k) for k in n], epoch, numbers)
                if waiting is not None:
                    yield (*waiting[:2], waiting[2].result())
                waiting = (epoch, first, job)
            if waiting is not None:
                yield (*waiting[:2], waiting[2].result())

    def _plan(self, steps: int) -> Iterator[tuple[int, int, range]]:
        epoch, first = self._counters.epoch, self._counters.batch
        while steps > 0:
            for numbers in self._train.steps(epoch):
                if numbers.start >= first and steps > 0:
                    yield epoch, numbers.start, numbers
                    steps -= 1
                if steps == 0:
                    return
            epoch, first = epoch + 1, 0

    def _load(self, epoch: int, number: int) -> tuple[Batch, TeacherRows | None]:
        batch = self._train.batch(epoch, number)
        rows = None
        if self._options.alpha < 1.0:
            if self._teacher is None:
                raise KitError(f"alpha={self._options.alpha:g} needs a logit cache", where="student_train")
            cached = self._teacher.rows_of(batch, temperature=self._options.temperature)
            rows = TeacherRows.from_cache(cached, self._device)
            if self._teacher_rows > self._prepared.head.vocab_size:
                rows = rows.within(self._prepared.head.vocab_size)
        return batch.to(self._device), rows

    def _loss(self, batch: Batch, rows: TeacherRows | None, *, alpha: float) -> LossSum:
        hidden, labels = self._prepared.states(batch)
        options = self._options
        return kd_loss(
            hidden,
            self._prepared.head,
            labels,
            rows,
            alpha=alpha,
            temperature=options.temperature,
            tail=options.tail,
        )

    def _step(
        self, epoch: int, batches: list[tuple[Batch, TeacherRows | None]], total: int
    ) -> dict[str, Any]:
        """One optimizer step; returns its line for the metrics."""
        options, counters = self._options, self._counters
        rate = options.lr * cosine_with_warmup(counters.step, total=total, warmup=options.warmup_steps)
        for group in self._optimizer.param_groups:
            group["lr"] = rate
        labels = sum(batch.label_tokens for batch, _ in batches)
        parts = torch.zeros(3, dtype=torch.float64, device=self._device)
        for batch, rows in batches:
            loss = self._loss(batch, rows, alpha=options.alpha)
            (loss.total / labels).backward()  # type: ignore[no-untyped-call]
            parts += torch.stack(
                [loss.total.detach().double(), loss.ce, loss.ce.new_zeros(()) if loss.kl is None else loss.kl]
            )
        norm = clip_gradients(self._optimizer, options.clip_norm)
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)
        value, ce, kl = (parts / labels).tolist()
        if not math.isfinite(value):
            raise KitError(
                f"the loss is {value} at step {counters.step + 1}",
                where="student_train",
                fix="lower lr, or look at the data of this step",
                exit_code=1,
            )
        processed = sum(batch.real_tokens for batch, _ in batches)
        positions = sum(batch.positions for batch, _ in batches)
        first_time = labels if epoch == 0 else 0
        counters.trained += first_time
        counters.label_tokens += labels
        counters.processed += processed
        counters.positions += positions
        # Tokens of steps that an earlier attempt reported and lost again are processed again, not trained
        # again.
        known = counters.step + 1 <= self._reported_step
        report_tokens(trained=0 if known else first_time, processed=processed, positions=positions)
        self._last["loss"] = value
        return {
            "step": counters.step + 1,
            "epoch": epoch,
            "loss": value,
            "ce": ce,
            "kl": kl if options.alpha < 1.0 else None,
            "label_tokens": labels,
            "real_tokens": processed,
            "positions": positions,
            "lr": rate,
            "grad_norm": norm.item(),
        }

    def _evaluate(self) -> None:
        """Cross-entropy per label token of the validation split, whatever the regime; keeps the best
        model.
        """
        counters = self._counters
        counters.evaluations += 1
        if self._validation is None:
            self._keep()
            return
        start_s = time.monotonic()
        total = torch.zeros((), dtype=torch.float64, device=self._device)
        labels = processed = positions = 0
        self._model.eval()
        with torch.no_grad():
            for k in range(self._validation.batches_per_epoch(0)):
                batch = self._validation.batch(0, k).to(self._device)
                total += self._loss(batch, None, alpha=1.0).ce
                labels += batch.label_tokens
                processed += batch.real_tokens
                positions += batch.positions
        self._model.train()
        loss = total.item() / labels
        counters.eval_label_tokens += labels
        counters.eval_processed += processed
        counters.eval_positions += positions
        best = self._stop.update(loss, counters.step)
        self._last["eval_loss"] = loss
        report_tokens(processed=processed, positions=positions)
        counts = {"label_tokens": labels, "real_tokens": processed, "positions": positions}
        report_event("evaluation", step=counters.step, eval_loss=loss, best=best, **counts)
        record = {"step": counters.step, "epoch": counters.epoch, "eval_loss": loss, "best": best, **counts}
        record["tokens_per_s"] = round(processed / max(1e-9, time.monotonic() - start_s), 1)
        self._write(record)
        if best or self._stop.best_step is None:
            self._keep()

    def _keep(self) -> None:
        """Keep the weights as the checkpoint: copied to the host now, written while training goes on."""
        self._writer.wait()
        weights = host_copy(self._model.state_dict())
        folder = self._out / "checkpoint"
        self._writer.submit(lambda: save_model(self._model, folder, self._tokenizer, weights))
        self._kept_step = self._counters.step

    def _write(self, record: dict[str, Any]) -> None:
        line = json.dumps({key: _finite(value) for key, value in record.items()})
        with self._metrics.open("a", encoding="utf-8") as stream:
            stream.write(line + "\n")

    def _state_is_due(self, evaluated: bool) -> bool:
        """Every so many steps; else with an evaluation, and between them as often as saving takes no more
        than a hundredth of the time.
        """
        every = self._options.state_every_steps
        if every:
            return every > 0 and self._counters.step % every == 0
        passed_s = time.monotonic() - self._saved_s
        return evaluated or passed_s > max(STATE_EVERY_S, 100 * self._state_cost_s)

    def _save_state(self) -> None:
        start_s = time.monotonic()
        optimizer = host_copy(self._optimizer.export(self._names))
        optimizer["torch_rng"] = torch.get_rng_state()
        if self._device.type == "cuda":
            optimizer["cuda_rng"] = torch.cuda.get_rng_state(self._device)
        trainer = {
            "counters": asdict(self._counters),
            "early_stop": self._stop.export(),
            "last": self._last,
            "metrics_bytes": self._metrics.stat().st_size,
        }
        step = self._counters.step
        # The checkpoint that is being written has these weights already.
        kept = self._out / "checkpoint" if self._kept_step == step else None
        if kept is None:
            self._writer.wait()
        state = State({} if kept else host_copy(self._model.state_dict()), optimizer, trainer)
        copied_s = time.monotonic()

        def write() -> None:
            begun_s = time.monotonic()
            self._states.save(step, state, kept)
            self._state_cost_s = copied_s - start_s + time.monotonic() - begun_s

        self._writer.submit(write)
        self._saved_s = copied_s

    def _resume(self) -> None:
        """Take up the last state of the folder, and cut off the metrics of steps that are to be done
        again.
        """
        recover_folder(self._out / "checkpoint")
        state = self._states.load()
        size = 0
        if state is not None:
            self._model.load_state_dict(state.model, strict=not self._model.config.tie_word_embeddings)
            tensors = dict(state.optimizer)
            torch.set_rng_state(tensors.pop("torch_rng"))
            if "cuda_rng" in tensors:
                torch.cuda.set_rng_state(tensors.pop("cuda_rng"), self._device)
            self._optimizer.restore(tensors, self._names)
            self._counters = Counters(**state.trainer["counters"])
            self._stop.restore(state.trainer["early_stop"])
            self._last = state.trainer["last"]
            size = state.trainer["metrics_bytes"]
        if not self._metrics.exists():
            return
        data = self._metrics.read_bytes()
        steps = [_step_of(line) for line in data.splitlines()]
        # Kept apart: the next attempt may be killed before it comes this far again.
        reported = self._states.folder / "reported.json"
        if reported.exists():
            steps.append(int(json.loads(reported.read_text(encoding="utf-8"))["step"]))
        self._reported_step = max(steps, default=0)
        write_json(reported, {"step": self._reported_step})
        os.truncate(self._metrics, size)
        report_event(
            "resumed", step=self._counters.step, lost_steps=self._reported_step - self._counters.step
        )


def _step_of(line: bytes) -> int:
    try:
        return int(json.loads(line)["step"])
    except (ValueError, KeyError):
        return 0  # the line a kill cut short


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value
