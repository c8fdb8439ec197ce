"""One hue a meaning, in page and figures (mostly Paul Tol's schemes, told apart by the colour-blind)."""

from __future__ import annotations

from harness.accounting import UNATTRIBUTED
from harness.spec import Protocol

ROLES = {
    "data": "#2f9fc4",
    "teacher": "#aa3377",
    "student": "#997700",
    "scores": "#555588",
    "idle": "#8d8d8d",
    "unattributed": "#6e6e6e",
}
"""What a stage's energy was for -> hue; a kind of stage without a property counts as `data`."""

ROLE_WORDS = {
    "data": "data and other stages",
    "teacher": "teacher's output",
    "student": "student's training",
    "scores": "scoring",
    "idle": "idle",
    "unattributed": "between stages",
}
"""The same in words."""

REGIMES = {"sft": "#4477aa", "kd": "#cc6677", "synthetic_sft": "#228833"}
"""Regime -> hue; `web/src/theme.css` has the same, and lighter ones for a dark page."""

METHOD_WORDS = {"sft": "Baseline SFT", "kd": "Logit KD", "synthetic_sft": "Synthetic SFT", "other": "other"}
"""Regime -> how a table and a figure call it."""

COMPONENTS = {"gpu": "GPU", "cpu": "CPU", "dram": "DRAM"}
"""Component -> how it is written."""


def role_of(kind: str, protocol: Protocol) -> str:
    """What the energy of a kind of stage was for: a key of `ROLES`."""
    if kind == UNATTRIBUTED:
        return UNATTRIBUTED
    known = next((k for k in protocol.stage_kinds if k.name == kind), None)
    if known is None:
        return "data"
    return next((role for role in ("teacher", "student", "scores", "idle") if getattr(known, role)), "data")
