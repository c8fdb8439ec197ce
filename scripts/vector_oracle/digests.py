"""The logical digest of a table, and the order of its rows."""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Sequence
from typing import Any

from vector_oracle.build import Family
from vector_oracle.canonical import canonical, sha256

Json = dict[str, Any]


def families() -> list[Family]:
    """Digests and keys."""
    return [_digests(), _order()]


_PACK = {
    "int16": "h",
    "int32": "i",
    "int64": "q",
    "uint8": "B",
    "uint16": "H",
    "uint64": "Q",
    "float64": "d",
    "bool": "?",
}

_NULL = b"\xff\xff\xff\xff"


def _item(kind: str, value: Any) -> bytes:
    if kind == "string":
        if value is None:
            return _NULL
        data: bytes = value.encode()
        return struct.pack("<I", len(data)) + data
    if value is None:
        value = 0
    if kind == "float64":
        value = float(value) + 0.0
    return struct.pack("<" + _PACK[kind], value)


def column_entry(column: Json) -> list[Any]:
    """[name, type, rows, h_valid, h_values] of a column."""
    kind, values = column["type"], column["values"]
    inner = kind.removeprefix("list<").removesuffix(">")
    data = b""
    for value in values:
        if inner == kind:
            data += _item(kind, value)
        elif value is None:
            data += _NULL
        else:
            data += struct.pack("<I", len(value)) + b"".join(_item(inner, item) for item in value)
    valid = "all-valid"
    if any(value is None for value in values):
        valid = hashlib.sha256(bytes(value is not None for value in values)).hexdigest()
    return [column["name"], kind, len(values), valid, hashlib.sha256(data).hexdigest()]


def digest(columns: Sequence[Json]) -> str:
    """Logical digest of a table."""
    return sha256(canonical([column_entry(column) for column in columns]))


def _digests() -> Family:
    family = Family("digest", "The logical digest: what a table says, whatever codec or file it lies in.")

    def add(name: str, text: str, *columns: tuple[str, str, list[Any]], flags: Sequence[str] = ()) -> None:
        table = [{"name": n, "type": t, "values": v} for n, t, v in columns]
        family.valid(
            name, "6.3", "logical_digest", {"columns": table}, {"logical_sha256": digest(table)}, text, *flags
        )

    end = ("BigEndian",)
    add("empty", "A table without rows has a digest of its own.", ("mono_us", "int64", []))
    add(
        "int64",
        "Eight bytes each, little-endian.",
        ("mono_us", "int64", [0, 1, -1, 1_790_000_000_000_000]),
        flags=end,
    )
    add("int32", "Four.", ("power_mw", "int32", [0, 350_000, -1]), flags=end)
    add("int16", "Two.", ("device_id", "int16", [0, 1, 7]), flags=end)
    add(
        "small-unsigned",
        "One, two and eight.",
        ("util_pct", "uint8", [0, 100]),
        ("sm_clock_mhz", "uint16", [1980, 345]),
        ("throttle_bits", "uint64", [0, 4]),
        flags=end,
    )
    add(
        "nulls",
        "A null is hashed as 0 and marked in the validity.",
        ("power_mw", "int32", [350_000, None, 0]),
        flags=("NullsLost", "BigEndian"),
    )
    add(
        "no-nulls",
        "The same numbers without a null: another table.",
        ("power_mw", "int32", [350_000, 0, 0]),
        flags=end,
    )
    add("all-null", "Nothing but nulls.", ("power_mw", "int32", [None, None, None]), flags=("NullsLost",))
    add("float64", "Doubles.", ("gpu_energy_j", "float64", [0.1, -2.5, 1e300]), flags=end)
    add("minus-zero", "-0.0 is 0.0.", ("gpu_energy_j", "float64", [-0.0, 0.0]), flags=("MinusZero",))
    add("bool", "One byte.", ("ok", "bool", [True, False, None]), flags=("NullsLost",))
    add(
        "strings",
        "Length and UTF-8.",
        ("name", "string", ["train", "", "K\u00f6ln", "\U0001f600"]),
        flags=("NoLengths", "BigEndian"),
    )
    add(
        "string-null",
        "A null text is no empty text.",
        ("zone", "string", ["package-0", None, ""]),
        flags=("NoLengths", "NullsLost", "BigEndian"),
    )
    add(
        "string-borders",
        "[ab, c] is not [a, bc].",
        ("name", "string", ["ab", "c"]),
        flags=("NoLengths", "BigEndian"),
    )
    add(
        "lists",
        "Length, then items; a null list is no empty list.",
        ("device_ids", "list<int16>", [[0, 1], [], None, [7]]),
        flags=("NoLengths", "NullsLost", "BigEndian"),
    )
    add(
        "list-borders",
        "[[1], [2]] is not [[1, 2], []].",
        ("device_ids", "list<int16>", [[1], [2]]),
        flags=("NoLengths", "BigEndian"),
    )
    add(
        "list-floats",
        "A list of doubles, -0.0 among them.",
        ("device_energy_j", "list<float64>", [[1.5, -0.0], [2.25]]),
        flags=("NoLengths", "MinusZero", "BigEndian"),
    )
    add(
        "list-strings",
        "A list of texts.",
        ("flags", "list<string>", [["gap", "short_stage"], []]),
        flags=("NoLengths", "BigEndian"),
    )
    two = [("a", "int64", [1, 2]), ("b", "int64", [3, 4])]
    add("columns", "Two columns, in the schema's order.", *two, flags=end)
    add("columns-other-order", "In another order: another digest.", *reversed(two), flags=end)
    add("name-counts", "The name is part of it.", ("power_average_mw", "int32", [1]), flags=end)
    add("type-counts", "So is the type.", ("power_average_mw", "int64", [1]), flags=end)
    add(
        "power-rows",
        "Three rows of power.",
        ("node_id", "string", ["node-00"] * 3),
        ("device_id", "int16", [0] * 3),
        ("mono_us", "int64", [500_000, 1_000_000, 1_500_000]),
        ("power_mw", "int32", [412_345, None, 409_111]),
        flags=("NoLengths", "NullsLost", "BigEndian"),
    )

    def refuse(name: str, text: str, *columns: tuple[str, str, list[Any]]) -> None:
        family.invalid(
            name,
            "6.3",
            "logical_digest",
            {"columns": [{"name": n, "type": t, "values": v} for n, t, v in columns]},
            text,
        )

    refuse("null-in-list", "A list holds no nulls.", ("device_ids", "list<int16>", [[0, None]]))
    refuse("out-of-range", "70,000 is no int16.", ("device_id", "int16", [70_000]))
    refuse("wrong-type", "Text is no number.", ("mono_us", "int64", ["5"]))
    refuse("unknown-type", "A type that the protocol does not have.", ("mono_us", "int128", [5]))
    return family


