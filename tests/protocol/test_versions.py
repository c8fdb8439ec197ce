"""Bundles of other versions: what a reader does with them, and what a minor version may not change (6.5)."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from harness.bundle import Bundle
from harness.errors import KitError
from harness.spec import Protocol, available_versions, load_protocol
from harness.spec.versions import breaking_changes, verdict
from tests.bundle.make import write_small


def test_a_later_minor_version_breaks_no_reader() -> None:
    for old, new in pairwise(map(load_protocol, available_versions())):
        if old.major == new.major:
            assert list(breaking_changes(old, new)) == []


def test_what_would_break_a_reader_is_named() -> None:
    old = load_protocol()

    def changed(table: str, column: str, **update: Any) -> list[str]:
        spec = old.tables[table]
        columns = tuple(replace(c, **update) if c.name == column else c for c in spec.columns)
        tables = {**old.tables, table: replace(spec, columns=columns)}
        return list(breaking_changes(old, replace(old, tables=tables)))

    assert changed("power", "mono_us", type="int32") == [
        "power.mono_us: int64 became int32, which is no widening"
    ]
    assert changed("power", "read_us", unit="ms") == ["power.read_us: unit us became ms"]
    assert changed("power", "power_mw", nullable=False) == ["power.power_mw may no longer be null"]
    assert changed("events", "severity", enum=("info", "error")) == [
        "events.severity: words are gone: warning"
    ]
    assert changed("power", "temp_c", field_id=99) == ["power.temp_c: field id 11 became 99"]
    assert changed("power", "temp_c", type="uint16", doc="Other words.") == []

    without = {name: table for name, table in old.tables.items() if name != "evals"}
    stages = old.tables["stages"]
    kinds = replace(stages.column("stage"), enum=(stages.column("stage").enum or ())[1:])
    columns = tuple(kinds if c.name == "stage" else c for c in stages.columns)
    without["stages"] = replace(stages, columns=columns)
    fewer = replace(old, tables=without, stage_kinds=old.stage_kinds[1:])
    assert list(breaking_changes(old, fewer)) == [
        "stages.stage: words are gone: prerun",
        "table evals is gone",
        "stage kind prerun is gone",
    ]
    power = old.tables["power"]
    last = replace(power.columns[-1], name="fan_rpm", nullable=False)
    tables = {**old.tables, "power": replace(power, columns=(*power.columns[:-1], last))}
    assert list(breaking_changes(old, replace(old, tables=tables))) == [
        "power.read_us is gone",
        "power.fan_rpm is new and may not be null: no older file has it",
        "power.fan_rpm takes field id 15 of read_us",
    ]


def test_a_newer_minor_version_is_read_without_what_is_new_in_it(tmp_path: Path) -> None:
    old = load_protocol()
    power, stages = old.tables["power"], old.tables["stages"]
    wider = tuple(replace(c, type="int64") if c.name == "power_mw" else c for c in power.columns)
    more = replace(wider[-1], name="fan_rpm", field_id=16, clause="5.2.16")
    kinds = replace(stages.column("stage"), enum=(*(stages.column("stage").enum or ()), "distil"))
    tables = {
        **old.tables,
        "power": replace(power, columns=(*wider, more)),
        "stages": replace(stages, columns=tuple(kinds if c.name == "stage" else c for c in stages.columns)),
        "fans": replace(power, table="fans", schema_id="fans/1.1"),
    }
    distil = replace(old.stage_kinds[0], name="distil")
    new = replace(old, version="1.1.0", tables=tables, stage_kinds=(*old.stage_kinds, distil))
    assert list(breaking_changes(old, new)) == []
    write_small(tmp_path, new)
    newer = Bundle.open(tmp_path, protocol=new)
    assert newer.table("power").schema.field("power_mw").type == pa.int64() and newer.rows("fans") == 0
    bundle = Bundle.open(tmp_path)
    assert bundle.notes == ["written by protocol 1.1.0, read as 1.0.0: newer columns are ignored"]
    assert bundle.protocol is old and bundle.written is old
    table = bundle.table("power")
    assert table.schema.equals(old.arrow_schema("power"))
    assert table.to_pylist() == newer.table("power").drop_columns(["fan_rpm"]).to_pylist()
    assert bundle.table("stages").to_pylist() == newer.table("stages").to_pylist()
    with pytest.raises(KitError, match="no table 'fans'"):
        bundle.table("fans")


def test_experimental_and_deprecated_columns_may_be_missing(tmp_path: Path) -> None:
    writer = write_small(tmp_path / "run")
    protocol = writer.protocol

    def marked(stability: str) -> Protocol:
        table = protocol.tables["power"]
        column = replace(table.columns[-1], name="fan_rpm", field_id=16, stability=stability)
        tables = {**protocol.tables, "power": replace(table, columns=(*table.columns, column))}
        return replace(protocol, tables=tables)

    for stability in ("experimental", "deprecated"):
        found = Bundle.open(tmp_path / "run", protocol=marked(stability)).table("power", ["fan_rpm"])
        assert found.column(0).null_count == found.num_rows == 200
    with pytest.raises(KitError, match="'fan_rpm' is missing"):
        Bundle.open(tmp_path / "run", protocol=marked("stable")).table("power", ["fan_rpm"])


@pytest.mark.parametrize(
    ("reader", "document", "expected"),
    [
        ("1.0.0", "1.0.0", "accept"),
        ("1.0.0", "1.0.9", "accept"),
        ("1.0.0", "1.1.0", "warn"),
        ("1.0.0", "2.0.0", "refuse"),
        ("1.10.0", "1.9.0", "accept"),
        ("1.0.0", "0.9.0", "refuse"),
        ("1.0.0", "0.0.1", "refuse"),
        ("0.9.0", "1.0.0", "refuse"),
    ],
)
def test_what_a_reader_does_with_another_version(reader: str, document: str, expected: str) -> None:
    assert verdict(reader, document) == expected


@pytest.mark.parametrize(
    "document", ["1.0", "1", "", "1.0.0.0", "v1.0.0", "1.0.x", "-1.0.0", "1.0.0\n", "१.0.0"]
)
def test_what_is_no_version_is_refused(document: str, tmp_path: Path) -> None:
    with pytest.raises(KitError, match="no protocol version"):
        verdict("1.0.0", document)
    write_small(tmp_path)
    path = tmp_path / "manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "protocol_version": document}))
    with pytest.raises(KitError, match="protocol_version is"):
        Bundle.open(tmp_path)
