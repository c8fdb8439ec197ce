"""What goes wrong while a stage runs: each case ends in a right figure or a flagged one with a wide interval.

Every scenario is a run of its own with a fault at a set time inside, or at the end of, its middle stage; a
few run at once, since they mostly wait.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from harness.validate.engine import validate
from tests.lab import (
    Const,
    Fault,
    LabConfig,
    LabDevice,
    Mig,
    Refresh,
    Sine,
    Square,
    clock_step_env,
    counter_reset,
    counter_stuck,
    error_burst,
    fails,
    gpu_lost,
    mono_us,
    not_supported,
    obey_file_modes,
    process,
    stall,
    zero_power,
)
from tests.meter.runs import Sealed, environment, kit, run_program, write_pipeline
from tests.meter.truth import (
    assert_interval_holds,
    assert_ticks_honest,
    assert_tiled,
    bar,
    device_truth_j,
)

# Three stages at set times after the lab's origin; prepared in argv[3]: code that runs at the start of `hit`.
PROGRAM = """
import json, os, resource, sys, time
from harness import Meter
plan = json.loads(sys.argv[2])
t0 = plan["t0_us"] / 1e6
def sleep_until(at):
    while (left := at - time.monotonic()) > 0:
        time.sleep(left)
def hit(meter):
    exec(plan["during"])
open(plan["pid_file"], "w").write(str(os.getpid()))
with Meter(out=sys.argv[1], cpu="none", **plan["meter"]) as meter:
    if time.monotonic() > t0 + plan["begin_s"]:
        os._exit(75)  # too late to be hit where it was meant: the machine is slow
    sleep_until(t0 + plan["begin_s"])
    for name, seconds in (("before", 1.05), ("hit", 3.0), ("after", 1.05)):
        begun = time.monotonic()
        with meter.stage(name, kind="x-work") as stage:
            stage.add_tokens(processed=7)
            if name == "hit":
                hit(meter)
            sleep_until(begun + seconds)
"""
WAVES = (Const(90.0), Square(0.0, 260.0, 730_000, 0.4), Sine(150.0, 120.0, 410_000))
S = 1_000_000
TOO_LATE = 75


@dataclass(frozen=True)
class Scenario:
    """Faults of device 0; times are seconds after the start of the first stage (`hit` is 1.05 ... 4.05)."""

    faults: Callable[[Callable[[float], int]], Sequence[Fault]] = lambda at: ()
    device: Mapping[str, Any] = field(default_factory=dict)
    others: int = 0
    env: Callable[[Path, Callable[[float], int]], Mapping[str, str]] = lambda lab, at: {}
    during: str = "pass"
    popen: Mapping[str, Any] = field(default_factory=dict)
    meter: Mapping[str, Any] = field(default_factory=dict)
    own_process: bool = False


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
    "error burst": Scenario(lambda at: [error_burst(at(1.5), at(3.4))]),
    "not supported burst": Scenario(lambda at: [not_supported("*", at(1.5), at(3.4))]),
    "zero power burst": Scenario(lambda at: [zero_power(at(1.5), at(3.4))]),
    "zero power burst, no counter": Scenario(
        lambda at: [
            zero_power(at(1.5), at(3.4)),
            not_supported("field:83"),
            not_supported("nvmlDeviceGetTotalEnergyConsumption"),
        ]
    ),
    "counter unreadable at the boundary": Scenario(lambda at: [error_burst(at(3.9), at(5.0), "field:83")]),
    "gpu lost": Scenario(lambda at: [gpu_lost(at(2.4))], others=1),
    "gpu lost for a while": Scenario(lambda at: [gpu_lost(at(1.5), at(3.4))]),
    "counter stuck": Scenario(lambda at: [counter_stuck(at(1.8))]),
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
    "disk full for a while": Scenario(
        during="""
for pid in (0, meter._session.client.sampler_pid):
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (64, resource.RLIM_INFINITY))
time.sleep(1.8)
for pid in (0, meter._session.client.sampler_pid):
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
"""
    ),
    "disk full for the sampler to the end": Scenario(
        during="""
pid = meter._session.client.sampler_pid
resource.prlimit(pid, resource.RLIMIT_FSIZE, (64, resource.RLIM_INFINITY))
"""
    ),
    "journal folder becomes read-only": Scenario(
        during="os.chmod(meter.out / 'journal', 0o555)", popen={"preexec_fn": obey_file_modes}
    ),
    "sampler dies in a read-only folder": Scenario(
        during="""
