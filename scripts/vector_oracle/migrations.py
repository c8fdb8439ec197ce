"""Versions that a reader accepts, and steps that turn an older document into a newer one."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

from vector_oracle.build import Family
from vector_oracle.canonical import canonical

Json = dict[str, Any]


def families() -> list[Family]:
    """Versions and migrations."""
    return [_versions(), _migrations()]


def _versions() -> Family:
    family = Family("versions", "What a reader does with documents of other versions.")

    def add(name: str, text: str, version: str, verdict: str, *flags: str, reader: str = "1.0.0") -> None:
        given = {"reader": reader, "document": version}
        family.valid(name, "6.5", "protocol_version", given, {"verdict": verdict}, text, *flags)

    add("same", "Its own.", "1.0.0", "accept")
    add("patch", "A patch changes words only.", "1.0.7", "accept", "MinorRefused")
    add("newer-minor", "A newer minor adds: read, with a warning.", "1.4.0", "warn", "MinorRefused")
    add("minor-as-number", "Minor 10 is newer than 9.", "1.10.0", "warn", "MinorRefused", reader="1.9.0")
    add(
        "older-minor",
        "An older minor lacks what came later: read.",
        "1.2.3",
        "accept",
        "MinorRefused",
        reader="1.10.0",
    )
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
