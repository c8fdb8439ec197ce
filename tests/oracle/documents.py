"""Bytes and documents: canonical JSON, digests, key order, versions."""

from __future__ import annotations

import hashlib
import json
import math
import struct
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from tests.oracle.faults import Refused, need, wrong
from tests.oracle.power import Json


def canonical_json(given: Json) -> Json:
    """RFC 8785 form of a JSON text, and its digest."""

    def constant(word: str) -> None:
        need(wrong("NotANumber"), f"{word} is no JSON")

    try:
        text = canonical(json.loads(given["json"], parse_constant=constant))
        return {"canonical": text, "sha256": hashlib.sha256(text.encode()).hexdigest()}
    except ValueError as error:
        raise Refused(str(error)) from None


def canonical(value: Any) -> str:
    """RFC 8785 text of a parsed value."""
    if value is None or isinstance(value, bool):
        return json.dumps(value)
    if isinstance(value, int):
        need(abs(value) < 2**53 or wrong("HugeIntegers"), "an integer beyond 2^53")
        return str(value)
    if isinstance(value, float):
        return _number(value)
    if isinstance(value, str):
        value.encode()  # half a character has no UTF-8
        return json.dumps(value, ensure_ascii=wrong("AsciiEscapes"))
    if isinstance(value, list):
        return "[" + ",".join(map(canonical, value)) + "]"
    keys = sorted(value) if wrong("CodePointOrder") else sorted(value, key=lambda k: k.encode("utf-16-be"))
    return "{" + ",".join(f"{canonical(key)}:{canonical(value[key])}" for key in keys) + "}"


def _number(value: float) -> str:
    """ECMAScript's Number::toString; its digits are those of repr, the fewest that read back."""
    if math.isinf(value):
        need(wrong("NotANumber"), "an infinity")
        return "null"
    if value == 0 and wrong("MinusZero") and math.copysign(1, value) < 0:
        return "-0"
    if wrong("NumbersAsWritten"):
        return repr(value)
    if value == 0:
        return "0"
    sign = "-" if value < 0 else ""
    mantissa, _, exponent = repr(abs(value)).partition("e")
    whole, _, fraction = mantissa.partition(".")
    digits = (whole + fraction).lstrip("0")
    point = len(whole) + int(exponent or 0) - (len(whole + fraction) - len(digits))
    digits = digits.rstrip("0")
    if len(digits) <= point <= 21:
        return sign + digits.ljust(point, "0")
    if 0 < point <= 21:
        return f"{sign}{digits[:point]}.{digits[point:]}"
    if -6 < point <= 0:
        return f"{sign}0.{'0' * -point}{digits}"
    head = digits[0] + ("." + digits[1:] if len(digits) > 1 else "")
    return f"{sign}{head}e{'+' if point > 0 else '-'}{abs(point - 1)}"


FORMATS = {"int16": "h", "int32": "i", "int64": "q", "uint8": "B", "uint16": "H", "uint64": "Q"}
FORMATS |= {"float64": "d", "bool": "?"}


def logical_digest(given: Json) -> Json:
    """Logical digest of a table: [name, type, rows, h_valid, h_values] of each column, hashed as JSON."""
    entries = []
    for column in given["columns"]:
        kind, values = column["type"], column["values"]
        item = kind.removeprefix("list<").removesuffix(">")
        need(item in FORMATS or item == "string", "no such type")
        data = b"".join(_bytes(item, value) if item == kind else _list(item, value) for value in values)
        valid = "all-valid"
        if None in values and not wrong("NullsLost"):
            valid = hashlib.sha256(bytes(value is not None for value in values)).hexdigest()
        entries.append([column["name"], kind, len(values), valid, hashlib.sha256(data).hexdigest()])
    return {"logical_sha256": hashlib.sha256(canonical(entries).encode()).hexdigest()}


def _length(value: Any) -> bytes:
    if wrong("NoLengths"):
        return b""
    count = len(value) if value is not None else 0 if wrong("NullsLost") else 0xFFFFFFFF
    return struct.pack(">I" if wrong("BigEndian") else "<I", count)


def _list(item: str, value: Sequence[Any] | None) -> bytes:
    need(None not in (value or ()), "a null in a list")
    return _length(value) + b"".join(_bytes(item, one) for one in value or ())


def _bytes(kind: str, value: Any) -> bytes:
    if kind == "string":
        data = None if value is None else value.encode()
        return _length(data) + (data or b"")
    value = 0 if value is None else value
    if kind == "float64" and not wrong("MinusZero"):
        value = value + 0.0
    try:
        return struct.pack((">" if wrong("BigEndian") else "<") + FORMATS[kind], value)
    except struct.error as error:
        raise Refused(str(error)) from None


def key_order(given: Json) -> Json:
    """First row whose key is not above the one before: nulls first, text by its bytes."""

    def part(value: Any) -> tuple[Any, ...]:
        if value is None:
            return (2 if wrong("NullsLast") else 0,)
        if isinstance(value, str) or wrong("TextOrder"):
            return (1, str(value).encode())
        return (1, value)

    keys = [tuple(map(part, row)) for row in zip(*(c["values"] for c in given["columns"]), strict=True)]
    for k, (before, after) in enumerate(pairwise(keys)):
        if before >= after:
            return {"row": k + 1, "problem": "duplicate" if before == after else "unsorted"}
    return {"row": None, "problem": None}


def protocol_version(given: Json) -> Json:
    """Whether a reader takes a document of another version."""
    parts = []
    for version in (given["reader"], given["document"]):
        words = version.split(".")
        need(len(words) == 3 and all(word.isdigit() for word in words), "no version")
        parts.append(tuple(map(int, words)))
    reader, document = parts
    if document[0] != reader[0]:
        return {"verdict": "accept" if wrong("MajorAccepted") else "refuse"}
    if wrong("MinorRefused") and document != reader:
        return {"verdict": "refuse"}
    return {"verdict": "warn" if document[1] > reader[1] else "accept"}
