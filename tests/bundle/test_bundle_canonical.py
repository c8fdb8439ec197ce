"""Canonical JSON against another way to write it, and the RFC's own examples."""

from __future__ import annotations

import json
import struct
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.bundle import canonical_json
from harness.errors import KitError

TEXT = st.text(st.characters(codec="utf-8"), max_size=20)
FLOATS = st.floats(allow_nan=False, allow_infinity=False)
VALUES: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53) + 1, 2**53 - 1) | FLOATS | TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4),
    max_leaves=20,
)


def ecmascript(number: float) -> str:
    """Number::toString (ECMA-262, 6.1.6.1.20) from the shortest digits that round-trip."""
    if number == 0:
        return "0"
    sign, numerals, exponent = Decimal(repr(number)).normalize().as_tuple()
    assert isinstance(exponent, int)
    digits = "".join(map(str, numerals))
    point = len(digits) + exponent
    if len(digits) <= point <= 21:
        text = digits.ljust(point, "0")
    elif 0 < point <= 21:
        text = f"{digits[:point]}.{digits[point:]}"
    elif -6 < point <= 0:
        text = f"0.{'0' * -point}{digits}"
    else:
        text = f"{digits[0]}{'.' * (len(digits) > 1)}{digits[1:]}e{point - 1:+d}"
    return "-" * sign + text


def written(value: Any) -> str:
    if isinstance(value, float):
        return ecmascript(value)
    if isinstance(value, list):
        return f"[{','.join(map(written, value))}]"
    if isinstance(value, dict):
        keys = sorted(value, key=lambda key: key.encode("utf-16-be"))
        return f"{{{','.join(f'{written(key)}:{written(value[key])}' for key in keys)}}}"
    return json.dumps(value, ensure_ascii=False)


@given(VALUES)
def test_as_written_another_way(value: object) -> None:
    assert canonical_json(value) == written(value).encode()
    assert json.loads(canonical_json(value), parse_int=float) == json.loads(
        json.dumps(value), parse_int=float
    )


@given(st.integers(0, 2**64 - 1))
def test_every_bit_pattern_of_a_double(bits: int) -> None:
    number = struct.unpack("<d", struct.pack("<Q", bits))[0]
    if number == number and abs(number) != float("inf"):
        assert canonical_json(number).decode() == ecmascript(number)
    else:
        with pytest.raises(KitError, match="no canonical JSON form"):
            canonical_json(number)


@pytest.mark.parametrize(
    ("bits", "text"),
    [
        # RFC 8785, appendix B
        (0x0000000000000000, "0"),
        (0x8000000000000000, "0"),
        (0x0000000000000001, "5e-324"),
        (0x8000000000000001, "-5e-324"),
        (0x7FEFFFFFFFFFFFFF, "1.7976931348623157e+308"),
        (0x4340000000000000, "9007199254740992"),
        (0x4430000000000000, "295147905179352830000"),
        (0x44B52D02C7E14AF5, "9.999999999999997e+22"),
        (0x44B52D02C7E14AF6, "1e+23"),
        (0x444B1AE4D6E2EF4E, "999999999999999700000"),
        (0x444B1AE4D6E2EF50, "1e+21"),
        (0x3EB0C6F7A0B5ED8C, "9.999999999999997e-7"),
        (0x3EB0C6F7A0B5ED8D, "0.000001"),
        (0x41B3DE4355555553, "333333333.3333332"),
        (0x41B3DE4355555557, "333333333.33333343"),
        (0xBECBF647612F3696, "-0.0000033333333333333333"),
        (0x43143FF3C1CB0959, "1424953923781206.2"),
    ],
)
def test_numbers_of_the_rfc(bits: int, text: str) -> None:
    assert canonical_json(struct.unpack("<d", struct.pack("<Q", bits))[0]).decode() == text


def test_keys_sort_by_utf16_units_not_by_code_points() -> None:
    assert (
        canonical_json({"\ufb33": 1, "\U0001f600": 2, "a": 3}) == '{"a":3,"\U0001f600":2,"\ufb33":1}'.encode()
    )


@pytest.mark.parametrize(
    "value",
    [
        {"a": [1, float("nan")]},
        {"a": float("inf")},
        {"a": 2**53},
        {1: 2},
        ["\ud800"],
        [b"x"],
        {"\ud800": 1},
    ],
)
def test_what_json_cannot_say_is_refused(value: object) -> None:
    with pytest.raises(KitError, match="no canonical JSON form"):
        canonical_json(value)
