"""Reading: series by series and only what is asked for; damage is named, never a traceback or a wrong
number."""

from __future__ import annotations

import json
import random
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import harness.bundle.reader as reader
from harness.bundle import Bundle, KeyOrder, SeriesKey, file_sha256
from harness.bundle.derive import derive_bundle
from harness.errors import KitError
from harness.spec import load_protocol
from tests.bundle.make import power_rows, refresh_manifest, small_groups, write_small

SERIES = [SeriesKey("node-00", d, s) for d in range(2) for s in range(2)]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_small(tmp_path / "run", small_groups(64, 128))
    return tmp_path / "run"


def expected(key: SeriesKey, column: str) -> list[Any]:
    return power_rows(key.device_id, key.session, 50).column(column).to_pylist()


def test_power_one_series_at_a_time(folder: Path) -> None:
    bundle = Bundle.open(folder)
    assert len(bundle.files("power")) == 2
    seen = []
    for key, arrays in bundle.iter_power(["mono_us", "power_mw", "throttle_bits"]):
        seen.append(key)
        assert list(arrays) == [
            "mono_us",
            "power_mw",
            "throttle_bits",
            "power_mw_valid",
            "throttle_bits_valid",
        ]
        assert arrays["mono_us"].tolist() == expected(key, "mono_us")
        for name in ("power_mw", "throttle_bits"):
            found = [
                v if ok else None
                for v, ok in zip(arrays[name].tolist(), arrays[f"{name}_valid"], strict=True)
            ]
            assert found == expected(key, name)
            assert not arrays[name][~arrays[f"{name}_valid"]].any()
        assert arrays["power_mw"].dtype == np.int32 and arrays["throttle_bits"].dtype == np.uint64
    assert seen == SERIES


def test_each_row_group_is_read_once(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[tuple[str, list[int], list[str]]] = []
    original = reader.read_groups

    def spy(file: Any, path: Path, groups: Any, columns: Any, **options: Any) -> pa.Table:
        read.append((path.name, list(groups), list(columns)))
        return original(file, path, groups, columns, **options)

    monkeypatch.setattr(reader, "read_groups", spy)
    list(Bundle.open(folder).iter_power(["power_mw"]))
    assert [(name, groups) for name, groups, _ in read] == [
        ("part-00000.parquet", [0]), ("part-00000.parquet", [1]),
        ("part-00001.parquet", [0]), ("part-00001.parquet", [1]),
    ]  # fmt: skip
    assert all(columns == ["node_id", "device_id", "session", "power_mw"] for _, _, columns in read)


def test_unsorted_files_of_other_writers_are_refused_by_name(tmp_path: Path) -> None:
    write_small(tmp_path)
    table = pq.read_table(tmp_path / "power.parquet").sort_by(
        [("mono_us", "ascending"), ("device_id", "ascending")]
    )
    pq.write_table(table, tmp_path / "power.parquet", write_statistics=False)
    refresh_manifest(tmp_path)
    bundle = Bundle.open(tmp_path)
    for use in (
        lambda: dict(bundle.iter_power(["mono_us"])),
        lambda: derive_bundle(bundle),
    ):
        with pytest.raises(KitError, match="are in two places") as caught:
            use()
        assert (
            caught.value.where == str(tmp_path / "power") and caught.value.fix == f"kit validate {tmp_path}"
        )
    assert bundle.table("power").num_rows == table.num_rows  # whole, it can be read all the same


def test_narrower_and_reordered_columns_of_other_writers(tmp_path: Path) -> None:
    write_small(tmp_path)
    before = Bundle.open(tmp_path).table("stages")
    table = before.select(sorted(before.schema.names))
    index = table.schema.get_field_index("samples")
    table = table.set_column(index, "samples", table.column("samples").cast(pa.int16()))
    pq.write_table(table.append_column("x_mine", pa.array([1])), tmp_path / "stages.parquet")
    assert Bundle.open(tmp_path).table("stages").equals(before)


def test_columns_and_batches(folder: Path) -> None:
    bundle = Bundle.open(folder)
    assert bundle.table("power", ["t_us", "device_id"]).schema.names == ["t_us", "device_id"]
    assert [b.num_rows for b in bundle.iter_batches("power", ["t_us"])] == [64, 64, 64, 8]
    coded = next(bundle.iter_batches("power", ["node_id"], encoded=True)).column(0)
    assert pa.types.is_dictionary(coded.type) and coded.dictionary.to_pylist() == ["node-00"]
    for table, column in (("power", "watts"), ("powers", None)):
        with pytest.raises(KitError, match="has no"):
            bundle.table(table, [column] if column else None)


def damage(folder: Path, how: str) -> None:
    stages, manifest = folder / "stages.parquet", folder / "manifest.json"
    data = json.loads(manifest.read_bytes())
    match how:
        case "no folder":
            shutil.rmtree(folder)
        case "a file":
            shutil.rmtree(folder)
            folder.write_text("x")
        case "no manifest":
            manifest.unlink()
        case "unsealed":
            manifest.unlink()
            (folder / "journal").mkdir()
        case "cut manifest":
            manifest.write_bytes(manifest.read_bytes()[:100])
        case "binary manifest":
            manifest.write_bytes(b"\xff\xfe\x00")
        case "list manifest":
            manifest.write_text("[]")
        case "deep manifest":
            manifest.write_text("[" * 100_000)
        case "no files":
            manifest.write_text(json.dumps(data | {"files": {"a": 1}}))
        case "major":
            manifest.write_text(json.dumps(data | {"protocol_version": "2.0.0"}))
        case "version":
            manifest.write_text(json.dumps(data | {"protocol_version": 1}))
        case "outside" | "absolute" | "backslash":
            path = {"outside": "../stages.parquet", "absolute": "/etc/passwd", "backslash": "..\\x"}[how]
            manifest.write_text(json.dumps(data | {"files": [{"path": path}]}))
        case "link":
            stages.rename(folder / "real")
            stages.symlink_to("real")
        case "unlisted":
            manifest.write_text(
                json.dumps(data | {"files": [e for e in data["files"] if "stages" not in e["path"]]})
            )
        case "missing":
            stages.unlink()
        case "directory":
            stages.unlink()
            stages.mkdir()
        case "empty":
            stages.write_bytes(b"")
        case "text":
            stages.write_text("stage,energy\n")
        case "truncated":
            stages.write_bytes(stages.read_bytes()[:-100])
        case "footer":
            raw = bytearray(stages.read_bytes())
            start = len(raw) - 8 - int.from_bytes(raw[-8:-4], "little")
            raw[start : start + 64] = b"\xff" * 64
            stages.write_bytes(raw)
        case "column":
            table = pq.read_table(stages).drop_columns(["name"])
            pq.write_table(table, stages)
        case "type":
            table = pq.read_table(stages)
            pq.write_table(table.set_column(0, "stage_uid", pa.array(["x"])), stages)
        case "null":
            table = pq.read_table(stages)
            pq.write_table(table.set_column(0, "stage_uid", pa.array([None], pa.int32())), stages)


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("no folder", "does not exist"),
        ("a file", "is a file"),
        ("no manifest", "there is no manifest.json"),
        ("unsealed", "never sealed(.|\n)*kit recover"),
        ("cut manifest", "is not JSON"),
        ("binary manifest", "is not JSON"),
        ("list manifest", "no JSON object"),
        ("deep manifest", "is not JSON"),
        ("no files", "lists no files"),
        ("major", "written by protocol 2.0.0"),
        ("version", "protocol_version is 1"),
        ("outside", "outside the bundle"),
        ("absolute", "outside the bundle"),
        ("backslash", "outside the bundle"),
        ("link", "is a link"),
        ("unlisted", "lists no file of table 'stages'"),
        ("missing", "file is missing"),
        ("directory", "cannot be read: Is a directory"),
        ("empty", "an empty file"),
        ("text", "it begins with b'stag'"),
        ("truncated", "cut short"),
        ("footer", "is damaged"),
        ("column", "column 'name' is missing"),
        ("type", "'stage_uid' is string"),
        ("null", "'stage_uid' holds nulls"),
    ],
)
def test_damage_is_named(folder: Path, how: str, message: str) -> None:
    damage(folder, how)
    with pytest.raises(KitError, match=message) as caught:
        Bundle.open(folder).table("stages")
    assert caught.value.where
    assert caught.value.exit_code == 2


