"""Names of imported stages, and the kind a name hints at."""

from __future__ import annotations

import re
from collections.abc import Iterable

UNCLASSIFIED = "x-unclassified"

_PATTERNS = {
    "prerun": re.compile(r"prerun|burn_?in|idle_baseline|smoke"),
    "preprocess": re.compile(r"preprocess|tokeni[sz]e"),
    "teacher_logits": re.compile(r"logit_?cach|logprob|logit_?cache"),
    "judge": re.compile(r"judge"),
    "evaluate": re.compile(r"benchmark|gsm8k|mmlu|ifeval|alpaca|mt_?bench|(^|_)eval"),
    "teacher_generate": re.compile(r"generat|synthetic_gen|^synthetic_|_gen$"),
    "student_train": re.compile(r"(^|_)(kd|sft|train|distill)(_|$)"),
}


def guess_kind(names: Iterable[str]) -> tuple[str, str]:
    """The stage kind that names hint at, and the name it was read from.

    Args:
        names: The most telling first.

    Returns:
        `(UNCLASSIFIED, "")` if none tells anything.
    """
    for name in dict.fromkeys(names):
        for kind, pattern in _PATTERNS.items():
            if pattern.search(name.lower()):
                return kind, name
    return UNCLASSIFIED, ""


def safe_name(text: str) -> str:
    """A stage name fit for a bundle: no path, no address, at most 120 characters."""
    last = re.split(r"[\\/]", text.rstrip("\\/"))[-1]
    return re.sub(r"[^A-Za-z0-9_.:+-]+", "_", last).strip("_.")[:120] or "stage"
