"""What a run was: its kind, guessed from names because the harness files every stage under the experiment's
name.

Also what its one token count meant, which depends on the kind: label tokens in training and caching,
sampled tokens with padding in generation, examples in preprocessing, nothing in evaluation.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from harness.interop.reference.attempts import Attempt
from harness.interop.reference.plan import stage_id_of

UNCLASSIFIED = "x-unclassified"
NEAR_IDLE_SHARE = 0.2
"""Mean power below this share of the limit is an idle card: H100 with a context 117-130 W of 700 W; the
least loaded stage on record (data-starved KD) draws 31 %."""

_STAGE_LABELS = {
    "prerun": "prerun",
    "burn_in": "prerun",
    "preprocess": "preprocess",
    "logit_caching": "teacher_logits",
    "synthetic_generation": "teacher_generate",
    "student_train": "student_train",
    "sft_train": "student_train",
    "kd_eval": "evaluate",
}
_PATTERNS = (
    ("prerun", re.compile(r"prerun|burn_?in|idle_baseline|smoke")),
    ("preprocess", re.compile(r"preprocess|tokeni[sz]e")),
    ("teacher_logits", re.compile(r"logit_?cach|logprob|logit_?cache")),
    ("judge", re.compile(r"judge")),
    ("evaluate", re.compile(r"benchmark|gsm8k|mmlu|ifeval|alpaca|mt_?bench|(^|_)eval")),
    ("teacher_generate", re.compile(r"generat|synthetic_gen|^synthetic_|_gen$")),
    ("student_train", re.compile(r"(^|_)(kd|sft|train|distill)(_|$)")),
)

TokenColumn = Literal["tokens_trained", "tokens_generated"]
_TOKEN_COLUMN: dict[str, TokenColumn] = {
    "teacher_logits": "tokens_trained",
    "student_train": "tokens_trained",
    "teacher_generate": "tokens_generated",
}


@dataclass(frozen=True, slots=True)
class Identity:
    """Name and kind of an attempt.

    Attributes:
        certain: The stage name is one the harness's programs pass themselves, so the kind is not a guess.
        evidence: The name the guess rests on.
    """

    name: str
    kind: str
    certain: bool
    evidence: str


def identify(attempt: Attempt, mean_gpu_w: float | None, limit_w: float | None) -> Identity:
    """Name and kind of an attempt.

    Args:
        attempt: The run in question.
        mean_gpu_w: Mean power of all its GPUs together, W.
        limit_w: Their power limits together, W.
    """
    stage_id = stage_id_of(attempt)
    labels = [label for label in _names(attempt) if label]
    for label in labels:
        plain = re.sub(r"__\d+$", "", label)
        if plain in _STAGE_LABELS or plain.startswith("olmo_benchmark:"):
            kind = _STAGE_LABELS.get(plain, "evaluate")
            return Identity(safe_name(label), kind, certain=True, evidence=safe_name(label))
    # The folder was named by a person, the id by the experiment: the folder knows better.
    for label in dict.fromkeys([attempt.folder.name, *labels, stage_id]):
        for kind, pattern in _PATTERNS:
            if pattern.search(label.lower()):
                idle = (
                    mean_gpu_w is not None and limit_w is not None and mean_gpu_w < NEAR_IDLE_SHARE * limit_w
                )
                # `synthetic_<data>` names both the generation and the CPU-only preparation of its prompts.
                kind = UNCLASSIFIED if idle and kind == "teacher_generate" else kind
                return Identity(safe_name(stage_id), kind, certain=False, evidence=safe_name(label))
    return Identity(safe_name(stage_id), UNCLASSIFIED, certain=False, evidence="")


def _names(attempt: Attempt) -> tuple[str, ...]:
    """Stage names on record, most specific first."""
    config, record = attempt.folder.config, attempt.record
    names = (config.stage_name if config is not None else "", record.stage_name if record is not None else "")
    return (*names, stage_id_of(attempt))


def token_column(kind: str) -> TokenColumn | None:
    """Column a token count of this kind belongs to; None where the harness counted something else."""
    return _TOKEN_COLUMN.get(kind)


def safe_name(text: str) -> str:
    """A stage name fit for a bundle: no path, no address, at most 120 characters."""
    last = re.split(r"[\\/]", text.rstrip("\\/"))[-1]
    return re.sub(r"[^A-Za-z0-9_.:+-]+", "_", last).strip("_.")[:120] or "stage"