def test_a_newer_minor_version_is_read_with_a_note(folder: Path) -> None:
    path = folder / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_bytes()) | {"protocol_version": "1.7.0"}))
    bundle = Bundle.open(folder)
    assert bundle.notes == ["written by protocol 1.7.0, read as 1.0.0: newer columns are ignored"]
    assert bundle.rows("stages") == 1


def test_no_flipped_byte_becomes_a_number(tmp_path: Path) -> None:
    """Pages carry a checksum: a flip in one is an error; in the footer it is one, or shows in the sha256."""
    write_small(tmp_path, ticks=400)
    path = tmp_path / "power.parquet"
    good = path.read_bytes()
    rows = Bundle.open(tmp_path).table("power")
    sha = file_sha256(path)
    rng = random.Random(5)
    footer_at = len(good) - 8 - int.from_bytes(good[-8:-4], "little")
    refused = 0
    for _ in range(400):
        bad = bytearray(good)
        place = rng.randrange(len(bad))
        bad[place] ^= 1 << rng.randrange(8)
        path.write_bytes(bad)
        assert file_sha256(path) != sha
        try:
            found = Bundle.open(tmp_path).table("power")
        except KitError:
            refused += 1
        else:
            assert place >= footer_at or found.equals(rows)
    assert refused > 150


def test_key_order_of_every_kind() -> None:
    def problem(*batches: list[tuple[Any, ...]]) -> tuple[int, str] | None:
        order = KeyOrder(("a", "b"))
        for rows in batches:
            a = pa.array([row[0] for row in rows], pa.string())
            order.update(pa.table({"a": a, "b": pa.array([row[1] for row in rows], pa.int16())}))
        return order.problem

    right = [(None, None), (None, -5), (None, 3), ("", 0), ("Z", 1), ("a", None), ("a", -1), ("é", 0)]
    for cut in range(len(right) + 1):
        assert problem(right[:cut], right[cut:]) is None
    for place in range(1, len(right)):
        doubled = [*right[:place], *right[place - 1 :]]
        swapped = [*right]
        swapped[place - 1], swapped[place] = swapped[place], swapped[place - 1]
        for cut in range(len(right) + 1):
            assert problem(doubled[:cut], doubled[cut:]) == (place, "duplicate")
            assert problem(swapped[:cut], swapped[cut:]) == (place, "unsorted")
    assert problem([("a", 1), ("a", 1)]) == (1, "duplicate")
    assert load_protocol().tables["power"].sort == ("node_id", "device_id", "session", "mono_us")


def test_no_name_of_the_package_hides_behind_a_module() -> None:
    import harness.bundle as package

    modules = {path.stem for path in Path(str(package.__file__)).parent.glob("*.py")}
    assert not modules & set(package._HOME)
    for name in package._HOME:
        assert callable(getattr(package, name)) or isinstance(getattr(package, name), type)