def _order() -> Family:
    family = Family(
        "keys",
        "Rows lie in strictly ascending key order: nulls first, text by its bytes, numbers as numbers.",
    )

    def add(name: str, text: str, *columns: tuple[str, str, list[Any]], flags: Sequence[str] = ()) -> None:
        keys = []
        for values in zip(*(v for _, _, v in columns), strict=True):
            keys.append(
                tuple(
                    (0, b"", 0) if x is None else (1, x.encode(), 0) if isinstance(x, str) else (1, b"", x)
                    for x in values
                )
            )
        bad = next((k for k in range(1, len(keys)) if keys[k] <= keys[k - 1]), None)
        problem = None if bad is None else "duplicate" if keys[bad] == keys[bad - 1] else "unsorted"
        given = {"columns": [{"name": n, "type": t, "values": v} for n, t, v in columns]}
        family.valid(name, "5", "key_order", given, {"row": bad, "problem": problem}, text, *flags)

    add("sorted", "In order.", ("session", "int64", [0, 0, 1]), ("mono_us", "int64", [5, 9, 2]))
    add(
        "unsorted",
        "The second column falls.",
        ("session", "int64", [0, 0, 1]),
        ("mono_us", "int64", [9, 5, 2]),
    )
    add("duplicate", "A key twice.", ("session", "int64", [0, 0, 0]), ("mono_us", "int64", [5, 9, 9]))
    add("ten-after-two", "10 comes after 2.", ("session", "int64", [2, 10]), flags=("TextOrder",))
    add(
        "nulls-first",
        "Null comes before every value.",
        ("device_id", "int64", [None, 0, 1]),
        flags=("NullsLast",),
    )
    add("nulls-last", "And not after.", ("device_id", "int64", [0, 1, None]), flags=("NullsLast",))
    add("two-nulls", "Two nulls are one key twice.", ("device_id", "int64", [None, None, 1]))
    add(
        "bytes",
        "Text by its bytes: Z before a, a before \u00e4, U+FB33 before U+1F600.",
        ("zone", "string", ["", "Z", "a", "\u00e4", "\ufb33", "\U0001f600"]),
    )
    add(
        "utf16",
        "Not by UTF-16 units, as canonical JSON orders keys.",
        ("zone", "string", ["\U0001f600", "\ufb33"]),
    )
    add(
        "null-text-first",
        "A null text comes before every text.",
        ("zone", "string", [None, "", "a"]),
        flags=("NullsLast",),
    )
    add("null-text-last", "And not after.", ("zone", "string", ["", "a", None]), flags=("NullsLast",))
    add("one-row", "One row is in order.", ("stage_uid", "int64", [7]))
    return family
