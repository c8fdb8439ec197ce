"""How the pocket instructions are graded; lm-eval loads this by its task file."""

from __future__ import annotations

from typing import Any

from harness.distill.pocket_tasks import extract_answer, is_correct


def process_results(doc: dict[str, Any], results: list[str]) -> dict[str, float]:
    """Whether an answer carries its instruction out: exactly, and whatever its case and spaces."""
    said = " ".join(extract_answer(results[0]).casefold().split())
    strict = is_correct(results[0], doc["answer"])
    return {
        "prompt_level_strict_acc": float(strict),
        "prompt_level_loose_acc": float(strict or said == doc["answer"].casefold()),
    }
