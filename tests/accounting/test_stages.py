"""Derived columns of whole runs against closed forms; tiling and closure in integer mJ."""

from __future__ import annotations

import math

import numpy as np
import pytest

from harness.accounting.stages import derive_stages
from tests.accounting.synthetic import DEFAULT, S, Stage, join, make_run


def by_name(rows):
    return {row["name"]: row for row in rows}


@pytest.mark.parametrize(("placed", "method"), [("tick", "counter_tick"), ("moment", "counter_step")])
def test_every_stage_and_every_hole_meets_the_truth(placed, method):
    run = make_run(method=placed)
    rows = run.derive()
    named = by_name(rows)
    for stage in DEFAULT:
        truth = [run.energy_j(d, stage.start_s, stage.end_s) for d in (0, 1)]
        row = named[stage.name]
        assert row["device_energy_j"] == pytest.approx(truth, abs=0.002)
        assert row["gpu_energy_counter_j"] == row["gpu_energy_j"] == pytest.approx(sum(truth), abs=0.004)
        assert row["gpu_energy_integral_j"] == pytest.approx(sum(truth), rel=0.01)
        assert row["gpu_counter_vs_integral"] == pytest.approx(
            sum(truth) / row["gpu_energy_integral_j"] - 1, abs=1e-6
        )
        assert row["gpu_energy_j_low"] <= sum(truth) <= row["gpu_energy_j_high"]
        assert row["gpu_energy_method"] == method
        assert row["missed_samples"] == row["gap_us"] == row["longest_gap_us"] == 0
        assert row["samples"] == pytest.approx(4 * (stage.end_s - stage.start_s), abs=4)
        assert row["cpu_energy_method"] == "absent"
        assert row["cpu_energy_j"] is None
    holes = [row for row in rows if row["stage"] == "unattributed"]
    spans = [((r["mono_start_us"] - 1000 * S) / S, (r["mono_end_us"] - 1000 * S) / S) for r in holes]
    assert spans == [(1.0, 2.0), (102.0, 110.3), (250.0, 255.0)]
    for row, (a, b) in zip(holes, spans, strict=True):
        assert row["gpu_energy_j"] == pytest.approx(sum(run.energy_j(d, a, b) for d in (0, 1)), abs=0.004)


def test_parts_add_up_to_the_counter_exactly():
    run = make_run()
    rows = run.derive()
    for device in (0, 1):
        values = [c["value"] for c in run.counters if c["device_id"] == device]
        parts = [round(1000 * r["device_energy_j"][r["device_ids"].index(device)]) for r in rows]
        assert sum(parts) == values[-1] - values[0]


def test_deriving_twice_changes_nothing():
    run = make_run(rapl=True)
    rows = run.derive()
    run.stages = rows
    assert run.derive() == rows


def test_a_device_that_a_stage_does_not_use_is_unattributed_meanwhile():
    stages = (Stage("a", "preprocess", 10, 50, 300, devices=(0,)), Stage("b", "evaluate", 50, 90, 300))
    run = make_run(stages, end_s=95, rapl=True)
    rows = run.derive()
    outside = [r for r in rows if r["flags"] and "outside_device_list" in r["flags"]]
    assert [(r["device_ids"], r["cpu_energy_j"]) for r in outside] == [([1], None)]
    total = sum(r["gpu_energy_j"] for r in rows)
    assert total == pytest.approx(sum(run.energy_j(d, 1, 95) for d in (0, 1)), abs=0.01)
    assert sum(r["cpu_energy_j"] or 0 for r in rows) == pytest.approx(150 * 94, rel=1e-6)


def test_a_hole_of_part_of_the_devices_does_not_take_cpu_twice():
    run = make_run((Stage("a", "preprocess", 1.0, 95.0, 300, devices=(0,)),), end_s=95, rapl=True)
    rows = run.derive()
    assert [(r["stage"], r["cpu_energy_j"] is None) for r in rows] == [
        ("preprocess", False),
        ("unattributed", True),
    ]


def test_child_stages_are_part_of_their_parent():
    run = make_run(
        (Stage("outer", "student_train", 10, 90, 300), Stage("inner", "evaluate", 30, 40, 300)), end_s=95
    )
    run.stages[1]["parent_uid"] = 0
    rows = by_name(run.derive())
    assert rows["outer"]["gpu_energy_j"] == pytest.approx(80 * 610, abs=0.01)
    assert rows["inner"]["gpu_energy_j"] == pytest.approx(10 * 610, abs=0.01)


def test_two_sessions_are_tiled_apart():
    second = make_run((Stage("more", "student_train", 5, 50, 500),), end_s=60, session=1, mono0=9_000 * S)
    run = join(make_run(), second)
    rows = run.derive()
    holes = [r for r in rows if r["stage"] == "unattributed"]
    assert [r["session"] for r in holes] == [0, 0, 0, 1, 1]
    assert len({r["stage_uid"] for r in rows}) == len(rows)
    assert by_name(rows)["more"]["gpu_energy_j"] == pytest.approx(45 * 1010, abs=0.01)


