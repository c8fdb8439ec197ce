"""What each record of a journal must hold for the rest of the kit to work with it.

A checksum says that a record is as it was written, not that what was written makes sense: another version,
another program or a fault of this one may have written it. Types and fields that are not named here pass.
"""

from __future__ import annotations

import re
from typing import Any

from harness.journal.scores import KEY, eval_row, items_chunk

Shape = Any
"""A word of `_WORDS`, with `?` where null may stand; [shape] a list of such; {name: shape} an object, `name~`
one that may be missing, `*` all others."""

MOST_US = 1 << 60
"""No time is later, in microseconds; there is room to add some."""

_INT64 = (1 << 63) - 1
_RANGES = {
    "count": (0, _INT64),
    "us": (0, MOST_US - 1),
    "utc": (-MOST_US, MOST_US),
    "uid": (0, (1 << 31) - 1),
    "int32": (-(1 << 31), (1 << 31) - 1),
    "small": (0, (1 << 15) - 1),
    "period": (1, MOST_US),
}
"""Whole numbers by their bounds."""

_TYPES = {"text": str, "flag": bool, "object": dict}
_VERSION = re.compile(r"\d{1,4}\.\d{1,4}\Z")
_SEVERITIES, _STATUSES = ("info", "warning", "error"), ("completed", "failed", "interrupted", "partial")
_ENUMS = {"severity": _SEVERITIES, "status": _STATUSES, "role": ("consumed", "produced")}
_ENUMS["artifact"] = ("file", "folder")

_TOKENS: Shape = {f"tokens_{name}~": "count" for name in ("trained", "processed", "positions", "generated")}
_CUT: Shape = {"boundary": "uid", "boundary_us": "us"}
_STATS: Shape = {
    **dict.fromkeys(("ticks", "missed_ticks", "dropped_frames"), "count"),
    **dict.fromkeys(("jitter_p50_us", "jitter_p95_us", "jitter_max_us"), "count"),
    **dict.fromkeys(("sampler_cpu_s", "sampler_wall_s"), "number"),
}
_DEVICE: Shape = {
    "device_id": "small",
    "source~": "text",
    "model": "text",
    "vendor": "text",
    **dict.fromkeys(("power_limit_mw~", "default_power_limit_mw~", "mem_mib~"), "count?"),
    **dict.fromkeys(("mig~", "persistence~", "counter_supported~", "instant_supported~"), "flag?"),
}
_TIMES: Shape = {"session~": "small", "mono_us~": "us", "t_us~": "utc"}

RECORDS: dict[str, Shape] = {
    "run": {
        "run_id": "text",
        "name": "text",
        "method": "text",
        "protocol~": "version?",
        "labels": ["text"],
        "pipeline": "object",
        "pue": "number?",
        "region": "text?",
        "reference_tokens": "count?",
        "clock_id": "text",
        "period_us": "period",
        "mono_us": "us",
        "t_us": "utc",
    },
    "cpu_method": {"method": "text", "reason": "text?"},
    "session_end": {"status": "text", "mono_us": "us", "t_us": "utc"},
    "stage_start": {
        **_CUT,
        "stage_uid": "uid",
        "parent_uid~": "uid?",
        "name": "text",
        "stage": "text",
        "attempt": "uid",
        "devices~": ["small"],
        "command_sha256": "text?",
        "mono_us": "us",
        "t_us": "utc",
    },
    "stage_end": {
        **_CUT,
        "stage_uid": "uid",
        "status": "status",
        "exit_code": "int32?",
        "process_cpu_s": "number?",
        "tokens": _TOKENS,
        "token_denominator~": "count?",
        "flags~": ["text"],
        "mono_us": "us",
        "t_us": "utc",
    },
    "stage_tokens": {"stage_uid": "uid", "tokens": _TOKENS},
    "event": {
        "kind": "text",
        "severity": "severity",
        "mono_us": "us",
        "device_id~": "small?",
        "stage_uid~": "uid?",
        "detail~": "object?",
    },
    "artifact": {
        "stage_uid": "uid",
        "role": "role",
        "artifact_id": "text",
        "name": "text",
        "kind": "artifact",
        "bytes": "count",
        "origin_run_id~": "text?",
        "origin_energy_j~": "number?",
    },
    "eval": {"stage_uid": "uid", "row": "object"},
    "eval_items": {"stage_uid": "uid", "first": "uid", "scores": ["number?"], "item_sha256": ["text"]},
    "boundary": {
        "boundary": "uid",
        "mono_us": "us",
        "t_us": "utc",
        "powers": {"*": ["us?"]},  # device: [mW, when]
        "zone_uncertainty_us": "us",
    },
    "tick": {
        "device_id": "small",
        "mono_us": "us",
        "t_us": "utc",
        "uncertainty_us": "int32",
        "value": "count",
        "power_mw": "uid?",
    },
    "sampler_start": {
        "devices": [_DEVICE],
        "zones": [{"label": "text", "range": "period?", "source~": "text", "part~": "text"}],
        "doubts~": ["text"],
        "scheduling": "text?",
        **dict.fromkeys(("driver~", "cuda~", "no_gpu_reason~"), "text?"),
        "sampler_version~": "text",
        "mono_us": "us",
        "t_us": "utc",
    },
    "sampler_stats": _STATS,
    "sampler_end": _STATS,
    "codecarbon": {
        "boundary~": "uid?",
        "mono_us": "us",
        "t_us": "utc",
        "uncertainty_us": "us",
        "cpu_uj": "count?",
        "ram_uj": "count?",
        "source~": "text",
    },
}
"""By `type`."""


