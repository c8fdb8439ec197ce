"""The journal's frames: what is read is what was written, up to the first byte that is not."""

from __future__ import annotations

import errno
import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.errors import KitError
from harness.journal import records as journal
from harness.journal.reading import await_writers, read_journals
from harness.journal.records import (
    KIND_JSON,
    KIND_POWER,
    KIND_ZONE,
    MAGIC,
    POWER_FIELDS,
    POWER_ROW,
    ZONE_FIELDS,
    ZONE_ROW,
    JournalWriter,
    Unread,
    is_being_written,
    read_journal,
    unread_bytes,
)
from tests.lab.fixtures import ROOT

ENTRIES = [
    {"type": "run", "name": "ä", "n": 1},
    b"\x01\x02" * POWER_ROW.size,
    {"type": "event"},
    b"",
    {"type": "x", "v": None},
]


def write(path: Path) -> Path:
    writer = JournalWriter(path)
    for entry in ENTRIES:
        if isinstance(entry, dict):
            writer.append_record(entry)
        else:
            writer.append_rows(KIND_POWER, entry)
    writer.close()
    return path


def test_frames_come_back_in_order(tmp_path: Path) -> None:
    frames = list(read_journal(write(tmp_path / "a.jnl")))
    assert [f.kind for f in frames] == [KIND_JSON, KIND_POWER, KIND_JSON, KIND_POWER, KIND_JSON]
    assert [f.record if f.kind == KIND_JSON else f.payload for f in frames] == ENTRIES
    assert unread_bytes(tmp_path / "a.jnl").torn == 0


def test_a_record_that_no_reader_would_take_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.jnl"
    writer = JournalWriter(path)
    frame = len('{"type":"event","kind":"x-large","detail":""}')
    largest = {"type": "event", "kind": "x-large", "detail": "x" * ((1 << 24) - frame)}
    writer.append_record(largest)
    with pytest.raises(KitError, match="16777217 bytes is too large") as refused:
        writer.append_record({**largest, "detail": largest["detail"] + "y"})
    assert refused.value.where == "event x-large" and refused.value.fix
    writer.append_record({"type": "after"})
    writer.close()
    assert [frame.record for frame in read_journal(path)] == [largest, {"type": "after"}]
    assert unread_bytes(path).torn == 0


def test_every_truncation_keeps_the_whole_frames(tmp_path: Path) -> None:
    content = write(tmp_path / "a.jnl").read_bytes()
    ends = [len(MAGIC)]
    while ends[-1] < len(content):
        ends.append(ends[-1] + 9 + int.from_bytes(content[ends[-1] : ends[-1] + 4], "little"))
    cut = tmp_path / "cut.jnl"
    for length in range(len(content) + 1):
        cut.write_bytes(content[:length])
        whole = sum(end <= length for end in ends[1:])
        assert len(list(read_journal(cut))) == whole
        kept = ends[whole] if length >= len(MAGIC) else 0
        assert unread_bytes(cut).torn == length - kept


def test_a_flipped_byte_costs_its_own_frame_alone(tmp_path: Path) -> None:
    content = write(tmp_path / "a.jnl").read_bytes()
    good = [(f.kind, f.payload) for f in read_journal(tmp_path / "a.jnl")]
    bad = tmp_path / "bad.jnl"
    for position in range(len(content)):
        damaged = bytearray(content)
        damaged[position] ^= 0x41
        bad.write_bytes(damaged)
        found = [(f.kind, f.payload) for f in read_journal(bad)]
        # A frame without rows says nothing by which it could be found behind a damaged one.
        wanted = [frame for frame in good if frame[1]]
        lost = 0 if position < len(MAGIC) or (good[3] not in found and len(found) == len(wanted)) else 1
        assert len([f for f in found if f[1]]) == len(wanted) - lost and set(found) <= set(good), position
        unread = unread_bytes(bad)
        assert unread.damaged + unread.torn > 0


