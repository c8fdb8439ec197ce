"""The logical digest against a plain reading of clause 6.3, and against every change it must see or
ignore."""

from __future__ import annotations

import hashlib
import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.bundle import BundleWriter, logical_digest
from harness.errors import KitError
from harness.spec import load_protocol
from tests.bundle.make import digest_files, power_rows, small_groups, stage_row, write_small

PACK = {"int8": "b", "int16": "h", "int32": "i", "int64": "q", "uint8": "B", "uint16": "H", "uint64": "Q"}
BITS = {"int8": (-128, 127), "int16": (-(2**15), 2**15 - 1), "int32": (-(2**31), 2**31 - 1)}
BITS |= {
    "int64": (-(2**63), 2**63 - 1),
    "uint8": (0, 255),
    "uint16": (0, 2**16 - 1),
    "uint64": (0, 2**64 - 1),
}
TYPES = [*PACK, "float64", "bool", "string", "list<int16>", "list<int64>", "list<float64>", "list<string>"]

Rows = list[dict[str, Any]]


def arrow(name: str) -> pa.DataType:
    if name.startswith("list<"):
        return pa.list_(pa.field("element", arrow(name[5:-1]), nullable=False))
    return {"float64": pa.float64(), "bool": pa.bool_(), "string": pa.string()}.get(name) or getattr(
        pa, name
    )()


SCHEMA = pa.schema([pa.field(f"c{i}", arrow(name)) for i, name in enumerate(TYPES)])


def encode(name: str, value: Any) -> bytes:
    """Bytes of one value as clause 6.3 has them, one value at a time and with nothing of the kit."""
    if name == "string":
        return b"\xff" * 4 if value is None else struct.pack("<I", len(value.encode())) + value.encode()
    if name.startswith("list<"):
        if value is None:
            return b"\xff" * 4
        return struct.pack("<I", len(value)) + b"".join(encode(name[5:-1], item) for item in value)
    if name == "float64":
        return struct.pack("<d", 0.0 if value is None or value == 0 else value)
    if name == "bool":
        return bytes([bool(value)])
    return struct.pack("<" + PACK[name], value or 0)


def plain_digest(rows: Rows, types: list[tuple[str, str]]) -> str:
    parts = []
    for column, name in types:
        values = [row[column] for row in rows]
        h_values = hashlib.sha256(b"".join(encode(name, v) for v in values)).hexdigest()
        h_valid = "all-valid"
        if any(v is None for v in values):
            h_valid = hashlib.sha256(bytes(v is not None for v in values)).hexdigest()
        parts.append([column, name, len(rows), h_valid, h_values])
    return hashlib.sha256(json.dumps(parts, separators=(",", ":")).encode()).hexdigest()


NAMED = [(f"c{i}", name) for i, name in enumerate(TYPES)]


def values_of(name: str) -> st.SearchStrategy[Any]:
    if name.startswith("list<"):
        return st.lists(values_of(name[5:-1]), max_size=3)
    if name == "float64":
        return st.floats(allow_nan=False, allow_infinity=False)
    if name == "bool":
        return st.booleans()
    if name == "string":
        return st.text(st.characters(codec="utf-8"), max_size=5)
    return st.integers(*BITS[name])


ROWS = st.lists(
    st.fixed_dictionaries({column: st.none() | values_of(name) for column, name in NAMED}),
    min_size=1,
    max_size=12,
)


def table_of(rows: Rows) -> pa.Table:
    return pa.table([pa.array([row[f.name] for row in rows], f.type) for f in SCHEMA], schema=SCHEMA)


@given(ROWS, st.lists(st.integers(1, 4), max_size=6), st.booleans())
@settings(max_examples=60, deadline=None)
def test_is_what_the_clause_says_however_the_rows_are_cut(rows: Rows, cuts: list[int], coded: bool) -> None:
    table = table_of(rows)
    pieces, at = [], 0
    for cut in cuts:
        pieces.append(table.slice(at, cut))
        at += cut
    pieces.append(table.slice(at))
    batches = [batch for piece in pieces for batch in piece.to_batches()]
    if coded:
        index = SCHEMA.get_field_index("c9")
        batches = [b.set_column(index, "c9", b.column(index).dictionary_encode()) for b in batches]
    expected = plain_digest(rows, NAMED)
    assert logical_digest(table, SCHEMA) == expected
    assert logical_digest(iter(batches), SCHEMA) == expected


@given(ROWS, st.data())
@settings(max_examples=80, deadline=None)
def test_any_change_of_any_cell_shows(rows: Rows, data: st.DataObject) -> None:
    column, name = data.draw(st.sampled_from(NAMED))
    row = data.draw(st.integers(0, len(rows) - 1))
    before = rows[row][column]
    after = data.draw(
        (st.none() | values_of(name)).filter(lambda v: v != before or type(v) is not type(before))
    )
    changed = [dict(r) for r in rows]
    changed[row][column] = after
    assert logical_digest(table_of(changed), SCHEMA) != logical_digest(table_of(rows), SCHEMA)


def test_every_cell_of_a_table_of_stages_counts() -> None:
    schema = load_protocol().arrow_schema("stages")
    rows = [{f.name: None for f in schema} | stage_row(uid) for uid in range(3)]

    def digest() -> str:
        return logical_digest(pa.Table.from_pylist(rows, schema=schema), schema)

    seen = {digest()}
    for row in rows:
        for field in schema:
            before = row[field.name]
            for after in (None, [], ["q"] if pa.types.is_list(field.type) else 0, 1, "z"):
                if after == before and type(after) is type(before):
                    continue
                try:
                    pa.array([after], field.type)
                except (pa.ArrowException, TypeError):
                    continue
                row[field.name] = after
                seen_now = digest()
                assert seen_now not in seen, (field.name, after)
                seen.add(seen_now)
            row[field.name] = before
    assert len(seen) > 3 * len(schema)


