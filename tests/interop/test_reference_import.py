"""Self-made twins of every layout and doubt: imported, then compared with closed forms."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc
import pytest

from harness.accounting import derive_stages
from harness.bundle import Bundle, inputs
from harness.errors import KitError
from harness.interop.reference.importer import ImportResult, import_reference
from tests.interop.reference_logs import (
    KWH,
    T0,
    HarnessRun,
    emission,
    even_rows,
    old_record,
    snapshot,
    stage_record,
)

US = 1_000_000
Make = Callable[..., ImportResult]


@pytest.fixture
def run(tmp_path: Path) -> HarnessRun:
    return HarnessRun(tmp_path / "logs")


@pytest.fixture
def load(run: HarnessRun, tmp_path: Path) -> Make:
    return lambda **options: import_reference(run.root, tmp_path / "bundle", **options)


def only(result: ImportResult) -> dict[str, Any]:
    (row,) = result.stages
    return row


def events(result: ImportResult, kind: str) -> list[dict[str, Any]]:
    return [json.loads(row["detail"]) for row in result.events if row["kind"] == kind]


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
    assert len(bundle.power_devices()) == 2
    assert only(result)["device_energy_j"] == pytest.approx([15_000.0, 5_000.0], abs=1e-3)
    power = bundle.table("power")
    assert pc.sum(power["power_mw"]).as_py() == 200_000 * power.num_rows / 2
    assert bundle.table("stages").to_pylist() == result.stages
    assert (
        import_reference(run_of(result), result.folder.parent / "again", name="mine").run_id == result.run_id
    )


def run_of(result: ImportResult) -> Path:
    return result.folder.parent / "logs"


def test_samples_speak_before_the_recorded_total(run: HarnessRun, load: Make) -> None:
    """A ramp 100 W -> 300 W over 100 s: 20 kJ; the record claims something else and is overruled, loudly."""
    run.stage(stage_record("kd_1b", gpu_energy_joules=25_000.0))
    times = np.linspace(T0 - 1, T0 + 101, 205)
    run.power("kd_1b", [(float(t), [100.0 + 2.0 * (float(t) - T0)]) for t in times])
    row = only(load())
    assert row["gpu_energy_method"] == "power_integral"
    assert row["gpu_energy_j"] == pytest.approx(20_000.0, rel=1e-5)
    assert "recorded_differs" in row["flags"]


def test_kwh_and_joules_are_not_mixed_up(run: HarnessRun, load: Make) -> None:
    """1 kW for an hour is 1 kWh is 3.6 MJ, by samples, by record, by CodeCarbon row."""
    record = stage_record("kd_1b", seconds=3600.0, gpu_energy_joules=KWH, gpu_power_samples=[1000.0] * 7200)
    record |= {"codecarbon_gpu_energy_kwh": 1.0, "gpu_peak_power_watts": 1000.0, "total_energy_kwh": 7.0}
    run.stage(record)
    run.stage(stage_record("kd_2b", seconds=3600.0, start=T0 + 9000))
    run.power("kd_2b", even_rows(T0 + 9000, 3600, [1000.0]))
    run.emissions(emission("kd_3b", seconds=3600.0, gpu_energy=1.0))
    rows = {row["name"]: row for row in load().stages}
    assert [rows[f"kd_{n}b"]["gpu_energy_j"] for n in (1, 2, 3)] == pytest.approx([3.6e6] * 3)
    assert "units_differ" in rows["kd_1b"]["flags"]
    assert "only_codecarbon" in rows["kd_3b"]["flags"]


def test_gaps_widen_the_interval_and_are_reported(run: HarnessRun, load: Make) -> None:
    """Two silences of 20 s in 200 s at 100 W and 300 W."""
    rows = [r for r in even_rows(T0, 200, [100.0]) if not (50 < r[0] - T0 < 70 or 120 < r[0] - T0 < 140)]
    rows = [(t, [300.0] if t - T0 >= 100 else w) for t, w in rows]
    run.power("logit_caching", rows)
    run.environment("logit_caching")
    run.config("logit_caching")
    result = load()
    row = only(result)
    assert (row["stage"], row["status"], row["gap_us"]) == ("teacher_logits", "partial", 40 * US)
    assert row["energy_in_gaps_j"] == pytest.approx(8000.0)
    assert row["gpu_energy_j_low"] == pytest.approx(row["gpu_energy_j"] - 8000.0, abs=300)
    assert row["gpu_energy_j_high"] == pytest.approx(row["gpu_energy_j"] - 8000.0 + 40 * 700, abs=300)
    assert {"gap", "no_stage_record", "tokens_unknown"} <= set(row["flags"])
    (gap,) = events(result, "gap")
    assert (gap["gaps"], gap["gap_s"], gap["longest_gap_s"]) == (2, 40, 20)
    assert gap["energy_in_gaps_j_low_at_least_power_seen"] == pytest.approx(4000.0)
    assert gap["energy_in_gaps_j_high"] == pytest.approx(28_000.0)


def test_missing_readings_without_times_widen_the_interval(run: HarnessRun, load: Make) -> None:
    """100 s, but only 160 readings of 0.5 s: 20 s were not sampled, at 0 .. 700 W."""
    run.stage(stage_record("kd_1b", gpu_power_samples=[200.0] * 160))
    run.environment("kd_1b")
    row = only(load())
    assert row["gap_us"] == 20 * US
    assert row["gpu_energy_j_low"] == pytest.approx(16_000.0)
    assert row["gpu_energy_j_high"] == pytest.approx(30_000.0)
    assert row["missed_samples"] == 40


def test_runs_in_one_log_are_never_bridged(run: HarnessRun, load: Make) -> None:
    """An aborted run at 100 W, an hour of silence, the recorded run at 200 W."""
    run.power("kd_1b", even_rows(T0 - 4000, 50, [100.0]))
    run.power("kd_1b", even_rows(T0, 100, [200.0]), append=True, header=False)
    run.stage(stage_record("kd_1b"))
    first, second = load().stages
    assert [first["gpu_energy_j"], second["gpu_energy_j"]] == pytest.approx([5_000.0, 20_000.0])
    assert [first["session"], second["session"]] == [0, 1]
    assert [first["attempt"], second["attempt"]] == [1, 2]
    assert [first["status"], second["status"]] == ["partial", "completed"]
    assert first["tokens_trained"] is None
    assert all("several_runs_in_log" in row["flags"] for row in (first, second))
    assert first["gap_us"] == second["gap_us"] == 0


@pytest.mark.parametrize("silence_s", [200.0, 400.0])
def test_without_a_record_a_long_silence_splits(silence_s: float, run: HarnessRun, load: Make) -> None:
    run.power("kd_1b", even_rows(T0, 50, [100.0]))
    run.power("kd_1b", even_rows(T0 + 50 + silence_s, 50, [100.0]), append=True, header=False)
    stages = load().stages
    assert len(stages) == (1 if silence_s < 300 else 2)
    assert sum(row["gap_us"] for row in stages) == (silence_s * US if silence_s < 300 else 0)


def test_a_silence_inside_a_recorded_run_is_a_gap(run: HarnessRun, load: Make) -> None:
    run.power("kd_1b", even_rows(T0, 50, [100.0]))
    run.power("kd_1b", even_rows(T0 + 600, 400, [100.0]), append=True, header=False)
    run.stage(stage_record("kd_1b", seconds=1000.0))
    row = only(load())
    assert row["longest_gap_us"] == 550 * US
    assert "several_runs_in_log" not in row["flags"]


def test_changed_columns_begin_a_new_run(run: HarnessRun, load: Make) -> None:
    run.power("kd_1b", even_rows(T0, 50, [100.0]))
    run.power("kd_1b", even_rows(T0 + 60, 50, [100.0, 50.0]), append=True, header=False)
    first, second = load().stages
    assert [len(first["device_ids"]), len(second["device_ids"])] == [1, 2]
    assert [first["gpu_energy_j"], second["gpu_energy_j"]] == pytest.approx([5_000.0, 7_500.0])
    assert "gpu_columns_changed" in first["flags"]


def test_a_clock_that_ran_back_inside_a_run(run: HarnessRun, load: Make) -> None:
    run.power("kd_1b", even_rows(T0, 60, [200.0]))
    run.power("kd_1b", even_rows(T0 + 58, 42, [200.0]), append=True, header=False)
    run.stage(stage_record("kd_1b"))
    result = load()
    assert only(result)["gpu_energy_j"] == pytest.approx(20_000.0)
    assert events(result, "clock_step") == [{"steps_back": 1}]


def test_a_log_of_another_run_only(run: HarnessRun, load: Make) -> None:
    run.power("kd_1b", even_rows(T0 - 4000, 50, [100.0]))
    run.stage(stage_record("kd_1b"))
    first, second = load().stages
    assert (first["gpu_energy_method"], second["gpu_energy_method"]) == ("power_integral", "imported")
    assert "log_of_another_run" in second["flags"]


def test_header_missing_and_dead_writer_are_flagged(run: HarnessRun, load: Make) -> None:
    path = run.power("kd_1b", even_rows(T0, 50, [100.0]), header=False)
    path.write_bytes(path.read_bytes()[:-12])
    assert {"header_missing", "truncated_line"} <= set(only(load())["flags"])


def test_failed_reads_are_null_not_zero(run: HarnessRun, load: Make) -> None:
    rows = even_rows(T0, 100, [200.0])
    rows[50] = (rows[50][0], [0.0])
    run.power("kd_1b", rows)
    run.stage(stage_record("kd_1b"))
    result = load()
    row = only(result)
    assert Bundle.open(result.folder).table("power")["power_mw"].null_count == 1
    assert row["gpu_energy_j"] == pytest.approx(20_000.0)
    assert (row["missed_samples"], "readings_unusable" in row["flags"]) == (1, True)


def test_any_reader_recomputes_the_same_stages(run: HarnessRun, load: Make) -> None:
    """The stages table is a function of the bundle: samples, a tail, a gap, a stated total."""
    run.stage(snapshot("kd_1b", 9800, seconds=40))
    run.power("kd_1b", [r for r in even_rows(T0, 100, [200.0]) if not 20 < r[0] - T0 < 30])
    run.stage(stage_record("kd_2b", start=T0 + 500))
    run.environment("kd_1b")
    result = load()
    bundle = Bundle.open(result.folder)
    again = derive_stages(
        bundle.table("stages").to_pylist(),
        inputs.power_series(bundle),
        inputs.counter_series(bundle.table("counters")),
        inputs.sampling_rules(bundle.protocol, bundle.manifest),
        inputs.device_limits(bundle.manifest),
    )
    assert again == result.stages
    assert len(again) == 3


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


STALE = {
    "cpu_energy_joules": 183_823.9,
    "total_codecarbon_energy_kwh": 0.4088,
    "codecarbon_cpu_energy_kwh": 183_823.9 / KWH,
    "codecarbon_gpu_energy_kwh": 0.35,
    "codecarbon_ram_energy_kwh": 0.0072,
}


def test_a_codecarbon_block_that_does_not_move_is_stale(run: HarnessRun, load: Make) -> None:
    for step in (200, 400, 600):
        run.stage(snapshot("kd_13b", step, seconds=step / 5, **STALE))
    result = load()
    row = only(result)
    assert (row["cpu_energy_j"], row["cpu_energy_method"], row["dram_energy_j"]) == (None, "absent", None)
    assert row["gpu_energy_j"] == pytest.approx(24_000.0)
    (seen,) = events(result, "x-codecarbon_stale")
    assert seen["constant_over_partial_records"] == 3
    assert "codecarbon_stale" in row["flags"]


def test_a_final_record_with_another_runs_codecarbon(run: HarnessRun, load: Make) -> None:
    run.stage(stage_record("kd_13b", **STALE))
    row = only(load())
    assert row["cpu_energy_j"] is None
    assert "codecarbon_stale" in row["flags"]


@pytest.mark.parametrize(
    ("cpu_j", "cc_kwh", "flags", "kept"),
    [
        (-262_000.0, 0.0, {"rapl_negative"}, None),
        (0.0, 0.0, {"cpu_unknown"}, None),
        (42.5 * 100, 42.5 * 100 / KWH, {"cpu_constant_fallback"}, 4250.0),
        (40.0, 40.0 / KWH, {"cpu_watts_implausible"}, 40.0),
        (1e6, 1e6 / KWH, {"cpu_watts_implausible"}, 1e6),
        (10_000.0, 2_000 / KWH, {"rapl_two_readings"}, 10_000.0),
    ],
)
def test_cpu_energy(
    cpu_j: float, cc_kwh: float, flags: set[str], kept: float | None, run: HarnessRun, load: Make
) -> None:
    run.stage(stage_record("kd_1b", cpu_energy_joules=cpu_j, codecarbon_cpu_energy_kwh=cc_kwh))
    row = only(load())
    assert flags <= set(row["flags"])
    assert row["cpu_energy_j"] == (None if kept is None else pytest.approx(kept))
    if kept is not None:
        assert row["cpu_energy_j_low"] <= kept <= row["cpu_energy_j_high"]


@pytest.mark.parametrize(
    ("stage_id", "changes", "flag", "columns"),
    [
        ("kd_1b", {"tokens_processed": 0}, "tokens_unknown", (None, None)),
        ("kd_1b", {"tokens_processed": None}, "tokens_unknown", (None, None)),
        ("tulu_preprocess_dataset", {"tokens_processed": 194_769}, "tokens_are_examples", (None, None)),
        ("olmo_benchmark_gsm8k", {"tokens_processed": 0}, "tokens_unknown", (None, None)),
        ("logit_caching", {}, "tokens_repeat_epochs", (5000, None)),
        ("synthetic_tulu_generation", {}, "tokens_include_padding", (None, 5000)),
    ],
)
def test_tokens(
    stage_id: str,
    changes: dict[str, Any],
    flag: str,
    columns: tuple[int | None, int | None],
    run: HarnessRun,
    load: Make,
) -> None:
    run.stage(stage_record(stage_id, **changes))
    row = only(load())
    assert flag in row["flags"]
    assert (row["tokens_trained"], row["tokens_generated"]) == columns
    assert row["tokens_processed"] is row["tokens_positions"] is row["token_denominator"] is None


def test_more_tokens_than_the_cap_allows(run: HarnessRun, load: Make) -> None:
    run.stage(stage_record("synthetic_generation", tokens_processed=409 * 35))
    run.config(
        "synthetic_generation", synthetic_data={"max_gen_examples": 35, "generation": {"max_new_tokens": 256}}
    )
    result = load()
    assert "tokens_above_cap" in only(result)["flags"]
    assert events(result, "x-tokens_above_cap")[0]["tokens_per_prompt"] == 409


def test_equal_tokens_of_two_stages(run: HarnessRun, load: Make) -> None:
    run.stage(stage_record("kd_1b", tokens_processed=14_045_252))
    run.stage(stage_record("kd_13b", tokens_processed=14_045_252, start=T0 + 500))
    assert all("tokens_repeated" in row["flags"] for row in load().stages)


@pytest.mark.parametrize("placed", [True, False])
def test_rebuilt_records_lose_their_tokens(placed: bool, run: HarnessRun, load: Make) -> None:
    """Both rebuilding scripts: with and without times; samples beside it place the latter."""
    changes = {"snapshot": False, "snapshot_type": "reconstructed"}
    if not placed:
        changes = {
            "source": "power_log_reconstructed",
            "start_time": None,
            "end_time": None,
            "tokens_processed": None,
        }
    record = stage_record("kd_1b", **changes)
    run.summary(record, folder="kd_1b")
    run.power("kd_1b", even_rows(T0, 100, [200.0]))
    row = only(load())
    assert (row["status"], row["tokens_trained"]) == ("partial", None)
    assert row["gpu_energy_j"] == pytest.approx(20_000.0)
    assert "reconstructed" in row["flags"]


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
    assert result.unplaced == 1
    assert events(result, "x-record_without_time") == [{"recorded_gpu_energy_j": 20_000, "stage": "kd_9b"}]


def test_copies_are_counted_once(run: HarnessRun, load: Make) -> None:
    record = stage_record("kd_1b")
    run.stage(record)
    run.summary(record)
    run.summary(record, folder="kd_1b")
    HarnessRun(run.root / "copy").stage(record)
    result = load()
    assert only(result)["gpu_energy_j"] == 20_000.0
    assert result.dropped_copies == 1
    assert "records_differ" not in only(result)["flags"]


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


@pytest.mark.parametrize(
    ("stage_id", "folder", "stage_name", "watts", "kind", "guessed"),
    [
        ("sft_1b_tulu_256", "synthetic_tulu_generation_256", None, 390.0, "teacher_generate", True),
        ("sft_1b_tulu", None, None, 600.0, "student_train", True),
        ("synthetic_math", None, None, 117.0, "x-unclassified", True),
        ("exp_7", None, None, 600.0, "x-unclassified", True),
        ("exp_7", None, "logit_caching", 600.0, "teacher_logits", False),
        ("exp_7", None, "olmo_benchmark:gsm8k", 600.0, "evaluate", False),
    ],
)
def test_kinds(
    stage_id: str,
    folder: str | None,
    stage_name: str | None,
    watts: float,
    kind: str,
    guessed: bool,
    run: HarnessRun,
    load: Make,
) -> None:
    run.stage(stage_record(stage_id, gpu_avg_power_watts=watts), folder=folder)
    run.environment(folder or stage_id)
    if stage_name:
        run.config(stage_id, stage_name=stage_name)
    row = only(load())
    assert row["stage"] == kind
    assert ("kind_guessed" in row["flags"]) == guessed
    assert ("stage_name_lost" in row["flags"]) == (folder is not None)


def test_a_codecarbon_row_alone(run: HarnessRun, load: Make) -> None:
    run.emissions(
        emission("synthetic_tulu_generation", seconds=3600.0), emission("x", seconds=5.0, duration=0)
    )
    result = load()
    row = only(result)
    assert (row["status"], row["gpu_energy_method"]) == ("partial", "imported")
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


def test_gpu_energy_zero_is_unknown(run: HarnessRun, load: Make) -> None:
    run.stage(
        stage_record("kd_1b", gpu_energy_joules=0.0, gpu_power_samples=[], codecarbon_gpu_energy_kwh=0.0)
    )
    row = only(load())
    assert (row["gpu_energy_j"], row["gpu_energy_method"]) == (None, "absent")
    assert "gpu_unknown" in row["flags"]


def test_nodes_are_told_apart_without_their_names(run: HarnessRun, load: Make) -> None:
    for position, host in enumerate(("hosta", "hostb", "hosta")):
        name = f"kd_{position}"
        run.stage(stage_record(name, start=T0 + 1000 * position))
        run.environment(name, host=host)
    rows = load().stages
    assert [row["node_id"] for row in rows] == ["node-00", "node-01", "node-00"]
    assert [row["device_ids"] for row in rows] == [[0], [1], [0]]


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


def everything(folder: Path) -> str:
    """Every text a bundle holds: the manifest, all string columns, all footers."""
    bundle = Bundle.open(folder)
    texts = [(folder / "manifest.json").read_text()]
    for name in bundle.protocol.tables:
        texts += [str(bundle.footer(path)) for path in bundle.files(name)]
        table = bundle.table(name)
        texts += [
            str(v)
            for c in table.schema
            if "string" in str(c.type)
            for v in set(map(str, table[c.name].to_pylist()))
        ]
    return "\n".join(texts)


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
