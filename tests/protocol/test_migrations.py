"""Migrations: every operation on rows, the same on columns, and a bundle read by a version yet to come."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import yaml

from harness.bundle import Bundle
from harness.bundle.migrate import migrate_columns
from harness.errors import KitError
from harness.spec import Protocol, load_protocol, protocol_root
from harness.spec.compat import breaking_changes
from harness.spec.migrations import (
    load_migrations,
    migrate_document,
    parse_step,
    steps_between,
    verdict,
)
from tests.bundle.make import write_small

STEPS = """
from: "1.0"
to: "1.1"
steps:
  - {op: rename, table: power, column: util_pct, to: busy_pct}
  - {op: derive, table: power, column: energy_counter_uj, from: {scale: [energy_counter_mj, 1000]}}
  - {op: default, table: stages, column: rack, value: unknown}
  - {op: derive, table: stages, column: tokens_all, from: {sum: [tokens_processed, tokens_generated]}}
  - {op: map, table: artifacts, column: kind, words: {folder: directory}}
  - {op: rename, table: manifest, column: hardware.cpu_model, to: hardware.cpu_name}
  - {op: default, table: manifest, column: site, value: null}
"""


@pytest.fixture
def future(tmp_path: Path) -> Path:
    """Protocol versions 0.9, 1.0 and 1.1, which renames, adds, widens and derives."""
    root = tmp_path / "protocols"
    shutil.copytree(protocol_root(), root)
    shutil.copytree(root / "1.0", root / "1.1")
    (root / "migrations" / "1.1.yaml").write_text(STEPS)

    def edit(name: str, change: Callable[[dict[str, Any]], None]) -> None:
        path = root / "1.1" / name
        data = yaml.safe_load(path.read_text())
        change(data)
        path.write_text(yaml.safe_dump(data, sort_keys=False))

    def add(data: dict[str, Any], name: str, kind: str, **more: Any) -> None:
        number = len(data["columns"]) + 1
        entry = {"name": name, "type": kind, "field_id": number, "clause": f"{data['clause']}.{number}"}
        data["columns"].append({**entry, "doc": "New.", **more})

    def power(data: dict[str, Any]) -> None:
        columns = {column["name"]: column for column in data["columns"]}
        columns["util_pct"]["name"] = "busy_pct"
        columns["power_mw"]["type"] = "int64"
        add(data, "energy_counter_uj", "int64", nullable=True, unit="uJ")
        add(data, "fan_rpm", "int32", nullable=True)

    def stages(data: dict[str, Any]) -> None:
        add(data, "rack", "string")
        add(data, "tokens_all", "int64", nullable=True)

    def artifacts(data: dict[str, Any]) -> None:
        next(c for c in data["columns"] if c["name"] == "kind")["enum"] = ["file", "folder", "directory"]

    edit("protocol.yaml", lambda data: data.update(version="1.1.0"))
    edit("tables/power.yaml", power)
    edit("tables/stages.yaml", stages)
    edit("tables/artifacts.yaml", artifacts)
    return root


def v11(root: Path) -> Protocol:
    return load_protocol("1.1", root=root)


def test_an_older_bundle_is_given_as_the_newer_version_has_it(future: Path, tmp_path: Path) -> None:
    write_small(tmp_path / "run", ticks=300)
    stored = Bundle.open(tmp_path / "run")
    given = Bundle.open(tmp_path / "run", protocol=v11(future), root=future)
    assert (given.written.version, given.protocol.version) == ("1.0.0", "1.1.0")
    assert given.notes == ["written by protocol 1.0.0, read as 1.1.0"]
    tables = {name: stored.table(name).to_pylist() for name in stored.protocol.tables}
    steps = steps_between("1.0", "1.1", root=future)
    assert steps is not None
    oracle = migrate_document({"manifest": stored.manifest, "tables": tables}, steps)
    for name, table in given.protocol.tables.items():
        expected = [{**dict.fromkeys(table.names), **row} for row in oracle["tables"][name]]
        found = given.table(name)
        assert found.schema.equals(given.protocol.arrow_schema(name))
        assert found.to_pylist() == expected
        assert given.rows(name) == len(expected)
        assert given.table(name, encoded=True).num_rows == len(expected)
    rows = given.table("power", ["energy_counter_uj", "busy_pct", "fan_rpm", "power_mw"]).to_pylist()
    before = stored.table("power").to_pylist()
    assert [row["busy_pct"] for row in rows] == [row["util_pct"] for row in before]
    micro = [None if r["energy_counter_mj"] is None else 1000 * r["energy_counter_mj"] for r in before]
    assert [row["energy_counter_uj"] for row in rows] == micro and None in micro
    assert {row["rack"] for row in given.table("stages").to_pylist()} == {"unknown"}
    assert given.manifest["hardware"]["cpu_name"] is None and given.manifest["site"] is None
    assert given.manifest == oracle["manifest"] and stored.manifest != given.manifest


def test_power_series_of_an_older_bundle(future: Path, tmp_path: Path) -> None:
    write_small(tmp_path / "run", ticks=300)
    stored = Bundle.open(tmp_path / "run")
    given = Bundle.open(tmp_path / "run", protocol=v11(future), root=future)
    columns = ("mono_us", "busy_pct", "energy_counter_uj", "fan_rpm")
    series = dict(given.iter_power(columns))
    for key, arrays in stored.iter_power(("mono_us", "util_pct", "energy_counter_mj")):
        assert (series[key]["mono_us"] == arrays["mono_us"]).all()
        assert (series[key]["busy_pct"] == arrays["util_pct"]).all()
        assert (series[key]["busy_pct_valid"] == arrays["util_pct_valid"]).all()
        valid = arrays["energy_counter_mj_valid"]
        assert (series[key]["energy_counter_uj"][valid] == 1000 * arrays["energy_counter_mj"][valid]).all()
        assert not series[key]["fan_rpm_valid"].any()
    assert len(series) == 4


def test_the_new_version_is_a_minor_one_and_what_would_not_be_is_named(future: Path) -> None:
    old, new = load_protocol("1.0", root=future), v11(future)
    steps = steps_between("1.0", "1.1", root=future)
    assert steps is not None and list(breaking_changes(old, new, steps)) == []
    # Without the migration, what it gives is lost.
    assert list(breaking_changes(old, new)) == [
        "stages.rack is new and may not be null: no older file has it",
        "power.util_pct is gone",
        "power.busy_pct takes field id 9 of util_pct",
    ]
    assert "is gone" in " ".join(breaking_changes(new, old))

    def changed(table: str, column: str, **update: Any) -> list[str]:
        spec = old.tables[table]
        columns = tuple(c.model_copy(update=update) if c.name == column else c for c in spec.columns)
        tables = {**old.tables, table: spec.model_copy(update={"columns": columns})}
        return list(breaking_changes(old, old.model_copy(update={"tables": tables})))

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


def test_a_newer_minor_version_is_read_without_what_is_new_in_it(tmp_path: Path) -> None:
    old = load_protocol()
    power, stages = old.tables["power"], old.tables["stages"]
    wider = tuple(
        c.model_copy(update={"type": "int64"}) if c.name == "power_mw" else c for c in power.columns
    )
    more = wider[-1].model_copy(update={"name": "fan_rpm", "field_id": 16, "clause": "5.2.16"})
    kinds = stages.column("stage").model_copy(
        update={"enum": (*(stages.column("stage").enum or ()), "distil")}
    )
    tables = {
        **old.tables,
        "power": power.model_copy(update={"columns": (*wider, more)}),
        "stages": stages.model_copy(
            update={"columns": tuple(kinds if c.name == "stage" else c for c in stages.columns)}
        ),
        "fans": power.model_copy(update={"table": "fans", "schema_id": "fans/1.1"}),
    }
    new = old.model_copy(update={"version": "1.1.0", "tables": tables})
    assert list(breaking_changes(old, new)) == []
    # A private attribute is copied with the rest; the schemas of the newer version are its own.
    new._schemas = {}
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
        column = table.columns[-1].model_copy(
            update={"name": "fan_rpm", "field_id": 16, "stability": stability}
        )
        tables = {**protocol.tables, "power": table.model_copy(update={"columns": (*table.columns, column)})}
        return protocol.model_copy(update={"tables": tables, "_schemas": {}})

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
        ("1.0.0", "0.9.0", "accept"),
        ("1.0.0", "0.8.0", "refuse"),
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


@pytest.mark.parametrize(
    ("step", "message"),
    [
        ({"op": "move", "table": "t"}, "op"),
        ({"op": "rename", "table": "t", "column": "a"}, "needs 'to'"),
        ({"op": "drop", "table": "t", "column": "a", "value": 1}, "has no 'value'"),
        ({"op": "derive", "table": "t", "column": "a", "from": {"exec": "a"}}, "none of"),
        ({"op": "derive", "table": "t", "column": "a", "from": {"sum": "a"}}, "does not take"),
        ({"op": "derive", "table": "t", "column": "a", "from": "a"}, "an expression is"),
        ({"op": "append", "table": "manifest", "from": "t", "where_any": [], "columns": {}}, "manifest"),
        (
            {"op": "append", "table": "t", "from": {"copy": "s"}, "where_any": [], "columns": {}},
            "name a table",
        ),
    ],
)
def test_a_malformed_step_is_refused(step: dict[str, Any], message: str) -> None:
    with pytest.raises(KitError, match=message):
        parse_step(step)
    with pytest.raises(KitError, match=message):
        migrate_document({"tables": {}}, [step])


def test_a_malformed_file_is_refused(future: Path) -> None:
    for text in (
        "from: '1.0'\nto: '0.9'\nsteps: []",
        "from: '1.0'\nto: '1.2'\nsteps: [{op: drop}]",
        "steps: []",
    ):
        (future / "migrations" / "1.2.yaml").write_text(text)
        load_migrations.__globals__["_load"].cache_clear()
        with pytest.raises(KitError, match=r"1\.2\.yaml"):
            load_migrations(future)


def test_a_document_is_not_changed_and_names_must_not_collide() -> None:
    document = {"tables": {"t": [{"a": 1, "b": [2]}]}}
    step = {"op": "rename", "table": "t", "column": "a", "to": "b"}
    with pytest.raises(KitError, match="which exists"):
        migrate_document(document, [step])
    assert migrate_document(document, [{**step, "to": "c"}])["tables"]["t"] == [{"b": [2], "c": 1}]
    assert document == {"tables": {"t": [{"a": 1, "b": [2]}]}}
    with pytest.raises(KitError, match="which exists"):
        migrate_columns(pa.table({"a": [1], "b": [2]}), [parse_step(step)])


def test_rows_and_columns_are_migrated_alike() -> None:
    rng = random.Random(7)
    names = ["a", "b", "c", "d"]
    for _ in range(300):
        kinds = {name: rng.choice(("int", "float", "word")) for name in names}
        values: dict[str, Callable[[], Any]] = {
            "int": lambda: rng.randrange(-(2**40), 2**40),
            "float": lambda: rng.randrange(-99, 99) / 8,
            "word": lambda: rng.choice(("x", "y", "z")),
        }
        rows = [
            {name: None if rng.random() < 0.2 else values[kinds[name]]() for name in names}
            for _ in range(rng.randrange(1, 8))
        ]
        steps: list[dict[str, Any]] = []
        live = dict(kinds)
        for number in range(rng.randrange(1, 6)):
            new = f"n{number}"
            column = rng.choice(sorted(live))
            numbers = sorted(name for name, kind in live.items() if kind != "word")
            alike = sorted(name for name, kind in live.items() if kind == live[column])
            op = rng.choice(("rename", "drop", "default", "map", "copy", "first", "sum", "scale"))
            if op == "rename":
                steps.append({"op": op, "column": column, "to": new})
                live[new] = live.pop(column)
            elif op == "drop" and len(live) > 1:
                steps.append({"op": op, "column": column})
                del live[column]
            elif op == "default":
                steps.append({"op": op, "column": rng.choice((new, column)), "value": rng.choice((None, 5))})
                live.setdefault(steps[-1]["column"], "int")
            elif op == "map" and live[column] == "word":
                steps.append({"op": op, "column": column, "words": {"x": "y", "y": "x"}})
            elif op in ("copy", "first"):
                operands = column if op == "copy" else rng.sample(alike, rng.randrange(1, len(alike) + 1))
                steps.append({"op": "derive", "column": new, "from": {op: operands}})
                live[new] = live[column]
            elif op in ("sum", "scale") and numbers:
                chosen = rng.sample(numbers, rng.randrange(1, len(numbers) + 1))
                factor = rng.choice((1000, 0.5))
                operands = chosen if op == "sum" else [chosen[0], factor]
                steps.append({"op": "derive", "column": new, "from": {op: operands}})
                live[new] = "float"
        parsed = [parse_step({"table": "t", **step}) for step in steps]
        types = {"int": pa.int64(), "float": pa.float64(), "word": pa.string()}
        table = pa.Table.from_pylist(rows, pa.schema([(name, types[kinds[name]]) for name in names]))
        by_rows = migrate_document({"tables": {"t": rows}}, parsed)["tables"]["t"]
        assert migrate_columns(table, parsed).to_pylist() == by_rows, steps


def test_json_is_canonical() -> None:
    """RFC 8785: numbers as ECMAScript prints them, keys by UTF-16 units."""
    columns = {"detail": {"json": ["\ue000", "\U0001f600", "a"]}}
    step = parse_step({"op": "append", "table": "t", "from": "s", "where_any": ["a"], "columns": columns})
    row = {"a": 1.0, "\ue000": 1e21, "\U0001f600": None}
    (made,) = migrate_document({"tables": {"s": [row], "t": []}}, [step])["tables"]["t"]
    assert made["detail"] == '{"a":1,"\ue000":1e+21}'
    row["\U0001f600"] = 2
    (made,) = migrate_document({"tables": {"s": [row], "t": []}}, [step])["tables"]["t"]
    assert made["detail"] == '{"a":1,"\U0001f600":2,"\ue000":1e+21}'
    with pytest.raises(KitError, match="not exact"):
        migrate_document({"tables": {"s": [{"a": 2**53}], "t": []}}, [step])
