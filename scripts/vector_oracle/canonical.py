"""Canonical JSON (RFC 8785), written from the RFC and ECMA-262 alone."""

from __future__ import annotations

import hashlib
import json
import struct
from fractions import Fraction
from typing import Any

from vector_oracle.build import Family


def families() -> list[Family]:
    """Canonical JSON."""
    return [_canonical()]


def shortest(value: float) -> tuple[str, int]:
    """Fewest digits that name a positive double and no other, nearest to it, and the place of the point.

    Found by trying 1 to 17 digits, each rounded to nearest, until the double comes back.
    """
    exact = Fraction(value)
    exponent = len(str(int(exact))) if exact >= 1 else 0
    while exact * 10 ** (-exponent) < Fraction(1, 10):
        exponent -= 1
    while exact * Fraction(10) ** (-exponent) >= 1:
        exponent += 1
    for count in range(1, 18):
        scaled = exact * Fraction(10) ** (count - exponent)
        whole = int(scaled)
        near = sorted({whole, whole + 1}, key=lambda n: (abs(n - scaled), n % 2))
        for digits in near:
            if digits and _nearest(Fraction(digits) * Fraction(10) ** (exponent - count)) == value:
                text = str(digits)
                return text.rstrip("0") or "0", exponent + len(text) - count
    raise AssertionError(value)


def _nearest(value: Fraction) -> float:
    try:
        return float(value)
    except OverflowError:
        return float("inf")


def number(value: float) -> str:
    """ECMAScript's Number::toString."""
    if value == 0:
        return "0"
    if value < 0:
        return "-" + number(-value)
    digits, point = shortest(value)
    count = len(digits)
    if count <= point <= 21:
        return digits + "0" * (point - count)
    if 0 < point <= 21:
        return digits[:point] + "." + digits[point:]
    if -6 < point <= 0:
        return "0." + "0" * -point + digits
    tail = f"e{'+' if point > 0 else '-'}{abs(point - 1)}"
    return (digits if count == 1 else digits[0] + "." + digits[1:]) + tail


_ESCAPES = {8: "\\b", 9: "\\t", 10: "\\n", 12: "\\f", 13: "\\r", 34: '\\"', 92: "\\\\"}


def canonical(value: Any) -> str:
    """RFC 8785 text of a parsed value."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, int):
        return str(value)
    if isinstance(value, float):
        return number(value)
    if isinstance(value, str):
        inner = "".join(_ESCAPES.get(ord(c), f"\\u{ord(c):04x}" if ord(c) < 32 else c) for c in value)
        return f'"{inner}"'
    if isinstance(value, list):
        return "[" + ",".join(map(canonical, value)) + "]"
    keys = sorted(
        value,
        key=lambda key: struct.unpack(f">{len(key.encode('utf-16-be')) // 2}H", key.encode("utf-16-be")),
    )
    return "{" + ",".join(f"{canonical(key)}:{canonical(value[key])}" for key in keys) + "}"


def sha256(text: str) -> str:
    """Hex digest of a text's UTF-8."""
    return hashlib.sha256(text.encode()).hexdigest()


