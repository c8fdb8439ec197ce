"""JSON Schemas (2020-12) of table rows and of the manifest, derived from the protocol's definitions."""

from __future__ import annotations

import re
from typing import Any

from harness.errors import KitError
from harness.spec.document import DocumentField, DocumentSpec
from harness.spec.load import load_protocol
from harness.spec.table import Column, TableSpec

_DIALECT = "https://json-schema.org/draft/2020-12/schema"
_INTEGER = re.compile(r"(u?)int(\d+)")


def json_schema(name: str, version: str | None = None) -> dict[str, Any]:
    """JSON Schema of one row of a table, or of the manifest.

    Args:
        name: A table of the protocol, or `manifest`.
        version: Protocol version; the current one by default.

    Raises:
        KitError: No table has this name.
    """
    protocol = load_protocol(version)
    if name == "manifest":
        return _document_schema(protocol.manifest)
    if name not in protocol.tables:
        raise KitError(
            f"protocol {protocol.version} has no table {name!r}",
            expected=f"one of {', '.join([*protocol.tables, 'manifest'])}",
        )
    return _row_schema(protocol.tables[name])


def _row_schema(table: TableSpec) -> dict[str, Any]:
    return {
        "$schema": _DIALECT,
        "$id": table.schema_id,
        "title": table.table,
        "description": table.doc,
        "type": "object",
        "properties": {column.name: _column_schema(column) for column in table.columns},
        "required": list(table.names),
        "additionalProperties": False,
    }


def _column_schema(column: Column) -> dict[str, Any]:
    if column.type.startswith("list<"):
        schema: dict[str, Any] = {"type": "array", "items": _scalar_schema(column.type[5:-1])}
    else:
        schema = _scalar_schema(column.type)
    if column.enum is not None:
        words = [word for word in column.enum if not word.endswith("*")]
        prefixes = [word[:-1] for word in column.enum if word.endswith("*")]
        if prefixes:
            choices: list[dict[str, Any]] = [{"enum": words}]
            choices += [{"pattern": f"^{re.escape(prefix)}"} for prefix in prefixes]
            schema["anyOf"] = choices
        else:
            schema["enum"] = words
    if column.nullable:
        schema = {"anyOf": [schema, {"type": "null"}]}
    schema["description"] = column.doc
    schema["x-clause"] = column.clause
    if column.unit is not None:
        schema["x-unit"] = column.unit
    if column.derived:
        schema["x-derived"] = True
    if column.stability != "stable":
        schema["x-stability"] = column.stability
    return schema


def _scalar_schema(type_name: str) -> dict[str, Any]:
    integer = _INTEGER.fullmatch(type_name)
    if integer:
        bits = int(integer[2])
        low, high = (0, 2**bits - 1) if integer[1] else (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)
        return {"type": "integer", "minimum": low, "maximum": high}
    return {"type": {"float64": "number", "bool": "boolean", "string": "string"}[type_name]}


def _document_schema(document: DocumentSpec) -> dict[str, Any]:
    schema = {"$schema": _DIALECT, "$id": document.schema_id, "title": document.document}
    schema["description"] = document.doc
    return schema | _object_schema(document.fields, is_open=False)


def _object_schema(fields: tuple[DocumentField, ...], *, is_open: bool) -> dict[str, Any]:
    schema: dict[str, Any] = {
        "type": "object",
        "properties": {field.name: _field_schema(field) for field in fields},
        "required": [field.name for field in fields if not field.optional],
    }
    if not is_open:
        schema["patternProperties"] = {"^x-": True}
        schema["additionalProperties"] = False
    return schema


def _field_schema(field: DocumentField) -> dict[str, Any]:
    match field.type:
        case "object":
            schema = _object_schema(field.fields, is_open=field.open)
        case "list<object>":
            schema = {"type": "array", "items": _object_schema(field.fields, is_open=field.open)}
        case "list<string>":
            schema = {"type": "array", "items": {"type": "string"}}
        case _:
            schema = _scalar_schema(field.type)
    if field.pattern is not None:
        schema["pattern"] = field.pattern
    if field.enum is not None:
        schema["enum"] = list(field.enum)
    if field.nullable:
        schema = {"anyOf": [schema, {"type": "null"}]}
    schema["description"] = field.doc
    if field.unit is not None:
        schema["x-unit"] = field.unit
    return schema
