"""Canonical JSON, the logical digest of a table, the order of its rows, versions."""

from __future__ import annotations

import hashlib
from typing import Any

from tests.oracle.family import Family

Column = tuple[str, str, list[Any]]


def canonical() -> Family:
    """Canonical JSON."""
    family = Family("canonical-json", "RFC 8785: one value, one sequence of bytes.", "canonical_json", "6.4")

    def add(
        name: str, text: str, document: str, wanted: str | None, flags: str = "", result: str = "valid"
    ) -> None:
        answer = None
        if wanted is not None:
            answer = {"canonical": wanted, "sha256": hashlib.sha256(wanted.encode()).hexdigest()}
        family.add(name, text, {"json": document}, flags, answer, result=result)

    for row in (
        ("empty-object", "Nothing.", "{ }", "{}"),
        ("empty-array", "Nothing, in order.", "[\n]", "[]"),
        ("words", "The three words.", "[true, false , null]", "[true,false,null]"),
        ("spaces", "No white space survives.", '{ "a" : [ 1 , 2 ] }', '{"a":[1,2]}'),
        ("keys", "Keys are sorted, at every depth.",
         '{"b":{"d":1,"c":2},"a":[{"z":0,"y":0}]}', '{"a":[{"y":0,"z":0}],"b":{"c":2,"d":1}}'),
        ("keys-prefix", "A prefix comes first, capitals before small letters.",
         '{"aa":1,"a":2,"B":3,"":4}', '{"":4,"B":3,"a":2,"aa":1}'),
        ("keys-numbers", "Keys are text, numbers in them too.",
         '{"10":1,"9":2,"1":3}', '{"1":3,"10":1,"9":2}'),
        ("keys-utf16", "RFC 8785's own example: U+1F600 sorts before U+FB33, by UTF-16 code units.",
         '{"\\u20ac":"Euro Sign","\\r":"Carriage Return","\\ufb33":"Hebrew Letter Dalet With Dagesh",'
         '"1":"One","\\ud83d\\ude00":"Emoji: Grinning Face","\\u0080":"Control",'
         '"\\u00f6":"Latin Small Letter O With Diaeresis"}', None, "CodePointOrder AsciiEscapes"),
        ("text", "Text beyond ASCII stays as it is.",
         '["\\u20ac", "K\\u00f6ln", "\\u65e5\\u672c"]',
         '["\u20ac","K\u00f6ln","\u65e5\u672c"]', "AsciiEscapes"),
        ("escapes", "The short escapes, and lower-case \\u00xx for other control characters.",
         '"\\u0000\\u0008\\u0009\\u000a\\u000b\\u000c\\u000d\\u001f\\"\\\\\\/\\u007f\\u2028"',
         '"\\u0000\\b\\t\\n\\u000b\\f\\r\\u001f\\"\\\\/\x7f\u2028"', "AsciiEscapes"),
        ("surrogate-pair", "A pair is one character.", '"\\ud83d\\ude00"', '"\U0001f600"', "AsciiEscapes"),
    ):  # fmt: skip
        add(*row)
    written, zero = "NumbersAsWritten", "MinusZero NumbersAsWritten"
    for name, given, wanted, *flags in (
        ("integer-float", "1.0", "1", written),
        ("tenth", "0.1", "0.1"),
        ("minus-zero", "-0.0", "0", zero),
        ("minus-zero-exponent", "-0e5", "0", zero),
        ("exponent-21", "1E21", "1e+21"),
        ("exponent-20", "1e20", "100000000000000000000", written),
        ("small-7", "0.0000001", "1e-7", written),
        ("small-6", "0.000001", "0.000001", written),
        ("shortest", "333333333.33333329", "333333333.3333333"),
        ("even", "9007199254740992.0", "9007199254740992", written),
        ("largest", "1.7976931348623157e308", "1.7976931348623157e+308"),
        ("smallest", "5e-324", "5e-324"),
        ("digits-17", "295147905179352830000.0", "295147905179352830000", written),
        ("half-even", "1424953923781206.25", "1424953923781206.2"),
        ("third", "0.33333333333333331", "0.3333333333333333"),
        ("joules", "16.90e3", "16900", written),
        ("negative", "-4.5000", "-4.5"),
        ("long-integer", "9007199254740991", "9007199254740991"),
    ):
        add(f"number-{name}", f"{given} is {wanted}.", given, wanted, *flags)
    manifest = (
        '{"protocol_version":"1.0.0","sampling":{"nominal_period_us":500000,"clock":"CLOCK_MONOTONIC"},'
        '"factors":{"pue":1.20,"region":null},"labels":[]}'
    )
    add("manifest", "A piece of a manifest.", manifest, None)
    text = "Two equal keys: I-JSON forbids them. A reader that takes the last one, as most do, passes too."
    add("duplicate-keys", text, '{"a":1,"a":2}', '{"a":2}', result="acceptable")
    for name, text, document, *flags in (
        ("nan", "NaN is no JSON.", "[NaN]", "NotANumber"),
        ("infinity", "Nor are infinities.", "[-Infinity]", "NotANumber"),
        ("overflow", "1e400 is one in disguise.", "[1e400]", "NotANumber"),
        ("huge-integer", "2^53 + 1 is not what every reader sees.", "9007199254740993", "HugeIntegers"),
        ("lone-surrogate", "Half a character has no UTF-8.", '"\\ud800"'),
        ("lone-surrogate-key", "Nor has half a key.", '{"\\udc00":1}'),
        ("truncated", "No JSON at all.", '{"a":'),
    ):
        family.refuse(name, text, {"json": document}, *flags)
    return family