def test_counter_reset_in_a_stage_is_split_flagged_and_still_closes():
    run = make_run()
    d0 = run.power["device_id"] == 0
    after = 1150 * S
    late = d0 & (run.power["mono_us"] > after)
    offset = run.power["energy_counter_mj"][late][0] - 40_000
    run.power["energy_counter_mj"][late] -= offset
    for row in run.counters:
        if row["device_id"] == 0 and row["mono_us"] > after:
            row["value"] -= offset
    rows = run.derive()
    train = by_name(rows)["train"]
    assert train["gpu_energy_method"] == "counter_split"
    assert "counter_reset" in train["flags"]
    assert train["gpu_energy_j"] == pytest.approx(100 * 1210, rel=0.01)
    assert sum(r["gpu_energy_j"] for r in rows) == pytest.approx(
        sum(run.energy_j(d, 1, 255) for d in (0, 1)), rel=1e-3
    )
    assert by_name(rows)["eval"]["flags"] == []


def test_without_counter_the_integral_stands_in_and_is_flagged():
    run = make_run()
    run.power["energy_counter_mj_valid"][:] = False
    for row in run.counters:
        row["value"] = None
    train = by_name(run.derive())["train"]
    assert train["gpu_energy_method"] == "power_integral"
    assert train["gpu_energy_counter_j"] is None
    assert train["gpu_counter_vs_integral"] is None
    assert train["flags"] == ["counter_missing"]
    truth = 100 * 1210
    assert train["gpu_energy_j_low"] <= truth <= train["gpu_energy_j_high"]
    assert train["gpu_energy_boundary_j"] > 50  # half a step of 520 W at each end cannot be seen


def test_nothing_measured_is_null_not_zero():
    run = make_run()
    one = run.power["device_id"] == 1
    run.power["energy_counter_mj_valid"][one] = False
    run.power["power_mw_valid"][one] = False
    for row in run.counters:
        if row["device_id"] == 1:
            row["value"] = None
    train = by_name(run.derive())["train"]
    assert train["gpu_energy_j"] is None
    assert train["device_energy_j"] is None
    assert train["gpu_energy_method"] == "absent"
    assert "gpu_unmeasured" in train["flags"]
    assert train["missed_samples"] == 200


def test_zero_milliwatts_is_a_failed_read():
    run = make_run()
    pick = np.flatnonzero((run.power["device_id"] == 0) & (run.power["mono_us"] > 1150 * S))[:6]
    run.power["power_mw"][pick] = 0
    train = by_name(run.derive())["train"]
    assert train["missed_samples"] == 6
    assert train["gap_us"] == 3_500_000
    assert "zero_power_readings" in train["flags"]
    assert train["gpu_energy_integral_j"] == pytest.approx(100 * 1210, rel=0.005)
    assert train["gpu_energy_gap_j"] == 0.0, "the counter spans the gap"


def blind(run, start_s, end_s):
    """Take the counter away, and the samples of a while."""
    run.power["energy_counter_mj_valid"][:] = False
    for row in run.counters:
        row["value"] = None
    mono = run.power["mono_us"]
    run.power["power_mw_valid"][(mono > start_s * S) & (mono < end_s * S)] = False
    return by_name(run.derive())["train"]


def test_a_long_gap_without_counter_widens_the_interval_by_limit_times_length():
    train = blind(make_run(devices=1), 1130, 1150)
    gap_s = train["gap_us"] / 1e6
    assert 20 <= gap_s <= 21
    assert train["gpu_energy_gap_j"] == pytest.approx(700 * gap_s / 2)
    assert train["energy_in_gaps_j"] == pytest.approx(600 * gap_s)
    assert train["gpu_energy_j_high"] - train["gpu_energy_j"] == pytest.approx(
        100 * gap_s + train["gpu_energy_boundary_j"]
    )


def test_a_short_gap_is_known_as_well_as_the_rest_of_the_stage_lets_it_be():
    train = blind(make_run(devices=1), 1130, 1135)
    gap_s = train["gap_us"] / 1e6
    assert 5 <= gap_s <= 6
    # 189 samples of 600 W, 80 W before and 400 W after the stage, and a twentieth of anything up to 600 W.
    share = gap_s / 100
    variance = (1 - share) * np.var([80] + [600] * 189 + [400]) + share * 600**2 / 12
    half = 1.96 * gap_s * math.sqrt(variance / 2)
    assert train["gpu_energy_gap_j"] == pytest.approx((half + min(half, 100 * gap_s)) / 2, rel=0.01)
    below = math.hypot(half, train["gpu_energy_boundary_j"])
    assert train["gpu_energy_j"] - train["gpu_energy_j_low"] == pytest.approx(below, rel=0.01)


