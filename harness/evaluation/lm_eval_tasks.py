"""Benchmarks that lm-eval scores: its stock tasks, or task files of our own, on local items that are pinned.

lm-eval's `evaluate` is called, not `simple_evaluate` around it: what that adds for a model in memory is a
description of the machine that takes seconds (compilers, packages, drivers), of which the meter has its own.
"""

from __future__ import annotations

import atexit
import importlib.util
import logging
import random
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from functools import cache, lru_cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

from harness.errors import KitError
from harness.evaluation.items import Item
from harness.evaluation.scores import Score
from harness.evaluation.suites import Benchmark

TASKS = Path(__file__).parent / "tasks"
PUNKT = "llama_index"
"""Package that brings NLTK's sentence model along (requirements/punkt.lock); none of its code is imported."""
GRADING_SEED = 0
"""IFEval and its language detection draw at random; verdicts are to repeat."""


def score(benchmark: Benchmark, items: Sequence[Item], shots: Sequence[Item], model: Any) -> list[Score]:
    """Ask a benchmark's items and grade the answers.

    Args:
        benchmark: One of the adapter `lm-eval`.
        items: In order.
        shots: Worked examples, of all groups.
        model: `CountedModel`, or another LM of lm-eval.

    Returns:
        The benchmark's score first, then those of `also`.

    Raises:
        KitError: lm-eval cannot be used, is another release, or its task is another version.
    """
    try:
        import lm_eval.api.task
        from lm_eval.evaluator import evaluate
    except ImportError as error:
        raise KitError(
            f"lm-eval cannot be imported ({error})", expected="the extra `eval`", fix="make setup-train"
        ) from None
    _check_release(benchmark)
    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    # It offers no other way to quiet the bar that it draws while making prompts.
    lm_eval.api.task.tqdm = lambda items, **_: items
    tasks = build_tasks(benchmark, items, shots)
    found = evaluate(
        lm=model,
        task_dict={"tasks": tasks, "groups": {}, "group_map": {}},
        apply_chat_template=benchmark.mode == "chat",
        log_samples=True,
        # Standard errors are ours (harness.accounting.item_scores).
        bootstrap_iters=1,
    )
    samples = [sample for name in tasks for sample in _in_order(found["samples"].get(name, []))]
    asked = [f"{benchmark.metric}/{benchmark.filter}", *benchmark.also]
    return [_score(benchmark, items, samples, *_parted(name)) for name in asked]


def build_tasks(benchmark: Benchmark, items: Sequence[Item], shots: Sequence[Item]) -> dict[str, Any]:
    """lm-eval's tasks over local items, by name: one for each group where the task file names `{group}`.

    Raises:
        KitError: The task file is missing, or is another version than the suite's.
    """
    import lm_eval.utils
    from datasets import Dataset
    from lm_eval.api.task import ConfigurableTask

    # Its tasks render every template through this one function, and there is no option for it.
    lm_eval.utils.apply_template = _rendered
    named = benchmark.task or benchmark.name
    groups = dict.fromkeys(item.group if "{group}" in named else None for item in items)
    tasks = {}
    for group in groups:
        path = task_file(named.replace("{group}", group or ""))
        config = _config(path, benchmark)
        docs = [_doc(number, item) for number, item in enumerate(items) if group in (None, item.group)]
        held = {"asked": Dataset.from_list(docs)}
        if shots:
            held["shown"] = Dataset.from_list(
                [dict(item.content) for item in shots if group in (None, item.group)]
            )
        config |= {
            "dataset_path": None,
            "custom_dataset": lambda held=held, **_: held,
            "dataset_kwargs": None,
            "test_split": "asked",
            "training_split": None,
            "validation_split": None,
            "fewshot_split": "shown" if shots else None,
            "num_fewshot": 0 if benchmark.shots is None else benchmark.shots.count,
        }
        if benchmark.shots is not None:
            config["fewshot_config"] = {
                **(config.get("fewshot_config") or {}),
                "sampler": benchmark.shots.sampler,
            }
        task = ConfigurableTask(config=config)
        if benchmark.shots is not None:
            task.set_fewshot_seed(benchmark.shots.seed)
        tasks[task.task_name] = task
    return tasks


def _rendered(template: str, doc: Mapping[str, Any]) -> str:
    """What lm-eval's `apply_template` gives; that compiles the template for every item anew."""
    return str(_compiled(template).render(**doc))


@lru_cache
def _compiled(template: str) -> Any:
    from lm_eval.utils import env

    return env.from_string(template)


def task_file(name: str) -> Path:
    """A task file: ours, else lm-eval's own.

    Raises:
        KitError: Neither has it.
    """
    spec = importlib.util.find_spec("lm_eval")
    stock = Path(spec.origin).parent / "tasks" if spec is not None and spec.origin else TASKS
    for folder in (TASKS, stock):
        if (folder / name).is_file():
            return folder / name
    raise KitError(f"no task file {name}", expected="one of lm-eval's, or of harness/evaluation/tasks")


def check_shots(benchmark: Benchmark, items: Sequence[Item], shots: Sequence[Item]) -> None:
    """Refuse worked examples that are among the questions: the answers would stand in the prompt.

    Raises:
        KitError: One is.
    """
    asked = {_question(item): item.id for item in items}
    for shot in shots:
        if _question(shot) in asked:
            raise KitError(
                f"item {asked[_question(shot)]} of {benchmark.name} is also a worked example ({shot.id})",
                expected="shots from another split than the items",
                exit_code=1,
            )


