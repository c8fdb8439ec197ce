"""Pins suites: digests of items and shots from local files, prompts, task versions, the judge's commit."""

from __future__ import annotations

import difflib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from harness.errors import KitError
from harness.evaluation.items import digest_of, load
from harness.evaluation.judging import prompts_digest
from harness.evaluation.suites import Data, Suite, read_suite, suite_file


def pinned(suite: Suite, data: Path | None, head: Callable[[str], str] | None, judge: Path | None) -> Suite:
    """A suite with everything filled in that can be known here.

    Args:
        suite: A suite or a draft.
        data: Folder of benchmarks.
        head: Gives the commit of a repository on the hub; None: the hub is not asked.
        judge: Folder of the judge's weights.

    Raises:
        KitError: Items are missing.
    """
    benchmarks = []
    for benchmark in suite.benchmarks:
        changes: dict[str, Any] = {"data": _data(benchmark.data, data, benchmark.name)}
        if benchmark.shots is not None:
            shots = _data(benchmark.shots.data, data, f"{benchmark.name}'s shots")
            changes["shots"] = benchmark.shots.model_copy(update={"data": shots})
        if benchmark.adapter == "lm-eval":
            changes |= _task(benchmark.task or benchmark.name, changes["data"], data)
        benchmarks.append(benchmark.model_copy(update=changes))
    spec = suite.judge
    if spec is not None:
        update: dict[str, Any] = {}
        if spec.method == "template":
            update["template_sha256"] = prompts_digest()
        if spec.repository is not None and spec.revision is None and head is not None:
            update["revision"] = head(spec.repository)
        if judge is not None:
            from harness.evaluation.judge import weights_digest

            update["weights_sha256"] = weights_digest(judge)
        spec = spec.model_copy(update=update)
    return suite.model_copy(update={"benchmarks": tuple(benchmarks), "judge": spec})


def _data(data: Data, folder: Path | None, what: str) -> Data:
    items = load(data.model_copy(update={"items_sha256": None}), folder, what)
    return data.model_copy(update={"n_items": len(items), "items_sha256": digest_of(items)})


def _task(task: str, data: Data, folder: Path | None) -> dict[str, str]:
    """Version of a task file and the release of lm-eval that has it."""
    from importlib.metadata import version

    from lm_eval.tasks._yaml_loader import load_yaml

    from harness.evaluation.lm_eval_tasks import task_file

    group = next((item.group for item in load(data, folder, task) if item.group), "")
    config = load_yaml(task_file(task.replace("{group}", group)), resolve_func=False)
    stated = (config.get("metadata") or {}).get("version")
    return {"task_version": str(stated), "harness_version": version("lm_eval")}


def lock(
    name: str,
    *,
    data: Path | None,
    head: Callable[[str], str] | None = None,
    judge: Path | None = None,
    write: bool = False,
) -> tuple[str, Path]:
    """Pin a suite.

    Args:
        name: Of the suite or draft.
        data: Folder of benchmarks.
        head: Gives the commit of a repository; None: the hub is not asked.
        judge: Folder of the judge's weights.
        write: Whether the file is replaced.

    Returns:
        A diff of the two files, empty where nothing changed, and the path of the new one: named after its
        content where everything is pinned, after the suite alone where something is not.

    Raises:
        KitError: There is no such suite, or its items are missing.
    """
    path = suite_file(name)
    suite = pinned(read_suite(path), data, head, judge)
    stem = suite.suite if suite.unpinned else suite.id
    target = path.with_name(f"{stem}.yaml")
    before = path.read_text(encoding="utf-8")
    header = "".join(line for line in before.splitlines(keepends=True) if line.startswith("#"))
    after = header + dump(suite)
    changes = "".join(
        difflib.unified_diff(before.splitlines(True), after.splitlines(True), path.name, target.name)
    )
    if write:
        try:
            target.write_text(after, encoding="utf-8")
            if target != path:
                path.unlink()
        except OSError as error:
            raise KitError(f"cannot be written: {error.strerror}", where=str(target)) from None
    return changes, target


class _Dumper(yaml.SafeDumper):
    """Lists on one line, mappings in blocks."""


_Dumper.add_representer(
    list,
    lambda dumper, data: dumper.represent_sequence(
        "tag:yaml.org,2002:seq", data, flow_style=all(not isinstance(item, dict) for item in data)
    ),
)


def dump(suite: Suite) -> str:
    """The text of a suite's file, without comments."""
    document = suite.model_dump(mode="json", exclude_defaults=True)
    return yaml.dump(document, Dumper=_Dumper, sort_keys=False, width=120, allow_unicode=True)
