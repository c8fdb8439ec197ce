"""Migrations as data (6.6): what turns a bundle of one protocol version into one of the next, step by step.

The steps live in `protocol/migrations/<version>.yaml`. `migrate_document` applies them to plain rows and is
the reference; `harness.bundle.migrate` does the same to columns of tables too large for that.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Any, Literal, TypeAlias

from pydantic import Field, ValidationError, field_validator, model_validator

from harness.errors import KitError
from harness.spec.canonical import canonical_json
from harness.spec.load import available_versions, protocol_root, read_yaml
from harness.spec.model import Strict

MANIFEST = "manifest"
"""The name by which a step addresses the manifest instead of a table."""

_VERSION = re.compile(r"\d{1,8}\.\d{1,8}\.\d{1,8}", re.ASCII)

Row: TypeAlias = dict[str, Any]
Document: TypeAlias = dict[str, Any]
Verdict: TypeAlias = Literal["accept", "warn", "refuse"]

_MEMBERS: dict[str, tuple[str, ...]] = {
    "rename": ("column", "to"),
    "default": ("column", "value"),
    "derive": ("column", "source"),
    "map": ("column", "words"),
    "drop": ("column",),
    "add_table": (),
    "append": ("source", "where_any", "columns"),
}
_EXPRESSIONS = {
    "derive": {"copy", "sum", "scale", "first", "value"},
    "append": {"copy", "sum", "scale", "first", "value", "json", "next"},
}


class Step(Strict):
    """One operation on a table, or on the manifest, where `column` is a dotted path.

    Attributes:
        op: rename, default (add a column with a constant), derive (set a column from others), map (other
            words for old ones), drop, add_table, append (rows made from those of another table).
        source: `from` in the file: an expression for derive, a table for append.
    """

    op: Literal["rename", "default", "derive", "map", "drop", "add_table", "append"]
    table: str
    column: str | None = None
    to: str | None = None
    value: Any = None
    source: Any = Field(default=None, alias="from")
    words: dict[str, str] | None = None
    where_any: tuple[str, ...] | None = None
    columns: dict[str, Any] | None = None

    _listed = field_validator("where_any", mode="before")(lambda v: tuple(v) if isinstance(v, list) else v)

    @model_validator(mode="after")
    def _consistent(self) -> Step:
        given = self.model_fields_set - {"op", "table"}
        lost, extra = set(_MEMBERS[self.op]) - given, given - set(_MEMBERS[self.op])
        for member in sorted(lost | extra):
            name = "from" if member == "source" else member
            raise ValueError(f"op {self.op} {'needs' if member in lost else 'has no'} {name!r}")
        if self.op == "derive":
            _check_expression(self.source, "derive")
        for expression in (self.columns or {}).values():
            _check_expression(expression, "append")
        if self.op == "append" and not isinstance(self.source, str):
            raise ValueError("op append: 'from' must name a table")
        if self.table == MANIFEST and self.op in ("add_table", "append"):
            raise ValueError(f"op {self.op} does not fit the manifest")
        return self


class Migration(Strict):
    """The way from one version (`major.minor`) to a later one."""

    source: str = Field(alias="from", pattern=r"^\d+\.\d+$")
    to: str = Field(pattern=r"^\d+\.\d+$")
    steps: tuple[Step, ...]

    _listed = field_validator("steps", mode="before")(lambda v: tuple(v) if isinstance(v, list) else v)


def _check_expression(expression: object, op: str) -> None:
    if not isinstance(expression, dict) or len(expression) != 1:
        raise ValueError(f"op {op}: an expression is one word and its operands, such as {{copy: a}}")
    word, operands = next(iter(expression.items()))
    if word not in _EXPRESSIONS[op]:
        raise ValueError(f"op {op}: {word!r} is none of {', '.join(sorted(_EXPRESSIONS[op]))}")
    if word in ("sum", "first", "json"):
        fits = isinstance(operands, list) and operands and all(isinstance(name, str) for name in operands)
    elif word == "scale":
        fits = isinstance(operands, list) and len(operands) == 2 and isinstance(operands[1], int | float)
    else:
        fits = word == "value" or isinstance(operands, str)
    if not fits:
        raise ValueError(f"op {op}: {word} does not take {operands!r}")


def load_migrations(root: Path | None = None) -> tuple[Migration, ...]:
    """Every migration of an installation.

    Raises:
        KitError: A file is not as it has to be.
    """
    return _load(root or protocol_root())


@cache
def _load(root: Path) -> tuple[Migration, ...]:
    found = []
    for path in sorted((root / "migrations").glob("*.yaml")):
        try:
            migration = Migration.model_validate(read_yaml(path))
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            place = ".".join(str(part) for part in first["loc"])
            raise KitError(f"{place}: {first['msg']}", where=str(path)) from None
        if migration.to != path.stem or _number(migration.source) >= _number(migration.to):
            raise KitError(f"leads from {migration.source} to {migration.to}", where=str(path))
        found.append(migration)
    return tuple(found)


def steps_between(written: str, reader: str, *, root: Path | None = None) -> tuple[Step, ...] | None:
    """Steps from one version (`major.minor`) to another, through every version between that has a migration.

    Returns:
        The steps, empty between versions that need none; None where no way leads across a major version.
    """
    steps: list[Step] = []
    here = written
    for migration in sorted(load_migrations(root), key=lambda m: _number(m.to)):
        if _number(here) <= _number(migration.source) and _number(migration.to) <= _number(reader):
            if _number(here)[0] != _number(migration.source)[0]:
                continue  # it begins in a major version that nothing leads to
            steps += migration.steps
            here = migration.to
    return tuple(steps) if _number(here)[0] == _number(reader)[0] else None


def verdict(reader: str, document: str, *, root: Path | None = None) -> Verdict:
    """What a reader does with a document of another version (6.5).

    Args:
        reader: Version the reader speaks, `major.minor.patch`.
        document: Version the document states.
        root: Folder of protocol versions and migrations.

    Returns:
        "refuse" for another major version, unless it is older and migrations lead from it; "warn" for a newer
        minor version; "accept" otherwise.

    Raises:
        KitError: One of the two is no version.
    """
    for version in (reader, document):
        if _VERSION.fullmatch(version) is None:
            raise KitError(f"{version!r} is no protocol version", expected="major.minor.patch, such as 1.0.0")
    ours, theirs = _number(reader), _number(document)
    if theirs[0] == ours[0]:
        return "warn" if theirs[1] > ours[1] else "accept"
    if theirs > ours or _short(document) not in available_versions(root):
        return "refuse"
    return "refuse" if steps_between(_short(document), _short(reader), root=root) is None else "accept"


def migrate_document(document: Mapping[str, Any], steps: Iterable[Step | Mapping[str, Any]]) -> Document:
    """Apply steps to a document of plain rows.

    Args:
        document: `{"manifest": {...}, "tables": {name: [row, ...]}}`; not changed.
        steps: In order.

    Returns:
        The migrated document.

    Raises:
        KitError: A step is malformed, or does not fit the document.
    """
    result: Document = copy.deepcopy(dict(document))
    tables: dict[str, list[Row]] = result.setdefault("tables", {})
    for given in steps:
        step = given if isinstance(given, Step) else parse_step(given)
        if step.op == "add_table":
            tables.setdefault(step.table, [])
        elif step.table == MANIFEST:
            _migrate_manifest(result.setdefault(MANIFEST, {}), step)
        elif step.table in tables:
            if step.op == "append":
                _append(tables, step)
            else:
                for row in tables[step.table]:
                    _migrate_row(row, step)
    return result


def parse_step(step: Mapping[str, Any]) -> Step:
    """A step as it stands in a file; KitError when it is malformed."""
    try:
        return Step.model_validate(dict(step))
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        raise KitError(f"migration step: {'.'.join(map(str, first['loc']))} {first['msg']}") from None


def evaluate(expression: Mapping[str, Any], row: Mapping[str, Any]) -> Any:
    """Value of an expression over a row; null where an operand of copy, sum or scale is."""
    word, operands = next(iter(expression.items()))
    if word == "value":
        return operands
    if word == "copy":
        return row.get(operands)
    if word == "first":
        return next((row[name] for name in operands if row.get(name) is not None), None)
    if word == "json":
        known = {name: row[name] for name in operands if row.get(name) is not None}
        return canonical_json(known).decode()
    values = [row.get(name) for name in (operands if word == "sum" else operands[:1])]
    if None in values:
        return None
    return sum(values) if word == "sum" else values[0] * operands[1]


def _migrate_row(row: Row, step: Step) -> None:
    column = str(step.column)
    if step.op == "rename":
        if column in row:
            if step.to in row:
                raise KitError(f"{step.table}: {column!r} cannot become {step.to!r}, which exists")
            row[str(step.to)] = row.pop(column)
    elif step.op == "default":
        row.setdefault(column, copy.deepcopy(step.value))
    elif step.op == "derive":
        row[column] = evaluate(step.source, row)
    elif step.op == "map":
        if column in row:
            row[column] = (step.words or {}).get(row[column], row[column])
    elif step.op == "drop":
        row.pop(column, None)


def _migrate_manifest(manifest: Row, step: Step) -> None:
    """One step on a field by its dotted path; the operands of an expression lie in the same object."""
    *parents, last = str(step.column).split(".")
    place: Any = manifest
    for parent in parents:
        if not isinstance(place, dict):
            return
        place = place.setdefault(parent, {}) if step.op in ("default", "derive") else place.get(parent)
    if isinstance(place, dict):
        target = str(step.to).split(".")[-1] if step.op == "rename" else None
        _migrate_row(place, step.model_copy(update={"column": last, "to": target}))


def _append(tables: dict[str, list[Row]], step: Step) -> None:
    rows = tables[step.table]
    counted = [expression["next"] for expression in (step.columns or {}).values() if "next" in expression]
    free = {
        name: max((row[name] for row in rows if row.get(name) is not None), default=-1) + 1
        for name in counted
    }
    for origin in [*tables.get(str(step.source), [])]:
        if not any(origin.get(name) is not None for name in step.where_any or ()):
            continue
        made: Row = {}
        for name, expression in (step.columns or {}).items():
            if "next" in expression:
                made[name] = free[expression["next"]]
            else:
                made[name] = evaluate(expression, origin)
        for name in free:
            free[name] += 1
        rows.append(made)


def _number(version: str) -> tuple[int, int]:
    major, minor = version.split(".")[:2]
    return int(major), int(minor)


def _short(version: str) -> str:
    return ".".join(version.split(".")[:2])