def _table(*columns: Column) -> dict[str, Any]:
    return {"columns": [{"name": name, "type": kind, "values": values} for name, kind, values in columns]}


def digest() -> Family:
    """Digests."""
    doc = "The logical digest: what a table says, whatever codec or file it lies in."
    family = Family("digest", doc, "logical_digest", "6.3")
    end, lost, text_flags = "BigEndian", "NullsLost BigEndian", "NoLengths BigEndian"
    every = "NoLengths NullsLost BigEndian"
    ab: list[Column] = [("a", "int64", [1, 2]), ("b", "int64", [3, 4])]
    for name, text, flags, *columns in (
        ("empty", "A table without rows has a digest of its own.", "", ("mono_us", "int64", [])),
        ("int64", "Eight bytes each, little-endian.",
         end, ("mono_us", "int64", [0, 1, -1, 1_790_000_000_000_000])),
        ("int32", "Four.", end, ("power_mw", "int32", [0, 350_000, -1])),
        ("int16", "Two.", end, ("device_id", "int16", [0, 1, 7])),
        ("small-unsigned", "One, two and eight.", end, ("util_pct", "uint8", [0, 100]),
         ("sm_clock_mhz", "uint16", [1980, 345]), ("throttle_bits", "uint64", [0, 4])),
        ("nulls", "A null is hashed as 0 and marked in the validity.", lost,
         ("power_mw", "int32", [350_000, None, 0])),
        ("no-nulls", "The same numbers without a null: another table.", end,
         ("power_mw", "int32", [350_000, 0, 0])),
        ("all-null", "Nothing but nulls.", "NullsLost", ("power_mw", "int32", [None, None, None])),
        ("float64", "Doubles.", end, ("gpu_energy_j", "float64", [0.1, -2.5, 1e300])),
        ("minus-zero", "-0.0 is 0.0.", "MinusZero", ("gpu_energy_j", "float64", [-0.0, 0.0])),
        ("bool", "One byte.", "NullsLost", ("ok", "bool", [True, False, None])),
        ("strings", "Length and UTF-8.",
         text_flags, ("name", "string", ["train", "", "K\u00f6ln", "\U0001f600"])),
        ("string-null", "A null text is no empty text.", every, ("zone", "string", ["package-0", None, ""])),
        ("string-borders", "[ab, c] is not [a, bc].", text_flags, ("name", "string", ["ab", "c"])),
        ("lists", "Length, then items; a null list is no empty list.", every,
         ("device_ids", "list<int16>", [[0, 1], [], None, [7]])),
        ("list-borders", "[[1], [2]] is not [[1, 2], []].", text_flags,
         ("device_ids", "list<int16>", [[1], [2]])),
        ("list-floats", "A list of doubles, -0.0 among them.", "NoLengths MinusZero BigEndian",
         ("device_energy_j", "list<float64>", [[1.5, -0.0], [2.25]])),
        ("list-strings", "A list of texts.", text_flags,
         ("flags", "list<string>", [["gap", "short_stage"], []])),
        ("columns", "Two columns, in the schema's order.", end, *ab),
        ("columns-other-order", "In another order: another digest.", end, *reversed(ab)),
        ("name-counts", "The name is part of it.", end, ("power_average_mw", "int32", [1])),
        ("type-counts", "So is the type.", end, ("power_average_mw", "int64", [1])),
        ("power-rows", "Three rows of power.", every, ("node_id", "string", ["node-00"] * 3),
         ("device_id", "int16", [0] * 3), ("mono_us", "int64", [500_000, 1_000_000, 1_500_000]),
         ("power_mw", "int32", [412_345, None, 409_111])),
    ):  # fmt: skip
        family.add(name, text, _table(*columns), flags)
    for name, text, column in (
        ("null-in-list", "A list holds no nulls.", ("device_ids", "list<int16>", [[0, None]])),
        ("out-of-range", "70,000 is no int16.", ("device_id", "int16", [70_000])),
        ("wrong-type", "Text is no number.", ("mono_us", "int64", ["5"])),
        ("unknown-type", "A type that the protocol does not have.", ("mono_us", "int128", [5])),
    ):
        family.refuse(name, text, _table(column))
    return family


