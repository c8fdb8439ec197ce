"""Reads a bundle: its manifest, whole tables, and power one series at a time."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy.typing as npt
import pyarrow as pa

from harness.bundle.commit import DECISION, MANIFEST, finish_commit
from harness.bundle.digest import type_name
from harness.bundle.files import (
    BYTES_A_ROW,
    FREE_ROWS,
    MAX_CHUNK,
    MAX_OBJECTS,
    footer,
    open_parquet,
    read_groups,
    whole_table,
)
from harness.bundle.series import POWER_KEY, SeriesKey, power_series
from harness.bundle.versions import read_manifest, refuse_outside, written_by
from harness.errors import KitError
from harness.files import look_at
from harness.journal.reading import is_journal_folder
from harness.spec import Protocol, load_protocol

Series = dict[str, npt.NDArray[Any]]

_BATCH_ROWS = 1 << 20
_FEW_ROWS = 1 << 16
"""Rows below which pyarrow's threads cost more than they save."""


class Bundle:
    """A sealed bundle, opened for reading. Nothing but the manifest is read until it is asked for.

    Attributes:
        folder: Where it lies.
        manifest: Parsed manifest.json.
        protocol: The protocol its tables are given in, whatever it was written by.
        written: The protocol it was written by; the newest known one when it was written by a newer minor.
        notes: Remarks on versions that do not prevent reading.
    """

    def __init__(
        self, folder: Path, manifest: dict[str, Any], protocol: Protocol, written: Protocol, notes: list[str]
    ) -> None:
        self.folder = folder
        self.manifest = manifest
        self.protocol = protocol
        self.written = written
        self.notes = notes
        self._small: dict[tuple[str, bool], pa.Table] = {}
        self._records: dict[str, list[dict[str, Any]]] = {}

    @classmethod
    def open(cls, folder: Path | str, *, protocol: Protocol | None = None) -> Bundle:
        """Open a bundle folder. Nullable columns and tables that its version lacks are null and empty (6.5).

        Args:
            folder: Where it lies.
            protocol: The protocol to give its tables in; the current one by default.

        Raises:
            KitError: No folder, no manifest, a manifest that is not JSON or lists files it may not, or a
                protocol version this installation cannot read.
        """
        folder = Path(folder)
        if (folder / DECISION).exists():
            finish_commit(folder, load_protocol().tables)
        manifest, _ = read_manifest(folder)
        for entry in manifest["files"]:
            if not isinstance(entry, dict) or not isinstance(entry.get("path"), str):
                raise KitError(
                    "lists no files", where=str(folder / MANIFEST), expected="files: [{path, ...}]"
                )
            refuse_outside(folder, entry["path"])
        protocol = protocol or load_protocol()
        written, notes = written_by(manifest, protocol, folder / MANIFEST)
        return cls(folder, manifest, protocol, written, notes)

    def files(self, name: str) -> list[Path]:
        """Files of a table, in the order of their rows; empty when the manifest lists none."""
        listed = sorted(str(entry["path"]) for entry in self.manifest["files"])
        return [self.folder / path for path in listed if _table_of(path) == name]

    def footer(self, path: Path) -> dict[str, str]:
        """The protocol's footer keys of a file, without their prefix."""
        return footer(open_parquet(path).metadata.metadata, self.protocol)

    def rows(self, name: str) -> int:
        """Rows of a table by its footers; 0 for one that the bundle's version lacks."""
        if name not in self.written.tables and name in self.protocol.tables:
            return 0
        return sum(open_parquet(path).metadata.num_rows for path in self._files_of(name))

    def table(self, name: str, columns: Sequence[str] | None = None) -> pa.Table:
        """A whole table, or some of its columns, with the protocol's types.

        Args:
            name: Table.
            columns: Columns in the order wanted; all by default.

        Raises:
            KitError: The table or a column is missing, or a file is damaged.
        """
        schema = self._schema(name, columns)
        if name in self.written.tables and (small := self._small_table(name, encoded=False)) is not None:
            return small.select(schema.names)
        return pa.Table.from_batches(self.iter_batches(name, columns), schema)

    def records(self, name: str) -> list[dict[str, Any]]:
        """All rows of a table; those of a small one are kept and shared, not to be changed.

        Raises:
            KitError: As of `table`.
        """
        if name not in self._records:
            small = self._small_table(name, encoded=True) if name in self.written.tables else None
            if small is None:
                rows: list[dict[str, Any]] = self.table(name).to_pylist()
                return rows
            self._records[name] = [row for batch in small.to_batches() for row in records(batch)]
        return self._records[name]

    def iter_batches(
        self,
        name: str,
        columns: Sequence[str] | None = None,
        *,
        encoded: bool = False,
    ) -> Iterator[pa.RecordBatch]:
        """Record batches of a table in stored order, bounded in memory, with the protocol's types.

        Args:
            name: Table.
            columns: Columns in the order wanted; all by default.
            encoded: Leave strings dictionary encoded, which is much faster where a few words repeat.
        """
        schema = self._schema(name, columns, encoded=encoded)
        if name not in self.written.tables:
            return  # a later version's table
        if (small := self._small_table(name, encoded=encoded)) is not None:
            small = small if columns is None else small.select(schema.names)
            yield from small.to_batches(max_chunksize=_BATCH_ROWS)
            return
        yield from self._batches(name, schema)

    def _small_table(self, name: str, *, encoded: bool) -> pa.Table | None:
        """A table of one small file, typed and kept; None where it is large or not all of it fits."""
        if (name, encoded) not in self._small:
            files = self.files(name)
            whole = whole_table(files[0]) if len(files) == 1 else None
            if whole is None:
                return None
            schema = self._schema(name, None, encoded=encoded)
            try:
                if not whole.schema.equals(schema):
                    self._stored_names(name, schema, whole.column_names, files[0])
                typed = _typed(whole, schema, files[0]).to_batches() if whole.num_rows else []
            except KitError:
                return None
            self._small[name, encoded] = pa.Table.from_batches(typed, schema)
        return self._small[name, encoded]

    def _batches(self, name: str, schema: pa.Schema) -> Iterator[pa.RecordBatch]:
        # Text is always read as a dictionary, so that its size is known before each row has a copy.
        files = self._files_of(name)
        size = sum(look_at(path).st_size for path in files)
        most_rows = MAX_OBJECTS.get(name, max(FREE_ROWS, size // BYTES_A_ROW))
        rows = held = 0
        for path in files:
            for table in self._groups(name, schema, path):
                rows, held = rows + table.num_rows, held + table.nbytes
                if rows > most_rows or (name in MAX_OBJECTS and held > MAX_CHUNK):
                    raise KitError(
                        f"table {name} holds too much: {rows} rows, {held} bytes so far",
                        where=str(path),
                        expected=f"at most {most_rows} rows, and {MAX_CHUNK} bytes where rows are few",
                    )
                yield from _typed(table, schema, path).to_batches(max_chunksize=_BATCH_ROWS)

    def _groups(self, name: str, schema: pa.Schema, path: Path) -> Iterator[pa.Table]:
        """Rows of each row group of a file, the columns from which `schema` can be given."""
        if (whole := whole_table(path)) is not None:
            stored = self._stored_names(name, schema, whole.column_names, path)
            if whole.num_rows:
                yield whole.select(stored)
            return
        file = open_parquet(path, encoded=True)
        stored = self._stored_names(name, schema, file.schema_arrow.names, path)
        for group in range(file.num_row_groups):
            many = file.metadata.row_group(group).num_rows > _FEW_ROWS
            yield read_groups(file, path, [group], stored, threads=many)

    def iter_power(
        self, columns: Sequence[str] = ("mono_us", "power_mw")
    ) -> Iterator[tuple[SeriesKey, Series]]:
        """Power one (node, device, session) series at a time.

        Args:
            columns: Columns of power wanted.

        Yields:
            Key and arrays by column name, rows in stored order. A nullable column `c` comes with a boolean
            array `c_valid` beside it and holds 0 where that is false.

        Raises:
            KitError: The rows are not in key order.
        """
        batches = self.iter_batches("power", [*POWER_KEY, *columns], encoded=True)
        for rows in power_series(batches, self.folder):
            valid = {f"{name}_valid": rows.pair(name)[1] for name in rows.valid}
            yield rows.key, {**{name: rows.array(name) for name in columns}, **valid}

    def _stored_names(self, name: str, schema: pa.Schema, there: Sequence[str], path: Path) -> list[str]:
        """Columns to read from a file so that `schema` can be given."""
        known, found = self.written.tables[name].names, set(there)
        wanted = schema.names  # a new list at every call
        for column in wanted:
            if column not in found:
                spec = self.protocol.tables[name].column(column)
                if not spec.nullable or (spec.stability == "stable" and column in known):
                    raise KitError(f"column {column!r} is missing", where=str(path))
        return [column for column in wanted if column in found]

    def _files_of(self, name: str) -> list[Path]:
        files = self.files(name)
        if not files:
            raise KitError(
                f"the manifest lists no file of table {name!r}",
                where=str(self.folder / MANIFEST),
                expected=f"{name}.parquet or {name}/part-00000.parquet",
            )
        return files

    def _schema(self, name: str, columns: Sequence[str] | None, *, encoded: bool = False) -> pa.Schema:
        if name not in self.protocol.tables:
            raise KitError(
                f"protocol {self.protocol.version} has no table {name!r}",
                expected=f"one of {', '.join(self.protocol.tables)}",
            )
        schema = self.protocol.arrow_schema(name, encoded=encoded)
        if columns is None:
            return schema
        known = schema.names  # a new list at every call
        lost = [column for column in columns if column not in known]
        if lost:
            raise KitError(f"table {name} has no column {lost[0]!r}", expected=", ".join(known))
        return pa.schema([schema.field(column) for column in columns])


def _table_of(path: str) -> str:
    return path.split("/")[0].removesuffix(".parquet")


def _typed(table: pa.Table, schema: pa.Schema, path: Path) -> pa.Table:
    """Columns in the schema's order and types, null where the file lacks one; other writers may have narrower
    or wider ones.
    """
    if table.schema.equals(schema):
        return table
    arrays = []
    there = set(table.column_names)
    for field in schema:
        if field.name not in there:
            arrays.append(pa.nulls(table.num_rows, field.type))
            continue
        array = table.column(field.name)
        if array.type != field.type:
            try:
                array = array.cast(field.type)
            except pa.ArrowException as error:
                raise KitError(
                    f"column {field.name!r} is {type_name(array.type)} and does not fit: {error}",
                    where=str(path),
                    expected=str(field.type),
                ) from None
        if array.null_count and not field.nullable:
            raise KitError(f"column {field.name!r} holds nulls and may not", where=str(path))
        arrays.append(array)
    return pa.Table.from_arrays(arrays, schema=schema)


def records(batch: pa.RecordBatch) -> list[dict[str, Any]]:
    """Rows as `to_pylist` gives them, which takes three times as long where text is dictionary encoded."""
    names, columns = batch.schema.names, map(_values, batch.columns)
    return [dict(zip(names, row, strict=True)) for row in zip(*columns, strict=True)]


def _values(array: pa.Array) -> list[Any]:
    if not isinstance(array, pa.DictionaryArray):
        values: list[Any] = array.to_pylist()
        return values
    words = array.dictionary.to_pylist()
    return [None if place is None else words[place] for place in array.indices.to_pylist()]


def event_detail(event: Mapping[str, Any]) -> dict[str, Any]:
    """The object in an event's detail; empty where there is none."""
    try:
        found = json.loads(event["detail"] or "{}")
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def run_folders(folder: Path) -> list[Path]:
    """The run folders below a folder, sealed or not, in the order of their names; itself if it is one."""
    found = []
    for path, names, files in os.walk(folder):
        if "manifest.json" in files or ("journal" in names and is_journal_folder(Path(path, "journal"))):
            found.append(Path(path))
            names.clear()  # what lies inside a run belongs to it
        names.sort()
    return found
