"""Figures of a record that cannot be believed: what is kept, what is dropped, which flag says so."""

from __future__ import annotations

from typing import Any

import pytest

from harness.bundle import Bundle
from tests.interop.reference_checks import Make, events, only
from tests.interop.reference_logs import (
    KWH,
    T0,
    HarnessRun,
    emission,
    even_rows,
    snapshot,
    stage_record,
)


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


def test_gpu_energy_zero_is_unknown(run: HarnessRun, load: Make) -> None:
    run.stage(
        stage_record("kd_1b", gpu_energy_joules=0.0, gpu_power_samples=[], codecarbon_gpu_energy_kwh=0.0)
    )
    row = only(load())
    assert (row["gpu_energy_j"], row["gpu_energy_method"]) == (None, "absent")
    assert "gpu_unknown" in row["flags"]


@pytest.mark.parametrize("with_teacher", [True, False])
def test_a_student_without_its_teacher(with_teacher: bool, run: HarnessRun, load: Make) -> None:
    run.stage(stage_record("kd_1b"))
    run.config("kd_1b")
    if with_teacher:
        run.stage(stage_record("logit_caching", start=T0 - 500))
    result = load()
    assert ("teacher_not_in_logs" in result.stages[-1]["flags"]) != with_teacher
    assert Bundle.open(result.folder).manifest["method"] == ("kd" if with_teacher else "other")
