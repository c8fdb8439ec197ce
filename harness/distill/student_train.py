"""Stage student_train: a student on a data set, alone (sft) or with a teacher's cached distributions (kd).

    python -m harness.distill.student_train --config student.yaml

Synthetic-data SFT is `sft` on the data set made from the teacher's answers. Output:

    OUT/config.json      the resolved configuration
    OUT/metrics.jsonl    one line for each optimizer step or evaluation
    OUT/checkpoint/      the best model: a Hugging Face folder
    OUT/summary.json     how it ended; its presence says that the stage is complete
    OUT/state/           while training: what a rerun after a kill goes on from

Run again after a kill it goes on from the last state, bit for bit on a CPU; run again when complete it does
nothing.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from harness.distill.arguments import plain, run_stage
from harness.distill.reporting import report_event
from harness.errors import KitError
from harness.files import write_json
from harness.models.devices import STRICT_COST, chosen_device, repeat_bits
from harness.models.loading import loading

if TYPE_CHECKING:
    import torch

    from harness.distill.train_options import TrainResult


def _doc(text: str, default: Any = None, **options: Any) -> Any:
    return field(default=default, metadata={"help": text}, **options)


@dataclass(frozen=True, kw_only=True)
class StudentTrain:
    """Train a student; the regimes differ in alpha and the cache only."""

    model: Path = field(metadata={"help": "model folder; with init=scratch a folder or file with its config"})
    dataset: Path = field(metadata={"help": "data set folder as preprocess writes it"})
    out: Path = field(metadata={"help": "output folder"})
    regime: Literal["sft", "kd"] = _doc("sft: cross-entropy; kd: with the teacher's rows from `cache`", "sft")
    init: Literal["pretrained", "scratch"] = _doc("scratch: random weights from `seed`", "pretrained")
    tokenizer: Path | None = field(
        default=None,
        metadata={"help": "folder whose tokenizer goes with the checkpoint; null: that of `model`"},
    )
    cache: Path | None = field(default=None, metadata={"help": "logit cache folder, for kd"})
    alpha: float = _doc("kd: weight of the cross-entropy in [0, 1]", 0.5)
    temperature: float = _doc("kd: temperature of the KL term", 1.0)
    tail: Literal["bucket", "partial", "renormalised"] = _doc(
        "kd: how the teacher's mass outside the cached ids is read; partial is the paper's code", "bucket"
    )
    min_kept_mass: float = _doc(
        "kd: least share of the teacher's mass at this temperature on the cached ids; below 0.5 it is said "
        "in any case",
        0.0,
    )
    lr: float = _doc("peak learning rate", 5e-5)
    warmup_steps: int = _doc("optimizer steps of linear warm-up; a cosine to zero follows", 100)
    max_epochs: int = _doc("horizon in epochs", 20)
    max_steps: int | None = _doc("horizon in optimizer steps instead")
    effective_batch: int = _doc("examples of an optimizer step, however they are packed", 4)
    micro_batch: int = _doc("rows of a forward pass; decides memory alone", 4)
    batching: Literal["packed", "bucketed"] = _doc("packed: several examples a row, kept apart", "packed")
    seq_len: int = _doc("positions of a row", 1024)
    precision: Literal["float32", "bfloat16"] = _doc("type of weights and arithmetic", "bfloat16")
    rounding: Literal["nearest", "stochastic", "master"] = _doc(
        "how bfloat16 weights take an update; nearest is what the paper's code does and loses most of it",
        "stochastic",
    )
    scale_parameter: bool = _doc("Adafactor: learning rate relative to each weight's RMS", False)
    weight_decay: float = _doc("decoupled, times the learning rate", 0.0)
    clip_norm: float = _doc("bound on the gradient's norm; 0: none", 1.0)
    gradient_checkpointing: bool = _doc("recompute each layer: less memory, a third more work", False)
    attention: Literal["auto", "block", "varlen"] = _doc(
        "how packed rows are kept apart; auto: varlen for bfloat16 on a GPU, block mask otherwise", "auto"
    )
    eval_every_steps: int = _doc("optimizer steps between evaluations; 0: one at the end", 0)
    eval_batch: int | None = _doc("rows of an evaluation's forward pass; null: micro_batch")
    early_stop_eps: float = _doc("improvement of the evaluation loss that counts, nats", 2e-3)
    patience: int = _doc("evaluations without one that end the run; 0: never", 3)
    state_every_steps: int = _doc(
        "optimizer steps between saved states; 0: at evaluations and, between them, for 1 % of the time; -1: "
        "never",
        0,
    )
    seed: int = _doc("decides initial weights, order of the data and rounding", 0)
    threads: int = _doc("CPU threads; part of what makes a run repeatable to the bit", 2)
    deterministic: bool = _doc(
        "GPU: equal bits from equal settings, attention's backward included; slower (docs/models.md). "
        "Without it all but that backward repeats",
        False,
    )
    device: str = _doc("auto, cpu or cuda", "auto")

    def __post_init__(self) -> None:
        if self.regime == "sft" and self.cache is not None:
            raise KitError("cache is set, but sft has no teacher", where="StudentTrain", fix="--regime kd")
        if self.regime == "kd" and self.cache is None:
            raise KitError("kd needs a logit cache", where="StudentTrain", fix="--cache DIR")
        limits = {
            "alpha": 0 <= self.alpha <= 1,
            "temperature": self.temperature > 0,
            "min_kept_mass": 0 <= self.min_kept_mass <= 1,
            "lr": self.lr > 0,
            "warmup_steps": self.warmup_steps >= 0,
            "max_epochs": self.max_epochs > 0,
            "max_steps": self.max_steps is None or self.max_steps > 0,
            "micro_batch": self.micro_batch > 0,
            "eval_batch": self.eval_batch is None or self.eval_batch > 0,
            "seq_len": self.seq_len > 0,
            "weight_decay": self.weight_decay >= 0,
            "clip_norm": self.clip_norm >= 0,
            "effective_batch": self.effective_batch > 0,
            "eval_every_steps": self.eval_every_steps >= 0,
            "early_stop_eps": self.early_stop_eps >= 0,
            "patience": self.patience >= 0,
            "state_every_steps": self.state_every_steps >= -1,
            "threads": self.threads > 0,
            "device": self.device in ("auto", "cpu") or self.device.startswith("cuda"),
        }
        if wrong := [f"{name}={getattr(self, name)}" for name, fine in limits.items() if not fine]:
            raise KitError(f"out of range: {', '.join(wrong)}", where="StudentTrain", fix="see --help")

    @property
    def kd_alpha(self) -> float:
        """Weight of the cross-entropy in this regime: 1 in sft."""
        return self.alpha if self.regime == "kd" else 1.0


def train(config: StudentTrain) -> dict[str, Any]:
    """Run the stage; returns what `summary.json` holds.

    Raises:
        KitError: The folder holds a run with other settings, or an input does not fit.
    """
    _claim(config)
    summary = config.out / "summary.json"
    if summary.exists():
        print(f"student_train: {config.out} is complete", file=sys.stderr)
        done = json.loads(summary.read_text(encoding="utf-8"))
        assert isinstance(done, dict)
        return done

    os.environ.setdefault("PYTORCH_ALLOC_CONF", "expandable_segments:True")
    import torch

    repeat_bits(strict=config.deterministic)

    from harness.distill.adafactor import Adafactor
    from harness.distill.train_options import TrainOptions
    from harness.distill.trainer import Trainer
    from harness.models.batches import Batcher
    from harness.models.dataset import TokenDataset
    from harness.models.support import prepare
    from harness.models.vocabulary import check_vocabulary

    torch.set_num_threads(config.threads)
    device = torch.device(chosen_device(config.device))
    if config.deterministic and device.type == "cuda":
        print(f"student_train: deterministic. {STRICT_COST}", file=sys.stderr)
        report_event("deterministic", cost=STRICT_COST)
    split = TokenDataset.open(config.dataset, "train")
    held_out = TokenDataset.open(config.dataset, "validation")
    train_batches = Batcher(
        split,
        seq_len=config.seq_len,
        micro_batch=config.micro_batch,
        seed=config.seed,
        mode=config.batching,
        effective_batch=config.effective_batch,
    )
    validation = None
    if len(held_out):
        rows = config.eval_batch or config.micro_batch
        validation = Batcher(held_out, seq_len=config.seq_len, micro_batch=rows, seed=0, mode=config.batching)
    model, tokenizer = load_model(config, device)
    folder = config.model if config.model.is_dir() else config.model.parent
    check_vocabulary(folder, config.dataset, rows=model.get_input_embeddings().weight.shape[0])
    prepared = prepare(model, attention=config.attention, batching=config.batching, seq_len=config.seq_len)
    report_event("model_checked", **prepared.describe())
    optimizer = Adafactor(
        model.parameters(),
        lr=config.lr,
        scale_parameter=config.scale_parameter,
        weight_decay=config.weight_decay,
        rounding=config.rounding,
        seed=config.seed,
    )
    options = TrainOptions(
        lr=config.lr,
        warmup_steps=config.warmup_steps,
        max_epochs=config.max_epochs,
        max_steps=config.max_steps,
        clip_norm=config.clip_norm,
        eval_every_steps=config.eval_every_steps,
        early_stop_eps=config.early_stop_eps,
        patience=config.patience,
        alpha=config.kd_alpha,
        temperature=config.temperature,
        tail=config.tail,
        gradient_checkpointing=config.gradient_checkpointing,
        state_every_steps=config.state_every_steps,
    )
    teacher, kept_mass = None, None
    if config.regime == "kd" and config.cache is not None:
        from harness.distill.logit_cache import CacheReader

        reader = CacheReader.open(config.cache, dataset_meta=split.meta, split="train")
        reader.check_temperature(config.temperature, config.tail)
        kept_mass = reader.check_kept_mass(config.temperature, config.min_kept_mass)
        teacher = reader
    trainer = Trainer(prepared, optimizer, train_batches, validation, teacher, options, config.out, tokenizer)
    result = trainer.run()
    done = {**_summary(config, result, model), "kept_mass": kept_mass}
    write_json(summary, done)
    trainer.clear_state()
    report_event("student_train", **done)
    return done


def load_model(config: StudentTrain, device: torch.device) -> tuple[Any, Path]:
    """The student on its device, and the folder its tokenizer is in.

    Raises:
        KitError: No model there.
    """
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    dtype = torch.bfloat16 if config.precision == "bfloat16" else torch.float32
    tokenizer = config.tokenizer or (config.model if config.model.is_dir() else config.model.parent)
    torch.manual_seed(config.seed)
    options: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
    with loading(
        config.model, "config.json" + ("" if config.init == "scratch" else " and whole safetensors")
    ):
        if config.init == "scratch":
            settings = AutoConfig.from_pretrained(config.model, **options)
            model: Any = AutoModelForCausalLM.from_config(settings, dtype=dtype)
        else:
            model = AutoModelForCausalLM.from_pretrained(config.model, dtype=dtype, **options)
    return model.to(device), tokenizer


def main() -> int:
    """Run the stage from the command line."""
    return run_stage(StudentTrain, train)


def _claim(config: StudentTrain) -> None:
    """Refuse to go on with a run of other settings or of other contents; else write this one's."""
    path = config.out / "config.json"
    wanted = {**plain(config), **_contents(config)}
    if path.exists():
        found = json.loads(path.read_text(encoding="utf-8"))
        names = sorted(name for name in wanted if name != "out" and found.get(name) != wanted[name])
        if names:
            differences = ", ".join(f"{name} {found.get(name)} there, {wanted[name]} here" for name in names)
            raise KitError(
                f"holds a run with other settings: {differences}",
                where=str(config.out),
                fix="choose another --out, or remove the folder",
            )
        return
    write_json(path, wanted)


