"""Cards that fail, stall, vanish or are shared, and clocks that jump, while a stage runs."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.lab import Mig, clock_step_env, error_burst, gpu_lost, not_supported, process, stall, zero_power
from tests.meter.faults import (
    PLACED,
    Plays,
    S,
    Scenario,
    assert_counter_exact,
    assert_right_or_flagged,
    playing,
)
from tests.meter.truth import assert_ticks_honest

SCENARIOS: dict[str, Scenario] = {
    "error burst": Scenario(lambda at: [error_burst(at(1.5), at(3.4))]),
    "not supported burst": Scenario(lambda at: [not_supported("*", at(1.5), at(3.4))]),
    "zero power burst": Scenario(lambda at: [zero_power(at(1.5), at(3.4))]),
    "gpu lost": Scenario(lambda at: [gpu_lost(at(2.4))], others=1),
    "gpu lost for a while": Scenario(lambda at: [gpu_lost(at(1.5), at(3.4))]),
    "stall inside": Scenario(lambda at: [stall(at(1.6), at(2.2), 2_000_000, "nvmlDeviceGetFieldValues")]),
    "stall at the boundary": Scenario(
        lambda at: [stall(at(3.9), at(4.3), 2_000_000, "nvmlDeviceGetFieldValues")]
    ),
    "clock ahead and back": Scenario(
        env=lambda lab, at: clock_step_env(lab, [(at(2.0), 3_600 * S), (at(3.1), -5_400 * S)])
    ),
    "foreign process at the end": Scenario(lambda at: [process(os.getpid(), at(3.5), at(4.6))]),
    "mig": Scenario(
        device={"mig_mode": 1, "mig": (Mig("MIG-11111111-2222-4333-8444-555555555555"),)},
        env=lambda lab, at: {"CUDA_VISIBLE_DEVICES": "MIG-11111111-2222-4333-8444-555555555555"},
        others=1,
    ),
}


@pytest.fixture(scope="module")
def played(lab_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Plays]:
    with playing(lab_dir, tmp_path_factory.mktemp("faults"), SCENARIOS) as plays:
        yield plays


@pytest.mark.parametrize("name", SCENARIOS)
def test_every_fault_ends_in_a_right_or_flagged_figure(played: Plays, name: str) -> None:
    assert_right_or_flagged(one := played(name))
    assert not list((one.run.folder / "journal").glob("*.jnl")) or "read-only" in name


@pytest.mark.parametrize(
    "name",
    [
        "error burst",
        "not supported burst",
        "zero power burst",
        "gpu lost for a while",
        "stall inside",
        "clock ahead and back",
        "foreign process at the end",
        "mig",
    ],
)
def test_faults_between_the_boundaries_leave_the_counter_exact(played: Plays, name: str) -> None:
    assert_counter_exact(played(name))


@pytest.mark.parametrize("name", ["error burst", "not supported burst", "zero power burst"])
def test_bursts_leave_nulls_and_a_gap(played: Plays, name: str) -> None:
    config, run = (one := played(name)).config, one.run
    burst = config.devices[0].faults[0]
    start_us, end_us = config.t0_us + burst.start_us, config.t0_us + burst.end_us
    inside = [r for r in run.rows("power") if start_us < r["mono_us"] < end_us]
    assert len(inside) >= 3
    assert all(r["power_mw"] is None for r in inside)
    if name != "zero power burst":
        assert all(r["energy_counter_mj"] is None and r["temp_c"] is None for r in inside)
        assert run.events("nvml_error")
        assert "nvml_errors" in run.stage("hit")["flags"]
    outside = [r for r in run.rows("power") if not start_us - 5000 < r["mono_us"] < end_us + 5000]
    assert all(r["power_mw"] is not None for r in outside)
    hit = run.stage("hit")
    assert "gap" in hit["flags"]
    assert hit["longest_gap_us"] >= burst.end_us - burst.start_us
    assert hit["missed_samples"] >= 3
    assert hit["energy_in_gaps_j"] > 0
    assert hit["gap_us"] > max(run.stage("before")["gap_us"], run.stage("after")["gap_us"])


def test_a_lost_gpu_is_lost_and_the_other_is_not(played: Plays) -> None:
    run = played("gpu lost").run
    config = played("gpu lost").config
    hit, after = run.stage("hit"), run.stage("after")
    assert {"gpu_lost", "gap"} <= set(hit["flags"])
    assert run.events("gpu_lost")[0]["device_id"] == 0
    lost_us = config.t0_us + config.devices[0].faults[0].start_us
    late = [r for r in run.rows("power") if r["device_id"] == 0 and r["mono_us"] > lost_us]
    assert late and all(r["power_mw"] is None and r["energy_counter_mj"] is None for r in late)
    # The healthy card's share stays exact.
    for row in (hit, after):
        if row["device_energy_j"] is not None:
            start, end = row["device_start_us"][1], row["device_end_us"][1]
            assert row["device_energy_j"][1] == pytest.approx(config.true_energy_j(1, start, end), rel=1e-3)
    assert after["gpu_energy_method"] not in PLACED
    assert after["flags"]


def test_a_stall_is_a_gap(played: Plays) -> None:
    run = played("stall inside").run
    hit = run.stage("hit")
    # The stalled read is stamped half-way through its two seconds, half a period after the last good one.
    assert hit["longest_gap_us"] > 1_490_000
    assert "gap" in hit["flags"]
    assert [e for e in run.events("gap") if e["detail"]["missed_ticks"] >= 2]
    assert run.manifest["sampling"]["sessions"][0]["missed_ticks"] >= 2


def test_a_stalled_boundary_is_exact_or_wide(played: Plays) -> None:
    one = played("stall at the boundary")
    assert_ticks_honest(one.config, one.run)


def test_clock_steps_are_noticed_and_harmless(played: Plays) -> None:
    run = played("clock ahead and back").run
    steps = [round(e["detail"]["step_us"] / 1e6) for e in run.events("clock_step")]
    assert steps == [3600, -5400]
    assert "clock_step" in run.stage("hit")["flags"]
    assert "clock_step" not in run.stage("before")["flags"]
    hit = run.stage("hit")
    assert hit["t_end_us"] - hit["t_start_us"] < 0  # as the wall clock showed it


def test_a_foreign_process_flags_the_stage_it_was_seen_in(played: Plays) -> None:
    run = played("foreign process at the end").run
    assert "shared_gpu" in run.stage("hit")["flags"]
    assert "shared_gpu" not in run.stage("before")["flags"] + run.stage("after")["flags"]
    assert run.events("foreign_process")[0]["detail"] == {"processes": 1}
    assert run.manifest["shared_node"] is True


def test_a_mig_instance_is_billed_as_its_whole_card(played: Plays) -> None:
    run = played("mig").run
    assert [d["device_id"] for d in run.manifest["hardware"]["devices"]] == [0]
    assert run.manifest["hardware"]["devices"][0]["mig"] is True
    assert all("mig" in row["flags"] for row in run.stages)
