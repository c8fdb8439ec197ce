"""What the writer lets through, what it refuses, and that a killed writer leaves one bundle or the other."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from harness.bundle import (
    Bundle,
    BundleWriter,
    canonical_json,
    commit,
    file_sha256,
)
from harness.errors import KitError
from harness.journal.ulid import new_ulid
from harness.spec import load_protocol
from tests.bundle.large import make_bundle
from tests.bundle.make import manifest, power_rows, small_groups, stage_row, write_small

NINE = (
    "device_id", "t_us", "mono_us", "power_mw", "energy_counter_mj", "util_pct", "mem_used_mib", "temp_c",
    "sm_clock_mhz",
)  # fmt: skip


def test_round_trip_of_every_table(tmp_path: Path) -> None:
    protocol = load_protocol()
    event = {"event_id": 1, "session": 0, "t_us": 1, "mono_us": 1, "kind": "x-own", "severity": "info"}
    artifact = {"artifact_id": "sha256:00", "name": "a.bin", "kind": "file", "bytes": 1, "stage_uid": 0}
    counter = {
        "node_id": "node-00", "source": "rapl", "session": 0, "t_us": 1, "mono_us": 1, "uncertainty_us": 1,
        "value": None, "unit": "uJ", "range": 2**38, "method": "poll", "zone": "psys",
    }  # fmt: skip
    rows: dict[str, list[dict[str, Any]]] = {
        "stages": [stage_row(0), stage_row(1, device_ids=[], device_energy_j=None, parent_uid=0)],
        "power": power_rows(0, 0, 20).to_pylist(),
        "counters": [counter, counter | {"mono_us": 2, "boundary": 0}],
        "events": [event, event | {"event_id": 2, "detail": canonical_json({"a": 1}).decode()}],
        "artifacts": [
            artifact | {"role": "consumed"},
            artifact | {"role": "produced", "origin_energy_j": 0.5},
        ],
    }
    writer = BundleWriter(tmp_path, protocol)
    for name, values in rows.items():
        assert writer.write_table(name, values) == len(values)
    writer.write_manifest(manifest())
    bundle = Bundle.open(tmp_path)
    for name, values in rows.items():
        table = bundle.table(name)
        assert table.schema.equals(protocol.arrow_schema(name), check_metadata=True)
        assert table.to_pylist() == [{n: row.get(n) for n in table.schema.names} for row in values]
        stored = pq.ParquetFile(tmp_path / f"{name}.parquet").schema_arrow
        assert stored.equals(protocol.arrow_schema(name), check_metadata=True)
    assert bundle.manifest["run_id"] == writer.run_id
    keys = bundle.footer(tmp_path / "stages.parquet")
    assert set(keys) == set(protocol.container.footer_keys)
    assert (keys["run_id"], keys["schema_id"]) == (writer.run_id, "stages/1.0")


def test_files_are_encoded_as_the_columns_say(tmp_path: Path) -> None:
    write_small(tmp_path, small_groups(64))
    file = pq.ParquetFile(tmp_path / "power.parquet")
    assert [file.metadata.row_group(g).num_rows for g in range(file.num_row_groups)] == [64, 64, 64, 8]
    for position, column in enumerate(load_protocol().tables["power"].columns):
        chunk = file.metadata.row_group(0).column(position)
        expected = {"delta": "DELTA_BINARY_PACKED", "dict": "RLE_DICTIONARY", "plain": "PLAIN"}[
            column.encoding
        ]
        assert expected in chunk.encodings and chunk.compression == "ZSTD"
        assert chunk.is_stats_set and chunk.has_offset_index
        assert file.schema.column(position).name == column.name
    assert file.schema_arrow.field("power_mw").metadata[b"PARQUET:field_id"] == b"6"


def test_the_same_rows_give_the_same_bytes(tmp_path: Path) -> None:
    run_id = new_ulid()
    for name in ("a", "b"):
        write_small(tmp_path / name, run_id=run_id)
    for path in sorted((tmp_path / "a").iterdir()):
        assert path.read_bytes() == (tmp_path / "b" / path.name).read_bytes()
    assert (tmp_path / "a" / "manifest.json").read_bytes() == canonical_json(
        json.loads((tmp_path / "a" / "manifest.json").read_bytes())
    )


def test_tables_nobody_wrote_are_there_and_empty(tmp_path: Path) -> None:
    BundleWriter(tmp_path).write_manifest(manifest())
    bundle = Bundle.open(tmp_path)
    assert [bundle.rows(name) for name in bundle.protocol.tables] == [0] * 7
    assert list(bundle.iter_power()) == []


def test_small_tables_are_sorted_on_the_way(tmp_path: Path) -> None:
    writer = BundleWriter(tmp_path)
    base = {
        "node_id": "node-00",
        "source": "rapl",
        "session": 0,
        "t_us": 1,
        "uncertainty_us": 0,
        "unit": "uJ",
    }
    base |= {"method": "poll", "mono_us": 5, "zone": "psys"}
    zones = [base, base | {"mono_us": 4}, base | {"zone": None}, base | {"boundary": 3}]
    writer.write_table("counters", zones)
    writer.write_manifest(manifest())
    found = Bundle.open(tmp_path).table("counters", ["zone", "mono_us", "boundary"]).to_pylist()
    assert [tuple(row.values()) for row in found] == [
        (None, 5, None), ("psys", 4, None), ("psys", 5, None), ("psys", 5, 3)
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("table", "rows", "message"),
    [
        ("stage", [stage_row()], "no table 'stage'"),
        ("stages", [stage_row(colour=1)], "no column 'colour'"),
        ("stages", [stage_row(stage="train")], "'train' is no word"),
        ("stages", [stage_row(status=None)], "null in a column that may have none"),
        ("stages", [stage_row(stage_uid="one")], "does not fit int32"),
        ("stages", [stage_row(attempt=40_000)], "does not fit int16"),
        ("stages", [stage_row(gpu_energy_j=float("nan"))], "gpu_energy_j holds nan"),
        ("stages", [stage_row(device_energy_j=[1.0, None])], "null inside a list"),
        ("stages", [stage_row(), stage_row()], "the same key"),
        ("power", pa.table({"node_id": ["n"]}), "column is missing"),
        ("power", [power_rows(1, 0, 3), power_rows(0, 0, 3)], "out of order"),
        ("power", [power_rows(0, 0, 3), power_rows(0, 0, 3)], "out of order"),
        ("power", [power_rows(0, 0, 3), power_rows(0, 0, 3).slice(2)], "the same key"),
    ],
)
def test_what_is_refused_and_leaves_nothing_behind(
    tmp_path: Path, table: str, rows: Any, message: str
) -> None:
    writer = BundleWriter(tmp_path)
    rows = iter(rows) if isinstance(rows, list) and isinstance(rows[0], pa.RecordBatch) else rows
    with pytest.raises(KitError, match=message):
        writer.write_table(table, rows)
    assert list(tmp_path.iterdir()) == []


def test_a_wrong_manifest_is_refused_before_anything_moves(tmp_path: Path) -> None:
    first = write_small(tmp_path)
    before = (tmp_path / "power.parquet").read_bytes()
    writer = BundleWriter(tmp_path)
    writer.write_table("power", iter([power_rows(0, 0, 3)]))
    with pytest.raises(KitError, match=r"method: 'dpo', expected one of sft, kd"):
        writer.write_manifest(manifest() | {"method": "dpo"})
    with pytest.raises(KitError, match="run_id"):
        writer.write_manifest(manifest() | {"run_id": first.run_id})
    assert (tmp_path / "power.parquet").read_bytes() == before
    assert Bundle.open(tmp_path).manifest["run_id"] == first.run_id


def test_parts_come_and_go_with_the_size_of_the_table(tmp_path: Path) -> None:
    small = small_groups(100, 250)
    write_small(tmp_path, small, ticks=200)  # 800 rows
    names = [path.relative_to(tmp_path).as_posix() for path in Bundle.open(tmp_path).files("power")]
    assert names == [f"power/part-{n:05d}.parquet" for n in range(4)]
    assert not (tmp_path / "power.parquet").exists()
    long = Bundle.open(tmp_path).table("power")
    write_small(tmp_path, small_groups(100), ticks=200)
    assert (tmp_path / "power.parquet").exists() and not (tmp_path / "power").exists()
    assert Bundle.open(tmp_path).table("power").equals(long)
    write_small(tmp_path, small, ticks=200)
    write_small(tmp_path, small, ticks=100)
    assert len(list((tmp_path / "power").iterdir())) == 2
    assert {p.name for p in tmp_path.iterdir()} == {
        "manifest.json", "power", "stages.parquet", "counters.parquet", "events.parquet", "artifacts.parquet",
            "evals.parquet", "eval_items.parquet",
    }  # fmt: skip


def test_a_writer_killed_at_any_step_leaves_the_old_bundle_or_the_new_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before each step that changes the folder, what a kill would leave there is set aside and looked at."""
    folder = tmp_path / "run"
    old = write_small(folder, ticks=30)
    left: list[Path] = []

    def watched(original: Callable[..., Any]) -> Callable[..., Any]:
        def step(*args: Any, **kwargs: Any) -> Any:
            left.append(tmp_path / f"left-{len(left)}")
            shutil.copytree(folder, left[-1])
            return original(*args, **kwargs)

        return step

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", watched(os.fsync))
        for name in ("replace", "unlink", "rmdir"):
            patched.setattr(Path, name, watched(getattr(Path, name)))
        new = write_small(folder, small_groups(100, 250), ticks=200)
    rows = {old.run_id: 120, new.run_id: 800}
    seen = []
    for place in left:
        bundle = Bundle.open(place)
        run_id = bundle.manifest["run_id"]
        seen.append(run_id)
        assert bundle.rows("power") == rows[run_id]
        for entry in bundle.manifest["files"]:
            assert file_sha256(place / entry["path"]) == entry["sha256"]
        write_small(place)  # what the killed writer left does not disturb the next one
        assert not list(place.rglob(".*"))
    turn = seen.index(new.run_id)
    assert turn > 10 and len(seen) - turn > 10
    assert set(seen[:turn]) == {old.run_id} and set(seen[turn:]) == {new.run_id}


