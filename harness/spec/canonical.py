"""RFC 8785 canonical JSON: one value, one sequence of bytes, whoever writes it."""

from __future__ import annotations

import math

import rfc8785

from harness.errors import KitError

LARGEST_EXACT = 2**53 - 1
"""Largest integer that every JSON reader keeps exactly."""


def canonical_json(value: object) -> bytes:
    """Serialise a JSON value by RFC 8785.

    Args:
        value: None, bool, int, float, str, or lists, tuples and dicts (string keys) of them.

    Returns:
        UTF-8 bytes: keys sorted by UTF-16 code units, no white space, numbers as ECMAScript prints them.

    Raises:
        KitError: NaN, an infinity, an integer beyond 2**53 - 1, a lone surrogate, a key that is no string, or
            a type that JSON lacks. The message names the path of the value.
    """
    try:
        return rfc8785.dumps(value)  # type: ignore[arg-type]  # what it does not take, it refuses
    except ValueError:
        _refuse(value, "$")
        raise


def _refuse(value: object, path: str) -> None:
    """Raise for the first value that has no canonical form."""
    if isinstance(value, dict):
        for key, item in value.items():
            if not isinstance(key, str):
                raise KitError(f"key {key!r} is no string", where=path)
            _refuse(key, path)
            _refuse(item, f"{path}.{key}")
    elif isinstance(value, list | tuple):
        for index, item in enumerate(value):
            _refuse(item, f"{path}[{index}]")
    elif isinstance(value, str):
        if any("\ud800" <= letter <= "\udfff" for letter in value):
            raise KitError("text with a lone surrogate has no UTF-8 form", where=path)
    elif isinstance(value, float):
        if not math.isfinite(value):
            raise KitError(f"{value} has no JSON form", where=path, fix="store null for an unknown number")
    elif isinstance(value, int):
        if abs(value) > LARGEST_EXACT:
            expected = "at most 2**53 - 1 in magnitude"
            raise KitError(f"integer {value} is not exact in JSON", where=path, expected=expected)
    elif value is not None:
        raise KitError(f"a {type(value).__name__} has no JSON form", where=path)