def test_a_counter_that_lies_is_flagged():
    run = make_run(devices=1)
    for row in run.counters:
        row["value"] = round(row["value"] * 0.57)
    run.power["energy_counter_mj"] = np.rint(run.power["energy_counter_mj"] * 0.57).astype(np.int64)
    named = by_name(run.derive())
    assert "counter_disagrees" in named["train"]["flags"]
    assert named["train"]["gpu_counter_vs_integral"] == pytest.approx(-0.43, abs=0.01)
    truth = by_name(make_run(devices=1).derive())["train"]["gpu_energy_j"]
    assert named["train"]["gpu_energy_j_low"] <= truth <= named["train"]["gpu_energy_j_high"]


def test_a_power_spike_moves_no_energy_where_power_is_all_there_is():
    run = make_run(devices=1)
    run.counters.clear()
    run.power["energy_counter_mj_valid"][:] = False
    plain = by_name(run.derive())["train"]
    inside = np.flatnonzero(run.power["mono_us"] > plain["mono_start_us"])[10]
    run.power["power_mw"][inside] = 65_000_000
    hit = by_name(run.derive())["train"]
    assert plain["gpu_energy_method"] == hit["gpu_energy_method"] == "power_integral"
    assert hit["gpu_energy_j"] == pytest.approx(plain["gpu_energy_j"], rel=1e-9)
    assert "excess_power_readings" in hit["flags"] and "excess_power_readings" not in plain["flags"]


def test_short_stages_say_so():
    named = by_name(make_run((Stage("blink", "evaluate", 10, 12, 300),), end_s=20).derive())
    assert named["blink"]["flags"] == ["short_stage"]
    assert named["unattributed"]["flags"] == []


def test_an_averaged_sensor_widens_only_the_integral():
    run = make_run(devices=1)
    run.power["energy_counter_mj_valid"][:] = False
    for row in run.counters:
        row["value"] = None
    narrow = by_name(run.derive())["train"]["gpu_energy_boundary_j"]
    run.manifest["hardware"]["devices"][0]["instant_supported"] = False
    assert by_name(run.derive())["train"]["gpu_energy_boundary_j"] > narrow


def test_rapl_counts_packages_and_dram_only():
    named = by_name(make_run(rapl=True).derive())
    train = named["train"]
    assert (train["cpu_energy_method"], train["dram_energy_method"]) == ("rapl", "rapl")
    assert train["cpu_energy_j"] == pytest.approx(150 * 100, abs=0.01)
    assert train["dram_energy_j"] == pytest.approx(12 * 100, abs=0.01)
    assert train["cpu_energy_j_low"] < train["cpu_energy_j"] < train["cpu_energy_j_high"]
    assert train["cpu_energy_j_high"] - train["cpu_energy_j"] < 1.0


def test_codecarbon_is_an_estimate_from_nothing_to_twice():
    train = by_name(make_run(codecarbon=True).derive())["train"]
    assert train["cpu_energy_method"] == "codecarbon_process"
    assert train["cpu_energy_j"] == pytest.approx(3500, rel=1e-6)
    assert (train["cpu_energy_j_low"], train["cpu_energy_j_high"]) == (0.0, pytest.approx(7000, rel=1e-6))
    assert train["flags"] == ["cpu_estimated"]
    assert train["dram_energy_j"] == pytest.approx(500, rel=1e-6)


def test_a_machine_without_gpu_still_has_tiles():
    run = make_run(devices=0, codecarbon=True)
    rows = run.derive()
    assert [r["stage"] for r in rows].count("unattributed") == 3
    assert all(r["gpu_energy_j"] is None and r["gpu_energy_method"] == "absent" for r in rows)
    assert sum(r["cpu_energy_j"] for r in rows) == pytest.approx(35 * 254, rel=1e-6)


def test_recorded_flags_and_imported_figures_stay():
    run = make_run(devices=0)
    run.counters.clear()
    row = run.stages[2]
    row.update(
        flags=["shared_gpu", "gap"],
        gpu_energy_method="imported",
        gpu_energy_j=5.0,
        gpu_energy_j_low=4.0,
        gpu_energy_j_high=6.0,
        cpu_energy_method="imported",
        cpu_energy_j=1.0,
        samples=3,
        missed_samples=0,
        longest_gap_us=0,
        gap_us=0,
    )
    train = by_name(run.derive())["train"]
    assert (train["gpu_energy_j"], train["cpu_energy_j"], train["samples"]) == (5.0, 1.0, 3)
    assert train["flags"] == ["shared_gpu"]


def test_derive_takes_one_series_at_a_time():
    run = make_run()
    alive = []

    def stream():
        for series in run.power_series():
            alive.append(series.device_id)
            yield series

    from harness.accounting.series import Sampling

    rows = derive_stages(run.stages, stream(), run.counter_series(), Sampling())
    assert alive == [0, 1]
    assert by_name(rows)["train"]["gpu_energy_j"] == pytest.approx(121_000, abs=0.01)
