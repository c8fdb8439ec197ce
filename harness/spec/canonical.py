"""RFC 8785 canonical JSON: one value, one sequence of bytes, whoever writes it."""

from __future__ import annotations

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
            a type that JSON lacks.
    """
    try:
        return rfc8785.dumps(value)  # type: ignore[arg-type]  # what it does not take, it refuses
    except ValueError as error:
        raise KitError(f"a value has no canonical JSON form: {error}") from None
