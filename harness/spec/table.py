"""Models of `tables/*.yaml`: columns and tables."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

TypeName = Literal[
    "int8",
    "int16",
    "int32",
    "int64",
    "uint8",
    "uint16",
    "uint64",
    "float64",
    "bool",
    "string",
    "list<int16>",
    "list<int64>",
    "list<float64>",
    "list<string>",
]

CLAUSE = re.compile(r"[1-9]\d*(\.[1-9]\d*)*")
_NAME = re.compile(r"[a-z][a-z0-9_]*")


def check_name(name: str) -> None:
    """Raises ValueError where it is no name of a column, a kind, a table."""
    if not _NAME.fullmatch(name):
        raise ValueError(f"{name!r} is no name: small letters, digits and _")


def check_positive(model: object, *names: str) -> None:
    """Raises ValueError where one of these attributes is not above 0."""
    for name in names:
        if not getattr(model, name) > 0:
            raise ValueError(f"{name} is {getattr(model, name)}, expected more than 0")


@dataclass(frozen=True, kw_only=True)
class Column:
    """One column of a table.

    Attributes:
        unit: UCUM code (`mW`, `us`, `{token}`, `1`), or None for names, numbers of things and masks.
        field_id: Parquet field id, never reused inside a table.
        derived: Recomputed from raw rows by any reader; never trusted.
        enum: Allowed words of a string column; a last entry `x-*` admits any word with that prefix.
    """

    name: str
    type: TypeName
    unit: str | None = None
    nullable: bool = False
    field_id: int
    clause: str
    stability: Literal["experimental", "stable", "deprecated"] = "stable"
    derived: bool = False
    encoding: Literal["delta", "plain", "dict"] = "plain"
    enum: tuple[str, ...] | None = None
    doc: str

    def __post_init__(self) -> None:
        """Raises ValueError where its parts contradict each other."""
        check_name(self.name)
        check_positive(self, "field_id")
        if not CLAUSE.fullmatch(self.clause):
            raise ValueError(f"clause: {self.clause!r} is no clause number such as '5.2.1'")
        if not self.doc:
            raise ValueError(f"column {self.name} has no doc")
        if self.encoding == "delta" and "int" not in self.type.split("<")[0]:
            raise ValueError(f"encoding delta needs an integer column, {self.name} is {self.type}")
        if self.enum is not None and self.type != "string":
            raise ValueError(f"enum needs a string column, {self.name} is {self.type}")

    def allows(self, value: str) -> bool:
        """Whether `value` is one of the enum's words, or carries its open prefix."""
        if self.enum is None or value in self.enum:
            return True
        return any(word.endswith("*") and value.startswith(word[:-1]) for word in self.enum)


@dataclass(frozen=True, kw_only=True)
class TableSpec:
    """One table: columns in their order on disk, the key, and the order of rows (ascending, nulls first)."""

    table: str
    schema_id: str
    clause: str
    doc: str
    key: tuple[str, ...]
    sort: tuple[str, ...]
    columns: tuple[Column, ...]

    def __post_init__(self) -> None:
        """Raises ValueError where its parts contradict each other."""
        names = self.names
        for what, values in (("column", names), ("field_id", [c.field_id for c in self.columns])):
            repeated = sorted({str(v) for v in values if list(values).count(v) > 1})
            if repeated:
                raise ValueError(f"{what} given twice: {', '.join(repeated)}")
        for listed in (*self.key, *self.sort):
            if listed not in names:
                raise ValueError(f"key or sort names {listed!r}, which is no column")
        if not self.schema_id.startswith(f"{self.table}/"):
            raise ValueError(f"schema_id {self.schema_id!r} does not begin with '{self.table}/'")
        for column in self.columns:
            if not column.clause.startswith(f"{self.clause}."):
                raise ValueError(f"column {column.name}: clause {column.clause} is outside {self.clause}")

    @cached_property
    def names(self) -> tuple[str, ...]:
        """Column names in their order on disk."""
        return tuple(column.name for column in self.columns)

    @property
    def derived(self) -> tuple[str, ...]:
        """Names of the columns that any reader recomputes."""
        return tuple(column.name for column in self.columns if column.derived)

    def column(self, name: str) -> Column:
        """The column called `name`; KeyError when there is none."""
        for column in self.columns:
            if column.name == name:
                return column
        raise KeyError(f"table {self.table} has no column {name!r}")
