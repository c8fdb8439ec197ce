"""Single Parquet files of a bundle: their bytes, footers and row groups; damage is named."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from harness.errors import KitError
from harness.spec import Protocol

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
            fix="copy it again; if the original is cut as well, seal the run again with: kit recover DIR",
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


def read_groups(
    file: pq.ParquetFile, path: Path, groups: Sequence[int], columns: Sequence[str], *, threads: bool = False
) -> pa.Table:
    """Columns of some row groups; KitError when a page does not decode."""
    with decoding(path):
        return file.read_row_groups(list(groups), columns=list(columns), use_threads=threads)
