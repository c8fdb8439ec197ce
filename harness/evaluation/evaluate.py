"""Stage evaluate: ask a model a suite's benchmarks, and score what needs no judge.

    python -m harness.evaluation.evaluate --model DIR --suite NAME --out DIR [--teacher_results FILE]

    OUT/config.json     the resolved configuration
    OUT/cache.jsonl     every answer by content; a run that was killed goes on behind the last one
    OUT/answers.jsonl   one line for each item: what came, and its score
    OUT/replies.json    answers that a judge is still to score (`harness.evaluation.judging`)
    OUT/results.json    scores, held-out loss, tokens, and Q against the teacher where no judge is needed;
                        its presence says that the evaluation is complete

Each benchmark is a part of the stage, with a row and tokens of its own.
"""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.distill.arguments import run_stage, write_config
from harness.distill.parts import part
from harness.distill.reporting import report_event
from harness.errors import KitError
from harness.evaluation.cache import AnswerCache
from harness.evaluation.items import Item, load
from harness.evaluation.results import (
    FORMAT,
    Results,
    plain,
    quality_of,
    read_results,
    report_scores,
)
from harness.evaluation.suites import Benchmark, Suite, suite_named
from harness.files import write_json
from harness.models.devices import chosen_device, use_threads
from harness.models.generation import TokenWork

if TYPE_CHECKING:
    from harness.evaluation.scores import Score
    from harness.models.chat import ChatEncoder


@dataclass(frozen=True)
class EvaluateConfig:
    """Ask a model a suite's benchmarks and score it on held-out data."""

    model: Path = field(metadata={"help": "model folder"})
    suite: str = field(metadata={"help": "the benchmarks, with or without digest; Q is over exactly these"})
    out: Path = field(metadata={"help": "output folder"})
    benchmarks: list[str] = field(
        default_factory=list, metadata={"help": "only these of the suite; then no Q"}
    )
    limit: int | None = field(
        default=None,
        metadata={"help": "only the first items of each benchmark; such a score compares with no other"},
    )
    data: Path | None = field(
        default=None, metadata={"help": "folder of benchmarks; null: the one KIT_BENCHMARKS names"}
    )
    dataset: Path | None = field(
        default=None, metadata={"help": "data set whose validation split gives the held-out loss; null: none"}
    )
    tokenizer: Path | None = field(
        default=None,
        metadata={"help": "folder with the tokenizer and chat template; null: those of the model's folder"},
    )
    teacher_results: Path | None = field(
        default=None, metadata={"help": "results.json of the teacher on the same suite; needed for Q"}
    )
    eval_batch: int = field(default=8, metadata={"help": "rows of a forward pass of the held-out loss"})
    model_revision: str | None = field(
        default=None, metadata={"help": "commit of the weights; names them instead of a digest of every byte"}
    )
    device: str = field(default="auto", metadata={"help": "cpu, cuda, or auto: cuda where there is one"})
    threads: int | None = field(default=None, metadata={"help": "CPU threads; torch's choice by default"})


@dataclass(frozen=True)
class Asked:
    """A benchmark with its items and worked examples."""

    benchmark: Benchmark
    items: list[Item]
    shots: list[Item]


def run(config: EvaluateConfig) -> Results:
    """Run the stage; returns what `results.json` holds.

    Raises:
        KitError: Suite, model, data or teacher's results do not fit, or a benchmark scored no item.
    """
    suite = suite_named(config.suite)
    chosen = suite.chosen(config.benchmarks)
    if config.eval_batch < 1 or (config.limit is not None and config.limit < 1):
        raise KitError("eval_batch, limit", expected="at least 1")
    teacher = None if config.teacher_results is None else read_results(config.teacher_results)
    asked = [asked_of(benchmark, config.data, config.limit) for benchmark in chosen]
    from harness.distill.teacher_logits_model import teacher_identity
    from harness.models.chat import ChatEncoder

    identity = teacher_identity(config.model, config.model_revision)
    encoder = ChatEncoder.load(config.tokenizer or config.model)
    recipe: Results = {
        "format": FORMAT,
        "model": identity.describe(suite.dtype),
        "prompted": {"tokenizer": encoder.tokenizer_sha256, "template": encoder.template_sha256},
        "suite": name_of(suite, config.limit),
        "asked": [benchmark.name for benchmark in chosen],
        "data": _data(config.dataset),
    }
    results = _finished(config.out, recipe)
    if results is None:
        write_config(config, config.out)
        results = _evaluate(config, suite, asked, recipe, encoder)
    else:
        report_event("reused", suite=results["suite"])
    if results["to_judge"] or teacher is None:
        results["quality"] = None
    else:
        # Q costs nothing and its inputs may come later than the scores.
        results["quality"] = {**asdict(quality_of(suite, results, teacher)), "teacher": teacher["model"]}
    write_json(config.out / "results.json", results)
    report_scores(results, results["benchmarks"], teacher)
    report_event(
        "evaluation",
        suite=results["suite"],
        scores={f"{r['name']} {r['metric']} {r['filter']}": r["score"] for r in results["benchmarks"]},
        heldout_loss=results["heldout_loss"],
        q=None if results["quality"] is None else results["quality"]["q"],
    )
    return results