def _canonical() -> Family:
    family = Family("canonical-json", "RFC 8785: one value, one sequence of bytes.")

    def add(
        name: str, text: str, document: str, *flags: str, is_: str | None = None, result: str = "valid"
    ) -> None:
        wanted = canonical(json.loads(document))
        assert is_ is None or wanted == is_, (name, wanted)
        answer = {"canonical": wanted, "sha256": sha256(wanted)}
        family.valid(name, "6.4", "canonical_json", {"json": document}, answer, text, *flags, result=result)

    add("empty-object", "Nothing.", "{ }", is_="{}")
    add("empty-array", "Nothing, in order.", "[\n]", is_="[]")
    add("words", "The three words.", "[true, false , null]", is_="[true,false,null]")
    add("spaces", "No white space survives.", '{ "a" : [ 1 , 2 ] }', is_='{"a":[1,2]}')
    add(
        "keys",
        "Keys are sorted, at every depth.",
        '{"b":{"d":1,"c":2},"a":[{"z":0,"y":0}]}',
        is_='{"a":[{"y":0,"z":0}],"b":{"c":2,"d":1}}',
    )
    add(
        "keys-prefix",
        "A prefix comes first, capitals before small letters.",
        '{"aa":1,"a":2,"B":3,"":4}',
        is_='{"":4,"B":3,"a":2,"aa":1}',
    )
    add(
        "keys-numbers",
        "Keys are text, numbers in them too.",
        '{"10":1,"9":2,"1":3}',
        is_='{"1":3,"10":1,"9":2}',
    )
    add(
        "keys-utf16",
        "RFC 8785's own example: U+1F600 sorts before U+FB33, by UTF-16 code units.",
        '{"\\u20ac":"Euro Sign","\\r":"Carriage Return","\\ufb33":"Hebrew Letter Dalet With Dagesh",'
        '"1":"One","\\ud83d\\ude00":"Emoji: Grinning Face","\\u0080":"Control",'
        '"\\u00f6":"Latin Small Letter O With Diaeresis"}',
        "CodePointOrder",
        "AsciiEscapes",
    )
    add(
        "text",
        "Text beyond ASCII stays as it is.",
        '["\\u20ac", "K\\u00f6ln", "\\u65e5\\u672c"]',
        "AsciiEscapes",
    )
    add(
        "escapes",
        "The short escapes, and lower-case \\u00xx for other control characters.",
        '"\\u0000\\u0008\\u0009\\u000a\\u000b\\u000c\\u000d\\u001f\\"\\\\\\/\\u007f\\u2028"',
        "AsciiEscapes",
    )
    add("surrogate-pair", "A pair is one character.", '"\\ud83d\\ude00"', "AsciiEscapes")
    numbers = {
        "integer-float": ("1.0", "1"),
        "tenth": ("0.1", "0.1"),
        "minus-zero": ("-0.0", "0"),
        "minus-zero-exponent": ("-0e5", "0"),
        "exponent-21": ("1E21", "1e+21"),
        "exponent-20": ("1e20", "100000000000000000000"),
        "small-7": ("0.0000001", "1e-7"),
        "small-6": ("0.000001", "0.000001"),
        "shortest": ("333333333.33333329", "333333333.3333333"),
        "even": ("9007199254740992.0", "9007199254740992"),
        "largest": ("1.7976931348623157e308", "1.7976931348623157e+308"),
        "smallest": ("5e-324", "5e-324"),
        "digits-17": ("295147905179352830000.0", "295147905179352830000"),
        "half-even": ("1424953923781206.25", "1424953923781206.2"),
        "third": ("0.33333333333333331", "0.3333333333333333"),
        "joules": ("16.90e3", "16900"),
        "negative": ("-4.5000", "-4.5"),
        "long-integer": ("9007199254740991", "9007199254740991"),
    }
    minus = {"minus-zero", "minus-zero-exponent"}
    plain = {
        "tenth",
        "long-integer",
        "smallest",
        "largest",
        "exponent-21",
        "half-even",
        "negative",
        "shortest",
        "third",
    }
    for name, (given, wanted) in numbers.items():
        flags = (
            ["MinusZero", "NumbersAsWritten"]
            if name in minus
            else []
            if name in plain
            else ["NumbersAsWritten"]
        )
        add(f"number-{name}", f"{given} is {wanted}.", given, *flags, is_=wanted)
    add(
        "manifest",
        "A piece of a manifest.",
        '{"protocol_version":"1.0.0","sampling":{"nominal_period_us":500000,"clock":"CLOCK_MONOTONIC"},"factors":{"pue":1.20,"region":null},"labels":[]}',
    )
    add(
        "duplicate-keys",
        "Two equal keys: I-JSON forbids them. A reader that takes the last one, as most do, passes too.",
        '{"a":1,"a":2}',
        result="acceptable",
    )

    def refuse(name: str, text: str, document: str, *flags: str) -> None:
        family.invalid(name, "6.4", "canonical_json", {"json": document}, text, *flags)

    refuse("nan", "NaN is no JSON.", "[NaN]", "NotANumber")
    refuse("infinity", "Nor are infinities.", "[-Infinity]", "NotANumber")
    refuse("overflow", "1e400 is one in disguise.", "[1e400]", "NotANumber")
    refuse("huge-integer", "2^53 + 1 is not what every reader sees.", "9007199254740993", "HugeIntegers")
    refuse("lone-surrogate", "Half a character has no UTF-8.", '"\\ud800"')
    refuse("lone-surrogate-key", "Nor has half a key.", '{"\\udc00":1}')
    refuse("truncated", "No JSON at all.", '{"a":')
    return family
