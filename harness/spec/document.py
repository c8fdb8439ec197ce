"""A JSON document described like a table: fields with type, unit and meaning. Checks values against it."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from harness.spec.strict import short

FieldType = Literal["string", "int64", "float64", "bool", "object", "list<string>", "list<object>"]

_WORDS = {
    "string": "a string",
    "int64": "a whole number",
    "float64": "a finite number",
    "bool": "true or false",
    "object": "an object",
    "list<string>": "a list of strings",
    "list<object>": "a list of objects",
}


class Problem(NamedTuple):
    """One way in which a document differs from its definition.

    Attributes:
        path: Dotted path of the value, such as `files[2].rows`.
        observed: What is there, shortened.
        expected: What would be accepted.
    """

    path: str
    observed: str
    expected: str


@dataclass(frozen=True, kw_only=True)
class DocumentField:
    """One field of a document; `open` admits keys of an object that are not listed."""

    name: str
    type: FieldType
    unit: str | None = None
    nullable: bool = False
    optional: bool = False
    open: bool = False
    pattern: str | None = None
    enum: tuple[str, ...] | None = None
    fields: tuple[DocumentField, ...] = ()
    doc: str

    def __post_init__(self) -> None:
        """Raises ValueError where its parts contradict each other."""
        if not self.doc:
            raise ValueError(f"{self.name} has no doc")
        if self.fields and "object" not in self.type:
            raise ValueError(f"{self.name} is {self.type} and cannot have fields")
        if (self.pattern or self.enum) and self.type != "string":
            raise ValueError(f"{self.name} is {self.type}; pattern and enum need a string")


@dataclass(frozen=True, kw_only=True)
class DocumentSpec:
    """Definition of a JSON document."""

    document: str
    schema_id: str
    clause: str
    doc: str
    fields: tuple[DocumentField, ...]

    def problems(self, value: object) -> list[Problem]:
        """Every difference between `value` (parsed JSON) and this definition. Keys `x-*` are admitted."""
        if not isinstance(value, dict):
            return [Problem("", short(value), "an object")]
        return list(_check_object(self.fields, value, "", is_open=False))


def _check_object(
    fields: tuple[DocumentField, ...], value: dict[str, Any], path: str, *, is_open: bool
) -> Iterator[Problem]:
    known = {field.name for field in fields}
    for field in fields:
        at = f"{path}.{field.name}" if path else field.name
        if field.name in value:
            yield from _check_field(field, value[field.name], at)
        elif not field.optional:
            yield Problem(at, "missing", _WORDS[field.type] + (" or null" if field.nullable else ""))
    if not is_open:
        for key in value:
            if key not in known and not key.startswith("x-"):
                yield Problem(f"{path}.{key}" if path else key, "unknown key", "no such key")


def _check_field(field: DocumentField, value: object, path: str) -> Iterator[Problem]:
    if value is None:
        if not field.nullable:
            yield Problem(path, "null", _WORDS[field.type])
        return
    if not _is_type(field.type, value):
        yield Problem(path, short(value), _WORDS[field.type] + (" or null" if field.nullable else ""))
    elif isinstance(value, str):
        if field.enum is not None and value not in field.enum:
            yield Problem(path, short(value), f"one of {', '.join(field.enum)}")
        if field.pattern is not None and not re.search(field.pattern, value):
            yield Problem(path, short(value), f"text matching {field.pattern}")
    elif isinstance(value, dict):
        yield from _check_object(field.fields, value, path, is_open=field.open)
    elif isinstance(value, list) and field.type == "list<object>":
        for index, item in enumerate(value):
            yield from _check_object(field.fields, item, f"{path}[{index}]", is_open=field.open)


def _is_type(type_name: str, value: object) -> bool:
    match type_name:
        case "string":
            return isinstance(value, str)
        case "int64":
            return isinstance(value, int) and not isinstance(value, bool) and -(2**63) <= value < 2**63
        case "float64":
            return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
        case "bool":
            return isinstance(value, bool)
        case "object":
            return isinstance(value, dict)
        case "list<string>":
            return isinstance(value, list) and all(isinstance(item, str) for item in value)
        case _:
            return isinstance(value, list) and all(isinstance(item, dict) for item in value)
