"""Suites: which benchmarks, on which items, asked and judged how. Q is over exactly a suite's benchmarks.

A suite is a file of `protocol/*/suites`, named after its content: `NAME@DIGEST.yaml`. What decides a score
is in the digest: items, shots, templates, settings, judge. A suite that was edited, if only by one item, is
another one, and scores of the two are never compared. A file without a digest is a draft: it is refused until
`kit lock suites` has pinned its data and its judge. Teachers' scores name suite and model by digest and lie
elsewhere, so that measuring one renames nothing.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from harness.errors import KitError
from harness.spec import version_folder
from harness.spec.canonical import canonical_json
from harness.spec.load import read_yaml

Unit = Literal["fraction", "percent", "rating_1_10", "nats"]
"""Words of column `score_unit` of table `evals`."""
Adapter = Literal["lm-eval", "pairwise", "dialogues"]
JUDGED: frozenset[str] = frozenset({"pairwise", "dialogues"})
"""Adapters whose answers a judge scores."""
SHOWN_DIGITS = 12
"""Digits of the digest in a suite's name."""


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Data(_Strict):
    """Items of a benchmark, or its shots.

    Attributes:
        source: Key of `harness.evaluation.items.SOURCES`; `pocket`, whose items are made here; or a folder of
            files SPLIT.jsonl, an item a line.
        split: Of the source; of `pocket` the kind of item.
        repository: Where the data set is published.
        revision: Its commit.
        n_items: How many items.
        items_sha256: Digest of the canonical items in order; None: not pinned yet.
        ids: Which items of the split; None: all.
        seed: Of items that are made here.
        note: What a reader must know.
    """

    source: str
    split: str
    repository: str | None = None
    revision: str | None = None
    n_items: int | None = None
    items_sha256: str | None = None
    ids: tuple[str, ...] | None = None
    seed: int | None = None
    note: str | None = None


class Shots(_Strict):
    """Worked examples in front of each question.

    Attributes:
        count: How many.
        sampler: first_n takes the first ones, of the question's group where there are groups; default draws.
        seed: Of the draw.
        data: Where they come from.
    """

    count: int
    sampler: Literal["first_n", "default"]
    seed: int = 1234
    data: Data


class JudgeSpec(_Strict):
    """The model that judges.

    Attributes:
        name: For people.
        method: template: prompts of ours, answered in text or by one token; likelihood: how likely the
            judge finds each answer, for models that can read no instructions.
        repository: Where its weights are published.
        revision: Their commit.
        weights_sha256: Of its weights (`harness.evaluation.judge.weights_digest`); None with `made_here`.
        made_here: The weights are made by the pipeline; their digest stands in each run's judge_id.
        template_sha256: Of the prompts.
        dtype: Type of weights and activations.
        orders: drawn: a pair is shown once, in an order drawn from the seed; both: once in each order, and
            the mean counts.
        seed: Decides which answer of a pair is shown first.
        max_new_tokens: Of a rating.
    """

    name: str
    method: Literal["template", "likelihood"]
    repository: str | None = None
    revision: str | None = None
    weights_sha256: str | None = None
    made_here: bool = False
    template_sha256: str | None = None
    dtype: Literal["float32", "bfloat16"] = "bfloat16"
    orders: Literal["drawn", "both"] = "drawn"
    seed: int = 123
    max_new_tokens: int = 256


class Benchmark(_Strict):
    """One benchmark.

    Attributes:
        name: Unique in the suite.
        adapter: What asks and scores.
        task: Task file of lm-eval below its folder of tasks or ours; `{group}` stands for an item's group.
        task_version: Version that the task file states.
        harness_version: Release of lm-eval.
        data: The items.
        shots: Worked examples; None: none.
        mode: chat: through the model's chat template; completion: as plain text.
        bos: tokenizer: the first token is what the model's tokenizer puts there.
        max_new_tokens: Longest answer; greedy always. None where likelihoods are compared.
        metric: What is measured; more is better.
        filter: How an answer is read before it is compared.
        also: Further "metric" or "metric/filter" to report; Q is never over them.
        unit: Of the score.
        floor: Score of a model that knows nothing; a teacher at or below it makes Q undefined.
        aggregation: mean of all items, or group_mean: mean of the groups' means.
        skip_first: Groups whose first turn is not judged.
    """

    name: str
    adapter: Adapter
    task: str | None = None
    task_version: str | None = None
    harness_version: str | None = None
    data: Data
    shots: Shots | None = None
    mode: Literal["chat", "completion"] = "chat"
    bos: Literal["tokenizer"] = "tokenizer"
    max_new_tokens: int | None = None
    metric: str
    filter: str = "none"
    also: tuple[str, ...] = ()
    unit: Unit = "fraction"
    floor: float = 0.0
    aggregation: Literal["mean", "group_mean"] = "mean"
    skip_first: tuple[str, ...] = ()

    @property
    def judged(self) -> bool:
        """Whether a judge scores its answers."""
        return self.adapter in JUDGED


