"""The pocket suite through the real lm-eval: the answers of its own model, its items, grades, our counts."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager

from harness.distill.pocket_tasks import FAMILIES, examples, split_of
from harness.errors import KitError
from harness.evaluation import lm_eval_model
from harness.evaluation.lm_eval_model import CountedModel
from harness.evaluation.lm_eval_tasks import TASKS, score
from harness.evaluation.suites import Subject, score_suite, suite_named
from harness.models.generation import TokenWork
from tests.distill import generation_lab as lab
from tests.distill import pocket_fixtures

POCKET = suite_named("pocket")

torch.set_num_threads(1)


def subject_of(model: Any, out: Path, items: int = 7) -> Subject:
    return Subject(
        model, pocket_fixtures.tokenizer(), out, batch_size=8, items=items, seed=0, work=TokenWork()
    )


def requests(texts: Sequence[str], settings: dict[str, Any]) -> list[Instance]:
    return [
        Instance("generate_until", {}, (text, dict(settings)), number) for number, text in enumerate(texts)
    ]


def chat(text: str) -> str:
    return f"<|endoftext|><|user|>\n{text}\n<|assistant|>\n"


QUESTIONS = ("Sort the words: oak egg", "a", "Count the words: a b c d", "Run mod 10: a=1")
TEXTS = [chat(question) for question in QUESTIONS]


@pytest.mark.parametrize("until", [[], ["e"], ["a", "answer", "\n"]])
def test_answers_are_those_of_lm_evals_own_model(until: list[str]) -> None:
    for seed in range(4):
        model = lab.tiny_model(seed, end_bias=6.0)
        settings = {"until": until, "do_sample": False, "max_gen_toks": 16}
        theirs = HFLM(pretrained=model, tokenizer=pocket_fixtures.tokenizer(), batch_size=3)
        ours = CountedModel(model, pocket_fixtures.tokenizer(), batch_size=3, work=TokenWork())
        expected = theirs.generate_until(requests(TEXTS, settings), disable_tqdm=True)
        assert ours.generate_until(requests(TEXTS, settings)) == expected


def test_prompts_are_the_chat_templates_and_every_token_is_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[list[int]] = []
    said: list[list[int]] = []
    real = lm_eval_model.decode

    def spy(model: Any, prompts: list[list[int]], *arguments: Any, **options: Any) -> Any:
        answers, work = real(model, prompts, *arguments, **options)
        asked.extend(prompts)
        said.extend(answers)
        return answers, work

    monkeypatch.setattr(lm_eval_model, "decode", spy)
    subject = subject_of(lab.tiny_model(end_bias=6.0), tmp_path)
    scores = score_suite(POCKET, subject)
    items = [
        json.loads(line)
        for benchmark in POCKET.benchmarks
        for line in (tmp_path / "items" / f"{benchmark.name}.jsonl").read_text().splitlines()
    ]
    expected = [lab.encoder().prompt([{"role": "user", "content": item["prompt"]}]) for item in items]
    assert sorted(asked) == sorted(expected) and len(items) == 21
    assert {split_of(item["prompt"]) for item in items} == {"eval"}
    work = subject.work
    assert work.generated == sum(len(answer) for answer in said) <= 32 * 21
    assert work.processed == sum(len(a) + len(b) - 1 for a, b in zip(asked, said, strict=True))
    assert work.positions > work.processed
    for found in scores:
        assert (found.n_items, found.n_scored, found.metric, found.unit) == (7, 7, "exact_match", "fraction")
        assert [row["id"] for row in found.answers] == [
            item["id"] for item in items if item["id"].startswith(found.name.removeprefix("pocket_"))
        ]


def answer_with(say: Callable[[str, str, int], str], out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Put `say(benchmark, right answer, index)` into the model's mouth."""
    tokenizer = pocket_fixtures.tokenizer()

    def oracle(model: Any, prompts: list[list[int]], *_: Any, **__: Any) -> Any:
        known: dict[tuple[int, ...], str] = {}
        for benchmark in POCKET.benchmarks:
            lines = (out / "items" / f"{benchmark.name}.jsonl").read_text().splitlines()
            for index, line in enumerate(lines):
                item = json.loads(line)
                prompt = lab.encoder().prompt([{"role": "user", "content": item["prompt"]}])
                known[tuple(prompt)] = say(benchmark.name, item["answer"], index)
        answers = [[*tokenizer(known[tuple(prompt)])["input_ids"], 0] for prompt in prompts]
        return answers, TokenWork(generated=sum(map(len, answers)))

    monkeypatch.setattr(lm_eval_model, "decode", oracle)


def test_right_answers_score_and_wrong_ones_do_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def say(name: str, answer: str, index: int) -> str:
        if name == "pocket_programs":
            return f"a=1 Answer: 99 Answer: {answer}"
        return answer if name == "pocket_instructions" else f"{answer} Answer: {answer}0"

    answer_with(say, tmp_path, monkeypatch)
    scores = score(POCKET.benchmarks, subject_of(lab.tiny_model(), tmp_path))
    found = {result.name: result for result in scores}
    assert found["pocket_instructions"].score == 1.0 and found["pocket_instructions"].stderr == 0.0
    assert found["pocket_programs"].score == 1.0
    assert found["pocket_arithmetic"].score == 0.0
    assert found["pocket_arithmetic"].answers[0]["response"].endswith("0")


def test_the_error_of_a_share_is_that_of_its_sample(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    answer_with(lambda _, answer, index: answer if index in (0, 3, 4) else "no", tmp_path, monkeypatch)
    for result in score(POCKET.benchmarks, subject_of(lab.tiny_model(), tmp_path, items=5)):
        assert result.score == pytest.approx(0.6)
        assert result.stderr == pytest.approx((0.6 * 0.4 / 4) ** 0.5)
        assert [row["score"] for row in result.answers] == [1.0, 0.0, 0.0, 1.0, 1.0]


def test_the_task_folder_holds_the_suite_and_nothing_of_lm_evals(tmp_path: Path) -> None:
    manager = TaskManager(include_path=str(TASKS), include_defaults=False)
    assert manager.all_tasks == sorted(benchmark.name for benchmark in POCKET.benchmarks)


def test_items_have_a_name_that_changes_with_them(tmp_path: Path) -> None:
    from harness.evaluation.lm_eval_tasks import write_items

    benchmark = POCKET.benchmarks[1]
    subject = subject_of(None, tmp_path)
    first = write_items(benchmark, subject, tmp_path / "a")
    assert write_items(benchmark, subject, tmp_path / "b") == first
    subject.seed = 1
    assert write_items(benchmark, subject, tmp_path / "c") != first


def test_what_would_go_uncounted_is_refused() -> None:
    model = CountedModel(lab.tiny_model(), pocket_fixtures.tokenizer(), batch_size=2, work=TokenWork())
    with pytest.raises(KitError, match="generative tasks only"):
        model.loglikelihood([])
    sampling = {"until": [], "do_sample": True, "temperature": 0.5, "max_gen_toks": 4}
    with pytest.raises(KitError, match="asks for sampling"):
        model.generate_until(requests(TEXTS, sampling))


def test_the_longest_right_answer_fits_what_a_model_may_say() -> None:
    cap = yaml.safe_load((TASKS / "_pocket_template_yaml").read_text().replace("!function", ""))
    longest = max(
        len(pocket_fixtures.tokenizer()(example["messages"][1]["content"])["input_ids"]) + 1
        for family in FAMILIES
        for example in examples(family, "eval", 400, 0)
    )
    assert longest < cap["generation_kwargs"]["max_gen_toks"]