def _question(item: Item) -> tuple[str, ...]:
    content = item.content
    text = content.get("question", content.get("prompt", item.sha256))
    return (str(text).strip(), *map(str, content.get("choices", ())))


def prepare_ifeval() -> None:
    """Give IFEval what it would download, and make its language detection repeat.

    Raises:
        KitError: A package is missing.
    """
    try:
        import nltk
        from langdetect import DetectorFactory
    except ImportError as error:
        raise KitError(
            f"IFEval cannot be scored: {error}", expected="the extra `eval`", fix="make setup-train"
        ) from None
    DetectorFactory.seed = GRADING_SEED
    nltk.data.path[:0] = [path for path in _sentence_model(PUNKT) if path not in nltk.data.path]
    try:
        nltk.data.find("tokenizers/punkt_tab")
    except LookupError:
        raise KitError(
            "IFEval needs NLTK's sentence model, and nothing is downloaded while measuring",
            expected="tokenizers/punkt_tab on NLTK's path",
            fix="pip install --no-deps llama-index-core==0.14.25, whose wheel holds it; or make setup-train",
        ) from None


@cache
def _sentence_model(package: str) -> tuple[str, ...]:
    """A folder for NLTK's path; none where the package is not installed.

    NLTK refuses files with several links, as package managers make them to save room: it gets copies.
    """
    spec = importlib.util.find_spec(package)
    for place in [] if spec is None else spec.submodule_search_locations or ():
        english = Path("tokenizers", "punkt_tab", "english")
        found = Path(place, "core", "_static", "nltk_cache") / english
        if found.is_dir():
            copied = tempfile.mkdtemp(prefix="kit-sentences-")
            atexit.register(shutil.rmtree, copied, ignore_errors=True)
            shutil.copytree(found, copied / english)
            return (copied,)
    return ()


def _config(path: Path, benchmark: Benchmark) -> dict[str, Any]:
    from lm_eval.tasks._yaml_loader import load_yaml

    if path.parent.name == "ifeval":
        prepare_ifeval()
    config: dict[str, Any] = load_yaml(path)
    stated = str((config.get("metadata") or {}).get("version"))
    if benchmark.task_version is not None and stated != benchmark.task_version:
        raise KitError(
            f"is version {stated}", where=path.name, expected=f"{benchmark.task_version}, as in the suite"
        )
    if callable(config.get("process_results")):
        config["process_results"] = _repeatable(config["process_results"])
    for name in ("tag", "group", "task_alias", "dataset_name"):
        config.pop(name, None)
    if benchmark.max_new_tokens is not None:
        settings = dict(config.get("generation_kwargs") or {})
        # Greedy: at temperature 0 there is nothing to sample.
        settings |= {"do_sample": False, "max_gen_toks": benchmark.max_new_tokens}
        settings.pop("temperature", None)
        config["generation_kwargs"] = settings
    return config


def _repeatable(grade: Callable[..., Any]) -> Callable[..., Any]:
    """A grader that draws the same for the same item: IFEval draws what an item leaves open."""

    def graded(doc: dict[str, Any], results: Any) -> Any:
        before = random.getstate()
        random.seed(f"{GRADING_SEED} {doc.get('key', doc['_number'])}")
        try:
            return grade(doc, results)
        finally:
            random.setstate(before)

    return graded


def _check_release(benchmark: Benchmark) -> None:
    wanted, found = benchmark.harness_version, version("lm_eval")
    if wanted is not None and wanted != found:
        raise KitError(
            f"lm-eval {found} is installed",
            where=f"benchmark {benchmark.name}",
            expected=f"{wanted}, as in the suite: another release may score otherwise",
            fix="make setup-train",
        )


def _doc(number: int, item: Item) -> dict[str, Any]:
    return {**item.content, "_number": number}


def _in_order(samples: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    return sorted(samples, key=lambda sample: int(sample["doc"]["_number"]))


def _parted(name: str) -> tuple[str, str]:
    metric, _, filtered = name.partition("/")
    return metric, filtered or "none"


def _score(
    benchmark: Benchmark,
    items: Sequence[Item],
    samples: Sequence[Mapping[str, Any]],
    metric: str,
    read_by: str,
) -> Score:
    grades: dict[int, Any] = {}
    said: dict[int, Any] = {}
    for sample in samples:
        number = int(sample["doc"]["_number"])
        if sample.get("filter", "none") == read_by and metric in sample:
            grades[number] = sample[metric]
        if sample.get("filter", "none") == read_by and sample.get("filtered_resps"):
            said[number] = sample["filtered_resps"][0]
    answers = tuple(str(said[n]) if isinstance(said.get(n), str) else None for n in range(len(items)))
    listed = [grade for grade in grades.values() if isinstance(grade, list)]
    if listed:
        # Instructions, several an item: a share over all of them.
        flat = [float(grade) for grades_of_item in listed for grade in grades_of_item]
        return Score.of(
            benchmark,
            metric=metric,
            filter=read_by,
            items=items,
            scores=[None] * len(items),
            external=sum(flat) / len(flat),
            n_scored=len(listed),
            harness="lm-eval",
            harness_version=version("lm_eval"),
        )
    scores = [float(grades[n]) if n in grades else None for n in range(len(items))]
    return Score.of(
        benchmark,
        metric=metric,
        filter=read_by,
        items=items,
        scores=scores,
        answers=answers,
        harness="lm-eval",
        harness_version=version("lm_eval"),
    )