class Suite(_Strict):
    """A named list of benchmarks.

    Attributes:
        suite: Its name, without the digest.
        doc: What it is for; no part of its identity.
        labels: What every score of it is labelled.
        judge: Of its judged benchmarks.
        dtype: Type in which models are asked: in bfloat16 some verdicts flip.
        batch_size: Prompts a batch: it decides last bits.
        benchmarks: In order; none where only the held-out loss is wanted, and then there is no Q.
    """

    suite: str = Field(pattern=r"^[a-z0-9][a-z0-9-]*$")
    doc: str
    labels: tuple[str, ...] = ()
    judge: JudgeSpec | None = None
    dtype: Literal["float32", "bfloat16"]
    batch_size: int = Field(ge=1)
    benchmarks: tuple[Benchmark, ...] = ()

    @property
    def digest(self) -> str:
        """SHA-256 of the canonical JSON of everything but `doc`."""
        identity = self.model_dump(mode="json", exclude={"doc"}, exclude_defaults=True)
        return hashlib.sha256(canonical_json(identity)).hexdigest()

    @property
    def id(self) -> str:
        """Name and digest: what a score belongs to."""
        return f"{self.suite}@{self.digest[:SHOWN_DIGITS]}"

    @property
    def unpinned(self) -> list[str]:
        """What is not fixed yet, in words; none in a suite that may be used."""
        found = []
        for benchmark in self.benchmarks:
            shots = [] if benchmark.shots is None else [("shots", benchmark.shots.data)]
            for what, data in [("items", benchmark.data), *shots]:
                if data.items_sha256 is None or data.n_items is None:
                    found.append(f"{what} of {benchmark.name}")
        judge = self.judge
        if judge is not None:
            if judge.weights_sha256 is None and not judge.made_here:
                found.append(f"weights of the judge {judge.name}")
            if judge.template_sha256 is None and judge.method == "template":
                found.append("prompts of the judge")
        return found

    def chosen(self, names: Sequence[str]) -> tuple[Benchmark, ...]:
        """Benchmarks by name, in the suite's order; all where no name is given.

        Raises:
            KitError: The suite has none of that name.
        """
        known = [benchmark.name for benchmark in self.benchmarks]
        unknown = [name for name in names if name not in known]
        if unknown:
            raise KitError(f"suite {self.suite} has no benchmark {unknown[0]!r}", expected=", ".join(known))
        return tuple(b for b in self.benchmarks if not names or b.name in names)


def suites_folder(version: str | None = None) -> Path:
    """Where the suites of a version of the protocol lie."""
    return version_folder(version) / "suites"


def suite_named(name: str, version: str | None = None) -> Suite:
    """A pinned suite by its name, with or without its digest.

    Args:
        name: As in `protocol/*/suites/NAME@DIGEST.yaml`.
        version: Of the protocol; the current one by default.

    Raises:
        KitError: There is none, its file does not fit, was edited, or is a draft.
    """
    path = suite_file(name, version)
    suite = read_suite(path)
    missing = suite.unpinned
    if missing or "@" not in path.stem:
        raise KitError(
            f"is a draft: {', '.join(missing) or 'its name has no digest'} not pinned",
            where=path.name,
            expected="a suite whose data and judge are pinned",
            fix=f"kit lock suites {suite.suite} --data DIR --write",
        )
    if suite.id != path.stem:
        raise KitError(
            f"was edited: its content is {suite.id}",
            where=path.name,
            expected="the content its name stands for",
            fix="undo the edit, or make it a suite of its own: kit lock suites --write",
        )
    return suite


def suite_file(name: str, version: str | None = None) -> Path:
    """The file of a suite.

    Raises:
        KitError: There is none, or several of one name.
    """
    folder = suites_folder(version)
    paths = sorted(folder.glob("*.yaml"))
    found = [path for path in paths if name in (path.stem, path.stem.partition("@")[0])]
    if not found:
        known = ", ".join(path.stem for path in paths)
        raise KitError(f"no evaluation suite {name!r}", expected=f"one of {known}")
    if len(found) > 1:
        raise KitError(
            f"{len(found)} suites are named {name}", expected=" or ".join(path.stem for path in found)
        )
    return found[0]


def read_suite(path: Path) -> Suite:
    """A suite or a draft of one.

    Raises:
        KitError: The file does not fit; the message names the field.
    """
    data: Any = read_yaml(path)
    try:
        suite = Suite.model_validate(data)
    except ValidationError as error:
        lines = [f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors()]
        raise KitError("; ".join(lines), where=str(path), expected="a suite of benchmarks") from None
    names = [benchmark.name for benchmark in suite.benchmarks]
    twice = sorted({name for name in names if names.count(name) > 1})
    if suite.suite != path.stem.partition("@")[0] or twice:
        found = f"names {twice[0]} twice" if twice else f"calls itself {suite.suite!r}"
        raise KitError(found, where=str(path), expected="each benchmark once, and the file's own name")
    if suite.judge is not None and not suite.benchmarks:
        raise KitError(
            "benchmarks: has a judge and nothing to be judged", where=str(path), expected="benchmarks: [...]"
        )
    if suite.judge is None and any(benchmark.judged for benchmark in suite.benchmarks):
        raise KitError(
            "has answers to be judged and no judge", where=str(path), expected="judge: {name: ...}"
        )
    return suite
