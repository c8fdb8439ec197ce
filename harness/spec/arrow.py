"""Arrow schemas derived from the table definitions."""

from __future__ import annotations

import pyarrow as pa

from harness.spec.table import Column, TableSpec

SCALARS = {
    "int8": pa.int8(),
    "int16": pa.int16(),
    "int32": pa.int32(),
    "int64": pa.int64(),
    "uint8": pa.uint8(),
    "uint16": pa.uint16(),
    "uint64": pa.uint64(),
    "float64": pa.float64(),
    "bool": pa.bool_(),
    "string": pa.string(),
}


def arrow_type(name: str) -> pa.DataType:
    """Arrow type of a protocol type name. Items of a list are never null."""
    if name.startswith("list<"):
        return pa.list_(pa.field("element", SCALARS[name[5:-1]], nullable=False))
    return SCALARS[name]


def arrow_field(column: Column) -> pa.Field:
    """Arrow field of a column, with its unit and Parquet field id as metadata."""
    metadata = {"PARQUET:field_id": str(column.field_id)}
    if column.unit is not None:
        metadata["unit"] = column.unit
    return pa.field(column.name, arrow_type(column.type), nullable=column.nullable, metadata=metadata)


def build_schema(table: TableSpec, *, encoded: bool = False) -> pa.Schema:
    """Arrow schema of a table, fields in the order of its definition; strings `encoded` as dictionaries."""
    fields = [arrow_field(column) for column in table.columns]
    coded = pa.dictionary(pa.int32(), pa.string())
    return pa.schema([f.with_type(coded) if encoded and f.type == pa.string() else f for f in fields])
