"""Stage evaluate: what a trained model is worth.

    python -m harness.evaluation.evaluate --model DIR --dataset DIR --out DIR [--teacher_results FILE]

    OUT/config.json     the resolved configuration
    OUT/items/          the items asked, where they are generated
    OUT/answers.jsonl   one line for each item: what was asked for, what came, its score
    OUT/results.json    scores, held-out loss, tokens, and Q against the teacher where its results are given;
                        its presence says that the evaluation is complete

Run again after a kill it does everything again, with the same result; run again when complete it does
nothing. Suites and how to add one: `harness.evaluation.suites`.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from harness.accounting.quality import Measured, quality
from harness.distill.arguments import run_stage, write_config
from harness.distill.reporting import report_event, report_tokens
from harness.errors import KitError
from harness.evaluation.score_reports import report_scores
from harness.evaluation.suites import Score, Subject, Suite, score_suite, suite_named
from harness.files import write_json
from harness.models.devices import chosen_device
from harness.models.generation import TokenWork

if TYPE_CHECKING:
    from harness.evaluation.held_out import HeldOut

FORMAT = "results/1"


@dataclass(frozen=True)
class EvaluateConfig:
    """Score a model on a suite of benchmarks and on held-out data."""

    model: Path = field(metadata={"help": "model folder, with its tokenizer"})
    out: Path = field(metadata={"help": "output folder"})
    dataset: Path | None = field(
        default=None, metadata={"help": "data set whose validation split gives the held-out loss; null: none"}
    )
    suite: str = field(default="pocket", metadata={"help": "the benchmarks; Q is over exactly these"})
    teacher_results: Path | None = field(
        default=None, metadata={"help": "results.json of the teacher on the same suite; needed for Q"}
    )
    items: int = field(default=40, metadata={"help": "items of each benchmark that is generated"})
    seed: int = field(default=0, metadata={"help": "of generated items; the same for all that are compared"})
    batch_size: int = field(default=128, metadata={"help": "prompts a batch; it decides last bits"})
    eval_batch: int = field(default=8, metadata={"help": "rows of a forward pass of the held-out loss"})
    model_revision: str | None = field(
        default=None, metadata={"help": "commit of the weights; names them instead of a digest of every byte"}
    )
    dtype: Literal["float32", "bfloat16"] = field(
        default="bfloat16", metadata={"help": "type of weights and activations"}
    )
    device: str = field(default="auto", metadata={"help": "cpu, cuda, or auto: cuda where there is one"})
    threads: int | None = field(default=None, metadata={"help": "CPU threads; torch's choice by default"})


def run(config: EvaluateConfig) -> dict[str, Any]:
    """Run the stage; returns what `results.json` holds.

    Raises:
        KitError: Model, data or teacher's results do not fit, or a benchmark scored no item.
    """
    suite = suite_named(config.suite)
    if min(config.items, config.batch_size, config.eval_batch) < 1:
        raise KitError("items, batch_size, eval_batch", expected="at least 1")
    teacher = None if config.teacher_results is None else _read_results(config.teacher_results)
    from harness.distill.teacher_logits_model import teacher_identity

    identity = teacher_identity(config.model, config.model_revision)
    recipe: dict[str, Any] = {
        "format": FORMAT,
        "model": identity.describe(config.dtype),
        "suite": suite.name,
        "items": config.items,
        "seed": config.seed,
        "batch_size": config.batch_size,
        "data": _data(config.dataset),
    }
    results = _finished(config.out, recipe)
    if results is None:
        write_config(config, config.out)
        results = _evaluate(config, suite, recipe)
    else:
        report_event("reused", suite=suite.name)
    # Q costs nothing and its inputs may come later than the scores.
    results["quality"] = None if teacher is None else _quality(suite, results, teacher)
    write_json(config.out / "results.json", results)
    report_scores(results, teacher)
    report_event(
        "evaluation",
        suite=suite.name,
        scores={benchmark["name"]: benchmark["score"] for benchmark in results["benchmarks"]},
        heldout_loss=results["heldout_loss"],
        q=None if results["quality"] is None else results["quality"]["q"],
    )
    return results


def _evaluate(config: EvaluateConfig, suite: Suite, recipe: dict[str, Any]) -> dict[str, Any]:
    import torch

    from harness.models.chat import ChatEncoder
    from harness.models.generation_transformers import load_causal_model

    if config.threads is not None:
        torch.set_num_threads(config.threads)
    tokenizer = ChatEncoder.load(config.model).tokenizer
    model = load_causal_model(config.model, dtype=config.dtype, device=chosen_device(config.device))
    subject = Subject(
        model, tokenizer, config.out, config.batch_size, config.items, config.seed, work=TokenWork()
    )
    held_out = _held_out(config, subject)
    # The held-out loss may have set the model up for packed rows.
    model.set_attn_implementation("sdpa")
    scores = score_suite(suite, subject)
    work = subject.work
    report_tokens(processed=work.processed, positions=work.positions, generated=work.generated)
    answers = [row for score in scores for row in score.answers]
    lines = [json.dumps(row, ensure_ascii=False, sort_keys=True) + "\n" for row in answers]
    (config.out / "answers.jsonl").write_text("".join(lines), encoding="utf-8")
    return {
        **recipe,
        "benchmarks": [_plain(score) for score in scores],
        "heldout_loss": None if held_out is None else held_out.loss,
        "heldout_label_tokens": None if held_out is None else held_out.label_tokens,
        "processed_tokens": work.processed,
        "positions": work.positions,
        "generated_tokens": work.generated,
    }


def _held_out(config: EvaluateConfig, subject: Subject) -> HeldOut | None:
    if config.dataset is None:
        return None
    from harness.evaluation.held_out import held_out_loss
    from harness.models.dataset import TokenDataset

    dataset = TokenDataset.open(config.dataset, "validation")
    return held_out_loss(
        subject.model,
        dataset,
        seq_len=int(dataset.meta["seq_len"]),
        rows=config.eval_batch,
        work=subject.work,
    )


def _plain(score: Score) -> dict[str, Any]:
    return {
        "name": score.name,
        "metric": score.metric,
        "score": score.score,
        "score_unit": score.unit,
        "n_items": score.n_items,
        "n_scored": score.n_scored,
        "stderr": score.stderr,
        "harness": score.harness,
        "harness_version": score.harness_version,
        "items_sha256": score.items_sha256,
        "item_sha256": [item.sha256 for item in score.items],
        "item_scores": [item.score for item in score.items],
    }


def _quality(suite: Suite, results: dict[str, Any], teacher: dict[str, Any]) -> dict[str, Any]:
    """Q as results.json holds it; scores on other items are no scores for it."""
    asked = {benchmark["name"]: benchmark["items_sha256"] for benchmark in results["benchmarks"]}

    def measured(benchmarks: list[dict[str, Any]]) -> dict[str, Measured]:
        return {
            benchmark["name"]: Measured(benchmark["score"], benchmark["stderr"])
            for benchmark in benchmarks
            if asked.get(benchmark["name"], benchmark["items_sha256"]) == benchmark["items_sha256"]
            and benchmark["n_scored"] == benchmark["n_items"]
        }

    found = quality(measured(results["benchmarks"]), measured(teacher["benchmarks"]), suite.benchmarks)
    return {**asdict(found), "teacher": teacher["model"]}


def _read_results(path: Path) -> dict[str, Any]:
    try:
        results = json.loads(path.read_text(encoding="utf-8"))
        if results["format"] != FORMAT:
            raise ValueError(f"format {results['format']}")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise KitError(
            f"holds no results ({error})",
            where=str(path),
            expected=f"results.json of this stage, format {FORMAT}",
            fix="python -m harness.evaluation.evaluate --model TEACHER",
        ) from None
    assert isinstance(results, dict)
    return results


def _finished(out: Path, recipe: dict[str, Any]) -> dict[str, Any] | None:
    """What an earlier run left, if it evaluated the same model on the same things."""
    if not (out / "results.json").exists():
        return None
    results = _read_results(out / "results.json")
    return results if all(results.get(name) == value for name, value in recipe.items()) else None


def _data(dataset: Path | None) -> dict[str, Any] | None:
    if dataset is None:
        return None
    from harness.models.dataset import TokenDataset

    return {"content_digest": TokenDataset.open(dataset, "validation").meta["content_digest"]}


def main() -> int:
    """The stage's command line."""
    return run_stage(EvaluateConfig, run)


if __name__ == "__main__":
    raise SystemExit(main())
