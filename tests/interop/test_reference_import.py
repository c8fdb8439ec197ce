"""Self-made twins of every layout, imported: which record speaks, what counts once, what stays out."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pyarrow.compute as pc
import pytest

from harness.bundle import Bundle
from harness.errors import KitError
from harness.interop.reference.importer import import_reference
from harness.interop.write import ImportResult
from tests.interop.reference_checks import US, Make, events, everything, only
from tests.interop.reference_logs import (
    T0,
    HarnessRun,
    emission,
    even_rows,
    old_record,
    snapshot,
    stage_record,
)


def test_a_record_without_sample_times_keeps_its_total(run: HarnessRun, load: Make) -> None:
    run.stage(stage_record("kd_1b"))
    run.environment("kd_1b")
    run.config("kd_1b")
    row = only(load())
    assert (row["name"], row["stage"], row["status"], row["attempt"]) == (
        "kd_1b",
        "student_train",
        "completed",
        1,
    )
    assert (row["t_start_us"], row["t_end_us"]) == (T0 * US, (T0 + 100) * US)
    assert row["mono_end_us"] - row["mono_start_us"] == 100 * US
    assert (row["gpu_energy_method"], row["gpu_energy_j"], row["device_energy_j"]) == (
        "imported",
        20_000.0,
        None,
    )
    assert row["gpu_energy_j_low"] <= 20_000.0 <= row["gpu_energy_j_high"] < 20_400.0
    assert (row["tokens_trained"], row["tokens_generated"]) == (5000, None)
    assert (row["cpu_energy_j"], row["cpu_energy_method"]) == (pytest.approx(2000), "imported")
    assert (row["cpu_energy_j_low"], row["cpu_energy_j_high"]) == (0.0, pytest.approx(4000))
    assert row["dram_energy_j"] == pytest.approx(100)
    assert {"wall_clock", "kind_guessed", "no_sample_times", "tokens_repeat_epochs"} <= set(row["flags"])


def test_the_bundle_reads_back(run: HarnessRun, load: Make) -> None:
    run.stage(stage_record("kd_1b"))
    run.power("kd_1b", even_rows(T0 - 0.1, 101, [150.0, 50.0]))
    run.environment("kd_1b", gpus=2)
    result = load(name="mine")
    bundle = Bundle.open(result.folder)
    manifest = bundle.manifest
    assert (manifest["name"], manifest["status"], manifest["sampling"]["clock"]) == (
        "mine",
        "complete",
        "UTC",
    )
    assert {"imported", "wall_clock"} <= set(manifest["labels"])
    assert [device["power_limit_mw"] for device in manifest["hardware"]["devices"]] == [700_000] * 2
    assert manifest["hardware"]["cpu_count"] == 48
    assert len(list(bundle.iter_power())) == 2
    assert only(result)["device_energy_j"] == pytest.approx([15_000.0, 5_000.0], abs=1e-3)
    power = bundle.table("power")
    assert pc.sum(power["power_mw"]).as_py() == 200_000 * power.num_rows / 2
    assert bundle.table("stages").to_pylist() == result.stages
    assert (
        import_reference(run_of(result), result.folder.parent / "again", name="mine").run_id == result.run_id
    )


def run_of(result: ImportResult) -> Path:
    return result.folder.parent / "logs"


def test_a_killed_run_is_what_its_last_partial_record_says(run: HarnessRun, load: Make) -> None:
    """Steps 9800 and 22200: text order would choose the former. The tail after it is not lost."""
    run.stage(snapshot("kd_1b", 9800, seconds=40))
    run.stage(snapshot("kd_1b", 22200, seconds=80))
    run.power("kd_1b", even_rows(T0, 100, [200.0]))
    stage, tail = load().stages
    assert (stage["status"], stage["tokens_trained"]) == ("partial", 222_000)
    assert stage["gpu_energy_j"] == pytest.approx(16_000.0)
    assert (tail["stage"], tail["gpu_energy_j"]) == ("unattributed", pytest.approx(4_000.0))
    assert (tail["session"], tail["tokens_trained"]) == (stage["session"], None)
    assert {"snapshot", "cpu_unknown"} <= set(stage["flags"])


def test_a_final_record_ends_its_partial_ones(run: HarnessRun, load: Make) -> None:
    run.stage(snapshot("kd_1b", 200, seconds=40))
    run.stage(stage_record("kd_1b"))
    row = only(load())
    assert (row["status"], row["tokens_trained"]) == ("completed", 5000)


def test_a_rebuilt_record_over_two_runs_is_taken_apart(run: HarnessRun, load: Make) -> None:
    run.power("kd_1b", even_rows(T0, 100, [100.0]))
    run.power("kd_1b", even_rows(T0 + 4000, 100, [200.0]), append=True, header=False)
    run.summary(
        stage_record("kd_1b", seconds=4100.0, snapshot=False, snapshot_type="reconstructed"), folder="kd_1b"
    )
    first, second = load().stages
    assert [first["gpu_energy_j"], second["gpu_energy_j"]] == pytest.approx([10_000.0, 20_000.0])
    assert all("reconstructed_over_several_runs" in row["flags"] for row in (first, second))


def test_a_partial_record_overrules_a_rebuilt_one(run: HarnessRun, load: Make) -> None:
    run.stage(snapshot("kd_1b", 22200, seconds=80))
    run.summary(stage_record("kd_1b", snapshot_type="reconstructed", tokens_processed=98_000), folder="kd_1b")
    row = only(load())
    assert row["tokens_trained"] == 222_000
    assert "reconstructed_ignored" in row["flags"]


def test_a_record_without_time_is_an_event(run: HarnessRun, load: Make) -> None:
    lost = stage_record("kd_9b", source="power_log_reconstructed", start_time=None, end_time=None)
    run.summary(lost, folder="kd_9b")
    with pytest.raises(KitError, match="none says when"):
        load()
    run.stage(stage_record("kd_1b"))
    result = load()
    assert len(result.run.unplaced) == 1
    assert events(result, "x-record_without_time") == [{"recorded_gpu_energy_j": 20_000, "stage": "kd_9b"}]


def test_copies_are_counted_once(run: HarnessRun, load: Make) -> None:
    record = stage_record("kd_1b")
    run.stage(record)
    run.summary(record)
    run.summary(record, folder="kd_1b")
    HarnessRun(run.root / "copy").stage(record)
    result = load()
    assert only(result)["gpu_energy_j"] == 20_000.0
    assert result.run.copies == 1
    assert "records_differ" not in only(result)["flags"]


def test_a_copy_with_another_cpu_energy_is_told(run: HarnessRun, load: Make) -> None:
    run.stage(stage_record("kd_1b", cpu_energy_joules=2000.0))
    HarnessRun(run.root / "copy").stage(stage_record("kd_1b", cpu_energy_joules=3000.0))
    result = load()
    assert result.run.copies == 1 and "records_differ" in only(result)["flags"]


def test_a_summary_that_differs_from_its_stage(run: HarnessRun, load: Make) -> None:
    run.stage(stage_record("kd_1b"))
    run.summary(stage_record("kd_1b", gpu_energy_joules=30_000.0))
    row = only(load())
    assert row["gpu_energy_j"] == 20_000.0
    assert "records_differ" in row["flags"]


def test_a_stage_that_is_only_in_a_summary(run: HarnessRun, load: Make) -> None:
    run.summary(stage_record("kd_1b"))
    row = only(load())
    assert (row["status"], row["gpu_energy_j_low"]) == ("completed", 0.0)
    assert row["gpu_energy_j_high"] >= 20_000.0
    assert "from_summary" in row["flags"]


def test_old_layout(run: HarnessRun, load: Make) -> None:
    run.flat(old_record("pre_preprocess_pre", tokens_processed=8000))
    run.environment("pre_preprocess_pre", gpus=4)
    row = only(load())
    assert (row["stage"], row["cpu_energy_j"], len(row["device_ids"])) == ("preprocess", None, 4)
    assert {"old_schema", "multi_gpu_summed", "tokens_are_examples"} <= set(row["flags"])


def test_repeats_and_reruns_are_attempts_of_their_own(run: HarnessRun, load: Make) -> None:
    run.stage(stage_record("kd_1b"))
    run.stage(stage_record("kd_1b__2", start=T0 + 200))
    run.flat(stage_record("kd_1b", start=T0 - 500))
    rows = load().stages
    assert [(row["name"], row["attempt"]) for row in rows] == [("kd_1b", 1), ("kd_1b", 2), ("kd_1b__2", 1)]
    assert not any(row["stage"] == "unattributed" for row in rows)


def test_a_codecarbon_row_alone(run: HarnessRun, load: Make) -> None:
    run.emissions(
        emission("synthetic_tulu_generation", seconds=3600.0), emission("x", seconds=5.0, duration=0)
    )
    result = load()
    row = only(result)
    assert (row["status"], row["gpu_energy_method"]) == ("completed", "imported")
    assert row["gpu_energy_j"] == pytest.approx(720_000.0)
    assert 0.9 * 720_000 < row["gpu_energy_j_low"] < 720_000 < row["gpu_energy_j_high"] < 1.1 * 720_000
    assert {"only_codecarbon", "time_zone_unknown", "tokens_unknown", "gpu_from_codecarbon"} <= set(
        row["flags"]
    )
    assert events(result, "x-codecarbon_version") == [{"tracking_mode": "process", "version": "3.2.1"}]
    assert Bundle.open(result.folder).manifest["hardware"]["devices"][0]["model"] == "NVIDIA H100 80GB HBM3"


def test_a_codecarbon_row_of_a_stage_shows_the_time_zone(run: HarnessRun, load: Make) -> None:
    """The stage's own row is no run of its own; an aborted run's row is, in the zone the first one shows."""
    run.stage(stage_record("kd_1b"))
    run.emissions(
        emission("kd_1b", seconds=20.0, duration=20.0, ended="2026-01-25T20:01:40"),
        emission("kd_1b", tracking_mode="machine"),
    )
    first, second = load().stages
    assert (first["t_end_us"], second["t_end_us"]) == ((T0 + 100 - 3 * 3600) * US, (T0 + 100) * US)
    assert "time_zone_unknown" not in first["flags"]
    assert "cpu_of_whole_node" in second["flags"]


@pytest.mark.parametrize(
    ("stages_own", "aborted", "hours_before", "unknown"),
    [
        ("2026-01-25T23:01:40", "2026-01-25T20:01:40+02:00", 10, False),
        ("2026-01-26T04:01:40+00:00", "2026-01-25T20:01:40", 8, True),
    ],
)
def test_a_codecarbon_row_with_a_zone_needs_no_other_and_shows_none(
    stages_own: str, aborted: str, hours_before: int, unknown: bool, run: HarnessRun, load: Make
) -> None:
    run.stage(stage_record("kd_1b"))
    run.emissions(
        emission("kd_1b", seconds=20.0, duration=20.0, ended=aborted), emission("kd_1b", ended=stages_own)
    )
    first, second = load().stages
    assert first["t_end_us"] == (T0 + 100 - hours_before * 3600) * US
    assert ("time_zone_unknown" in first["flags"]) == unknown
    assert second["t_end_us"] == (T0 + 100) * US and "only_codecarbon" not in second["flags"]


def test_nodes_are_told_apart_without_their_names(run: HarnessRun, load: Make) -> None:
    for position, host in enumerate(("hosta", "hostb", "hosta")):
        name = f"kd_{position}"
        run.stage(stage_record(name, start=T0 + 1000 * position))
        run.environment(name, host=host)
    rows = load().stages
    assert [row["node_id"] for row in rows] == ["node-00", "node-01", "node-00"]
    assert [row["device_ids"] for row in rows] == [[0], [1], [0]]


def test_attempts_are_numbered_on_each_node(run: HarnessRun, load: Make) -> None:
    for position, host in enumerate(("hosta", "hostb", "hosta")):
        copy = HarnessRun(run.root / f"run{position}")
        copy.stage(stage_record("kd_1b", start=T0 + 1000 * position))
        copy.environment("kd_1b", host=host)
    assert [(row["node_id"], row["attempt"]) for row in load().stages] == [
        ("node-00", 1),
        ("node-01", 1),
        ("node-00", 2),
    ]


def test_nothing_personal_gets_into_the_bundle(run: HarnessRun, load: Make) -> None:
    run.stage(stage_record("kd_1b"))
    run.environment("kd_1b", host="nodename42")
    run.config("kd_1b", model={"teacher": "/home/alice/models/olmo", "student": "allenai/OLMo-2-0425-1B"})
    run.power("kd_1b", even_rows(T0, 100, [200.0]))
    run.emissions(emission("kd_1b"))
    text = everything(load().folder)
    assert "OLMo-2-0425-1B" in text
    for secret in (
        "nodename42",
        "alice",
        "secret-project",
        "/scratch",
        "/home",
        "1985933",
        "host.invalid",
        str(run.root),
    ):
        assert secret not in text, secret


def corrupt(run: HarnessRun, how: str) -> None:
    path = run.stage(stage_record("kd_1b"))
    if how == "truncated json":
        path.write_text(path.read_text()[:200])
    elif how == "csv garbage":
        log = run.power("kd_1b", even_rows(T0, 100, [200.0]))
        log.write_text("timestamp,gpu_0_power_w,total_power_w\n1,2\nx,y,z\n")
    elif how == "empty csv":
        run.power("kd_1b", even_rows(T0, 100, [200.0])).write_text("")
    elif how == "emissions garbage":
        run.emissions(emission("kd_1b")).write_text("a,b\n1,2\n")
    elif how == "stage is a list":
        run.summary(stage_record("kd_1b")).write_text('{"experiment_id": "x", "stages": {"a": [1]}}')
    elif how == "binary":
        path.write_bytes(bytes(range(256)))


CORRUPT: Sequence[str] = (
    "truncated json",
    "csv garbage",
    "empty csv",
    "emissions garbage",
    "stage is a list",
    "binary",
)


@pytest.mark.parametrize("how", CORRUPT)
def test_corrupt_input_is_named_and_nothing_is_written(
    how: str, run: HarnessRun, load: Make, tmp_path: Path
) -> None:
    corrupt(run, how)
    with pytest.raises(KitError) as caught:
        load()
    assert str(run.root) in (caught.value.where or "")
    assert caught.value.fix
    assert not (tmp_path / "bundle").exists()


def test_a_used_folder_is_not_overwritten(run: HarnessRun, load: Make, tmp_path: Path) -> None:
    run.stage(stage_record("kd_1b"))
    load()
    with pytest.raises(KitError, match="not empty"):
        load()
