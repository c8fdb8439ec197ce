"""The logical digest of a table (6.3): what it says, whatever codec, row group or file it is in.

Per column, over all rows in order: `h_values` is sha256 of the values, little-endian, null slots 0; strings
as uint32 length and UTF-8, lists as uint32 length and items, a null string or list as length 0xFFFFFFFF; bool
one byte; -0.0 as 0.0. `h_valid` is sha256 of one byte 0/1 a row, or the text `all-valid` for a column without
nulls. The table's digest is sha256 of the canonical JSON `[[name, type, rows, h_valid, h_values], ...]`,
columns in the schema's order.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from harness.bundle.arrays import Valid, numbers, validity
from harness.bundle.canonical import canonical_json
from harness.errors import KitError
from harness.spec.arrow import SCALARS

_NULL_LENGTH = b"\xff\xff\xff\xff"
_BLOCK = 1 << 16
_MANY_RUNS = 512
_NAMES = {kind.id: name for name, kind in SCALARS.items()}

Batches: TypeAlias = pa.Table | pa.RecordBatch | Iterable[pa.RecordBatch]


class ColumnDigest:
    """Streaming digest of one column."""

    def __init__(self, name: str, type_name: str) -> None:
        self.name = name
        self.type_name = type_name
        self._values = hashlib.sha256()
        self._valid: Any = None
        self.rows = 0

    def update(self, array: pa.Array | pa.ChunkedArray) -> None:
        """Add rows; arrays may be dictionary encoded.

        Raises:
            KitError: A float that is not finite, or a null inside a list.
        """
        chunks = array.chunks if isinstance(array, pa.ChunkedArray) else [array]
        for chunk in chunks:
            if len(chunk):
                valid = validity(chunk)
                self._update_valid(valid, len(chunk))
                self._update_values(chunk, valid)
                self.rows += len(chunk)

    def entry(self) -> list[object]:
        """`[name, type, rows, h_valid, h_values]`."""
        h_valid = "all-valid" if self._valid is None else self._valid.hexdigest()
        return [self.name, self.type_name, self.rows, h_valid, self._values.hexdigest()]

    def _update_valid(self, valid: Valid, rows: int) -> None:
        if self._valid is None:
            if valid is None:
                return
            self._valid = hashlib.sha256()
            _repeat_into(self._valid, b"\x01", self.rows)
        self._valid.update(b"\x01" * rows if valid is None else valid.data)

    def _update_values(self, chunk: pa.Array, valid: Valid) -> None:
        if self.type_name == "string":
            self._update_strings(chunk, valid)
        elif self.type_name.startswith("list<"):
            self._update_lists(chunk)
        else:
            self._values.update(_fixed_width(chunk, valid, self.name, self.rows).data)

    def _update_strings(self, chunk: pa.Array, valid: Valid) -> None:
        encoded = chunk if isinstance(chunk, pa.DictionaryArray) else chunk.dictionary_encode()
        indices = numbers(encoded.indices, valid, -1)
        edges = (indices[1:] != indices[:-1]).nonzero()[0] + 1
        if len(edges) > _MANY_RUNS:
            plain = chunk.dictionary_decode() if pa.types.is_dictionary(chunk.type) else chunk
            self._values.update(_string_bytes(plain).data)
            return
        words = encoded.dictionary.to_pylist()
        for start, end in pairwise([0, *edges.tolist(), len(indices)]):
            index = int(indices[start])
            word = words[index] if index >= 0 else None
            _repeat_into(self._values, _string_token(word), end - start)

    def _update_lists(self, chunk: pa.Array) -> None:
        item_type = self.type_name[5:-1]
        for offset, scalar in enumerate(chunk):
            items = scalar.values
            if items is None:
                self._values.update(_NULL_LENGTH)
                continue
            if items.null_count:
                raise KitError(f"column {self.name}: null inside a list", where=f"row {self.rows + offset}")
            self._values.update(len(items).to_bytes(4, "little"))
            if item_type == "string":
                self._values.update(b"".join(_string_token(item) for item in items.to_pylist()))
            elif len(items):
                self._values.update(_fixed_width(items, None, self.name, self.rows + offset).data)


class TableDigest:
    """Streaming digest of a table; columns are hashed in parallel.

    Args:
        schema: The table's schema; columns that batches carry beyond it are not part of the digest.
        threads: Columns hashed at the same time.
    """

    def __init__(self, schema: pa.Schema, *, threads: int = 2) -> None:
        self.columns = [ColumnDigest(field.name, type_name(field.type)) for field in schema]
        self._threads = threads

    def update(self, batch: pa.Table | pa.RecordBatch) -> None:
        """Add the rows of a batch.

        Raises:
            KitError: A column of the schema is missing, or holds a value that has no digest.
        """
        lost = [column.name for column in self.columns if column.name not in batch.schema.names]
        if lost:
            raise KitError(f"column {lost[0]!r} is missing", expected=", ".join(c.name for c in self.columns))
        work = [(column, batch.column(column.name)) for column in self.columns]
        if self._threads < 2 or batch.num_rows < _BLOCK:
            for column, array in work:
                column.update(array)
            return
        with ThreadPoolExecutor(self._threads) as pool:
            list(pool.map(lambda item: item[0].update(item[1]), work))

    def hexdigest(self) -> str:
        """The table's digest so far, 64 hex digits."""
        return table_digest(self.columns)


