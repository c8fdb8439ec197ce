"""Suites of benchmarks, and where a new one plugs in.

A suite is a list of benchmarks. A benchmark names the adapter that scores it; an adapter is a function that
gets all benchmarks of a suite that are its own at once, so that it can load and batch them together:

    score(benchmarks, subject) -> one Score a benchmark

To add a suite: a file in `protocol/*/suites`. To add a kind of benchmark: a module with such a function,
named in ADAPTERS.
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from harness.errors import KitError

if TYPE_CHECKING:
    from harness.models.generation import TokenWork

Unit = Literal["fraction", "percent", "rating_1_10", "nats"]
"""Words of column `score_unit` of table `evals`."""


@dataclass(frozen=True)
class Benchmark:
    """One benchmark.

    Attributes:
        name: Unique; the adapter's own name for it.
        adapter: Key of ADAPTERS.
        metric: What is measured; higher is better.
        unit: Of the score.
        floor: Score of a model that knows nothing; a teacher at or below it makes Q undefined.
        options: What the adapter needs to know beside the name.
    """

    name: str
    adapter: str
    metric: str
    unit: Unit = "fraction"
    floor: float = 0.0
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Suite:
    """A named list of benchmarks; Q is over exactly these."""

    name: str
    doc: str
    benchmarks: tuple[Benchmark, ...]


@dataclass
class Subject:
    """What is evaluated, and with what.

    Attributes:
        model: A causal language model in eval mode on its device.
        tokenizer: Its tokenizer, with a chat template.
        out: Folder for what an adapter writes down.
        batch_size: Prompts a batch.
        items: Items of a benchmark that is generated; others have the number they have.
        seed: Of generated items.
        work: What was done so far, to be added to.
    """

    model: Any
    tokenizer: Any
    out: Path
    batch_size: int
    items: int
    seed: int
    work: TokenWork


@dataclass(frozen=True)
class Item:
    """One item of a benchmark: the digest of what was asked, and its score; None where none could be read."""

    sha256: str
    score: float | None


@dataclass(frozen=True)
class Score:
    """A benchmark's result.

    Attributes:
        name: The benchmark's.
        metric: The benchmark's, as its adapter names it.
        score: Mean over the items scored.
        unit: Of score and stderr.
        n_items: Items there are.
        n_scored: Items that got a score.
        stderr: Standard error of the mean; None for fewer than two items.
        items_sha256: Names the items (`harness.journal.scores.items_digest`).
        items: One for each item, in the benchmark's order.
        harness: Program that scored.
        harness_version: Its version.
        answers: One row for each item: id, response, expected, score.
    """

    name: str
    metric: str
    score: float
    unit: Unit
    n_items: int
    n_scored: int
    stderr: float | None
    items_sha256: str
    items: tuple[Item, ...] = field(default=(), repr=False)
    harness: str = "unspecified"
    harness_version: str | None = None
    answers: list[dict[str, Any]] = field(default_factory=list, repr=False)


ADAPTERS = {"lm-eval": "harness.evaluation.lm_eval_tasks"}


def suite_named(name: str, version: str | None = None) -> Suite:
    """A suite of the protocol by its name.

    Args:
        name: As in `protocol/*/suites/NAME.yaml`.
        version: Of the protocol; the current one by default.

    Raises:
        KitError: There is none, or its file is not one.
    """
    from harness.spec import version_folder
    from harness.spec.load import read_yaml

    folder = version_folder(version) / "suites"
    known = sorted(path.stem for path in folder.glob("*.yaml"))
    if name not in known:
        raise KitError(f"no evaluation suite {name!r}", expected=f"one of {', '.join(known)}")
    path = folder / f"{name}.yaml"
    data = read_yaml(path)
    try:
        suite = Suite(
            data.pop("suite"), data.pop("doc"), tuple(Benchmark(**b) for b in data.pop("benchmarks"))
        )
    except (KeyError, TypeError) as error:
        raise KitError(f"is no suite: {error}", where=str(path), expected="suite, doc, benchmarks") from None
    names = [benchmark.name for benchmark in suite.benchmarks]
    unknown = {benchmark.adapter for benchmark in suite.benchmarks} - set(ADAPTERS)
    if data or suite.name != name or not names or len(set(names)) < len(names) or unknown:
        odd = f"unknown adapters {sorted(unknown)}, other keys {sorted(data)}"
        found = f"suite {suite.name!r}, benchmarks {names}, {odd}"
        raise KitError(found, where=str(path), expected=f"suite: {name}, each benchmark once, known adapters")
    return suite


def score_suite(suite: Suite, subject: Subject) -> list[Score]:
    """Score every benchmark of a suite, in its order.

    Raises:
        KitError: A benchmark scored no item, or its score is no number: never a zero in its place.
    """
    found: dict[str, Score] = {}
    for adapter in dict.fromkeys(benchmark.adapter for benchmark in suite.benchmarks):
        score: Callable[[Sequence[Benchmark], Subject], list[Score]]
        score = importlib.import_module(ADAPTERS[adapter]).score
        chosen = [benchmark for benchmark in suite.benchmarks if benchmark.adapter == adapter]
        found.update((result.name, result) for result in score(chosen, subject))
    results = []
    for benchmark in suite.benchmarks:
        result = found.get(benchmark.name)
        if result is None or result.n_scored == 0 or not math.isfinite(result.score):
            raise KitError(
                f"{benchmark.name} scored {0 if result is None else result.n_scored} items",
                where=f"suite {suite.name}",
                expected="at least one",
                exit_code=1,
            )
        results.append(result)
    return results