os.chmod(meter.out / "journal", 0o555)
time.sleep(0.5)
os.kill(meter._session.client.sampler_pid, 9)
""",
        popen={"preexec_fn": obey_file_modes},
    ),
    "sampler dies": Scenario(during="time.sleep(1.2); os.kill(meter._session.client.sampler_pid, 9)"),
    "gpu lost, then the sampler dies": Scenario(
        lambda at: [gpu_lost(at(1.5))],
        others=1,
        during="time.sleep(1.2); os.kill(meter._session.client.sampler_pid, 9)",
    ),
}


@dataclass(frozen=True)
class Played:
    config: LabConfig
    run: Sealed


def play(lab: Path, folder: Path, scenario: Scenario, begin_s: float = 5.0) -> Played:
    folder.mkdir()
    origin_us = mono_us()

    def at(seconds: float) -> int:
        return round((begin_s + seconds) * S)

    pid_file = folder / "pid"
    device = LabDevice(
        WAVES,
        Refresh(100_000, 31_000),
        Refresh(100_000, 64_000),
        faults=tuple(scenario.faults(at)),
        process_file=str(pid_file) if scenario.own_process else "",
    )
    healthy = LabDevice((Const(220.0),), Refresh(100_000, 77_000))
    config = LabConfig((replace(device, **scenario.device), *[healthy] * scenario.others), t0_us=origin_us)
    plan = {
        "t0_us": origin_us,
        "begin_s": begin_s,
        "during": scenario.during,
        "meter": dict(scenario.meter),
        "pid_file": str(pid_file),
    }
    extra = scenario.env(lab, lambda seconds: origin_us + at(seconds))
    out = folder / "run"
    run = run_program(
        out,
        PROGRAM,
        json.dumps(plan),
        env=environment(config, lab, extra),
        code_wanted=(0, TOO_LATE),
        **scenario.popen,
    )
    if run.exit_code == TOO_LATE and begin_s < 30:
        return play(lab, folder.with_name(folder.name + "-again"), scenario, 3 * begin_s)
    return Played(config, run)


@pytest.fixture(scope="module")
def played(lab_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], Played]]:
    """All scenarios, started at once and waited for by the test that asks."""
    folder = tmp_path_factory.mktemp("faults")
    with ThreadPoolExecutor(6) as pool:
        runs: dict[str, Future[Played]] = {
            name: pool.submit(play, lab_dir, folder / name.replace(" ", "-").replace(",", ""), scenario)
            for name, scenario in SCENARIOS.items()
        }
        yield lambda name: runs[name].result()


@pytest.mark.parametrize("name", SCENARIOS)
def test_every_fault_ends_in_a_right_or_flagged_figure(played: Callable[[str], Played], name: str) -> None:
    config, run = (one := played(name)).config, one.run
    assert [row["name"] for row in run.stages] == ["before", "hit", "after"]
    for row in run.stages:
        assert row["status"] == "completed"
        assert row["tokens_processed"] == 7
        if row["gpu_energy_j"] is None:
            assert row["gpu_energy_method"] == "absent"
            assert row["flags"]
            continue
        truth_j = sum(device_truth_j(config, row))
        assert row["gpu_energy_j"] > 0
        if row["gpu_energy_method"] == "power_integral":
            # Its interval is two standard errors of the sampling, so a rare truth lies outside of it.
            half_j = max(
                row["gpu_energy_j_high"] - row["gpu_energy_j"], row["gpu_energy_j"] - row["gpu_energy_j_low"]
            )
            assert abs(row["gpu_energy_j"] - truth_j) <= 2 * half_j
        else:
            assert_interval_holds(config, row)
        if abs(row["gpu_energy_j"] / truth_j - 1) > bar(row["mono_end_us"] - row["mono_start_us"]):
            assert row["flags"], (row["gpu_energy_j"], truth_j)
            assert row["gpu_energy_method"] != "counter_tick" or row["gpu_energy_boundary_j"] > 1.0
    # A failed read is null; no figure was made up.
    power = run.rows("power")
    assert power
    for reading in power:
        assert reading["power_mw"] is None or reading["power_mw"] >= 60_000
        assert reading["energy_counter_mj"] is None or reading["energy_counter_mj"] >= 0
    mono = [r["mono_us"] for r in power if r["device_id"] == 0]
    assert mono == sorted(set(mono))
    findings = [f for f in validate(run.folder, (0, 1)).findings if f.severity == "error"]
    assert not findings, findings
    assert not list((run.folder / "journal").glob("*.jnl")) or "read-only" in name


@pytest.mark.parametrize(
    "name",
    [
        "healthy",
        "no field api",
        "no instant power",
        "error burst",
        "not supported burst",
        "zero power burst",
        "gpu lost for a while",
        "stall inside",
        "clock ahead and back",
        "foreign process at the end",
        "mig",
        "disk full for a while",
        "journal folder becomes read-only",
    ],
)
def test_faults_between_the_boundaries_leave_the_counter_exact(
    played: Callable[[str], Played], name: str
) -> None:
    config, run = (one := played(name)).config, one.run
    for row in run.stages:
        for position, truth_j in enumerate(device_truth_j(config, row)):
            length_us = row["device_end_us"][position] - row["device_start_us"][position]
            assert row["device_energy_j"][position] == pytest.approx(truth_j, rel=bar(length_us))
        assert row["gpu_energy_method"] == "counter_tick"
    assert_ticks_honest(config, run)
    assert_tiled(run)


def test_a_healthy_run_is_not_flagged(played: Callable[[str], Played]) -> None:
    run = played("healthy").run
    for row in run.stages:
        # A second of a fast waveform is too short for the cross-check by two samples.
        assert set(row["flags"]) <= {"short_stage", "counter_disagrees"}
    assert not [e for e in run.events() if e["severity"] != "info"]
    assert run.manifest["status"] == "complete"
    assert run.manifest["shared_node"] is False


@pytest.mark.parametrize("name", ["counter reset", "counter reset twice"])
def test_a_reset_splits_the_stage(played: Callable[[str], Played], name: str) -> None:
    config, run = (one := played(name)).config, one.run
    hit = run.stage("hit")
    assert hit["gpu_energy_method"] == "counter_split"
    assert "counter_reset" in hit["flags"]
    assert hit["gpu_energy_j"] == pytest.approx(sum(device_truth_j(config, hit)), rel=0.2)
    assert len(run.events("counter_reset")) == len(config.devices[0].faults)
    for row in (run.stage("before"), run.stage("after")):
        assert row["gpu_energy_method"] == "counter_tick"
        assert row["gpu_energy_j"] == pytest.approx(sum(device_truth_j(config, row)), rel=1e-3)


@pytest.mark.parametrize("name", ["no counter", "no counter, averaged power", "zero power burst, no counter"])
def test_without_a_counter_power_is_integrated_and_says_so(
    played: Callable[[str], Played], name: str
) -> None:
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
        assert width_j > 100 * (sharp["gpu_energy_j_high"] - sharp["gpu_energy_j_low"])
        # Nobody waits for the tick of a counter that is not there.
        assert row["mono_end_us"] - row["work_end_us"] < 90_000
    fallbacks = {e["detail"]["quantity"]: e["detail"]["method"] for e in run.events("field_fallback")}
    assert fallbacks["energy"] == "absent"
    assert all(r["energy_counter_mj"] is None for r in run.rows("power"))


def test_older_calls_stand_in_for_the_field_api(played: Callable[[str], Played]) -> None:
    run = played("no field api").run
    device = run.manifest["hardware"]["devices"][0]
    assert device["counter_supported"] is True
    assert device["instant_supported"] is device["average_supported"] is False
    fallbacks = {e["detail"]["quantity"]: e["detail"]["method"] for e in run.events("field_fallback")}
    assert fallbacks == {"energy": "call", "instant": "call", "average": "absent"}
    assert all(r["power_mw"] and r["energy_counter_mj"] for r in run.rows("power"))
    assert all(r["power_average_mw"] is None for r in run.rows("power"))


def test_usage_stands_in_for_instant_power(played: Callable[[str], Played]) -> None:
    run = played("no instant power").run
    assert run.manifest["hardware"]["devices"][0]["instant_supported"] is False
    fallbacks = {e["detail"]["quantity"]: e["detail"]["method"] for e in run.events("field_fallback")}
    assert fallbacks == {"instant": "call"}
    assert all(r["power_mw"] == r["power_average_mw"] for r in run.rows("power")[2:])


@pytest.mark.parametrize("name", ["error burst", "not supported burst", "zero power burst"])
def test_bursts_leave_nulls_and_a_gap(played: Callable[[str], Played], name: str) -> None:
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


def test_a_counter_that_cannot_be_read_at_a_boundary_is_interpolated(
    played: Callable[[str], Played],
) -> None:
    run = played("counter unreadable at the boundary").run
    assert [r["value"] for r in run.gpu_boundaries()].count(None) == 1
    hit = run.stage("hit")
    assert "counter_boundary_missing" in hit["flags"]
    assert hit["gpu_energy_method"] == "counter_sample"
    # The next stage does not begin on a boundary that nobody could read.
    assert run.stage("after")["gpu_energy_method"] == "counter_tick"
    assert not run.events("counter_stuck")


def test_a_lost_gpu_is_lost_and_the_other_is_not(played: Callable[[str], Played]) -> None:
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
    assert after["gpu_energy_method"] != "counter_tick"
    assert after["flags"]


def test_a_counter_that_stands_still_is_noticed(played: Callable[[str], Played]) -> None:
    run = played("counter stuck").run
    for name in ("hit", "after"):
        assert "counter_stuck" in run.stage(name)["flags"]
        assert run.stage(name)["gpu_energy_method"] != "counter_tick"
    assert run.events("counter_stuck")


def test_a_stall_is_a_gap(played: Callable[[str], Played]) -> None:
    run = played("stall inside").run
    hit = run.stage("hit")
    # The stalled read is stamped half-way through its two seconds, half a period after the last good one.
    assert hit["longest_gap_us"] > 1_490_000
    assert "gap" in hit["flags"]
    assert [e for e in run.events("gap") if e["detail"]["missed_ticks"] >= 2]
    assert run.manifest["sampling"]["sessions"][0]["missed_ticks"] >= 2


def test_a_stalled_boundary_is_exact_or_wide(played: Callable[[str], Played]) -> None:
    one = played("stall at the boundary")
    assert_ticks_honest(one.config, one.run)


def test_clock_steps_are_noticed_and_harmless(played: Callable[[str], Played]) -> None:
    run = played("clock ahead and back").run
    steps = [round(e["detail"]["step_us"] / 1e6) for e in run.events("clock_step")]
    assert steps == [3600, -5400]
    assert "clock_step" in run.stage("hit")["flags"]
    assert "clock_step" not in run.stage("before")["flags"]
    hit = run.stage("hit")
    assert hit["t_end_us"] - hit["t_start_us"] < 0  # as the wall clock showed it


def test_a_foreign_process_flags_the_stage_it_was_seen_in(played: Callable[[str], Played]) -> None:
    run = played("foreign process at the end").run
    assert "shared_gpu" in run.stage("hit")["flags"]
    assert "shared_gpu" not in run.stage("before")["flags"] + run.stage("after")["flags"]
    assert run.events("foreign_process")[0]["detail"] == {"processes": 1}
    assert run.manifest["shared_node"] is True


def test_a_mig_instance_is_billed_as_its_whole_card(played: Callable[[str], Played]) -> None:
    run = played("mig").run
    assert [d["device_id"] for d in run.manifest["hardware"]["devices"]] == [0]
    assert run.manifest["hardware"]["devices"][0]["mig"] is True
    assert all("mig" in row["flags"] for row in run.stages)


def test_a_full_disk_delays_the_log_and_loses_nothing(played: Callable[[str], Played]) -> None:
    run = played("disk full for a while").run
    events = [e["detail"]["recovered"] for e in run.events("disk_full")]
    assert False in events and True in events
    assert "journal_delayed" in run.stage("hit")["flags"]
    mono = [r["mono_us"] for r in run.rows("power")]
    assert max(b - a for a, b in pairwise(mono)) < 1_000_000
    assert run.stage("hit")["missed_samples"] == 0


def test_a_disk_that_stays_full_keeps_the_stages(played: Callable[[str], Played]) -> None:
    run = played("disk full for the sampler to the end").run
    assert run.stage("before")["gpu_energy_method"] == "counter_tick"
    for name in ("hit", "after"):
        row = run.stage(name)
        assert row["work_end_us"] > row["work_start_us"]
        assert row["gpu_energy_method"] != "counter_tick"
        assert row["flags"]
    assert run.events("journal_error")


def test_a_dead_sampler_is_replaced(played: Callable[[str], Played]) -> None:
    run = played("sampler dies").run
    hit = run.stage("hit")
    assert "sampler_restarted" in hit["flags"]
    assert hit["gpu_energy_method"] == "counter_tick"
    config = played("sampler dies").config
    assert hit["gpu_energy_j"] == pytest.approx(sum(device_truth_j(config, hit)), rel=1e-3)
    assert run.events("sampler_lost")[0]["detail"]["exit_code"] == -9
    boundaries = [r["boundary"] for r in run.gpu_boundaries()]
    assert len(boundaries) == len(set(boundaries))


def test_a_sampler_that_cannot_come_back_is_done_without(played: Callable[[str], Played]) -> None:
    run = played("sampler dies in a read-only folder").run
    assert run.stage("before")["gpu_energy_method"] == "counter_tick"
    assert "sampler_restarted" in run.stage("hit")["flags"]
    assert any(e["detail"].get("final") for e in run.events("sampler_lost"))
    assert run.stage("after")["gpu_energy_method"] != "counter_tick"


def test_a_device_that_is_gone_when_the_sampler_returns_stays_in_the_books(
    played: Callable[[str], Played],
) -> None:
    run = played("gpu lost, then the sampler dies").run
    hit = run.stage("hit")
    assert hit["device_ids"] == [0, 1]
    assert {"gpu_lost", "sampler_restarted"} <= set(hit["flags"])


GARBAGE = r"""
import os
path = os.environ["KIT_EVENTS"]
with open(path, "ab") as stream:
    stream.write(b'{"tokens_processed": 1000}\n')
    stream.write(b'\xff\xfe\x00garbage\n{"tokens_processed": -5}\n{"tokens_processed": 1e400}\n[1, 2]\n')
    stream.write(b'{"tokens_processed": "many"}\n{"event": 7}\n' + b'[' * 5000)
    stream.write(b'\n{"tokens_processed": NaN}\n')
    stream.write(b'{"tokens_trained": ' + b'9' * 400 + b'}\n{"unknown": 1}\n\n')
    stream.write(b'{"event": "checkpoint", "step": 3}\n{"tokens_processed": 24}')
