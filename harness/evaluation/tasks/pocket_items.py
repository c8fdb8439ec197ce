"""What the pocket task files refer to: where the items are, and how an answer is graded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from harness.distill.pocket_tasks import is_correct


def load(*, items: str, name: str, **_: Any) -> dict[str, Any]:
    """The items of a task as lm-eval wants them.

    Args:
        items: Folder of the items, from the task manager's metadata.
        name: The task's name, from its file.
    """
    import json

    import datasets

    lines = (Path(items) / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()
    return {"test": datasets.Dataset.from_list([json.loads(line) for line in lines])}


def process_results(doc: dict[str, Any], results: list[str]) -> dict[str, float]:
    """Score of one item: the grader is the one the task families define."""
    return {"exact_match": float(is_correct(results[0], doc["answer"]))}