def _contents(config: StudentTrain) -> dict[str, str | None]:
    """Digests of what lies in the folders of data set and cache: they may be made again under their names."""
    from harness.distill.cache_folder import read_fingerprint, read_manifest
    from harness.models.dataset import TokenDataset

    cache = None
    if config.cache is not None:
        parts = [read_fingerprint(config.cache), sorted(map(repr, read_manifest(config.cache).values()))]
        cache = hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()
    data = TokenDataset.open(config.dataset, "train").meta["content_digest"]
    return {"dataset_content": str(data), "cache_content": cache}


def _summary(config: StudentTrain, result: TrainResult, model: Any) -> dict[str, Any]:
    """Nothing here depends on the clock: equal seeds give equal bytes."""
    return {
        "regime": config.regime,
        "alpha": config.kd_alpha,
        "temperature": config.temperature if config.kd_alpha < 1 else None,
        "tail": config.tail if config.kd_alpha < 1 else None,
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "total_steps": result.total_steps,
        "stopped": result.stopped,
        "best_step": result.best_step,
        "best_eval_loss": result.best_eval_loss,
        "final_eval_loss": result.final_eval_loss,
        "final_loss": result.final_loss,
        **asdict(result.counters),
    }


if __name__ == "__main__":
    raise SystemExit(main())
