"""Files of a bundle that are not plain or decode to too much: an answer at once, in little memory."""

from __future__ import annotations

import json
import os
import shutil
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from harness.bundle import Bundle
from harness.bundle.files import MAX_CHUNK, MAX_MANIFEST, MAX_OBJECTS, open_parquet
from harness.errors import KitError
from harness.report.model import build
from harness.validate import validate
from tests.accounting.synthetic import Stage, make_run
from tests.validate.tamper import edit_manifest, edit_rows, set_column

LIMIT = 1500 << 20
"""Address space of the process that reads the hostile bundles, bytes."""


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    stages = (
        Stage("cache", "teacher_logits", 2, 5, 600, tokens=9),
        Stage("train", "student_train", 5, 8, 500),
    )
    return make_run(stages, devices=1, end_s=9.0, rapl=True).write(tmp_path_factory.mktemp("tiny") / "run")


def pipe_table(folder: Path) -> None:
    (folder / "power.parquet").unlink()
    os.mkfifo(folder / "power.parquet")


def pipe_manifest(folder: Path) -> None:
    (folder / "manifest.json").unlink()
    os.mkfifo(folder / "manifest.json")


def zero_manifest(folder: Path) -> None:
    (folder / "manifest.json").unlink()
    (folder / "manifest.json").symlink_to("/dev/zero")


def zero_table(folder: Path) -> None:
    (folder / "events.parquet").unlink()
    (folder / "events.parquet").symlink_to("/dev/zero")


def folder_table(folder: Path) -> None:
    (folder / "power.parquet").unlink()
    (folder / "power.parquet").mkdir()


def large_manifest(folder: Path) -> None:
    with (folder / "manifest.json").open("r+b") as file:
        file.truncate(300 << 20)  # sparse


def infinity(folder: Path) -> None:
    text = (folder / "manifest.json").read_text()
    (folder / "manifest.json").write_text(text.replace("500000", "1e999", 1))


def key_twice(folder: Path) -> None:
    text = (folder / "manifest.json").read_text()
    (folder / "manifest.json").write_text('{"name":"other",' + text[1:])


def long_path(folder: Path) -> None:
    edit_manifest(folder, lambda m: m["files"][0].update(path="a" * 50_000))


def outside(folder: Path) -> None:
    edit_manifest(folder, lambda m: m["files"][0].update(path="../x.parquet"))


def column_twice(folder: Path) -> None:
    table = pq.read_table(folder / "events.parquet")
    pq.write_table(table.append_column("kind", table.column("kind")), folder / "events.parquet")


def commit_elsewhere(folder: Path) -> None:
    """A commit that was decided and would rename a file outside the folder."""
    (folder.parent / ".prey.new").write_text("x")
    listed = {"files": [{"path": "../prey"}]}
    (folder / ".manifest.json.commit").write_text(json.dumps(listed))


REFUSED: list[tuple[Callable[[Path], None], str]] = [
    (pipe_table, "E006"),
    (pipe_manifest, "E001"),
    (zero_manifest, "E001"),
    (zero_table, "E005"),
    (folder_table, "E006"),
    (large_manifest, "E001"),
    (infinity, "E001"),
    (key_twice, "E001"),
    (long_path, "E005"),
    (outside, "E005"),
    (column_twice, "E006"),
]


@pytest.mark.parametrize(("spoil", "rule"), REFUSED, ids=lambda value: getattr(value, "__name__", value))
def test_what_is_no_plain_file_is_a_finding(
    tiny: Path, tmp_path: Path, spoil: Callable[[Path], None], rule: str
) -> None:
    folder = Path(shutil.copytree(tiny, tmp_path / "run"))
    spoil(folder)
    report = validate(folder, (0, 1), threads=1)
    assert rule in {found.id for found in report.findings}
    with pytest.raises(KitError):
        bundle = Bundle.open(folder)
        for name in bundle.protocol.tables:
            bundle.table(name)


