"""One pass over every file of a bundle: bytes, footer, columns, order. Bounded in memory, several threads.

A thread works on one column of one file at a time: decoding and hashing release the interpreter lock, a
column needs no other column, and only one row group of it is held. What was found is kept as plain facts; the
rules judge them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial
from os.path import lexists
from pathlib import Path
from threading import local
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from harness.bundle.digest import ColumnDigest, table_digest, type_name
from harness.bundle.files import MAX_OBJECTS, file_sha256, footer, open_parquet, read_groups, whole_table
from harness.bundle.order import KeyOrder
from harness.errors import KitError
from harness.files import look_at
from harness.spec import Column, Protocol, TableSpec
from harness.spec.versions import WIDENINGS

KEPT = 20
"""Row numbers kept per kind of fault."""


@dataclass(slots=True)
class ColumnFacts:
    """What one column of one file holds.

    Attributes:
        found_type: type in the file, by the protocol's names.
        wanted_type: type it must have.
        null_rows: nulls in a column that may have none, as (count, first rows).
        bad_words: word -> (count, first rows) for words the protocol does not list.
        error: why the values could not be digested.
        digest: finished digest; None if the type differs or decoding failed.
    """

    name: str
    found_type: str
    wanted_type: str
    nulls: int = 0
    null_rows: list[int] = field(default_factory=list)
    bad_words: dict[str, tuple[int, list[int]]] = field(default_factory=dict)
    error: str | None = None
    digest: ColumnDigest | None = None


@dataclass
class FileFacts:
    """What one listed file is.

    Attributes:
        path: relative to the bundle.
        newer: of a newer minor version.
        missing: not there.
        damaged: why it cannot be read, None if it can.
        order: (row, "unsorted" | "duplicate") of the first violation of the key order.
    """

    path: str
    table: TableSpec
    newer: bool = False
    missing: bool = False
    damaged: str | None = None
    sha256: str | None = None
    bytes: int | None = None
    rows: int = 0
    footer: dict[str, str] = field(default_factory=dict)
    columns: dict[str, ColumnFacts] = field(default_factory=dict)
    unknown: list[str] = field(default_factory=list)
    absent: list[str] = field(default_factory=list)
    order: tuple[int, str] | None = None

    @property
    def logical_sha256(self) -> str | None:
        """Logical digest; None where a column could not be digested, or a newer version has columns that this
        one does not know.
        """
        if self.newer and any(not name.startswith("x-") for name in self.unknown):
            return None
        digests = [self.columns[c.name].digest for c in self.table.columns if c.name in self.columns]
        if len(digests) != len(self.table.columns) or self.damaged:
            return None
        done = [digest for digest in digests if digest is not None]
        return table_digest(done) if len(done) == len(digests) else None

    @property
    def usable(self) -> bool:
        """Whether its rows can be taken for what their columns say."""
        return not (
            self.missing
            or self.damaged
            or self.absent
            or any(c.digest is None or c.nulls for c in self.columns.values())
        )


def scan_file(
    folder: Path, path: str, table: TableSpec, protocol: Protocol, *, newer: bool = False, sha256: str | None
) -> tuple[FileFacts, list[Callable[[], None]]]:
    """Read the footer of a file now; the work on its bytes and columns is returned as jobs for a thread pool.

    Args:
        folder: bundle folder.
        path: file relative to it, already known to lie inside.
        table: table the file is part of.
        protocol: protocol of the bundle.
        newer: the bundle is of a newer minor version, which may have widened types and added columns (6.5).
        sha256: of its bytes, where it is known.
    """
    facts = FileFacts(path, table, newer=newer)
    full = folder / path
    if not lexists(full):
        facts.missing = True
        return facts, []
    try:
        facts.bytes = look_at(full).st_size
    except KitError as error:
        facts.damaged = error.message
        return facts, []

    def hash_bytes() -> None:
        facts.sha256 = sha256 or file_sha256(full)

    jobs: list[Callable[[], None]] = [partial(_guarded, facts, hash_bytes)]
    try:
        whole = whole_table(full)
        if whole is not None:
            schema, metadata, facts.rows, groups = whole.schema, whole.schema.metadata, whole.num_rows, 1
        else:
            file = open_parquet(full)
            schema, metadata, facts.rows = file.schema_arrow, file.metadata.metadata, file.metadata.num_rows
            groups = file.num_row_groups
        facts.footer = footer(metadata, protocol)
        if facts.rows > MAX_OBJECTS.get(table.table, facts.rows):
            facts.damaged = f"holds {facts.rows} rows, at most {MAX_OBJECTS[table.table]} are read"
            return facts, jobs
        stored = dict(zip(schema.names, map(type_name, schema.types), strict=True))
    except KitError as error:
        facts.damaged = error.message
        return facts, jobs
    except Exception as error:
        # A footer may decode to nonsense in more ways than a reader can name.
        facts.damaged = f"its footer does not decode: {type(error).__name__}"
        return facts, jobs
    known = {c.name for c in table.columns}
    facts.unknown = [name for name in stored if name not in known]
    # No reader may require what may vanish in a minor version, or is no longer written (6.5).
    facts.absent = [c.name for c in table.columns if c.name not in stored and c.stability == "stable"]
    opened = _Opened(full, groups, whole)
    columns = [column for column in table.columns if column.name in stored]
    for column in columns:
        found = stored[column.name]
        widened = newer and (column.type, found) in WIDENINGS
        facts.columns[column.name] = ColumnFacts(column.name, found, found if widened else column.type)
    together = 1 if whole is None else len(table.columns)
    for at in range(0, len(columns), together):
        jobs.append(partial(_scan_columns, facts, columns[at : at + together], opened))
    if not facts.absent:
        jobs.append(partial(_guarded, facts, _check_order, facts, opened))
    return facts, jobs


def _guarded(facts: FileFacts, job: Callable[..., None], *arguments: Any) -> None:
    try:
        job(*arguments)
    except KitError as error:
        facts.damaged = facts.damaged or error.message
    except Exception as error:
        facts.damaged = facts.damaged or f"does not decode: {type(error).__name__}: {str(error)[:120]}"


class _Opened(local):
    """One file as each thread opens it, once; a small one is read already."""

    def __init__(self, path: Path, groups: int, whole: pa.Table | None) -> None:
        self._path, self._groups = path, groups
        self._whole = None if whole is None else list(_numbered([whole]))
        self._file: pq.ParquetFile | None = None

    def batches(self, names: list[str]) -> Iterable[tuple[int, pa.RecordBatch]]:
        """First row and rows of each batch, with these columns at least."""
        if self._whole is not None:
            return self._whole
        file = self._file = self._file or open_parquet(self._path, encoded=True)
        return _numbered(read_groups(file, self._path, [group], names) for group in range(self._groups))


def _numbered(tables: Iterable[pa.Table]) -> Iterator[tuple[int, pa.RecordBatch]]:
    row = 0
    for table in tables:
        for batch in table.to_batches():
            yield row, batch
            row += batch.num_rows


def _scan_columns(facts: FileFacts, columns: list[Column], opened: _Opened) -> None:
    for column in columns:
        _guarded(facts, _scan_column, facts.columns[column.name], column, opened)


def _scan_column(facts: ColumnFacts, column: Column, opened: _Opened) -> None:
    same_type = facts.found_type == facts.wanted_type
    digest = ColumnDigest(column.name, facts.found_type) if same_type else None
    for row, batch in opened.batches([column.name]):
        array = batch.column(column.name)
        if array.null_count and not column.nullable:
            facts.nulls += array.null_count
            _keep(facts.null_rows, row, array.is_null().to_numpy(zero_copy_only=False))
        if column.enum is not None and same_type:
            _check_words(facts, column, array, row)
        if digest is not None:
            try:
                digest.update(array)
            except KitError as error:
                facts.error, digest = f"{error.message} ({error.where})", None
    facts.digest = digest


def _keep(rows: list[int], first: int, mask: Any) -> None:
    if len(rows) < KEPT:
        rows += [first + int(i) for i in np.flatnonzero(mask)[: KEPT - len(rows)]]


def _check_words(facts: ColumnFacts, column: Column, array: pa.Array, row: int) -> None:
    encoded = array if isinstance(array, pa.DictionaryArray) else array.dictionary_encode()
    for index, word in enumerate(encoded.dictionary.to_pylist()):
        if word is None or column.allows(word):
            continue
        mask = pc.fill_null(pc.equal(encoded.indices, index), False).to_numpy(zero_copy_only=False)
        count, rows = facts.bad_words.get(word, (0, []))
        _keep(rows, row, mask)
        if mask.any():
            facts.bad_words[word] = (count + int(mask.sum()), rows)


def _check_order(facts: FileFacts, opened: _Opened) -> None:
    wrong = [n for n in facts.table.key if facts.columns[n].found_type != facts.columns[n].wanted_type]
    if wrong:
        return
    order = KeyOrder(facts.table.key)
    for _, batch in opened.batches(list(facts.table.key)):
        order.update(batch)
    facts.order = order.problem
