"""RFC 8785 canonical JSON: one value, one sequence of bytes, whoever writes it."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator

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
    return "".join(_parts(value, "$")).encode()


def _parts(value: object, path: str) -> Iterator[str]:
    if value is None:
        yield "null"
    elif value is True:
        yield "true"
    elif value is False:
        yield "false"
    elif isinstance(value, str):
        yield _string(value, path)
    elif isinstance(value, int):
        if abs(value) > LARGEST_EXACT:
            raise KitError(
                f"integer {value} is not exact in JSON", where=path, expected="at most 2**53 - 1 in magnitude"
            )
        yield int.__repr__(value)
    elif isinstance(value, float):
        yield _float(float(value), path)
    elif isinstance(value, dict):
        yield from _object(value, path)
    elif isinstance(value, list | tuple):
        yield "["
        for index, item in enumerate(value):
            if index:
                yield ","
            yield from _parts(item, f"{path}[{index}]")
        yield "]"
    else:
        raise KitError(f"a {type(value).__name__} has no JSON form", where=path)


def _object(value: dict[object, object], path: str) -> Iterator[str]:
    keys: list[str] = []
    for key in value:
        if not isinstance(key, str):
            raise KitError(f"key {key!r} is no string", where=path)
        _string(key, path)
        keys.append(key)
    yield "{"
    for index, key in enumerate(sorted(keys, key=lambda text: text.encode("utf-16-be"))):
        if index:
            yield ","
        yield _string(key, path)
        yield ":"
        yield from _parts(value[key], f"{path}.{key}")
    yield "}"


def _string(text: str, path: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise KitError("text with a lone surrogate has no UTF-8 form", where=path) from None
    return json.dumps(text, ensure_ascii=False)


def _float(number: float, path: str) -> str:
    """ECMAScript Number::toString (ECMA-262, 6.1.6.1.20) from Python's shortest round-trip digits."""
    if not math.isfinite(number):
        raise KitError(f"{number} has no JSON form", where=path, fix="store null for an unknown number")
    if number == 0:
        return "0"
    sign = "-" if number < 0 else ""
    mantissa, _, exponent = repr(abs(number)).partition("e")
    whole, _, fraction = mantissa.partition(".")
    fraction = "" if fraction == "0" else fraction
    digits = (whole + fraction).lstrip("0")
    point = len(whole) + int(exponent or 0) - (len(whole + fraction) - len(digits))
    digits = digits.rstrip("0")
    count = len(digits)
    if count <= point <= 21:
        text = digits + "0" * (point - count)
    elif 0 < point <= 21:
        text = f"{digits[:point]}.{digits[point:]}"
    elif -6 < point <= 0:
        text = "0." + "0" * -point + digits
    else:
        power = point - 1
        shown = digits if count == 1 else f"{digits[0]}.{digits[1:]}"
        text = f"{shown}e{'+' if power >= 0 else '-'}{abs(power)}"
    return sign + text