def name_of(suite: Suite, limit: int | None) -> str:
    """What scores are filed under: a part of the items is another suite."""
    return suite.id if limit is None else f"{suite.id} first {limit}"


def asked_of(benchmark: Benchmark, data: Path | None, limit: int | None) -> Asked:
    """Load a benchmark's items and worked examples.

    Raises:
        KitError: They are not there, are not the suite's, or the examples are among the questions.
    """
    items = load(benchmark.data, data, benchmark.name)
    shots = [] if benchmark.shots is None else load(benchmark.shots.data, data, f"{benchmark.name}'s shots")
    if shots:
        from harness.evaluation.lm_eval_tasks import check_shots

        check_shots(benchmark, items, shots)
    return Asked(benchmark, items[:limit], shots)


def _evaluate(
    config: EvaluateConfig, suite: Suite, asked: list[Asked], recipe: Results, encoder: ChatEncoder
) -> Results:
    from harness.evaluation.lm_eval_model import CountedModel
    from harness.models.loading import load_causal_model

    use_threads(config.threads)
    work = TokenWork()
    known = {"model": recipe["model"], "prompted": recipe["prompted"], "engine": "transformers"}
    cache = AnswerCache(config.out / "cache.jsonl", known)
    model = load_causal_model(config.model, dtype=suite.dtype, device=chosen_device(config.device))
    held_out: dict[str, Any] = {"heldout_loss": None, "heldout_label_tokens": None}
    if config.dataset is not None:
        with part("held-out loss", "evaluate", work):
            held_out = _held_out(config.dataset, config.eval_batch, model, work)
        # The held-out loss may have set the model up for packed rows.
        model.set_attn_implementation("sdpa")
    lm = CountedModel(model, encoder.tokenizer, batch_size=suite.batch_size, work=work, cache=cache)
    scores: list[Score] = []
    replies: dict[str, list[list[str]]] = {}
    for each in asked:
        with part(each.benchmark.name, "evaluate", work):
            if each.benchmark.judged:
                replies[each.benchmark.name] = _answer(each, lm, encoder)
            else:
                scores += _score(each, lm)
    report_event("answers", reused=cache.reused, computed=cache.computed)
    _write_answers(config.out / "answers.jsonl", asked, scores, replies)
    write_json(config.out / "replies.json", replies)
    return {
        **recipe,
        "benchmarks": [plain(score) for score in scores],
        "to_judge": list(replies),
        "judge": None,
        **held_out,
        "processed_tokens": work.processed,
        "positions": work.positions,
        "generated_tokens": work.generated,
        "answers_reused": cache.reused,
    }


def _score(asked: Asked, lm: Any) -> list[Score]:
    from harness.evaluation import lm_eval_tasks

    scores = lm_eval_tasks.score(asked.benchmark, asked.items, asked.shots, lm)
    for score in scores:
        if score.score is None or not math.isfinite(score.score):
            raise KitError(f"{score.name}: {score.metric} is no number", expected="a score", exit_code=1)
    return scores


def _answer(asked: Asked, lm: Any, encoder: Any) -> list[list[str]]:
    from harness.evaluation import dialogues, pairwise

    module = pairwise if asked.benchmark.adapter == "pairwise" else dialogues
    return module.answer(asked.benchmark, asked.items, lm, encoder)


def _held_out(dataset: Path, rows: int, model: Any, work: TokenWork) -> dict[str, Any]:
    from harness.evaluation.held_out import held_out_loss
    from harness.models.dataset import TokenDataset

    split = TokenDataset.open(dataset, "validation")
    found = held_out_loss(model, split, seq_len=int(split.meta["seq_len"]), rows=rows, work=work)
    return {
        "heldout_loss": None if found is None else found.loss,
        "heldout_label_tokens": None if found is None else found.label_tokens,
    }


def _write_answers(
    path: Path, asked: list[Asked], scores: list[Score], replies: dict[str, list[list[str]]]
) -> None:
    lines = []
    for each in asked:
        name = each.benchmark.name
        main = next((score for score in scores if score.name == name), None)
        for number, item in enumerate(each.items):
            row: dict[str, Any] = {"benchmark": name, "id": item.id, "item_sha256": item.sha256}
            if main is None:
                row["replies"] = replies[name][number]
            else:
                row |= {"answer": main.answers[number], "score": main.item_scores[number]}
            lines.append(json.dumps(row, ensure_ascii=False, sort_keys=True) + "\n")
    path.write_text("".join(lines), encoding="utf-8")


def _finished(out: Path, recipe: Results) -> Results | None:
    """What an earlier run left, if it evaluated the same model on the same things."""
    if not (out / "results.json").exists():
        return None
    results = read_results(out / "results.json")
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
