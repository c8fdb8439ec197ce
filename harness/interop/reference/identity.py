"""What a run was: its kind, guessed from names because the harness files every stage under the experiment's
name."""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np

from harness.accounting.rounding import J_PER_KWH
from harness.interop.imported import UNCLASSIFIED, guess_kind, safe_name
from harness.interop.reference.attempts import StageRun

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


def identify(attempt: StageRun, limit_w: float | None) -> Identity:
    """Name and kind of an attempt."""
    stage_id, config, record = attempt.stage_id, attempt.folder.config, attempt.record
    # Most specific first.
    named = (config and config.stage_name, record and record.stage_name, stage_id)
    labels = [label for label in named if label]
    for label in labels:
        plain = re.sub(r"__\d+$", "", label)
        if plain in _STAGE_LABELS or plain.startswith("olmo_benchmark:"):
            kind = _STAGE_LABELS.get(plain, "evaluate")
            return Identity(safe_name(label), kind, certain=True, evidence=safe_name(label))
    # The folder was named by a person, the id by the experiment: the folder knows better.
    kind, evidence = guess_kind([attempt.folder.name, *labels])
    mean_w = _mean_w(attempt)
    if kind == "teacher_generate" and mean_w is not None and limit_w is not None:
        # `synthetic_<data>` names both the generation and the CPU-only preparation of its prompts.
        kind = UNCLASSIFIED if mean_w < NEAR_IDLE_SHARE * limit_w else kind
    return Identity(safe_name(stage_id), kind, certain=False, evidence=evidence and safe_name(evidence))


def _mean_w(attempt: StageRun) -> float | None:
    """Mean power over all GPUs, W."""
    if attempt.power is not None and len(attempt.power.t_us):
        return float(np.nanmean(attempt.power.total_w)) if np.isfinite(attempt.power.total_w).any() else None
    if attempt.record is not None and attempt.record.gpu_avg_w:
        return attempt.record.gpu_avg_w
    if attempt.emission is not None and attempt.emission.gpu_kwh and attempt.duration_s > 0:
        return attempt.emission.gpu_kwh * J_PER_KWH / attempt.duration_s
    return None