def test_a_decided_commit_renames_nothing_outside(tiny: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(tiny, tmp_path / "run"))
    commit_elsewhere(folder)
    with pytest.raises(KitError, match="could not be finished"):
        Bundle.open(folder)
    assert (tmp_path / ".prey.new").exists() and not (tmp_path / "prey").exists()


def text_bomb(folder: Path) -> None:
    """A string of 150 MB in a few kilobytes."""
    text = pa.array(["a" * 150_000_000])
    table = set_column("detail", lambda _: text)(pq.read_table(folder / "events.parquet").slice(0, 1))
    pq.write_table(table, folder / "events.parquet", compression="zstd", use_dictionary=False)


def repeated_text(folder: Path) -> None:
    """One long string for each of many rows: a dictionary of one word."""
    one = pq.read_table(folder / "events.parquet").slice(0, 1)
    rows = 100_000
    columns = [pa.repeat(column[0], rows) for column in one.columns]
    place = one.schema.get_field_index("detail")
    word = pa.array(["{" + "x" * 30_000 + "}"])
    columns[place] = pa.DictionaryArray.from_arrays(pa.array([0] * rows, pa.int32()), word)
    pq.write_table(pa.table(columns, names=one.schema.names), folder / "events.parquet", compression="zstd")


def many_rows(folder: Path) -> None:
    one = pq.read_table(folder / "events.parquet").slice(0, 1)
    columns = [pa.repeat(column[0], MAX_OBJECTS["events"] + 1) for column in one.columns]
    pq.write_table(pa.table(columns, schema=one.schema), folder / "events.parquet")


def many_samples(folder: Path) -> None:
    one = pq.read_table(folder / "power.parquet").slice(0, 1)
    million = pa.table([pa.repeat(column[0], 1_000_000) for column in one.columns], schema=one.schema)
    with pq.ParquetWriter(folder / "power.parquet", one.schema) as writer:
        for _ in range(3):
            writer.write_table(million)


def zigzag(value: int) -> int:
    return value << 1


def varint(value: int) -> bytes:
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes([*out, value])


BOMBS = [text_bomb, repeated_text, many_rows, many_samples]
CHILD = """
import json, pathlib, resource, sys
import pyarrow.compute
from harness.report.model import build
from harness.validate import validate
limit = int(sys.argv[1])
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
for folder in map(pathlib.Path, sys.argv[2:]):
    found = {f.id: f.observed for f in validate(folder, threads=1).findings}
    try:
        build(folder)
        said = None
    except Exception as error:
        said = f"{type(error).__name__}: {error}"
    print(json.dumps([folder.name, found, said]))
"""


def test_bombs_are_told_by_their_pages_in_bounded_memory(tiny: Path, tmp_path: Path) -> None:
    folders = []
    for spoil in BOMBS:
        folder = Path(shutil.copytree(tiny, tmp_path / spoil.__name__))
        spoil(folder)
        assert sum(file.stat().st_size for file in folder.iterdir()) < 64 << 20
        folders.append(str(folder))
    env = {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "OPENBLAS_NUM_THREADS": "1",
        "ARROW_DEFAULT_MEMORY_POOL": "system",
    }
    words = [sys.executable, "-c", CHILD, str(LIMIT), *folders]
    done = subprocess.run(words, env=env, capture_output=True, text=True, cwd=Path(__file__).parents[2])
    assert done.returncode == 0, done.stderr[-2000:]
    answers = [json.loads(line) for line in done.stdout.splitlines()]
    assert [name for name, _, _ in answers] == [spoil.__name__ for spoil in BOMBS]
    for name, found, said in answers:
        assert "too much" in found["E006"] or "at most" in found["E006"], (name, found)
        assert said is not None and said.startswith("KitError") and "too much" in said, (name, said)


@pytest.mark.parametrize("encoding", ["utf-16", "utf-8-sig"])
def test_a_manifest_is_plain_utf_8(encoding: str, tiny: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(tiny, tmp_path / "run"))
    (folder / "manifest.json").write_bytes((tiny / "manifest.json").read_text().encode(encoding))
    with pytest.raises(KitError, match=r"is not JSON: .*(utf-8|BOM)"):
        Bundle.open(folder)
    (finding,) = (f for f in validate(folder, threads=1).findings if f.severity == "error")
    assert finding.id == "E001" and "is not JSON" in finding.observed


