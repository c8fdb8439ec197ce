"""Bytes: canonical JSON, logical digests, key order, versions, migrations."""

from __future__ import annotations

import copy
import hashlib
import json
import struct
from collections.abc import Sequence
from fractions import Fraction
from typing import Any

from vector_oracle.build import Family

Json = dict[str, Any]


def families() -> list[Family]:
    """Families on encodings."""
    return [_canonical(), _digests(), _order(), _versions(), _migrations()]


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


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _canonical() -> Family:
    family = Family("canonical-json", "RFC 8785: one value, one sequence of bytes.")

    def add(
        name: str, text: str, document: str, *flags: str, is_: str | None = None, result: str = "valid"
    ) -> None:
        wanted = canonical(json.loads(document))
        assert is_ is None or wanted == is_, (name, wanted)
        answer = {"canonical": wanted, "sha256": _sha256(wanted)}
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
        '{"\\u20ac":"Euro Sign","\\r":"Carriage Return","\\ufb33":"Hebrew Letter Dalet With Dagesh","1":"One","\\ud83d\\ude00":"Emoji: Grinning Face","\\u0080":"Control","\\u00f6":"Latin Small Letter O With Diaeresis"}',
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
    plain = {"tenth", "long-integer", "smallest", "largest", "small-6"}
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
        "NumbersAsWritten",
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
    return _sha256(canonical([column_entry(column) for column in columns]))


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
    add("one-row", "One row is in order.", ("stage_uid", "int64", [7]))
    return family


def _versions() -> Family:
    family = Family("versions", "What a reader does with documents of other versions.")

    def add(name: str, text: str, version: str, verdict: str, *flags: str, reader: str = "1.0.0") -> None:
        given = {"reader": reader, "document": version}
        family.valid(name, "6.5", "protocol_version", given, {"verdict": verdict}, text, *flags)

    add("same", "Its own.", "1.0.0", "accept")
    add("patch", "A patch changes words only.", "1.0.7", "accept", "MinorRefused")
    add("newer-minor", "A newer minor adds: read, with a warning.", "1.4.0", "warn", "MinorRefused")
    add("minor-as-number", "Minor 10 is newer than 9.", "1.10.0", "warn", "MinorRefused", reader="1.9.0")
    add("older-minor", "An older minor lacks what came later: read.", "1.2.3", "accept", reader="1.10.0")
    add(
        "draft",
        "The draft that was written before 1.0 is read: a migration leads from it.",
        "0.9.0",
        "accept",
    )
    add("before-the-draft", "Nothing leads from what was before it.", "0.1.0", "refuse", "MajorAccepted")
    add("newer-major", "A major change alters what a total means.", "2.0.0", "refuse", "MajorAccepted")
    add("far-major", "11 is not 1.", "11.0.0", "refuse", "MajorAccepted")
    for name, version in (("two-parts", "1.0"), ("letters", "1.x.0"), ("empty", ""), ("sign", "1.-1.0")):
        given = {"reader": "1.0.0", "document": version}
        text = "Not a version: major.minor.patch in digits."
        family.invalid(name, "6.5", "protocol_version", given, text)
    return family


def migrate(document: Json, steps: Sequence[Json]) -> Json:
    """Apply steps in order, as clause 6.6 words them."""
    document = copy.deepcopy(document)
    for step in steps:
        table, column, op = step["table"], step.get("column", ""), step["op"]
        if op == "add_table":
            document["tables"].setdefault(table, [])
            continue
        if table == "manifest":
            *parents, last = column.split(".")
            place = document["manifest"]
            for parent in parents:
                place = place[parent]
            assert op == "rename"
            place[step["to"].split(".")[-1]] = place.pop(last)
            continue
        if op == "append":
            _append(document["tables"], step)
            continue
        rows = document["tables"][table]
        for row in rows:
            if op == "rename" and column in row:
                row[step["to"]] = row.pop(column)
            elif op == "default":
                row.setdefault(column, step["value"])
            elif op == "drop":
                row.pop(column, None)
            elif op == "map" and row.get(column) is not None:
                row[column] = step["words"].get(row[column], row[column])
            elif op == "derive":
                row[column] = _derived(row, step["from"])
    return document


def _append(tables: Json, step: Json) -> None:
    rows = tables[step["table"]]
    for origin in list(tables[step["from"]]):
        if all(origin.get(name) is None for name in step["where_any"]):
            continue
        made: Json = {}
        for name, expression in step["columns"].items():
            ((word, operand),) = expression.items()
            if word == "value":
                made[name] = operand
            elif word == "next":
                made[name] = 1 + max((row[operand] for row in rows), default=-1)
            elif word == "json":
                made[name] = canonical({key: origin[key] for key in operand if origin[key] is not None})
            else:
                made[name] = _derived(origin, expression)
        rows.append(made)


