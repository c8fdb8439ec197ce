"""Runs with a fault at a set time inside, or at the end of, their middle stage, and what must hold of each.

Every scenario is a run of its own; a few run at once, since they mostly wait.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from harness.validate.engine import validate
from tests.lab import Const, Fault, LabConfig, LabDevice, Refresh, Sine, Square, mono_us
from tests.meter.runs import Sealed, environment, run_program
from tests.meter.truth import (
    PLACED,
    allowed_j,
    assert_interval_holds,
    assert_placed,
    assert_ticks_honest,
    assert_tiled,
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


Plays = Callable[[str], Played]


@contextmanager
def playing(lab: Path, folder: Path, scenarios: Mapping[str, Scenario]) -> Iterator[Plays]:
    """All scenarios, started at once and waited for by the test that asks."""
    with ThreadPoolExecutor(6) as pool:
        runs: dict[str, Future[Played]] = {
            name: pool.submit(play, lab, folder / name.replace(" ", "-").replace(",", ""), scenario)
            for name, scenario in scenarios.items()
        }
        yield lambda name: runs[name].result()


def assert_right_or_flagged(one: Played) -> None:
    """Every stage is there, and its figure is right, or flagged with an interval that holds the truth."""
    config, run = one.config, one.run
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
        allowed = sum(allowed_j(config, row, position) for position in range(len(row["device_ids"])))
        if abs(row["gpu_energy_j"] - truth_j) > allowed:
            assert row["flags"], (row["gpu_energy_j"], truth_j)
            assert row["gpu_energy_method"] not in PLACED or row["gpu_energy_boundary_j"] > 1.0
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


def assert_counter_exact(one: Played) -> None:
    """A fault between the boundaries costs the counter nothing."""
    config, run = one.config, one.run
    assert_placed(config, run, *run.stages)
    assert_ticks_honest(config, run)
    assert_tiled(run)