def test_one_device_again_and_again_is_not_measured_again_and_again(tiny: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(tiny, tmp_path / "run"))

    def repeat(rows: list[dict[str, Any]]) -> None:
        for name in ("device_ids", "device_start_us", "device_end_us", "device_energy_j"):
            rows[0][name] *= 20_000

    edit_rows(folder, "stages", repeat)
    report = validate(folder, threads=1)
    assert report.levels[2] == "not checked: bills a stage to 20000 devices"
    assert "E299" in {f.id for f in report.findings}


def test_a_log_without_its_run_id_is_reported_all_the_same(tiny: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(tiny, tmp_path / "run"))
    edit_manifest(folder, lambda manifest: manifest.pop("run_id"))
    assert build(folder).totals.it == build(tiny).totals.it
    assert "E103" in {f.id for f in validate(folder, threads=1).findings}


def test_a_denominator_of_another_kind_is_a_finding(tiny: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(tiny, tmp_path / "run"))
    edit_manifest(folder, lambda manifest: manifest.update(reference_tokens={"a": 1}))
    report = validate(folder, threads=1)
    assert "E103" in {f.id for f in report.findings}
    assert report.levels[2].startswith("not checked: manifest field reference_tokens")


def test_ceilings_are_far_above_what_the_kit_writes(tiny: Path) -> None:
    assert (tiny / "manifest.json").stat().st_size < MAX_MANIFEST // 100
    for path in tiny.glob("*.parquet"):
        metadata = open_parquet(path).metadata
        groups = [metadata.row_group(number) for number in range(metadata.num_row_groups)]
        assert all(group.total_byte_size < MAX_CHUNK // 100 for group in groups)


@pytest.mark.parametrize("size", [1, 400_000])
def test_text_is_bounded_in_every_column_of_many(size: int, tmp_path: Path) -> None:
    """A word that many rows share is held once, in the first column and in the last."""
    columns: dict[str, Any] = {f"{kind}{n}": [kind] for n in range(50) for kind in ("word", "other")}
    table = pa.table(columns | {f"number{n}": [n] for n in range(50)} | {"size": [os.urandom(size).hex()]})
    path = tmp_path / "a.parquet"
    pq.write_table(table, path, compression="none")
    for name, kind in zip(
        table.column_names, open_parquet(path, encoded=True).schema_arrow.types, strict=True
    ):
        assert pa.types.is_dictionary(kind) == (not name.startswith("number")), name
    assert not any(map(pa.types.is_dictionary, open_parquet(path).schema_arrow.types))


def test_a_page_header_is_believed_before_the_footer(tiny: Path, tmp_path: Path) -> None:
    """What a page claims counts, whatever the footer says of the chunk."""
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"a": ["b" * 1000]}), path, use_dictionary=False, compression="none")
    data = path.read_bytes()
    chunk = pq.read_metadata(path).row_group(0).column(0)
    start, size = chunk.data_page_offset, chunk.total_compressed_size
    from harness.bundle.pages import page_totals

    with path.open("rb") as file:
        assert page_totals(file, start, size, len(data))[1] == 1
    honest = data[start : start + size]
    assert honest[2:3] == b"\x15"  # field 1 the type, field 2 the uncompressed size, in compact Thrift
    end = 3
    while honest[end] & 128:
        end += 1
    body = honest[:3] + varint(zigzag(1 << 30)) + honest[end + 1 :]
    path.write_bytes(body)
    with path.open("rb") as file:
        assert page_totals(file, 0, len(body), len(body))[0] == 1 << 30
    for cut in (b"", b"\x15", struct.pack("<Q", 2**63), b"\xff" * 40):
        path.write_bytes(cut)
        with path.open("rb") as file, pytest.raises(ValueError, match="header"):
            page_totals(file, 0, len(cut) or 1, max(1, len(cut)))
