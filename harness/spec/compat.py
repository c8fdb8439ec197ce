"""Whether one version of the protocol may follow another as a minor one (6.5): what a reader of the older
would trip over.
"""

from __future__ import annotations

from collections.abc import Iterator

from harness.spec.migrations import Step
from harness.spec.model import Column, Protocol, TableSpec

WIDENINGS = {
    ("int8", "int16"), ("int8", "int32"), ("int8", "int64"), ("int16", "int32"), ("int16", "int64"),
    ("int32", "int64"), ("uint8", "uint16"), ("uint8", "uint64"), ("uint16", "uint64"),
    ("float32", "float64"),
}  # fmt: skip
"""Changes of type that lose nothing and that a minor version may make."""


def breaking_changes(old: Protocol, new: Protocol, steps: tuple[Step, ...] = ()) -> Iterator[str]:
    """What makes `new` more than a minor version of `old`, in words; nothing if it is none.

    Args:
        old: The earlier version.
        new: The later one, of the same major.
        steps: Migration between the two: a column that a step renames is not lost.
    """
    for name, table in old.tables.items():
        if name not in new.tables:
            yield f"table {name} is gone"
        else:
            yield from _table(table, new.tables[name], [step for step in steps if step.table == name])
    kinds = {kind.name for kind in old.stage_kinds} - {kind.name for kind in new.stage_kinds}
    yield from (f"stage kind {kind} is gone" for kind in sorted(kinds))
    if old.sampling != new.sampling:
        yield "sampling differs: the same samples may give other totals"
    if old.boundary != new.boundary:
        yield "boundary differs: a joule means something else"


def _table(old: TableSpec, new: TableSpec, steps: list[Step]) -> Iterator[str]:
    renamed = {str(step.column): str(step.to) for step in steps if step.op == "rename"}
    given = {str(step.column) for step in steps if step.op in ("default", "derive")}
    if old.key != new.key:
        yield f"{old.table}: key {old.key} became {new.key}"
    for step in steps:
        if step.column in old.key:
            yield f"{old.table}: a migration changes {step.column}, a column of the key"
    there = {column.name: column for column in new.columns}
    numbers = {column.field_id: column.name for column in old.columns}
    for column in old.columns:
        later = there.get(renamed.get(column.name, column.name))
        if later is None:
            if column.stability != "experimental":
                yield f"{old.table}.{column.name} is gone"
        elif column.stability != "experimental":
            yield from _column(old.table, column, later)
    before = {renamed.get(name, name) for name in old.names}
    for column in new.columns:
        if column.name in before:
            continue
        if not column.nullable and column.name not in given:
            yield f"{old.table}.{column.name} is new and may not be null: no older file has it"
        if column.field_id in numbers:
            yield f"{old.table}.{column.name} takes field id {column.field_id} of {numbers[column.field_id]}"


def _column(table: str, old: Column, new: Column) -> Iterator[str]:
    where = f"{table}.{old.name}"
    if old.type != new.type and (old.type, new.type) not in WIDENINGS:
        yield f"{where}: {old.type} became {new.type}, which is no widening"
    if old.unit != new.unit:
        yield f"{where}: unit {old.unit} became {new.unit}"
    if old.nullable and not new.nullable:
        yield f"{where} may no longer be null"
    if old.derived != new.derived:
        yield f"{where} is {'no longer' if old.derived else 'now'} derived"
    if old.field_id != new.field_id:
        yield f"{where}: field id {old.field_id} became {new.field_id}"
    lost = sorted(set(old.enum or ()) - set(new.enum or ())) if old.enum is not None else []
    if lost and new.enum is not None:
        yield f"{where}: words are gone: {', '.join(lost)}"
