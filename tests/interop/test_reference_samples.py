"""Logs with times: runs told apart, gaps bounded, the accounting fed with what was really sampled."""

from __future__ import annotations

import numpy as np
import pytest

from harness.bundle import Bundle
from harness.bundle.derive import derive_bundle
from tests.interop.reference_checks import US, Make, events, only
from tests.interop.reference_logs import (
    T0,
    HarnessRun,
    even_rows,
    snapshot,
    stage_record,
)


def test_samples_speak_before_the_recorded_total(run: HarnessRun, load: Make) -> None:
    """A ramp 100 W -> 300 W over 100 s: 20 kJ; the record claims something else and is overruled, loudly."""
    run.stage(stage_record("kd_1b", gpu_energy_joules=25_000.0))
    times = np.linspace(T0 - 1, T0 + 101, 205)
    run.power("kd_1b", [(float(t), [100.0 + 2.0 * (float(t) - T0)]) for t in times])
    row = only(load())
    assert row["gpu_energy_method"] == "power_integral"
    assert row["gpu_energy_j"] == pytest.approx(20_000.0, rel=1e-5)
    assert "recorded_differs" in row["flags"]


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
    again = derive_bundle(bundle).stages
    assert again == result.stages
    assert len(again) == 3
