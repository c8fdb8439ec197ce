"""Single Parquet files of a bundle: opening them, their digests, their entry in the manifest."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from harness.bundle.canonical import canonical_json
from harness.bundle.commit import MANIFEST
from harness.bundle.digest import ColumnDigest, table_digest, type_name
from harness.errors import KitError
from harness.spec import Protocol, load_protocol

_MAGIC = b"PAR1"


def file_sha256(path: Path) -> str:
    """SHA-256 of a file's bytes, 64 hex digits; KitError when it cannot be read."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise KitError(f"cannot be read: {error.strerror}", where=str(path)) from None


def open_parquet(path: Path, *, dictionaries: Sequence[str] = ()) -> pq.ParquetFile:
    """Open a Parquet file.

    Args:
        path: The file.
        dictionaries: Columns to read dictionary encoded.

    Raises:
        KitError: Missing, empty, not Parquet, cut short, or a footer that does not parse; it says which.
    """
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            head = file.read(4)
            file.seek(max(0, size - 4))
            tail = file.read(4)
    except FileNotFoundError:
        raise KitError(
            "file is missing", where=str(path), fix="copy it again from the run; a bundle lacks no file"
        ) from None
    except OSError as error:
        raise KitError(f"cannot be read: {error.strerror}", where=str(path)) from None
    if head != _MAGIC:
        found = "an empty file" if not size else f"it begins with {head!r}"
        raise KitError(f"is not a Parquet file: {found}", where=str(path), expected=f"{_MAGIC!r} first")
    if size < 12 or tail != _MAGIC:
        raise KitError(
            f"is cut short: {size} bytes, and no Parquet footer at the end",
            where=str(path),
            fix="copy it again; if the original is cut as well, seal the run anew with: kit recover DIR",
        )
    with decoding(path):
        file = pq.ParquetFile(path, read_dictionary=list(dictionaries), page_checksum_verification=True)
        _ = file.schema_arrow  # decoded on first use; damage should show here
    return file


@contextmanager
def decoding(path: Path) -> Iterator[None]:
    """Whatever a damaged file makes the decoder raise becomes one KitError that names the file."""
    try:
        yield
    except (pa.ArrowException, OSError, ValueError, OverflowError, MemoryError, TypeError) as error:
        reason = " ".join(str(error).split())
        raise KitError(
            f"is damaged: {reason[:200]}", where=str(path), fix="copy the file again and compare its sha256"
        ) from None


def footer(file: pq.ParquetFile, protocol: Protocol) -> dict[str, str]:
    """The protocol's footer keys, without their prefix."""
    prefix = f"{protocol.container.footer_prefix}.".encode()
    metadata = file.metadata.metadata or {}
    return {
        key[len(prefix) :].decode(): value.decode("utf-8", "replace")
        for key, value in metadata.items()
        if key.startswith(prefix)
    }


def digest_files(paths: Sequence[Path], schema: pa.Schema, *, threads: int = 2) -> str:
    """Logical digest of a table stored in one or more Parquet files, read a column and a row group at a time.

    Args:
        paths: Files, in the order of their rows.
        schema: The table's schema. Columns are read as they are stored and must have its types.
        threads: Columns decoded and hashed at the same time.

    Returns:
        64 hex digits.

    Raises:
        KitError: A file cannot be read; a column is missing, of another type, or has a value without a
            digest.
    """
    dictionaries = [field.name for field in schema if field.type == pa.string()]
    for path in paths:
        _expect_columns(path, open_parquet(path).schema_arrow, schema)

    def one(field: pa.Field) -> ColumnDigest:
        column = ColumnDigest(field.name, type_name(field.type))
        for path in paths:
            file = open_parquet(path, dictionaries=dictionaries)
            for group in range(file.num_row_groups):
                column.update(read_groups(file, path, [group], [field.name]).column(0))
        return column

    with ThreadPoolExecutor(max(1, threads)) as pool:
        return table_digest(list(pool.map(one, schema)))


def read_groups(
    file: pq.ParquetFile, path: Path, groups: Sequence[int], columns: Sequence[str], *, threads: bool = False
) -> pa.Table:
    """Columns of some row groups; KitError when a page does not decode."""
    with decoding(path):
        return file.read_row_groups(list(groups), columns=list(columns), use_threads=threads)


def _expect_columns(path: Path, found: pa.Schema, wanted: pa.Schema) -> None:
    for field in wanted:
        if field.name not in found.names:
            raise KitError(f"column {field.name!r} is missing", where=str(path))
        stored, expected = type_name(found.field(field.name).type), type_name(field.type)
        if stored != expected:
            raise KitError(f"column {field.name!r} is stored as {stored}", where=str(path), expected=expected)


def file_entry(folder: Path, path: str, protocol: Protocol) -> dict[str, Any]:
    """Entry of one Parquet file in manifest `files`, computed from the file itself.

    Args:
        folder: Bundle folder.
        path: File, relative to it.
        protocol: Protocol whose table the file holds.

    Returns:
        path, sha256, bytes, rows, logical_sha256, schema_id.
    """
    table = protocol.tables[path.split("/")[0].removesuffix(".parquet")]
    full = folder / path
    rows = open_parquet(full).metadata.num_rows
    return {
        "path": path,
        "sha256": file_sha256(full),
        "bytes": full.stat().st_size,
        "rows": rows,
        "logical_sha256": digest_files([full], protocol.arrow_schema(table.table)),
        "schema_id": table.schema_id,
    }


def refresh_manifest(folder: Path, protocol: Protocol | None = None) -> None:
    """Recompute the `files` entries of a manifest from the files that lie there, for tools that edit tables.

    Args:
        folder: Bundle folder with a manifest.
        protocol: The protocol of the bundle; by default the one it says.
    """
    manifest = json.loads((folder / MANIFEST).read_bytes())
    protocol = protocol or load_protocol(manifest["protocol_version"])
    found = [
        path.relative_to(folder).as_posix()
        for name in protocol.tables
        for path in [folder / f"{name}.parquet", *sorted((folder / name).glob("part-*.parquet"))]
        if path.is_file()
    ]
    manifest["files"] = [file_entry(folder, path, protocol) for path in sorted(found)]
    (folder / MANIFEST).write_bytes(canonical_json(manifest))
