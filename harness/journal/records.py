"""The journal: append-only frames, written as things happen, from which a bundle is sealed.

A journal file is `KITJNL1\\n` followed by frames `<u32 length><u32 crc32><u8 kind><payload>` (little-endian,
length counts the payload). One process writes one file. A frame that was cut off by a kill can only be the
last one. Where a disk damaged one, the reader goes on at the next whole frame; either way it says how many
bytes it left out.

Power rows are packed structs rather than JSON: at 8 GPUs and 2 Hz a day is 1.4 million of them.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import struct
import time
import zlib
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from harness.errors import KitError
from harness.files import look_at, open_plain

MAGIC = b"KITJNL1\n"
KIND_JSON = 1
KIND_POWER = 2
KIND_ZONE = 3

_HEADER = struct.Struct("<IIB")
_FLOCK = struct.Struct("hhqqi4x")
_WHOLE_FILE = _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
_MAX_PAYLOAD = 1 << 24
_WINDOW = _MAX_PAYLOAD + 64
"""Bytes looked through at a time for the next frame; a frame that begins in them ends in as many more."""
_MAX_PENDING_BYTES = 64 << 20
_CLOSE_PATIENCE_S = 10.0

POWER_ROW = struct.Struct("<hhqqiiqhihiqii")
POWER_FIELDS: tuple[tuple[str, str], ...] = (
    ("device_id", "<i2"),
    ("session", "<i2"),
    ("t_us", "<i8"),
    ("mono_us", "<i8"),
    ("power_mw", "<i4"),
    ("power_average_mw", "<i4"),
    ("energy_counter_mj", "<i8"),
    ("util_pct", "<i2"),
    ("mem_used_mib", "<i4"),
    ("temp_c", "<i2"),
    ("sm_clock_mhz", "<i4"),
    ("throttle_bits", "<i8"),
    ("power_limit_mw", "<i4"),
    ("read_us", "<i4"),
)
"""Fields of a power row in order, with numpy type codes; -1 stands for a failed read and becomes null."""

ZONE_ROW = struct.Struct("<hhqqqi")
ZONE_FIELDS: tuple[tuple[str, str], ...] = (
    ("zone_index", "<i2"),
    ("session", "<i2"),
    ("t_us", "<i8"),
    ("mono_us", "<i8"),
    ("value", "<i8"),
    ("boundary", "<i4"),
)
"""A CPU energy reading; `zone_index` points into the zone list that the same journal declared, -1 = none."""

_ROW_BYTES = {KIND_POWER: POWER_ROW.size, KIND_ZONE: ZONE_ROW.size}


class Frame(NamedTuple):
    """One journal entry: `payload` is packed rows, or the decoded object of a JSON frame in `record`."""

    kind: int
    payload: bytes
    record: dict[str, Any]


class JournalWriter:
    """Appends frames and hands them to the kernel at once: killing the process loses nothing already written.

    When the disk refuses (full, quota, I/O error) the bytes stay in memory, up to 64 MiB, and are tried again
    with every later append: a disk that gets its space back within hours has lost nothing.

    Args:
        path: The file to create; it must not exist, since a journal has one writer in its life.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC
        self._fd = os.open(path, flags, 0o644)
        with suppress(OSError):  # some network file systems have no locks
            # Says that this journal is being written; goes with the process, however that ends. It belongs
            # to this opening: closing another one of the same process does not take it away.
            fcntl.fcntl(self._fd, fcntl.F_OFD_SETLK, _WHOLE_FILE)
        self._pending = bytearray(MAGIC)
        self.error: str | None = None
        self.dropped_frames = 0
        self._flush()

    def append_record(self, record: dict[str, Any]) -> None:
        """Append one JSON object.

        Raises:
            KitError: It is larger than what a reader accepts (16 MiB); nothing of it is written.
        """
        # Half of a surrogate pair, as in a name that is no UTF-8, is no text that a table can hold.
        payload = json.dumps(record, separators=(",", ":"), ensure_ascii=False).encode(errors="replace")
        if len(payload) > _MAX_PAYLOAD:
            kind = " ".join(str(record[name]) for name in ("type", "kind") if name in record)
            raise KitError(
                f"a record of {len(payload)} bytes is too large for the log",
                where=kind or "journal",
                expected=f"at most {_MAX_PAYLOAD} bytes",
                fix="report less at a time; large things belong into a file of the stage's own",
            )
        self._append(KIND_JSON, payload)

    def append_rows(self, kind: int, rows: bytes | bytearray, *, flush: bool = True) -> None:
        """Append packed rows (`KIND_POWER`, `KIND_ZONE`); without `flush`, with the next flushed frame."""
        if len(rows) > _MAX_PAYLOAD:
            raise ValueError(f"{len(rows)} bytes of rows in one frame")  # a tick's rows are a few KiB
        self._append(kind, rows, flush)

    def _append(self, kind: int, payload: bytes | bytearray, flush: bool = True) -> None:
        if len(self._pending) > _MAX_PENDING_BYTES:
            self.dropped_frames += 1
        else:
            checksum = zlib.crc32(payload, kind)
            self._pending += _HEADER.pack(len(payload), checksum, kind)
            self._pending += payload
        if flush:
            self._flush()

    def flush(self) -> None:
        """Try again to write what the disk did not take."""
        self._flush()

    def _flush(self) -> None:
        try:
            while self._pending:
                written = os.write(self._fd, self._pending)
                del self._pending[:written]
        except OSError as error:
            self.error = errno.errorcode.get(error.errno or 0, str(error))
        else:
            self.error = None

    @property
    def pending_bytes(self) -> int:
        """Bytes that the disk has not taken yet."""
        return len(self._pending)

    def sync(self) -> None:
        """Force what was written to the device; an error is kept in `error`, not raised."""
        try:
            os.fdatasync(self._fd)
        except OSError as error:
            self.error = errno.errorcode.get(error.errno or 0, str(error))

    def close(self, patience_s: float = _CLOSE_PATIENCE_S) -> None:
        """Write what is pending and close; what the disk still refuses after `patience_s` is lost.

        `pending_bytes` then says how much that is.
        """
        deadline = time.monotonic() + patience_s
        self._flush()
        while self._pending and time.monotonic() < deadline:
            time.sleep(0.2)
            self._flush()
        self.sync()
        os.close(self._fd)