def column(values: list[Any], name: str) -> str:
    schema = pa.schema([("c", arrow(name))])
    return logical_digest(pa.table([pa.array(values, schema.field(0).type)], schema=schema), schema)


def test_near_twins_are_told_apart() -> None:
    assert column([0, None], "int32") != column([0, 0], "int32") != column([None, 0], "int32")
    assert column(["ab", "c"], "string") != column(["a", "bc"], "string")
    assert column(["", None], "string") != column([None, ""], "string")
    assert column([[1], [2, 3]], "list<int16>") != column([[1, 2], [3]], "list<int16>")
    assert column([[], None], "list<int16>") != column([None, []], "list<int16>")
    assert column([["a", "b"]], "list<string>") != column([["ab"]], "list<string>")
    assert column([1], "int16") != column([1], "int32")
    assert column([-0.0], "float64") == column([0.0], "float64")
    assert column([1, 2], "int64") != column([2, 1], "int64")


def test_a_known_digest() -> None:
    # Worked out by hand from clause 6.3, to be found the same by any other implementation.
    zeros = hashlib.sha256(struct.pack("<ii", 5, 0)).hexdigest()
    valid = hashlib.sha256(b"\x01\x00").hexdigest()
    text = f'[["c","int32",2,"{valid}","{zeros}"]]'
    assert column([5, None], "int32") == hashlib.sha256(text.encode()).hexdigest()
    assert column([5, None], "int32") == "9dc1a34e164c6d021d3e31c28382c0f58470ebc3f3fdbee250772b217a9ef339"


def test_bytes_under_a_null_do_not_count() -> None:
    dirty = pa.Array.from_buffers(
        pa.int32(), 2, [pa.py_buffer(b"\x01"), pa.py_buffer(struct.pack("<ii", 7, 99))]
    )
    schema = pa.schema([("c", pa.int32())])
    assert dirty.to_pylist() == [7, None]
    assert logical_digest(pa.table([dirty], schema=schema), schema) == column([7, None], "int32")


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_floats_that_are_no_numbers_are_refused(bad: float) -> None:
    with pytest.raises(KitError, match="column c") as caught:
        column([0.0, bad], "float64")
    assert caught.value.where == "row 1"


def test_null_inside_a_list_and_missing_column_are_refused() -> None:
    schema = pa.schema([("c", pa.list_(pa.int64()))])
    with pytest.raises(KitError, match="null inside a list"):
        logical_digest(pa.table([pa.array([[1, None]])], schema=schema), schema)
    with pytest.raises(KitError, match="'c' is missing"):
        logical_digest(pa.table({"d": [1]}), schema)


def test_long_columns_take_the_fast_paths_to_the_same_digest() -> None:
    rng = np.random.default_rng(3)
    words = ["node-00", "node-01", "é", ""]
    size = 150_000
    many = [words[i] for i in rng.integers(0, 4, size)]
    few = ["node-00"] * (size - 70_000) + ["node-01"] * 70_000
    unique = [f"w{i}" if i % 7 else None for i in range(size)]
    schema = pa.schema([(n, pa.string()) for n in ("many", "few", "unique")])
    table = pa.table({"many": many, "few": few, "unique": unique}, schema=schema)
    rows = table.to_pylist()
    expected = plain_digest(rows, [(n, "string") for n in schema.names])
    assert logical_digest(table, schema) == expected
    assert logical_digest(table.slice(0, 1).to_batches() + table.slice(1).to_batches(), schema) == expected


@pytest.mark.parametrize("codec", ["none", "snappy", "gzip", "zstd"])
@pytest.mark.parametrize("group", [7, 64, 1000])
def test_the_same_in_any_codec_and_row_group(tmp_path: Path, codec: str, group: int) -> None:
    schema = load_protocol().arrow_schema("power")
    table = pa.Table.from_batches([power_rows(0, 0, 300)]).cast(schema)
    plain = plain_digest(table.to_pylist(), [(f.name, str(f.type)) for f in schema])
    path = tmp_path / "power.parquet"
    pq.write_table(table, path, compression=codec, row_group_size=group)
    assert digest_files([path], schema) == plain == logical_digest(table, schema)


def test_footer_and_manifest_carry_the_digest_of_the_rows(tmp_path: Path) -> None:
    write_small(tmp_path, small_groups(64))
    schema = load_protocol().arrow_schema("power")
    table = pq.read_table(tmp_path / "power.parquet")
    digest = plain_digest(table.to_pylist(), [(f.name, str(f.type)) for f in schema])
    entry = next(
        e for e in json.loads((tmp_path / "manifest.json").read_bytes())["files"] if e["rows"] == 200
    )
    metadata = pq.read_metadata(tmp_path / "power.parquet").metadata
    assert metadata[b"distill_energy.logical_sha256"].decode() == entry["logical_sha256"] == digest
    assert entry["sha256"] == hashlib.sha256((tmp_path / "power.parquet").read_bytes()).hexdigest()


def test_parts_digest_as_one_table(tmp_path: Path) -> None:
    schema = load_protocol().arrow_schema("power")
    batches = [power_rows(d, 0, 500) for d in range(3)]
    BundleWriter(tmp_path / "x", small_groups(100, 400)).write_table("power", iter(batches))
    paths = sorted((tmp_path / "x" / "power").glob(".part-*"))
    assert len(paths) == 4
    assert digest_files(paths, schema) == logical_digest(batches, schema)
