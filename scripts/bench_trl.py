"""TRL's SFTTrainer and ours on the same pocket data: losses and tokens/s side by side.

    python scripts/bench_trl.py [--examples 1600] [--epochs 2] [--student pocket-1b]

Same initial weights, same optimizer (ours), same schedule, same examples in the same batches and order; each
in a process of its own, in turns. TRL gets ready-made tokens and labels; what differs is the loop and the
loss. Rounding differences grow as in any training: `ours, nudged` starts from weights a millionth apart and
shows how far our own loop comes from itself. `ours, packed` trains on rows filled with several examples
instead: what the pipelines use.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

CASES = ("trl", "ours", "ours, nudged", "ours, packed")
LR, WARMUP = 1e-3, 20


def prepare(folder: Path, options: argparse.Namespace) -> None:
    """Tokenizer, data set and student as the pocket profile makes them."""
    from harness.distill.pocket_models import new_model
    from harness.distill.pocket_tokenizer import VOCABULARY, save_tokenizer
    from harness.distill.preprocess import PreprocessConfig, preprocess
    from harness.distill.sources import SourceConfig

    save_tokenizer(folder / "student")
    new_model(options.student, seed=0, vocabulary=VOCABULARY).save_pretrained(folder / "student")
    sources = [
        SourceConfig(kind="pocket", split="train", samples=options.examples),
        SourceConfig(kind="pocket", split="validation", samples=max(60, options.examples // 10)),
    ]
    preprocess(
        PreprocessConfig(
            out=folder / "set", tokenizer=folder / "student", sources=sources, seq_len=options.seq_len
        )
    )


def measure(case: str, folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Train in this process.

    Returns:
        Loss of every step, cross-entropy on the validation split afterwards, seconds, CPU seconds and real
        tokens.
    """
    import torch
    from transformers import AutoModelForCausalLM

    from harness.distill.adafactor import Adafactor
    from harness.distill.schedule import cosine_with_warmup
    from harness.models.batches import Batcher
    from harness.models.dataset import TokenDataset
    from harness.models.forward import label_states
    from harness.models.losses import sft_loss

    torch.set_num_threads(options.threads)
    split = TokenDataset.open(folder / "set", "train")
    whole = len(split) // options.batch * options.batch  # no short batch: both see the same steps
    mode: Any = "packed" if "packed" in case else "bucketed"
    batcher = Batcher(
        split,
        seq_len=options.seq_len,
        micro_batch=options.batch,
        seed=0,
        mode=mode,
        indices=range(whole),
    )
    steps = options.epochs * batcher.batches_per_epoch(0)
    model: Any = AutoModelForCausalLM.from_pretrained(folder / "student")
    if "nudged" in case:
        torch.manual_seed(1)
        with torch.no_grad():
            model.lm_head.weight.mul_(1 + 1e-6 * torch.randn(model.lm_head.weight.shape))
    optimizer = Adafactor(model.parameters(), lr=LR, scale_parameter=False)
    order = [row[0] for epoch in range(options.epochs) for batch in batcher.plan(epoch) for row in batch]
    out = folder / f"out-{case.replace(', ', '-')}-{time.monotonic_ns()}"
    out.mkdir()
    if case == "trl":
        trainer = trl_trainer(model, optimizer, split, order, steps, folder / "student", out, options)
    else:
        from harness.distill.train_options import TrainOptions
        from harness.distill.trainer import Trainer
        from harness.models.support import prepare

        trainer = Trainer(
            prepare(model, seq_len=options.seq_len),
            optimizer,
            batcher,
            None,
            None,
            TrainOptions(lr=LR, warmup_steps=WARMUP, max_epochs=options.epochs, state_every_steps=-1),
            out,
            folder / "student",
        )
    start, start_cpu = time.perf_counter(), time.process_time()
    if case == "trl":
        trainer.train()
    else:
        trainer.run()
    seconds, cpu = time.perf_counter() - start, time.process_time() - start_cpu
    if case == "trl":
        losses = [line["loss"] for line in trainer.state.log_history if "loss" in line]
    else:
        lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
        losses = [line["loss"] for line in lines if "loss" in line]
    held_out = Batcher(
        TokenDataset.open(folder / "set", "validation"), seq_len=options.seq_len, micro_batch=16, seed=0
    )
    model.eval()
    total, labels = 0.0, 0
    with torch.no_grad():
        for batch in held_out.epoch(0):
            hidden, targets = label_states(model, batch)
            total += sft_loss(hidden, model.lm_head.weight, targets).ce.item()
            labels += batch.label_tokens
    tokens = int(split.lengths[:whole].sum()) * options.epochs
    assert abs(cosine_with_warmup(0, total=steps, warmup=WARMUP) - 1 / WARMUP) < 1e-12
    return {"losses": losses, "validation": total / labels, "seconds": seconds, "cpu": cpu, "tokens": tokens}