def is_being_written(path: Path) -> bool:
    """Whether another process has this journal open for writing; false where locks are not known."""
    look_at(path)
    try:
        with path.open("r+b") as stream:
            kind = _FLOCK.unpack(fcntl.fcntl(stream, fcntl.F_OFD_GETLK, _WHOLE_FILE))[0]
    except OSError:
        return False  # gone, or no locks here: whoever reads it will see
    return bool(kind != fcntl.F_UNLCK)


def read_journal(path: Path) -> Iterator[Frame]:
    """All whole frames of a journal, in order; what lies between them is left out.

    Use `unread_bytes` to learn how much that is.
    """
    for frame, _, _ in _frames(path):
        yield frame


def new_frames(path: Path, position: int = 0) -> tuple[list[Frame], int]:
    """The whole frames after a position, and the position after them: to follow a journal as it grows."""
    frames = []
    for frame, _, end in _frames(path, position):
        frames.append(frame)
        position = end
    return frames, position


class Unread(NamedTuple):
    """Bytes of a journal that form no whole frame.

    Attributes:
        damaged: Before the last whole frame: once written and lost since.
        torn: Behind it: a frame that was cut off while it was written, or damage too.
    """

    damaged: int
    torn: int


def unread_bytes(path: Path) -> Unread:
    """What a reader leaves out of a journal."""
    size = look_at(path).st_size
    with open_plain(path) as stream:
        last = len(MAGIC) if stream.read(len(MAGIC)) == MAGIC else 0
    damaged = 0
    for _, start, end in _frames(path):
        damaged += start - last
        last = end
    return Unread(damaged, size - last)


def _frames(path: Path, position: int = 0) -> Iterator[tuple[Frame, int, int]]:
    """Whole frames with the positions of their begin and end."""
    look_at(path)
    with open_plain(path) as stream:
        if stream.read(len(MAGIC)) == MAGIC:
            position = max(position, len(MAGIC))
        while True:
            frame, end = _frame_at(stream, position)
            if frame is None:
                found = _next_frame(stream, position + 1)
                if found is None:
                    return
                position = found
                continue
            yield frame, position, end
            position = end


def _frame_at(stream: BinaryIO, position: int) -> tuple[Frame | None, int]:
    """The frame that begins there, and where it ends; None if none does."""
    stream.seek(position)
    header = stream.read(_HEADER.size)
    if len(header) < _HEADER.size or not any(header):
        return None, position  # zeros, as a power cut leaves them, would be an empty frame with its checksum
    length, checksum, kind = _HEADER.unpack(header)
    if length > _MAX_PAYLOAD:
        return None, position
    payload = stream.read(length)
    if len(payload) < length or zlib.crc32(payload, kind) != checksum:
        return None, position
    return Frame(
        kind, payload, _decoded(payload) if kind == KIND_JSON else {}
    ), position + _HEADER.size + length


def _decoded(payload: bytes) -> dict[str, Any]:
    """The object of a JSON frame; an empty one where it holds something else."""
    try:
        found = json.loads(payload)
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _next_frame(stream: BinaryIO, position: int) -> int | None:
    """Where the next whole frame begins, at `position` or behind it."""
    while True:
        stream.seek(position)
        rest = stream.read(2 * _WINDOW)
        last = len(rest) < 2 * _WINDOW
        found = _frame_in(rest, len(rest) - _HEADER.size if last else _WINDOW)
        if found is not None:
            return position + found
        if last:
            return None
        position += _WINDOW


def _frame_in(rest: bytes, until: int) -> int | None:
    """Where the first whole frame begins in these bytes, before `until`."""
    for at in range(until):
        kind = rest[at + _HEADER.size - 1]
        if kind not in _ROW_BYTES and kind != KIND_JSON:
            continue
        length, checksum, _ = _HEADER.unpack_from(rest, at)
        begin = at + _HEADER.size
        # The form first: a checksum over megabytes at every position would take hours.
        if not 0 < length <= min(_MAX_PAYLOAD, len(rest) - begin):
            continue
        if kind == KIND_JSON:
            fits = rest[begin] == ord("{") and rest[begin + length - 1] == ord("}")
        else:
            fits = length % _ROW_BYTES[kind] == 0
        if fits and zlib.crc32(rest[begin : begin + length], kind) == checksum:
            return at
    return None
