"""Values on their way into a log: what programs reported, as values that canonical JSON takes."""

from __future__ import annotations

import math

from harness.spec.canonical import LARGEST_EXACT, canonical_json

__all__ = ["canonical_json", "storable"]


def storable(value: object, depth: int = 64) -> object:
    """What a program reported, as a value that `canonical_json` takes: a log is never lost to an odd report.

    NaN and infinities become null, integers beyond 2**53 - 1 text, lone surrogates question marks, keys text,
    and what lies deeper than `depth` or has no JSON form the name of its type.
    """
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, int):
        return int(value) if abs(value) <= LARGEST_EXACT else str(value)
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    if depth and isinstance(value, dict):
        return {_utf8(str(key)): storable(item, depth - 1) for key, item in value.items()}
    if depth and isinstance(value, list | tuple):
        return [storable(item, depth - 1) for item in value]
    return _utf8(value if isinstance(value, str) else f"<{type(value).__name__}>")


def _utf8(text: str) -> str:
    return text.encode(errors="replace").decode()
