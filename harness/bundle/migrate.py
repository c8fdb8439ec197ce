"""Migrations (6.6) on columns: what `harness.spec.migrations` does to rows, for tables of any size."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from harness.errors import KitError
from harness.spec.migrations import Step


def migrate_columns(table: pa.Table, steps: Sequence[Step]) -> pa.Table:
    """Apply the steps of one table that concern its columns; appended rows are another matter.

    Args:
        table: Rows as they were written, all columns that the steps need among them.
        steps: Steps on this table, in order.

    Raises:
        KitError: A step does not fit the columns.
    """
    for step in steps:
        if step.op not in ("append", "add_table"):
            table = _apply(table, step)
    return table


def _apply(table: pa.Table, step: Step) -> pa.Table:
    names = table.column_names
    column = str(step.column)
    if step.op == "rename":
        if column not in names:
            return table
        if step.to in names:
            raise KitError(f"{step.table}: {column!r} cannot become {step.to!r}, which exists")
        return table.rename_columns([str(step.to) if name == column else name for name in names])
    if step.op == "drop":
        return table.drop_columns([column]) if column in names else table
    if step.op == "default":
        return table if column in names else _with(table, column, _constant(step.value, table.num_rows))
    if step.op == "derive":
        return _with(table, column, _evaluate(step.source, table))
    return _with(table, column, _mapped(table, column, step.words or {})) if column in names else table


def _with(table: pa.Table, name: str, values: Any) -> pa.Table:
    if name in table.column_names:
        return table.set_column(table.column_names.index(name), name, values)
    return table.append_column(name, values)


def _constant(value: Any, rows: int) -> Any:
    scalar = pa.scalar(value)
    return pa.nulls(rows) if value is None else pa.repeat(scalar, rows)


def _column(table: pa.Table, name: str) -> Any:
    return table.column(name) if name in table.column_names else pa.nulls(table.num_rows)


def _evaluate(expression: dict[str, Any], table: pa.Table) -> Any:
    word, operands = next(iter(expression.items()))
    if word == "value":
        return _constant(operands, table.num_rows)
    if word == "copy":
        return _column(table, operands)
    columns = [_column(table, name) for name in (operands[:1] if word == "scale" else operands)]
    known = [column for column in columns if not pa.types.is_null(column.type)]
    if word == "first":
        return pc.coalesce(*known) if known else columns[0]
    if len(known) < len(columns):
        return pa.nulls(table.num_rows)
    try:
        if word == "scale":
            return pc.multiply_checked(_wide(columns[0]), operands[1])
        total = _wide(columns[0])
        for column in columns[1:]:
            total = pc.add_checked(total, _wide(column))
        return total
    except pa.ArrowException as error:
        raise KitError(
            f"column cannot be derived: {error}", expected=f"numbers that {word} can take"
        ) from None


def _wide(values: Any) -> Any:
    """Integers of 64 bits, so that a sum of narrow columns does not overflow them."""
    return values.cast(pa.int64()) if pa.types.is_integer(values.type) else values


def _mapped(table: pa.Table, column: str, words: dict[str, str]) -> Any:
    values = _column(table, column)
    if pa.types.is_null(values.type):
        return values
    values = values.cast(pa.string()) if pa.types.is_dictionary(values.type) else values
    for old, new in words.items():
        values = pc.if_else(pc.fill_null(pc.equal(_column(table, column), old), False), new, values)
    return values