def trl_trainer(
    model: Any,
    optimizer: Any,
    split: Any,
    order: list[int],
    steps: int,
    tokenizer: Path,
    out: Path,
    options: argparse.Namespace,
) -> Any:
    """SFTTrainer over the examples in the given order, a step a batch."""
    import torch
    from datasets import Dataset
    from transformers import PreTrainedTokenizerFast
    from trl import SFTConfig, SFTTrainer

    from harness.distill.schedule import cosine_with_warmup

    def row(index: int) -> dict[str, list[int]]:
        ids, mask = split.arrays(index)
        return {
            "input_ids": ids.tolist(),
            "labels": [int(token) if label else -100 for token, label in zip(ids, mask, strict=True)],
        }

    config = SFTConfig(
        output_dir=str(out),
        per_device_train_batch_size=options.batch,
        gradient_accumulation_steps=1,
        num_train_epochs=1,
        max_grad_norm=1.0,
        logging_steps=1,
        save_strategy="no",
        report_to="none",
        train_sampling_strategy="sequential",
        dataset_kwargs={"skip_prepare_dataset": True},
        gradient_checkpointing=False,
        bf16=False,
        use_cpu=True,
        seed=0,
        disable_tqdm=True,
        remove_unused_columns=False,
    )
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: cosine_with_warmup(step, total=steps, warmup=WARMUP)
    )
    return SFTTrainer(
        model=model,
        args=config,
        train_dataset=Dataset.from_list([row(index) for index in order]),
        processing_class=PreTrainedTokenizerFast.from_pretrained(str(tokenizer)),
        optimizers=(optimizer, schedule),
    )


def compare(folder: Path, options: argparse.Namespace) -> dict[str, dict[str, Any]]:
    """Every case `rounds` times in turns; the least seconds and CPU seconds of each."""
    prepare(folder, options)
    best: dict[str, dict[str, Any]] = {}
    for _ in range(options.rounds):
        for case in CASES:
            command = [sys.executable, __file__, *sys.argv[1:], "--case", case, "--folder", str(folder)]
            output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
            result = json.loads(output.splitlines()[-1])
            before = best.setdefault(case, result)
            assert before["losses"] == result["losses"], f"{case}: a repeat gave other losses"
            before |= {name: min(before[name], result[name]) for name in ("seconds", "cpu")}
    return best


def main() -> None:
    """Compare and print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--examples", type=int, default=1600, help="training examples")
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--batch", type=int, default=8, help="examples (packed: rows) of a step")
    parser.add_argument("--seq-len", type=int, default=256)
    parser.add_argument("--student", default="pocket-1b")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--case", choices=CASES, help="measure this one here and print JSON")
    parser.add_argument("--folder", type=Path, help="with --case: where the data set is")
    options = parser.parse_args()
    if options.case:
        print(json.dumps(measure(options.case, options.folder, options)))
        return
    with tempfile.TemporaryDirectory() as folder:
        results = compare(Path(folder), options)
    print(
        f"{'':14} {'steps':>6} {'first':>8} {'last 10':>8} {'held out':>9} {'tokens/s':>9} {'per CPU s':>10}"
    )
    for case, row in results.items():
        losses = row["losses"]
        last = sum(losses[-10:]) / len(losses[-10:])
        print(
            f"{case:14} {len(losses):6} {losses[0]:8.4f} {last:8.4f} {row['validation']:9.4f} "
            f"{row['tokens'] / row['seconds']:9,.0f} {row['tokens'] / row['cpu']:10,.0f}"
        )
    for other in ("trl", "ours, nudged"):
        pairs = list(zip(results[other]["losses"], results["ours"]["losses"], strict=True))
        apart = [abs(a - b) for a, b in pairs]
        held_out = abs(results[other]["validation"] - results["ours"]["validation"])
        print(
            f"{other} and ours: steps 1-20 within {max(apart[:20]):.1e}, mean over all steps "
            f"{sum(apart) / len(apart):.1e}, held out {held_out:.1e}"
        )


if __name__ == "__main__":
    main()