def table_digest(columns: Iterable[ColumnDigest]) -> str:
    """Digest of a table from its finished columns, in the schema's order."""
    entries = [column.entry() for column in columns]
    # Of ASCII texts and small integers this is the canonical form (RFC 8785), and ten times as fast.
    plain = json.dumps(entries, separators=(",", ":"), ensure_ascii=False).encode()
    return hashlib.sha256(plain if plain.isascii() else canonical_json(entries)).hexdigest()


def logical_digest(data: Batches, schema: pa.Schema, *, threads: int = 2) -> str:
    """Logical digest of a table or of a stream of record batches.

    Args:
        data: Table, batch or batches, rows in key order.
        schema: Schema of the table, as `Protocol.arrow_schema` gives it.
        threads: Columns hashed at the same time.

    Returns:
        64 hex digits.
    """
    digest = TableDigest(schema, threads=threads)
    if isinstance(data, pa.Table | pa.RecordBatch):
        data = [data]
    for batch in data:
        digest.update(batch)
    return digest.hexdigest()


def type_name(data_type: pa.DataType) -> str:
    """The protocol's name of an Arrow type."""
    if data_type.id in _NAMES:
        return _NAMES[data_type.id]
    if isinstance(data_type, pa.DictionaryType):
        return type_name(data_type.value_type)
    if isinstance(data_type, pa.ListType):
        return f"list<{type_name(data_type.value_type)}>"
    return str(data_type)


def _fixed_width(array: pa.Array, valid: Valid, name: str, row: int) -> npt.NDArray[Any]:
    values = numbers(array, valid)
    if values.dtype.kind == "f":
        finite = np.isfinite(values)
        if not finite.all():
            bad = int(np.flatnonzero(~finite)[0])
            raise KitError(
                f"column {name} holds {values[bad]}",
                where=f"row {row + bad}",
                expected="a finite number, or null for an unknown one",
            )
        values = values + 0.0  # turns -0.0 into 0.0
    return values if sys.byteorder == "little" else values.byteswap()


def _string_token(word: str | None) -> bytes:
    if word is None:
        return _NULL_LENGTH
    data = word.encode()
    return len(data).to_bytes(4, "little") + data


def _string_bytes(array: pa.Array) -> npt.NDArray[np.uint8]:
    """Length-prefixed bytes of a string array, without a Python loop over rows."""
    valid = array.is_valid().to_numpy(zero_copy_only=False)
    array = pc.fill_null(array.cast(pa.large_string()), "")
    size = len(array)
    offsets = np.frombuffer(array.buffers()[1], np.int64, size + 1, array.offset * 8)
    data = np.frombuffer(array.buffers()[2] or b"", np.uint8)[offsets[0] : offsets[-1]]
    lengths = np.diff(offsets)
    out = np.empty(len(data) + 4 * size, np.uint8)
    heads = (offsets[:-1] - offsets[0]) + 4 * np.arange(size)
    prefix = np.where(valid, lengths, 0xFFFFFFFF).astype("<u4").view(np.uint8).reshape(size, 4)
    out[heads[:, None] + np.arange(4)] = prefix
    out[np.arange(len(data)) + 4 * np.repeat(np.arange(1, size + 1), lengths)] = data
    return out


def _repeat_into(digest: Any, token: bytes, count: int) -> None:
    """Hash `token` `count` times in blocks, without holding all of it."""
    if count * len(token) <= _BLOCK:
        digest.update(token * count)
        return
    at_once = max(1, min(_BLOCK, (1 << 20) // max(1, len(token))))
    block = token * min(count, at_once)
    for _ in range(count // at_once):
        digest.update(block)
    digest.update(token * (count % at_once))
