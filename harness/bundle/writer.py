"""Writes the tables of a bundle, streaming, and commits them with their manifest."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeAlias

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from harness import __version__
from harness.bundle import commit
from harness.bundle.canonical import canonical_json
from harness.bundle.digest import TableDigest
from harness.bundle.files import file_sha256
from harness.bundle.order import KeyOrder, sorted_rows
from harness.errors import KitError
from harness.files import fsync_path
from harness.journal.ulid import new_ulid
from harness.spec import Column, Protocol, TableSpec, load_protocol

Rows: TypeAlias = pa.Table | Sequence[Mapping[str, Any]] | Iterable[pa.RecordBatch]


class BundleWriter:
    """Writes one bundle into a folder; the files appear, all at once, when `write_manifest` returns.

    Args:
        folder: Run folder; created when missing.
        protocol: Protocol to write by; the current one by default.
        run_id: ULID of the run; a new one by default. A run that is sealed again keeps its own.
    """

    def __init__(
        self,
        folder: Path | str,
        protocol: Protocol | None = None,
        *,
        run_id: str | None = None,
    ) -> None:
        self.folder = Path(folder)
        self.protocol = protocol or load_protocol()
        self.run_id = run_id or new_ulid()
        self._entries: dict[str, list[dict[str, Any]]] = {}
        self.folder.mkdir(parents=True, exist_ok=True)
        commit.finish_commit(self.folder, self.protocol.tables)
        commit.discard_staged(self.folder)

    def write_table(self, name: str, rows: Rows) -> int:
        """Stage one table.

        Args:
            name: Table of the protocol.
            rows: A table, or a list of dicts (sorted here when they are not), or an iterable of
                record batches already in the table's order (never held whole). Nullable columns may be left
                out.

        Raises:
            KitError: Unknown table or column, a value that does not fit its type, a null where none may be, a
                word outside an enum, rows out of order or with a key twice.
        """
        return sum(batch.num_rows for batch in self.passing(name, rows))

    def passing(self, name: str, rows: Rows) -> Iterator[pa.RecordBatch]:
        """Stage one table, as `write_table` does, and give each batch on once it is written.

        The table is complete when the iterator has ended; given up before, nothing of it stays.
        """
        if name not in self.protocol.tables:
            raise KitError(
                f"protocol {self.protocol.version} has no table {name!r}",
                expected=f"one of {', '.join(self.protocol.tables)}",
            )
        spec = self.protocol.tables[name]
        stream = _TableStream(self, spec)
        try:
            for batch in self._batches(spec, rows):
                stream.add(batch)
                yield batch
            self._entries[name] = stream.close()
        except BaseException:
            stream.abort()
            raise

    def write_manifest(self, manifest: Mapping[str, Any]) -> Path:
        """Write the manifest and put every staged file in its place. Tables never written become empty ones.

        Args:
            manifest: Fields by the protocol's `manifest.yaml`; `files`, `run_id`, `protocol_version` and
                `schema_id` are filled in here.

        Raises:
            KitError: The manifest is not as the protocol wants it; the message lists what differs.
        """
        for name in self.protocol.tables:
            if name not in self._entries:
                self.write_table(name, [])
        if manifest.get("run_id", self.run_id) != self.run_id:
            raise KitError(
                f"manifest carries run_id {manifest['run_id']!r}, the files were written for {self.run_id!r}",
                fix="pass the run's id to BundleWriter(run_id=...)",
            )
        files = sorted(
            (e for entries in self._entries.values() for e in entries), key=lambda e: str(e["path"])
        )
        full = dict(manifest) | {
            "protocol_version": self.protocol.version,
            "schema_id": self.protocol.manifest.schema_id,
            "run_id": self.run_id,
            "files": files,
        }
        problems = self.protocol.manifest.problems(full)
        if problems:
            lines = [f"{p.path}: {p.observed}, expected {p.expected}" for p in problems[:5]]
            more = f"; {len(problems) - 5} more" if len(problems) > 5 else ""
            raise KitError("manifest does not fit the protocol: " + "; ".join(lines) + more)
        commit.decide(self.folder, canonical_json(full))
        commit.finish_commit(self.folder, self.protocol.tables)
        return self.folder / commit.MANIFEST

    def _batches(self, spec: TableSpec, rows: Rows) -> Iterator[pa.RecordBatch]:
        schema = self.protocol.arrow_schema(spec.table)
        if not isinstance(rows, pa.Table) and isinstance(rows, Sequence):
            rows = _table_of_dicts(rows, spec, schema)
        if isinstance(rows, pa.Table):
            yield from _in_order(conform(rows, spec, schema), spec).to_batches()
            return
        for batch in rows:
            yield from conform(pa.Table.from_batches([batch]), spec, schema).to_batches()


class _TableStream:
    """One table on its way to disk: row groups, parts, digest, order check."""

    def __init__(self, writer: BundleWriter, spec: TableSpec) -> None:
        self._spec = spec
        self._folder = writer.folder
        self._protocol = writer.protocol
        self._run_id = writer.run_id
        self._schema = writer.protocol.arrow_schema(spec.table)
        self._group_rows = writer.protocol.container.row_group_rows
        self._part_rows = max(self._group_rows, writer.protocol.container.part_rows)
        self._order = KeyOrder(spec.sort)
        self._pending: list[pa.RecordBatch] = []
        self._pending_rows = 0
        self._parts: list[dict[str, Any]] = []
        self._sink: pq.ParquetWriter | None = None
        self._digest = TableDigest(self._schema, threads=1)
        self._rows = 0
        self._pool = ThreadPoolExecutor(2)

    def add(self, batch: pa.RecordBatch) -> None:
        self._order.update(batch)
        if self._order.problem is not None:
            row, kind = self._order.problem
            key = ", ".join(self._spec.sort)
            found = "the same key as the row before" if kind == "duplicate" else "rows out of order"
            raise KitError(
                f"table {self._spec.table}: {found}", where=f"row {row}", expected=f"ascending ({key})"
            )
        self._pending.append(batch)
        self._pending_rows += batch.num_rows
        while self._pending_rows >= self._group_rows:
            self._write_group(self._group_rows)

    def close(self) -> list[dict[str, Any]]:
        if self._pending_rows:
            self._write_group(self._pending_rows)
        if self._sink is None and not self._parts:
            self._open_part()
        if self._sink is not None:
            self._close_part()
        self._pool.shutdown()
        return self._parts

    def abort(self) -> None:
        if self._sink is not None:
            self._sink.close()
        self._pool.shutdown()
        for path in self._staged():
            path.unlink(missing_ok=True)

    def _staged(self) -> list[Path]:
        listed = [str(entry["path"]) for entry in self._parts]
        return [commit.staged_path(self._folder / path) for path in {*listed, self._path(len(self._parts))}]

    def _path(self, part: int) -> str:
        """Place of a part: `<table>.parquet` while it is alone."""
        return f"{self._spec.table}/part-{part:05d}.parquet" if part else f"{self._spec.table}.parquet"

    def _write_group(self, rows: int) -> None:
        table = pa.Table.from_batches(self._pending, self._schema)
        group, rest = table.slice(0, rows), table.slice(rows)
        self._pending = rest.to_batches()
        self._pending_rows = rest.num_rows
        if self._sink is not None and self._rows + rows > self._part_rows:
            self._close_part()
        if self._sink is None:
            self._open_part()
        sink = self._sink
        assert sink is not None
        hashing = self._pool.submit(self._digest.update, group)
        sink.write_table(group, row_group_size=self._group_rows)
        hashing.result()
        self._rows += rows

    def _open_part(self) -> None:
        if len(self._parts) == 1:  # a second part: the first one moves into the folder of parts
            first = self._parts[0]
            moved = f"{self._spec.table}/part-00000.parquet"
            (self._folder / self._spec.table).mkdir(exist_ok=True)
            commit.staged_path(self._folder / first["path"]).replace(commit.staged_path(self._folder / moved))
            first["path"] = moved
        self._digest = TableDigest(self._schema, threads=1)
        self._rows = 0
        container = self._protocol.container
        self._sink = pq.ParquetWriter(
            commit.staged_path(self._folder / self._path(len(self._parts))),
            self._schema,
            version="2.6",
            compression=container.compression,
            compression_level=container.compression_level,
            use_dictionary=[c.name for c in self._spec.columns if c.encoding == "dict"],
            column_encoding={
                c.name: "DELTA_BINARY_PACKED" for c in self._spec.columns if c.encoding == "delta"
            },
            write_statistics=True,
            write_page_index=True,
            write_page_checksum=True,
        )

    def _close_part(self) -> None:
        assert self._sink is not None
        prefix = self._protocol.container.footer_prefix
        path = self._path(len(self._parts))
        logical = self._digest.hexdigest()
        keys = {
            "protocol_version": self._protocol.version,
            "schema_id": self._spec.schema_id,
            "run_id": self._run_id,
            "logical_sha256": logical,
            "writer": f"distill-energy-kit {__version__}",
        }
        self._sink.add_key_value_metadata({f"{prefix}.{key}": value for key, value in keys.items()})
        self._sink.close()
        self._sink = None
        staged = commit.staged_path(self._folder / path)
        fsync_path(staged)
        self._parts.append(
            {
                "path": path,
                "sha256": file_sha256(staged),
                "bytes": staged.stat().st_size,
                "rows": self._rows,
                "logical_sha256": logical,
                "schema_id": self._spec.schema_id,
            }
        )


def conform(table: pa.Table, spec: TableSpec, schema: pa.Schema) -> pa.Table:
    """Bring a table to its schema: order, types, absent nullable columns as nulls; check nulls and enums.

    Raises:
        KitError: What does not fit, by table, column and row.
    """
    _check_columns(table.schema.names, spec)
    arrays = []
    for column in spec.columns:
        where = f"table {spec.table}, column {column.name}"
        if column.name not in table.schema.names:
            if not column.nullable:
                raise KitError("column is missing and may not be null", where=where, expected=column.type)
            arrays.append(pa.nulls(table.num_rows, schema.field(column.name).type))
            continue
        array = table.column(column.name)
        if array.null_count and not column.nullable:
            row = pc.index(array.is_null(), True).as_py()
            raise KitError("null in a column that may have none", where=f"{where}, row {row}")
        if pa.types.is_list(array.type) and pc.list_flatten(array).null_count:
            raise KitError(
                "null inside a list", where=where, fix="make the whole list null when a part is unknown"
            )
        try:
            array = array.cast(schema.field(column.name).type)
        except pa.ArrowException as error:
            raise KitError(f"does not fit {column.type}: {error}", where=where) from None
        _check_enum(array, column, where)
        arrays.append(array)
    return pa.Table.from_arrays(arrays, schema=schema)


def _check_enum(array: pa.ChunkedArray, column: Column, where: str) -> None:
    if column.enum is None:
        return
    for word in pc.unique(array).to_pylist():
        if word is not None and not column.allows(word):
            expected = f"one of {', '.join(column.enum)}"
            raise KitError(f"{word!r} is no word of this column", where=where, expected=expected)


def _check_columns(names: Iterable[str], spec: TableSpec) -> None:
    for name in names:
        if name not in spec.names:
            raise KitError(
                f"table {spec.table} has no column {name!r}", expected=f"columns of {spec.schema_id}"
            )


def _table_of_dicts(rows: Sequence[Mapping[str, Any]], spec: TableSpec, schema: pa.Schema) -> pa.Table:
    for row in rows:
        _check_columns(row, spec)
    arrays = []
    for field in schema:
        try:
            arrays.append(pa.array([row.get(field.name) for row in rows], field.type))
        except (pa.ArrowException, OverflowError, TypeError) as error:
            raise KitError(
                f"does not fit {field.type}: {error}", where=f"table {spec.table}, column {field.name}"
            ) from None
    return pa.Table.from_arrays(arrays, schema=schema)


def _in_order(table: pa.Table, spec: TableSpec) -> pa.Table:
    order = KeyOrder(spec.sort)
    order.update(table)
    if order.problem is None or order.problem[1] == "duplicate":
        return table
    return sorted_rows(table, spec.sort)
