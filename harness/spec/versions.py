"""What a reader does with documents of other versions, and what a minor version may not change (6.5)."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Literal, TypeAlias

from harness.errors import KitError
from harness.spec.model import Protocol
from harness.spec.table import Column, TableSpec

Verdict: TypeAlias = Literal["accept", "warn", "refuse"]

WIDENINGS = {
    ("int8", "int16"), ("int8", "int32"), ("int8", "int64"), ("int16", "int32"), ("int16", "int64"),
    ("int32", "int64"), ("uint8", "uint16"), ("uint8", "uint64"), ("uint16", "uint64"),
    ("float32", "float64"),
}  # fmt: skip
"""Changes of type that lose nothing and that a minor version may make."""

_VERSION = re.compile(r"\d{1,8}\.\d{1,8}\.\d{1,8}", re.ASCII)


def verdict(reader: str, document: str) -> Verdict:
    """What a reader does with a document of another version.

    Args:
        reader: Version the reader speaks, `major.minor.patch`.
        document: Version the document states.

    Returns:
        "refuse" for another major version; "warn" for a newer minor version; "accept" otherwise.

    Raises:
        KitError: One of the two is no version.
    """
    for version in (reader, document):
        if _VERSION.fullmatch(version) is None:
            raise KitError(f"{version!r} is no protocol version", expected="major.minor.patch, such as 1.0.0")
    (major, minor), (other_major, other_minor) = (
        [int(part) for part in version.split(".")[:2]] for version in (reader, document)
    )
    if other_major != major:
        return "refuse"
    return "warn" if other_minor > minor else "accept"


def breaking_changes(old: Protocol, new: Protocol) -> Iterator[str]:
    """What makes `new` more than a minor version of `old`, in words; nothing if it is none."""
    for name, table in old.tables.items():
        if name not in new.tables:
            yield f"table {name} is gone"
        else:
            yield from _table(table, new.tables[name])
    kinds = {kind.name for kind in old.stage_kinds} - {kind.name for kind in new.stage_kinds}
    yield from (f"stage kind {kind} is gone" for kind in sorted(kinds))
    if old.sampling != new.sampling:
        yield "sampling differs: the same samples may give other totals"
    if old.boundary != new.boundary:
        yield "boundary differs: a joule means something else"


def _table(old: TableSpec, new: TableSpec) -> Iterator[str]:
    if old.key != new.key:
        yield f"{old.table}: key {old.key} became {new.key}"
    there = {column.name: column for column in new.columns}
    numbers = {column.field_id: column.name for column in old.columns}
    for column in old.columns:
        if column.stability == "experimental":
            continue
        if column.name not in there:
            yield f"{old.table}.{column.name} is gone"
        else:
            yield from _column(old.table, column, there[column.name])
    for column in new.columns:
        if column.name in old.names:
            continue
        if not column.nullable:
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
        yield f"{where} {'was' if old.derived else 'is'} derived, and {'is' if old.derived else 'was'} not"
    if old.field_id != new.field_id:
        yield f"{where}: field id {old.field_id} became {new.field_id}"
    lost = sorted(set(old.enum or ()) - set(new.enum or ())) if old.enum is not None else []
    if lost and new.enum is not None:
        yield f"{where}: words are gone: {', '.join(lost)}"