def _derived(row: Json, source: Json) -> Any:
    ((kind, operand),) = source.items()
    if kind == "copy":
        return row[operand]
    if kind == "first":
        return next((row[name] for name in operand if row[name] is not None), None)
    if kind == "sum":
        values = [row[name] for name in operand]
        return None if None in values else sum(values)
    name, factor = operand
    return None if row[name] is None else row[name] * factor


def _migrations() -> Family:
    family = Family("migrations", "Older documents are read as newer ones by steps that are data.")

    def add(name: str, text: str, rows: list[Json], *steps: Json) -> None:
        document = {"manifest": {"protocol_version": "0.9.0"}, "tables": {"stages": rows}}
        given = {"document": document, "steps": list(steps)}
        family.valid(name, "6.6", "migrate", given, {"document": migrate(document, steps)}, text)

    def step(op: str, column: str, **more: Any) -> Json:
        return {"op": op, "table": "stages", "column": column, **more}

    rows: list[Json] = [
        {"stage_uid": 0, "energy": 5.5, "a": 1, "b": 2},
        {"stage_uid": 1, "energy": None, "a": None, "b": 7},
    ]
    add("nothing", "No steps, no change.", rows)
    add(
        "rename",
        "A column gets another name; nulls move with it.",
        rows,
        step("rename", "energy", to="gpu_energy_j"),
    )
    add("default", "A column that is missing gets a value.", rows, step("default", "attempt", value=1))
    add(
        "default-keeps",
        "One that is there keeps its own, null included.",
        rows,
        step("default", "a", value=9),
    )
    add(
        "default-null",
        "Null is a value for what nobody knew.",
        rows,
        step("default", "cpu_energy_j", value=None),
    )
    add("copy", "A copy.", rows, step("derive", "c", **{"from": {"copy": "a"}}))
    add(
        "sum",
        "A sum; with an unknown part it is unknown.",
        rows,
        step("derive", "c", **{"from": {"sum": ["a", "b"]}}),
    )
    add(
        "scale",
        "A factor; mJ from J.",
        rows,
        step("derive", "energy_mj", **{"from": {"scale": ["energy", 1000]}}),
    )
    add("first", "The first that is known.", rows, step("derive", "c", **{"from": {"first": ["a", "b"]}}))
    add(
        "map",
        "Words change, others stay.",
        [{"stage": "train"}, {"stage": "evaluate"}],
        step("map", "stage", words={"train": "student_train"}),
    )
    add("drop", "A column goes.", rows, step("drop", "b"))
    add("add-table", "A table that the older version lacked.", rows, {"op": "add_table", "table": "evals"})
    add(
        "in-order",
        "Steps work one after another: the second sees what the first left.",
        rows,
        step("rename", "a", to="x"),
        step("derive", "y", **{"from": {"sum": ["x", "b"]}}),
        step("drop", "x"),
    )
    events: list[Json] = [{"event_id": 4, "kind": "gap", "stage_uid": 0, "detail": None}]
    counted: list[Json] = [
        {"stage_uid": 0, "tokens_trained": 5, "tokens_processed": None},
        {"stage_uid": 1, "tokens_trained": None, "tokens_processed": None},
        {"stage_uid": 2, "tokens_trained": 0, "tokens_processed": 9},
    ]
    columns = {
        "event_id": {"next": "event_id"},
        "kind": {"value": "stage_tokens"},
        "stage_uid": {"copy": "stage_uid"},
        "detail": {"json": ["tokens_trained", "tokens_processed"]},
    }
    where = ["tokens_trained", "tokens_processed"]
    append = {"op": "append", "table": "events", "from": "stages", "where_any": where, "columns": columns}
    document: Json = {"manifest": {}, "tables": {"stages": counted, "events": events}}
    family.valid(
        "append",
        "6.6",
        "migrate",
        {"document": document, "steps": [append]},
        {"document": migrate(document, [append])},
        "Rows made from those of another table, numbered on; what is null is left out of the text.",
    )
    renamed = {
        "op": "rename",
        "table": "manifest",
        "column": "sampling.period",
        "to": "sampling.nominal_period_us",
    }
    document = {"manifest": {"sampling": {"period": 500_000, "clock": "UTC"}}, "tables": {}}
    family.valid(
        "manifest",
        "6.6",
        "migrate",
        {"document": document, "steps": [renamed]},
        {"document": migrate(document, [renamed])},
        "A field of the manifest, by its path.",
    )
    bad = {
        "document": {"manifest": {"protocol_version": "0.9.0"}, "tables": {"stages": rows}},
        "steps": [step("guess", "a")],
    }
    family.invalid("unknown-step", "6.6", "migrate", bad, "A step that nobody knows is not skipped.")
    return family