ONCE: dict[str, tuple[str, ...]] = {
    "boundary": ("session", "boundary"),
    "codecarbon": ("session", "boundary"),
    "tick": ("session", "device_id", "mono_us"),
    "stage_start": ("stage_uid",),
    "stage_end": ("stage_uid",),
}
"""Type to the fields by which a record is the only one; a null among them names nothing."""


def problem(record: Any) -> str | None:
    """In words, what is odd about a record; None where nothing is."""
    if not isinstance(record, dict) or not isinstance(record.get("type"), str):
        return "a record without a type"
    kind = record["type"]
    shape = RECORDS.get(kind)
    found = _odd(record, {**_TIMES, **(shape or {})}, kind)
    if found is None and kind in ("eval", "eval_items"):
        try:
            if kind == "eval":
                if missing := set(eval_row(record["row"])) - set(record["row"]):
                    return f"eval: {min(missing)} is missing"
            else:
                items_chunk({name: record[name] for name in (*KEY, "first", "scores", "item_sha256")})
        except (ValueError, KeyError) as error:
            return f"{kind}: {error}"
    return found


def _odd(value: Any, shape: Shape, where: str) -> str | None:
    if isinstance(shape, list):
        if not isinstance(value, list):
            return _said(value, where, "a list")
        return next((p for i, one in enumerate(value) if (p := _odd(one, shape[0], f"{where}[{i}]"))), None)
    if isinstance(shape, dict):
        return _odd_object(value, shape, where)
    word = shape.removesuffix("?")
    if value is None and word != shape:
        return None
    return None if _fits(value, word) else _said(value, where, shape)


def _odd_object(value: Any, shape: dict[str, Shape], where: str) -> str | None:
    if not isinstance(value, dict):
        return _said(value, where, "an object")
    if "*" in shape:
        bad = [name for name in value if not (name.isascii() and name.isdigit() and len(name) < 6)]
        if bad:
            return _said(bad[0], where, "numbers as names")
        return next(
            (p for name, one in value.items() if (p := _odd(one, shape["*"], f"{where}.{name}"))), None
        )
    for key, inner in shape.items():
        name = key.removesuffix("~")
        if name not in value:
            if name == key:
                return f"{where}: {name} is missing"
            continue
        found = _odd(value[name], inner, f"{where}.{name}")
        if found:
            return found
    return None


def _fits(value: Any, word: str) -> bool:
    if word in _RANGES:
        low, high = _RANGES[word]
        return isinstance(value, int) and not isinstance(value, bool) and low <= value <= high
    if word == "number":
        known = isinstance(value, int | float) and not isinstance(value, bool)
        return known and abs(value) <= _INT64  # neither a NaN nor an infinity is
    if word in _ENUMS:
        return value in _ENUMS[word]
    if word == "version":
        return isinstance(value, str) and bool(_VERSION.match(value))
    return isinstance(value, _TYPES[word])


def _said(value: Any, where: str, expected: str) -> str:
    shown = repr(value)
    return f"{where} is {shown[:40]}{'...' if len(shown) > 40 else ''}, not {expected}"
