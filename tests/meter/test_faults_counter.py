"""Counters that reset, stand still, are missing or have an older way to be read, while a stage runs."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.lab import counter_reset, counter_stuck, error_burst, not_supported, zero_power
from tests.meter.faults import PLACED, Plays, Scenario, assert_counter_exact, assert_right_or_flagged, playing
from tests.meter.truth import assert_placed, device_truth_j

SCENARIOS: dict[str, Scenario] = {
    "healthy": Scenario(own_process=True),
    "counter reset": Scenario(lambda at: [counter_reset(at(2.4))]),
    "counter reset twice": Scenario(lambda at: [counter_reset(at(1.9)), counter_reset(at(3.2))]),
    "no counter": Scenario(
        lambda at: [not_supported("field:83"), not_supported("nvmlDeviceGetTotalEnergyConsumption")]
    ),
    "no counter, averaged power": Scenario(
        lambda at: [
            not_supported("nvmlDeviceGetFieldValues"),
            not_supported("nvmlDeviceGetTotalEnergyConsumption"),
        ]
    ),
    "no field api": Scenario(lambda at: [not_supported("nvmlDeviceGetFieldValues")]),
    "no instant power": Scenario(lambda at: [not_supported("field:186")]),
    "zero power burst, no counter": Scenario(
        lambda at: [
            zero_power(at(1.5), at(3.4)),
            not_supported("field:83"),
            not_supported("nvmlDeviceGetTotalEnergyConsumption"),
        ]
    ),
    "counter unreadable at the boundary": Scenario(lambda at: [error_burst(at(3.9), at(5.0), "field:83")]),
    "counter stuck": Scenario(lambda at: [counter_stuck(at(1.8))]),
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
        "healthy",
        "no field api",
        "no instant power",
    ],
)
def test_faults_between_the_boundaries_leave_the_counter_exact(played: Plays, name: str) -> None:
    assert_counter_exact(played(name))


def test_a_healthy_run_is_not_flagged(played: Plays) -> None:
    run = played("healthy").run
    for row in run.stages:
        # A second of a fast waveform is too short for the cross-check by two samples.
        assert set(row["flags"]) <= {"short_stage", "counter_disagrees"}
    assert not [e for e in run.events() if e["severity"] != "info"]
    assert run.manifest["status"] == "complete"
    assert run.manifest["shared_node"] is False


@pytest.mark.parametrize("name", ["counter reset", "counter reset twice"])
def test_a_reset_splits_the_stage(played: Plays, name: str) -> None:
    config, run = (one := played(name)).config, one.run
    hit = run.stage("hit")
    assert hit["gpu_energy_method"] == "counter_split"
    assert "counter_reset" in hit["flags"]
    assert hit["gpu_energy_j"] == pytest.approx(sum(device_truth_j(config, hit)), rel=0.2)
    assert len(run.events("counter_reset")) == len(config.devices[0].faults)
    assert_placed(config, run, run.stage("before"), run.stage("after"))


@pytest.mark.parametrize("name", ["no counter", "no counter, averaged power", "zero power burst, no counter"])
def test_without_a_counter_power_is_integrated_and_says_so(played: Plays, name: str) -> None:
    run = played(name).run
    ticking = played("healthy").run
    assert run.manifest["hardware"]["devices"][0]["counter_supported"] is False
    for row in run.stages:
        assert row["gpu_energy_method"] == "power_integral"
        assert "counter_missing" in row["flags"]
        assert row["gpu_energy_counter_j"] is None
        width_j = row["gpu_energy_j_high"] - row["gpu_energy_j_low"]
        assert width_j > 0.02 * row["gpu_energy_j"]
        sharp = ticking.stage(row["name"])
        assert width_j > 2 * (sharp["gpu_energy_j_high"] - sharp["gpu_energy_j_low"])
    fallbacks = {e["detail"]["quantity"]: e["detail"]["method"] for e in run.events("field_fallback")}
    assert fallbacks["energy"] == "absent"
    assert all(r["energy_counter_mj"] is None for r in run.rows("power"))


def test_older_calls_stand_in_for_the_field_api(played: Plays) -> None:
    run = played("no field api").run
    device = run.manifest["hardware"]["devices"][0]
    assert device["counter_supported"] is True
    assert device["instant_supported"] is device["average_supported"] is False
    fallbacks = {e["detail"]["quantity"]: e["detail"]["method"] for e in run.events("field_fallback")}
    assert fallbacks == {"energy": "call", "instant": "call", "average": "absent"}
    assert all(r["power_mw"] and r["energy_counter_mj"] for r in run.rows("power"))
    assert all(r["power_average_mw"] is None for r in run.rows("power"))


def test_usage_stands_in_for_instant_power(played: Plays) -> None:
    run = played("no instant power").run
    assert run.manifest["hardware"]["devices"][0]["instant_supported"] is False
    fallbacks = {e["detail"]["quantity"]: e["detail"]["method"] for e in run.events("field_fallback")}
    assert fallbacks == {"instant": "call"}
    assert all(r["power_mw"] == r["power_average_mw"] for r in run.rows("power")[2:])


def test_a_counter_that_cannot_be_read_at_a_boundary_is_drawn_between_samples(
    played: Plays,
) -> None:
    run = played("counter unreadable at the boundary").run
    for name in ("hit", "after"):  # they end and begin there
        assert "counter_boundary_missing" in run.stage(name)["flags"]
        assert run.stage(name)["gpu_energy_method"] == "counter_sample"
    assert not run.events("counter_stuck")


def test_a_counter_that_stands_still_is_noticed(played: Plays) -> None:
    run = played("counter stuck").run
    for name in ("hit", "after"):
        assert "counter_stuck" in run.stage(name)["flags"]
        assert run.stage(name)["gpu_energy_method"] not in PLACED
    assert run.events("counter_stuck")