"""


def test_garbage_in_the_report_file_is_flagged_and_the_rest_counted(lab_dir: Path, tmp_path: Path) -> None:
    config = LabConfig()
    pipeline = write_pipeline(tmp_path, [{"command": ["python", "-c", GARBAGE]}])
    env = environment(config, lab_dir)
    done = kit("audit", pipeline, "--out", tmp_path / "run", "--cpu", "none", env=env)
    assert done.returncode == 0, done.stdout + done.stderr
    run = Sealed(tmp_path / "run")
    row = run.stages[0]
    assert row["tokens_processed"] == 1024
    assert row["tokens_trained"] is None
    assert "bad_report" in row["flags"]
    assert run.events("x-bad_report")
    assert run.events("checkpoint")[0]["detail"]["report"] == {"step": 3}


def test_a_machine_without_nvml_meters_no_gpu_and_says_so(tmp_path: Path) -> None:
    env = environment(None, tmp_path)
    out = tmp_path / "run"
    code = """
    import sys
    from harness import Meter
    with Meter(out=sys.argv[1], cpu="none") as meter, meter.stage("evaluate"):
        pass
    """
    run = run_program(out, code, env=env)
    assert "no_gpu" in run.manifest["labels"]
    assert run.stages[0]["gpu_energy_j"] is None
    assert run.stages[0]["gpu_energy_method"] == run.stages[0]["cpu_energy_method"] == "absent"


def test_devices_that_were_asked_for_must_be_there(lab_dir: Path, tmp_path: Path) -> None:
    code = """
    import sys
    from harness import Meter
    from harness.errors import KitError
    try:
        with Meter(out=sys.argv[1], cpu="none", devices=[5]):
            pass
    except KitError as error:
        print("refused:", error)
        sys.exit(9)
    """
    run_program(tmp_path / "run", code, env=environment(LabConfig(init_error=9), lab_dir), code_wanted=9)
    run_program(tmp_path / "two", code, env=environment(LabConfig(), lab_dir), code_wanted=9)
    assert not list((tmp_path / "run" / "journal").glob("*"))


def test_a_lost_gpu_at_the_start_is_not_metered(lab_dir: Path, tmp_path: Path) -> None:
    config = LabConfig((LabDevice(faults=(fails("*", 15),)), LabDevice()))
    code = """
    import sys, time
    from harness import Meter
    with Meter(out=sys.argv[1], cpu="none") as meter, meter.stage("evaluate"):
        time.sleep(0.3)
    """
    run = run_program(tmp_path / "run", code, env=environment(config, lab_dir))
    assert run.stages[0]["device_ids"] == [1]
