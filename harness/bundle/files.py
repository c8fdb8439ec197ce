"""Files of a bundle: the one place that opens them, and what it refuses to open or decode.

A bundle may be a stranger's. A file is looked at before it is opened: only regular files, no link, no pipe,
no device, of bounded size. A Parquet file is held to what its own pages say before one is decoded: a few
kilobytes can claim gigabytes. Damage is named.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import lru_cache
from io import BytesIO
from pathlib import Path
from typing import BinaryIO

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from harness.bundle.pages import page_totals
from harness.errors import KitError
from harness.files import look_at, read_bytes
from harness.spec import Protocol

_MAGIC = b"PAR1"
MAX_MANIFEST = 16 << 20
MAX_FOOTER = 8 << 20
MAX_CHUNK = 128 << 20
"""Bytes that one column of one row group decodes to, strings included."""
MAX_STRING = 1 << 20
FREE_BYTES, MAX_RATIO = 1 << 30, 64
"""A file may decode to so many bytes, or to so many times its own: samples shrink to a twelfth."""
MAX_COLUMNS, _COLUMNS = 500, 64
_WIDEST = 64
FREE_ROWS = 2_000_000
BYTES_A_ROW = 4
"""A file may hold FREE_ROWS, or one row for so many of its bytes: samples take 9 bytes a row."""
SMALL_FILE, SMALL_ROWS, SMALL_TABLE = 256 << 10, 10_000, 4 << 20
"""Bytes and rows of a file, and bytes of its rows, up to which it costs more to open than to keep."""
MAX_OBJECTS = {
    "stages": 20_000,
    "events": 200_000,
    "artifacts": 100_000,
    "evals": 50_000,
    "eval_items": 500_000,
}
"""Rows of tables that are held as Python objects; their values take MAX_CHUNK bytes in all."""


def file_sha256(path: Path) -> str:
    """SHA-256 of a file's bytes, 64 hex digits; KitError when it cannot be read."""
    look_at(path)
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise KitError(f"cannot be read: {error.strerror}", where=str(path)) from None


def open_parquet(path: Path, *, encoded: bool = False) -> pq.ParquetFile:
    """Open a Parquet file whose pages decode to no more than they may.

    Args:
        path: The file.
        encoded: Read text as dictionaries, which bounds what it takes: `read_groups` wants it so.

    Raises:
        KitError: Missing, no plain file, not Parquet, cut short, a footer that does not parse, or one that
            decodes to too much; it says which.
    """
    file, problem = _open(path, encoded)
    with decoding(path):
        names = file.schema_arrow.names  # decoded on first use; damage should show here
    if len(names) > MAX_COLUMNS:
        raise _too_much(path, f"{len(names)} columns", f"at most {MAX_COLUMNS}")
    if len(set(names)) < len(names):
        found = f"has column {min(name for name in names if names.count(name) > 1)[:60]!r} twice"
        raise KitError(found, where=str(path), expected="each column of the protocol once")
    if problem is not None:
        raise _too_much(path, *problem)
    return file


def _open(path: Path, encoded: bool) -> tuple[pq.ParquetFile, tuple[str, str] | None]:
    """A file, and what it decodes to beyond the ceilings; its names were not looked at."""
    info = look_at(path)
    size = info.st_size
    data = read_bytes(path, SMALL_FILE) if size <= SMALL_FILE else None
    try:
        with path.open("rb") if data is None else BytesIO(data) as stream:
            head = stream.read(4)
            stream.seek(max(0, size - 8))
            footer_bytes, tail = int.from_bytes(stream.read(4), "little"), stream.read(4)
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
    if footer_bytes > MAX_FOOTER:
        raise _too_much(path, f"a footer of {footer_bytes} bytes", f"at most {MAX_FOOTER}")
    problem, metadata = None, None
    if data is None:
        problem, metadata = _decodes_to(path, size, info.st_mtime_ns, info.st_ctime_ns)

    def opened(columns: int) -> pq.ParquetFile:
        return pq.ParquetFile(
            path if data is None else pa.BufferReader(data),
            metadata=metadata,
            read_dictionary=range(columns) if encoded else None,  # of other columns than text it says nothing
            page_checksum_verification=True,
        )

    with decoding(path):
        file = opened(_COLUMNS)
        if file.metadata.num_columns > _COLUMNS:
            file = opened(file.metadata.num_columns)
        if data is not None:
            problem = _beyond(BytesIO(data), size, file.metadata)
    return file, problem


def whole_table(path: Path) -> pa.Table | None:
    """All rows and columns of a small file as `read_groups` gives them, decoded once and kept for a while.

    None where the file is not small or some of it cannot be read: then its parts are read one by one, and
    what is wrong with them is told there.
    """
    try:
        info = look_at(path)
        if info.st_size > SMALL_FILE:
            return None
        return _whole_table(path, info.st_size, info.st_mtime_ns, info.st_ctime_ns, info.st_ino)
    except KitError:
        return None


