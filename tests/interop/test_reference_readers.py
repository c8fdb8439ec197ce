"""Parsers for the files of the authors' harness: every layout is read, every malformed file is named."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from harness.errors import KitError
from harness.interop.codecarbon import read_emissions
from harness.interop.log_files import load_json
from harness.interop.reference import read_json
from harness.interop.reference.discover import discover
from harness.interop.reference.power_log import read_power_log
from harness.interop.reference.records import PowerLog
from tests.interop.reference_logs import (
    EMISSION_COLUMNS,
    T0,
    HarnessRun,
    emission,
    even_rows,
    old_record,
    snapshot,
    stage_record,
)


def parse(body: dict[str, object], tmp_path: Path, name: str = "s.json") -> read_json.ReferenceStage:
    path = HarnessRun.write_json(tmp_path / name, body)
    return read_json.parse_stage(load_json(path), path)


def rows(log: PowerLog) -> int:
    return sum(len(block.t_us) for block in log.blocks)


def test_current_record(tmp_path: Path) -> None:
    record = parse(stage_record("kd", tokens_processed="47680.0"), tmp_path)
    assert (record.kind, record.tokens, record.window) == ("final", 47680, (T0, T0 + 100))
    assert len(record.watts) == 200
    assert not record.old_schema
    assert record.codecarbon_cpu_kwh == pytest.approx(2000 / 3.6e6)


def test_old_record_has_one_codecarbon_energy(tmp_path: Path) -> None:
    record = parse(old_record("kd"), tmp_path)
    assert record.old_schema
    assert (record.codecarbon_total_kwh, record.codecarbon_cpu_kwh) == (0.001, None)


@pytest.mark.parametrize(
    ("changes", "kind"),
    [
        ({"snapshot": True, "snapshot_type": "checkpoint"}, "snapshot"),
        ({"snapshot": False, "snapshot_type": "reconstructed"}, "reconstructed"),
        (
            {"source": "power_log_reconstructed", "start_time": None, "tokens_processed": None},
            "reconstructed",
        ),
    ],
)
def test_kinds_of_records(changes: dict[str, object], kind: str, tmp_path: Path) -> None:
    assert parse(stage_record("kd", **changes), tmp_path).kind == kind


def test_step_comes_from_the_field_or_the_file_name(tmp_path: Path) -> None:
    assert parse(snapshot("kd", 22200, seconds=50), tmp_path).snapshot_step == 22200
    nameless = snapshot("kd", 0, seconds=50) | {"snapshot_step": None}
    assert parse(nameless, tmp_path, "kd__step_9800.json").snapshot_step == 9800


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("gpu_energy_joules", "many"),
        ("duration_seconds", -1),
        ("gpu_power_samples", [1.0, None]),
        ("gpu_power_samples", 7),
        ("start_time", float("inf")),
        ("stage_id", 7),
    ],
)
def test_a_wrong_field_is_named(key: str, value: object, tmp_path: Path) -> None:
    with pytest.raises(KitError, match=key) as caught:
        parse(stage_record("kd") | {key: value}, tmp_path)
    assert "s.json" in str(caught.value)
    assert caught.value.expected
    assert caught.value.fix


@pytest.mark.parametrize("cut", [1, 40, 400])
def test_truncated_json_names_the_place(cut: int, tmp_path: Path) -> None:
    path = HarnessRun.write_json(tmp_path / "s.json", stage_record("kd"))
    path.write_text(path.read_text()[:-cut])
    with pytest.raises(KitError, match=r"ends in the middle|not JSON") as caught:
        load_json(path)
    assert "s.json:" in (caught.value.where or "")


@pytest.mark.parametrize("text", [b"", b"[]", b"\xff\xfe", b"nan", b"[" * 100_000])
def test_what_is_no_json_object_is_refused(text: bytes, tmp_path: Path) -> None:
    (tmp_path / "s.json").write_bytes(text)
    with pytest.raises(KitError, match=r"s\.json"):
        load_json(tmp_path / "s.json")


def test_power_log(tmp_path: Path) -> None:
    log = read_power_log(HarnessRun(tmp_path).power("s", even_rows(T0, 5, [100.0, 50.0])))
    assert (rows(log), log.blocks[0].gpus, log.header_missing, log.truncated_line) == (
        11,
        (0, 1),
        False,
        None,
    )
    assert log.blocks[0].watts.sum(axis=1).tolist() == [150.0] * 11


def test_power_log_without_header(tmp_path: Path) -> None:
    log = read_power_log(HarnessRun(tmp_path).power("s", even_rows(T0, 5, [100.0]), header=False))
    assert (log.header_missing, log.blocks[0].gpus, rows(log)) == (True, (0,), 11)


def test_power_log_with_another_number_of_gpus(tmp_path: Path) -> None:
    run = HarnessRun(tmp_path)
    run.power("s", even_rows(T0, 5, [100.0]))
    path = run.power("s", even_rows(T0 + 900, 5, [100.0] * 4), append=True, header=False)
    log = read_power_log(path)
    assert [block.gpus for block in log.blocks] == [(0,), (0, 1, 2, 3)]
    assert [len(block.t_us) for block in log.blocks] == [11, 11]


def test_power_log_of_a_killed_writer(tmp_path: Path) -> None:
    path = HarnessRun(tmp_path).power("s", even_rows(T0, 5, [100.0]))
    for lost in (6, 9, 20):
        cut = path.read_bytes()[:-lost]
        (tmp_path / "power_log.csv").write_bytes(cut)
        log = read_power_log(tmp_path / "power_log.csv")
        assert (log.truncated_line, rows(log)) == (12, 10), lost


def test_a_log_that_only_lost_its_last_newline_is_whole(tmp_path: Path) -> None:
    path = HarnessRun(tmp_path).power("s", even_rows(T0, 5, [100.0]))
    path.write_bytes(path.read_bytes().rstrip())
    assert rows(read_power_log(path)) == 11


def test_unusable_readings_are_not_zeros(tmp_path: Path) -> None:
    rows = even_rows(T0, 5, [100.0])
    rows[3], rows[4], rows[5] = (rows[3][0], [0.0]), (rows[4][0], [-5.0]), (rows[5][0], [2e5])
    log = read_power_log(HarnessRun(tmp_path).power("s", rows))
    assert log.unusable_readings == 3
    assert [math.isnan(w) for w in log.blocks[0].watts[2:7, 0]] == [False, True, True, True, False]


@pytest.mark.parametrize("garbage", ["hello", "1769400001.0,abc,5", "12,80,80", "1769400001000.0,80,80", ","])
def test_garbage_inside_a_power_log_names_the_line(garbage: str, tmp_path: Path) -> None:
    path = HarnessRun(tmp_path).power("s", even_rows(T0, 5, [100.0]))
    lines = path.read_text().splitlines()
    path.write_text("\n".join([*lines[:4], garbage, *lines[4:]]))
    with pytest.raises(KitError, match="not a sample") as caught:
        read_power_log(path)
    assert caught.value.where == f"{path}:5"


@pytest.mark.parametrize(
    "text", ["", "timestamp,gpu_0_power_w,total_power_w\n", "timestamp,volts\n1,2\n", "\x00"]
)
def test_a_power_log_without_samples_is_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / "power_log.csv").write_text(text)
    with pytest.raises(KitError, match=r"power_log\.csv"):
        read_power_log(tmp_path / "power_log.csv")


@pytest.mark.parametrize(
    "columns",
    [
        EMISSION_COLUMNS,
        EMISSION_COLUMNS + ",water_consumed,wue",
        "project_name,timestamp,duration,energy_consumed,cpu_energy,gpu_energy,ram_energy,codecarbon_version,"
        "tracking_mode,cpu_utilization_percent,ram_used_gb",
    ],
)
def test_emissions_of_every_codecarbon(columns: str, tmp_path: Path) -> None:
    (row,) = read_emissions(HarnessRun(tmp_path).emissions(emission("p"), columns=columns))
    assert (row.project, row.version, row.tracking_mode) == ("p", "3.2.1", "process")
    assert row.gpu_kwh == pytest.approx(20_000 / 3.6e6)
    assert row.cpu_model == ("AMD EPYC 9654" if "cpu_model" in columns else None)


@pytest.mark.parametrize("line", ["a,b", "2026,p,x,y,many" + "," * 27])
def test_a_broken_emissions_row_names_the_line(line: str, tmp_path: Path) -> None:
    path = HarnessRun(tmp_path).emissions(emission("p"))
    path.write_text(path.read_text() + line + "\n")
    with pytest.raises(KitError) as caught:
        read_emissions(path)
    assert caught.value.where == f"{path}:3"


def test_discovery_from_every_level(tmp_path: Path) -> None:
    run = HarnessRun(tmp_path / "many" / "logs")
    run.stage(stage_record("kd"))
    run.environment("kd")
    run.config("kd")
    run.emissions(emission("kd"))
    (run.stage_dir("kd") / "notes.txt").write_text("mine")
    stage = run.stage_dir("kd")
    for path in (stage / "kd.json", stage, stage.parent, run.root, tmp_path / "many"):
        tree = discover(path)
        assert [folder.name for folder in tree.folders] == ["kd"], path
        assert [row.project for _, row in tree.emissions] == ["kd"], path
        assert (tree.folders[0].config is None) == (path.suffix == ".json")


def test_flat_record_joins_the_folder_of_its_id(tmp_path: Path) -> None:
    run = HarnessRun(tmp_path)
    run.flat(old_record("pre"))
    run.environment("pre")
    (folder,) = discover(tmp_path).folders
    assert folder.environment is not None
    assert len(folder.records) == 1


@pytest.mark.parametrize("make", ["nothing", "foreign", "missing"])
def test_a_folder_without_logs_is_refused(make: str, tmp_path: Path) -> None:
    if make == "foreign":
        (tmp_path / "x.json").write_text(json.dumps({"a": 1}))
    path = tmp_path / "none" if make == "missing" else tmp_path
    with pytest.raises(KitError) as caught:
        discover(path)
    assert str(path) in (caught.value.where or "")
    assert caught.value.fix
