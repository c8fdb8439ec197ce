"""Benchmarks that lm-eval scores, from task files of our own on local items.

lm-eval's `evaluate` is called, not `simple_evaluate` around it: what that adds for a model in memory is a
description of the machine that takes seconds (compilers, packages, drivers), of which the meter has its own.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from harness.bundle.canonical import canonical_json
from harness.distill.pocket_tasks import examples, extract_answer
from harness.errors import KitError
from harness.evaluation.suites import Benchmark, Item, Score, Subject
from harness.journal.scores import items_digest

TASKS = Path(__file__).parent / "tasks"


def score(benchmarks: Sequence[Benchmark], subject: Subject) -> list[Score]:
    """Score benchmarks through lm-eval, all prompts of equal settings in common batches.

    Raises:
        KitError: lm-eval is not installed, or it left a benchmark out.
    """
    try:
        import lm_eval.api.task
        from lm_eval.evaluator import evaluate
        from lm_eval.tasks import TaskManager

        from harness.evaluation.lm_eval_model import CountedModel
    except ImportError as error:
        raise KitError(
            f"lm-eval cannot be imported ({error})", expected="the extra `eval`", fix="make setup-train"
        ) from None
    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    # It offers no other way to quiet the bar that it draws while making prompts.
    lm_eval.api.task.tqdm = lambda items, **_: items
    items = subject.out / "items"
    for benchmark in benchmarks:
        write_items(benchmark, subject, items)
    manager = TaskManager(include_path=str(TASKS), include_defaults=False, metadata={"items": str(items)})
    model = CountedModel(subject.model, subject.tokenizer, batch_size=subject.batch_size, work=subject.work)
    found = evaluate(
        lm=model,
        task_dict=manager.load([benchmark.name for benchmark in benchmarks]),
        apply_chat_template=True,
        log_samples=True,
        # The mean has a closed form; there is nothing to bootstrap. Zero would leave out its error too.
        bootstrap_iters=1,
    )
    return [_score(benchmark, found) for benchmark in benchmarks]


def write_items(benchmark: Benchmark, subject: Subject, out: Path) -> str:
    """Write a pocket benchmark's items as JSON lines; returns the digest that names them.

    They are problems of the "eval" split, which no training or validation set holds; of a conversation the
    first question.
    """
    family = str(benchmark.options["family"])
    items = []
    for example in examples(family, "eval", subject.items, subject.seed):
        asked, told = example["messages"][:2]
        item = {"id": example["id"], "prompt": asked["content"], "answer": extract_answer(told["content"])}
        items.append(item)
    out.mkdir(parents=True, exist_ok=True)
    lines = [json.dumps(item, sort_keys=True) + "\n" for item in items]
    (out / f"{benchmark.name}.jsonl").write_text("".join(lines), encoding="utf-8")
    return items_digest([item_sha256(item) for item in items])


def item_sha256(item: Mapping[str, str]) -> str:
    """Digest of an item as asked: SHA-256 of the canonical JSON of its id, prompt and answer."""
    return hashlib.sha256(
        canonical_json({name: item[name] for name in ("id", "prompt", "answer")})
    ).hexdigest()


def _score(benchmark: Benchmark, found: Any) -> Score:
    results = found["results"].get(benchmark.name, {})
    samples = sorted(found["samples"].get(benchmark.name, []), key=lambda sample: int(sample["doc_id"]))
    graded = [sample for sample in samples if isinstance(sample.get(benchmark.metric), int | float)]
    items = tuple(
        Item(item_sha256(sample["doc"]), float(grade) if isinstance(grade, int | float) else None)
        for sample in samples
        for grade in [sample.get(benchmark.metric)]
    )
    stderr = results.get(f"{benchmark.metric}_stderr,none")
    return Score(
        name=benchmark.name,
        metric=benchmark.metric,
        score=float(results.get(f"{benchmark.metric},none", float("nan"))),
        unit=benchmark.unit,
        n_items=len(items),
        n_scored=len(graded),
        stderr=float(stderr) if isinstance(stderr, int | float) else None,
        items_sha256=items_digest([item.sha256 for item in items]),
        items=items,
        harness="lm-eval",
        harness_version=version("lm_eval"),
        answers=[
            {
                "benchmark": benchmark.name,
                "id": sample["doc"]["id"],
                "response": sample["filtered_resps"][0],
                "expected": str(sample["target"]),
                "score": float(sample[benchmark.metric]),
            }
            for sample in graded
        ],
    )
