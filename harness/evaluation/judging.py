"""Stage judge: a model scores the answers that stage evaluate left to be judged.

    python -m harness.evaluation.judging --answers DIR --judge DIR --out DIR [--teacher_results FILE]
    python -m harness.evaluation.judging --answers DIR --judge_url URL --judge_model NAME --out DIR

    OUT/config.json    the resolved configuration
    OUT/cache.jsonl    every judgement by content; a run that was killed goes on behind the last one
    OUT/judged.jsonl   one line for each item: replies and score
    OUT/results.json   all scores of the suite, those of stage evaluate included, and Q against the teacher

What the judge draws is this stage's, apart from the model's own answers.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from harness.distill.arguments import run_stage, write_config
from harness.distill.parts import part
from harness.distill.reporting import ELSEWHERE, report_event
from harness.errors import KitError
from harness.evaluation.cache import AnswerCache
from harness.evaluation.evaluate import Asked, asked_of
from harness.evaluation.judge import Judge, template_digest, weights_digest
from harness.evaluation.results import Results, plain, quality_of, read_results, report_scores
from harness.evaluation.scores import Score
from harness.evaluation.suites import JudgeSpec, Suite, suite_named
from harness.files import write_json
from harness.models.devices import chosen_device, use_threads
from harness.models.generation import TokenWork


@dataclass(frozen=True)
class JudgingConfig:
    """Judge the answers of an evaluation."""

    answers: Path = field(metadata={"help": "output folder of stage evaluate"})
    out: Path = field(metadata={"help": "output folder"})
    judge: Path | None = field(
        default=None, metadata={"help": "model folder of the judge that the suite names"}
    )
    judge_url: str | None = field(
        default=None,
        metadata={"help": "OpenAI-compatible endpoint of another judge instead; its energy is unknown"},
    )
    judge_model: str | None = field(default=None, metadata={"help": "name of the model at that endpoint"})
    data: Path | None = field(
        default=None, metadata={"help": "folder of benchmarks; null: the one KIT_BENCHMARKS names"}
    )
    teacher_results: Path | None = field(
        default=None, metadata={"help": "results.json of the judged teacher on the same suite; needed for Q"}
    )
    device: str = field(default="auto", metadata={"help": "cpu, cuda, or auto: cuda where there is one"})
    threads: int | None = field(default=None, metadata={"help": "CPU threads; torch's choice by default"})


def run(config: JudgingConfig) -> Results:
    """Run the stage; returns what `results.json` holds.

    Raises:
        KitError: Answers, judge or teacher's results do not fit the suite.
    """
    results = read_results(config.answers / "results.json")
    name, _, part_of = str(results["suite"]).partition(" first ")
    suite = suite_named(name)
    teacher = None if config.teacher_results is None else read_results(config.teacher_results)
    if (config.judge is None) == (config.judge_url is None) or (
        (config.judge_url is None) != (config.judge_model is None)
    ):
        raise KitError("who judges?", where="judge", expected="judge, or judge_url with judge_model")
    spec = suite.judge
    if spec is None or not results["to_judge"]:
        raise KitError(
            "has no answers to be judged", where=str(config.answers), expected="replies of a suite"
        )
    check_template(spec)
    try:
        replies = dict(json.loads((config.answers / "replies.json").read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise KitError(
            f"holds no replies ({error})",
            where=str(config.answers),
            expected="replies.json of stage evaluate",
        ) from None
    chosen = suite.chosen(results["to_judge"])
    asked = [asked_of(benchmark, config.data, int(part_of) if part_of else None) for benchmark in chosen]
    for each in asked:
        if len(replies.get(each.benchmark.name, ())) != len(each.items):
            raise KitError(f"holds other replies of {each.benchmark.name}", where=str(config.answers))
    write_config(config, config.out)
    scores, judge_id, counts = _judge(config, suite, spec, asked, replies)
    rows = [plain(score) for score in scores]
    results = {**results, "benchmarks": [*results["benchmarks"], *rows], "to_judge": [], "judge": judge_id}
    results |= {"judging": counts}
    if teacher is not None:
        results["quality"] = {**asdict(quality_of(suite, results, teacher)), "teacher": teacher["model"]}
    write_json(config.out / "results.json", results)
    report_scores({**results, "heldout_loss": None}, rows, teacher)
    report_event(
        "evaluation",
        suite=results["suite"],
        judge=judge_id,
        scores={f"{row['name']} {row['metric']} {row['filter']}": row["score"] for row in rows},
        q=None if results["quality"] is None else results["quality"]["q"],
    )
    return results


def check_template(spec: JudgeSpec) -> None:
    """Refuse prompts that are not those the suite was pinned with.

    Raises:
        KitError: They differ.
    """
    if spec.method == "template" and spec.template_sha256 != prompts_digest():
        raise KitError(
            f"the judge's prompts are {prompts_digest()[:12]}",
            where=spec.name,
            expected=f"{(spec.template_sha256 or 'none')[:12]}, as in the suite",
        )


def prompts_digest() -> str:
    """Digest of everything a judge may be told."""
    from harness.evaluation.dialogues import ABILITIES, REFERENCED

    texts = {f"ability {name}": " | ".join(words) for name, words in ABILITIES.items()}
    return template_digest({**texts, "referenced": " ".join(sorted(REFERENCED))})


def load_judge(
    spec: JudgeSpec, folder: Path, *, batch_size: int, device: str, work: TokenWork, cache: Path | None
) -> tuple[Judge, AnswerCache]:
    """The judge, loaded and checked.

    Raises:
        KitError: It cannot be loaded, or is not the suite's.
    """
    from harness.evaluation.lm_eval_model import CountedModel
    from harness.models.chat import ChatEncoder
    from harness.models.loading import load_causal_model

    digest = weights_digest(folder)
    encoder = ChatEncoder.load(folder)
    identity = {"judge": digest, "spec": spec.model_dump(mode="json"), "prompts": prompts_digest()}
    known = AnswerCache(cache, identity)
    model = load_causal_model(folder, dtype=spec.dtype, device=device)
    lm = CountedModel(model, encoder.tokenizer, batch_size=batch_size, work=work, cache=known)
    return Judge(spec, lm, encoder, digest), known


def _judge(
    config: JudgingConfig,
    suite: Suite,
    spec: JudgeSpec,
    asked: list[Asked],
    replies: dict[str, list[list[str]]],
) -> tuple[list[Score], str, dict[str, Any]]:
    from harness.evaluation import dialogues, pairwise

    work, kept = TokenWork(), config.out / "cache.jsonl"
    if config.judge_url is not None and config.judge_model is not None:
        from harness.evaluation.api_judge import api_judge

        report_event(ELSEWHERE, judge=config.judge_model)
        judge, cache = api_judge(spec, config.judge_url, config.judge_model, prompts_digest(), work, kept)
    else:
        assert config.judge is not None
        use_threads(config.threads)
        judge, cache = load_judge(
            spec,
            config.judge,
            batch_size=suite.batch_size,
            device=chosen_device(config.device),
            work=work,
            cache=kept,
        )
    scores: list[Score] = []
    for each in asked:
        said = replies[each.benchmark.name]
        with part(each.benchmark.name, "judge", work):
            if each.benchmark.adapter == "pairwise":
                scores += pairwise.judge_answers(each.benchmark, each.items, said, judge, config.data)
            else:
                scores += dialogues.judge_answers(each.benchmark, each.items, said, judge)
    report_event("judgements", reused=cache.reused, computed=cache.computed)
    lines = [
        json.dumps({"benchmark": s.name, "metric": s.metric, "id": item.id, "replies": text, "score": score})
        for each in asked
        for s in scores
        if s.name == each.benchmark.name and s.item_scores
        for item, text, score in zip(each.items, s.answers, s.item_scores, strict=True)
    ]
    (config.out / "judged.jsonl").write_text("".join(line + "\n" for line in lines), encoding="utf-8")
    counts = {"processed_tokens": work.processed, "generated_tokens": work.generated, "reused": cache.reused}
    return scores, judge.id, counts


def main() -> int:
    """The stage's command line."""
    return run_stage(JudgingConfig, run)


if __name__ == "__main__":
    raise SystemExit(main())