@settings(max_examples=60, deadline=None)
@given(st.binary(max_size=400))
def test_anything_can_be_read(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    path = tmp_path_factory.mktemp("junk") / "junk.jnl"
    for start in (b"", MAGIC):
        path.write_bytes(start + content)
        list(read_journal(path))
        unread = unread_bytes(path)
        assert 0 <= unread.damaged + unread.torn <= len(start + content)


def test_a_journal_has_one_writer_in_its_life(tmp_path: Path) -> None:
    write(tmp_path / "a.jnl")
    with pytest.raises(FileExistsError):
        JournalWriter(tmp_path / "a.jnl")


def test_a_writer_is_seen_by_others_while_it_lives(tmp_path: Path) -> None:
    code = (
        "import sys\nfrom pathlib import Path\nfrom harness.journal.records import JournalWriter\n"
        "w = JournalWriter(Path(sys.argv[1]))\nprint('open', flush=True)\nsys.stdin.read()\n"
    )
    path = tmp_path / "a.jnl"
    writer = subprocess.Popen(
        [sys.executable, "-c", code, str(path)], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert writer.stdout is not None and writer.stdin is not None
    writer.stdout.readline()
    assert is_being_written(path)
    writer.kill()
    writer.wait()
    writer.stdin.close()
    writer.stdout.close()
    assert not is_being_written(path)


def limited(path: Path, limit: int | None) -> None:
    hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
    soft = hard if limit is None else path.stat().st_size + limit
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_what_the_disk_refuses_is_kept_and_written_later(tmp_path: Path) -> None:
    path = tmp_path / "a.jnl"
    writer = JournalWriter(path)
    writer.append_record({"n": 0})
    try:
        limited(path, 10)  # the next frame breaks off inside
        for n in range(1, 200):
            writer.append_record({"n": n})
        assert writer.error == "EFBIG"
        assert writer.pending_bytes > 1000
        assert [f.record["n"] for f in read_journal(path)] == [0]
    finally:
        limited(path, None)
    writer.append_record({"n": 200})
    assert writer.error is None
    assert writer.pending_bytes == 0
    writer.close()
    assert [f.record["n"] for f in read_journal(path)] == list(range(201))
    assert unread_bytes(path).torn == 0


def test_a_disk_that_stays_full_loses_the_end_and_says_how_much(tmp_path: Path) -> None:
    path = tmp_path / "a.jnl"
    writer = JournalWriter(path)
    try:
        limited(path, 20)
        writer.append_record({"text": "x" * 100})
        writer.close(patience_s=0.3)
    finally:
        limited(path, None)
    assert writer.pending_bytes > 80
    assert writer.error == "EFBIG"
    assert list(read_journal(path)) == []
    assert unread_bytes(path).torn == 20


def test_memory_is_bounded_while_the_disk_refuses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal, "_MAX_PENDING_BYTES", 1000)
    writer = JournalWriter(tmp_path / "a.jnl")

    def full(descriptor: int, data: bytes) -> int:
        raise OSError(errno.ENOSPC, "no space")

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", full)
        for _ in range(100):
            writer.append_rows(KIND_POWER, b"z" * 90)
    assert writer.error == "ENOSPC"
    assert 1000 < writer.pending_bytes < 1200
    assert writer.dropped_frames > 80
    writer.close()
    assert all(f.payload == b"z" * 90 for f in read_journal(tmp_path / "a.jnl"))
    assert unread_bytes(tmp_path / "a.jnl").torn == 0


def test_rows_are_packed_as_their_fields_say() -> None:
    sizes = {"2": 2, "4": 4, "8": 8}
    for row, fields in ((POWER_ROW, POWER_FIELDS), (ZONE_ROW, ZONE_FIELDS)):
        assert row.size == sum(sizes[code[-1]] for _, code in fields)
        values = list(range(1, len(fields) + 1))
        packed = row.pack(*values)
        position = 0
        for value, (_, code) in zip(values, fields, strict=True):
            width = sizes[code[-1]]
            assert int.from_bytes(packed[position : position + width], "little", signed=True) == value
            position += width
    assert KIND_ZONE != KIND_POWER


def test_a_journal_is_looked_at_before_it_is_opened(tmp_path: Path) -> None:
    folder = tmp_path / "journal"
    folder.mkdir()
    os.mkfifo(folder / "000-000-runner.jnl")
    with pytest.raises(KitError, match="is a pipe"):
        read_journals(tmp_path)
    (folder / "000-000-runner.jnl").unlink()
    (folder / "000-000-runner.jnl").symlink_to("/dev/zero")
    with pytest.raises(KitError, match="is a link"):
        await_writers(tmp_path)


def test_a_frame_behind_more_damage_than_is_looked_through_at_a_time_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(journal, "_WINDOW", 256)
    path = tmp_path / "a.jnl"
    writer = JournalWriter(path)
    writer.append_record({"type": "x", "n": 1})
    writer.close()
    whole = path.read_bytes()
    # Windows overlap: the frame may lie across the end of one.
    for gap in (244, 261, 1000):
        bad = tmp_path / f"{gap}.jnl"
        bad.write_bytes(whole + bytes(gap) + whole[len(MAGIC) :])
        assert [frame.record["n"] for frame in read_journal(bad)] == [1, 1]
        assert unread_bytes(bad) == Unread(damaged=gap, torn=0)