@lru_cache(maxsize=16)
def _whole_table(path: Path, *_seen: int) -> pa.Table | None:
    file, problem = _open(path, encoded=True)
    if problem is not None or file.num_row_groups > 1 or file.metadata.num_rows > SMALL_ROWS:
        return None
    table = read_groups(file, path, range(file.num_row_groups))
    names = table.column_names
    usual = len(set(names)) == len(names) <= MAX_COLUMNS
    return table if usual and table.get_total_buffer_size() <= SMALL_TABLE else None


@lru_cache(maxsize=32)
def _decodes_to(path: Path, size: int, *_seen: int) -> tuple[tuple[str, str] | None, pq.FileMetaData]:
    """What `_beyond` says of a file, and the file's metadata."""
    with decoding(path):
        metadata = pq.read_metadata(path)
        with path.open("rb") as file:
            return _beyond(file, size, metadata), metadata


def _beyond(file: BinaryIO, size: int, metadata: pq.FileMetaData) -> tuple[str, str] | None:
    """What a file decodes to beyond the ceilings, and the ceiling; None where it keeps below them.

    Claims of the footer and of the page headers are both held to them, and the pages to the footer.
    """
    total = 0
    most_rows = max(FREE_ROWS, size // BYTES_A_ROW)
    if metadata.num_rows > most_rows:
        return f"{metadata.num_rows} rows", f"at most {most_rows} in {size} bytes"
    schema = metadata.schema  # made anew at every call
    if any(schema.column(i).length > _WIDEST for i in range(metadata.num_columns)):
        return "a column of fixed wide values", f"at most {_WIDEST} bytes each"
    for number in range(metadata.num_row_groups):
        group = metadata.row_group(number)
        if not group.num_rows:
            continue  # nothing of it is decoded
        for place in range(group.num_columns):
            chunk = group.column(place)
            start = chunk.data_page_offset
            if chunk.has_dictionary_page and chunk.dictionary_page_offset:
                start = min(start, chunk.dictionary_page_offset)
            decoded, values = page_totals(file, start, chunk.total_compressed_size, size)
            name = f"column {chunk.path_in_schema[:60]!r} of row group {number}"
            if max(decoded, chunk.total_uncompressed_size) > MAX_CHUNK:
                return f"{name} decodes to {decoded} bytes", f"at most {MAX_CHUNK}"
            total += decoded
            if total > max(FREE_BYTES, MAX_RATIO * size):
                return f"more than {total} bytes", f"at most {MAX_RATIO} times its {size} bytes"
            most = MAX_CHUNK // 8
            if max(values, chunk.num_values, group.num_rows) > most:
                return f"{name} holds {values} values", f"at most {most}"
    return None


def _too_much(path: Path, found: str, expected: str) -> KitError:
    return KitError(
        f"decodes to too much: {found}",
        where=str(path),
        expected=expected,
        fix="let the kit write the bundle; its row groups are far below this",
    )


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


def footer(metadata: Mapping[bytes, bytes] | None, protocol: Protocol) -> dict[str, str]:
    """The protocol's footer keys in the metadata of a file, without their prefix."""
    prefix = f"{protocol.container.footer_prefix}.".encode()
    return {
        key[len(prefix) :].decode(): value.decode("utf-8", "replace")
        for key, value in (metadata or {}).items()
        if key.startswith(prefix)
    }


def read_groups(
    file: pq.ParquetFile,
    path: Path,
    groups: Sequence[int],
    columns: list[str] | None = None,
    *,
    threads: bool = False,
) -> pa.Table:
    """Columns, all by default, of some row groups of a file opened with `encoded`; text in lists comes plain.

    Raises:
        KitError: A page does not decode, or strings decode to too much.
    """
    with decoding(path):
        table = file.read_row_groups(list(groups), columns=columns, use_threads=threads)
        lists: list[int] = []
        for place, kind in enumerate(table.schema.types):
            listed = isinstance(kind, pa.ListType)
            if isinstance(kind.value_type if listed else kind, pa.DictionaryType):
                chunks = table.column(place).chunks
                problem = _strings_of([chunk.flatten() for chunk in chunks] if listed else chunks)
                if problem is not None:
                    raise _too_much(path, f"column {table.field(place).name!r} {problem[0]}", problem[1])
                lists += [place] if listed else []
        for place in lists:
            field = table.field(place)
            item = field.type.value_field
            plain = field.with_type(pa.list_(item.with_type(item.type.value_type)))
            table = table.set_column(place, plain, table.column(place).cast(plain.type))
        return table


def _strings_of(chunks: list[pa.DictionaryArray]) -> tuple[str, str] | None:
    """A string that is too long, or strings that are together once each row has its own."""
    if sum(chunk.dictionary.nbytes * max(1, len(chunk)) for chunk in chunks) <= MAX_STRING:
        return None  # were every row the longest of them
    whole = 0
    for chunk in chunks:
        lengths = pc.binary_length(chunk.dictionary)
        if (pc.max(lengths).as_py() or 0) > MAX_STRING:
            return f"holds a string of {pc.max(lengths).as_py()} bytes", f"at most {MAX_STRING}"
        whole += pc.sum(lengths.take(chunk.indices).cast(pa.int64())).as_py() or 0
    if whole > MAX_CHUNK:
        return f"decodes to {whole} bytes of text", f"at most {MAX_CHUNK}"
    return None