def test_nine_columns_stay_under_nine_bytes_a_row(tmp_path: Path) -> None:
    rows = make_bundle(tmp_path, days=0.58, gpus=2)
    assert rows > 200_000
    metadata = pq.read_metadata(tmp_path / "power.parquet")
    used = 0
    for group in range(metadata.num_row_groups):
        chunks = [metadata.row_group(group).column(i) for i in range(metadata.num_columns)]
        used += sum(chunk.total_compressed_size for chunk in chunks if chunk.path_in_schema in NINE)
    assert 5 < used / rows <= 9


def test_ulids() -> None:
    many = [new_ulid() for _ in range(100)]
    assert all(re.fullmatch("[0-7][0-9A-HJKMNP-TV-Z]{25}", text) for text in many) and len(set(many)) == 100
    assert new_ulid(1_469_918_176_385_000).startswith("01ARYZ6S41")  # the example of the ULID specification
    assert new_ulid(1_000_000) < new_ulid(2_000_000)


def test_nothing_is_staged_where_nothing_was_written(tmp_path: Path) -> None:
    assert commit.finish_commit(tmp_path) is False


def test_a_bundle_lies_behind_a_link(tmp_path: Path) -> None:
    """The folder may be reached by a link, as where runs lie on another disk."""
    (tmp_path / "disk").mkdir()
    (tmp_path / "run").symlink_to("disk")
    write_small(tmp_path / "run")
    assert Bundle.open(tmp_path / "run").table("stages").num_rows > 0
    assert not list((tmp_path / "disk").glob(".*"))