def keys() -> Family:
    """Key order."""
    doc = "Rows lie in strictly ascending key order: nulls first, text by its bytes, numbers as numbers."
    family = Family("keys", doc, "key_order", "5")
    session, device, last = "session", "device_id", "NullsLast"
    for name, text, flags, *columns in (
        ("sorted", "In order.", "", (session, "int64", [0, 0, 1]), ("mono_us", "int64", [5, 9, 2])),
        ("unsorted", "The second column falls.",
         "", (session, "int64", [0, 0, 1]), ("mono_us", "int64", [9, 5, 2])),
        ("duplicate", "A key twice.", "", (session, "int64", [0, 0, 0]), ("mono_us", "int64", [5, 9, 9])),
        ("ten-after-two", "10 comes after 2.", "TextOrder", (session, "int64", [2, 10])),
        ("nulls-first", "Null comes before every value.", last, (device, "int64", [None, 0, 1])),
        ("nulls-last", "And not after.", last, (device, "int64", [0, 1, None])),
        ("two-nulls", "Two nulls are one key twice.", "", (device, "int64", [None, None, 1])),
        ("bytes", "Text by its bytes: Z before a, a before \u00e4, U+FB33 before U+1F600.", "",
         ("zone", "string", ["", "Z", "a", "\u00e4", "\ufb33", "\U0001f600"])),
        ("utf16", "Not by UTF-16 units, as canonical JSON orders keys.", "",
         ("zone", "string", ["\U0001f600", "\ufb33"])),
        ("null-text-first", "A null text comes before every text.",
         last, ("zone", "string", [None, "", "a"])),
        ("null-text-last", "And not after.", last, ("zone", "string", ["", "a", None])),
        ("one-row", "One row is in order.", "", ("stage_uid", "int64", [7])),
    ):  # fmt: skip
        family.add(name, text, _table(*columns), flags)
    return family


def versions() -> Family:
    """Versions."""
    family = Family(
        "versions", "What a reader does with documents of other versions.", "protocol_version", "6.5"
    )
    for name, text, document, verdict, flags, *reader in (
        ("same", "Its own.", "1.0.0", "accept", ""),
        ("patch", "A patch changes words only.", "1.0.7", "accept", "MinorRefused"),
        ("newer-minor", "A newer minor adds: read, with a warning.", "1.4.0", "warn", "MinorRefused"),
        ("minor-as-number", "Minor 10 is newer than 9.", "1.10.0", "warn", "MinorRefused", "1.9.0"),
        ("older-minor", "An older minor lacks what came later: read.",
         "1.2.3", "accept", "MinorRefused", "1.10.0"),
        ("older-major", "Nothing leads from an older major version.", "0.9.0", "refuse", "MajorAccepted"),
        ("newer-major", "A major change alters what a total means.", "2.0.0", "refuse", "MajorAccepted"),
        ("far-major", "11 is not 1.", "11.0.0", "refuse", "MajorAccepted"),
    ):  # fmt: skip
        given = {"reader": reader[0] if reader else "1.0.0", "document": document}
        family.add(name, text, given, flags, {"verdict": verdict})
    for name, version in (("two-parts", "1.0"), ("letters", "1.x.0"), ("empty", ""), ("sign", "1.-1.0")):
        given = {"reader": "1.0.0", "document": version}
        family.refuse(name, "Not a version: major.minor.patch in digits.", given)
    return family
