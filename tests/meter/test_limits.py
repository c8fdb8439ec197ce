"""Power limits that change: within a session, between two, and what the accounting makes of them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from harness.bundle.derive import device_limits
from harness.validate.engine import validate
from tests.lab import Const, LabConfig, LabDevice, Refresh, mono_us, override
from tests.meter.runs import Sealed, environment, run_program, run_stages

PERIOD_MS = 20
RESUMED = """
import sys, time
from harness import Meter
with Meter(out=sys.argv[1], cpu="none", period_ms=20, resume=True) as meter:
    with meter.stage("evaluate"):
        time.sleep(0.3)
"""


def changes(run: Sealed) -> list[tuple[int, int, int, int]]:
    """(session, device, before, after) of every change, in W."""
    found = run.events("power_limit_change")
    assert {event["severity"] for event in found} <= {"warning"}
    return [
        (e["session"], e["device_id"], *(e["detail"][f"{when}_mw"] // 1000 for when in ("before", "after")))
        for e in found
    ]


def test_limits_that_change_are_events_and_the_highest_bounds_the_energy(
    lab_dir: Path, tmp_path: Path
) -> None:
    """700 W, within the session 500 W; then two sessions at 500 and 650 W. The second card never changes."""
    steady = LabDevice((Const(200.0),), Refresh(50_000, 20_000))
    for after_s in (5, 20, 80):
        out, change_us = tmp_path / f"run-{after_s}", mono_us() + after_s * 1_000_000
        lowered = replace(steady, faults=(override("power_limit_mw", 500_000, after_s * 1_000_000),))
        config = LabConfig((lowered, steady), t0_us=change_us - after_s * 1_000_000)
        first = run_stages(out, config, lab_dir, [after_s + 1.0], period_ms=PERIOD_MS)
        if first.rows("power")[0]["mono_us"] < change_us:  # else a busy machine started the program too late
            break
    assert changes(first) == [(0, 0, 700, 500)]
    at_us = first.events("power_limit_change")[0]["mono_us"]
    # Limits are read at every twentieth sample.
    samples = [row["mono_us"] for row in first.rows("power") if row["device_id"] == 0]
    assert change_us <= at_us
    assert sum(change_us < mono_us <= at_us for mono_us in samples) <= 2 * 20

    for watts in (500, 650):
        device = replace(steady, power_limit_mw=watts * 1000)
        run_program(out, RESUMED, env=environment(LabConfig((device, steady)), lab_dir))
    last = Sealed(out)
    assert changes(last) == [(0, 0, 700, 500), (2, 0, 500, 650)]
    stated = {d["device_id"]: d["power_limit_mw"] for d in last.manifest["hardware"]["devices"]}
    assert stated == {0: 650_000, 1: 700_000}
    assert device_limits(last.manifest)[0].max_mw == 650_000
    limits = device_limits(last.manifest, last.rows("events"))
    assert {device: limit.max_mw for device, limit in limits.items()} == {0: 700_000, 1: 700_000}
    assert not [f for f in validate(out, (0, 1, 2)).findings if f.severity == "error"]


def test_a_limit_that_cannot_be_read_is_no_change(lab_dir: Path, tmp_path: Path) -> None:
    from tests.lab import fails

    device = LabDevice((Const(200.0),), faults=(fails("nvmlDeviceGetPowerManagementLimit", 3),))
    run = run_stages(tmp_path / "run", LabConfig((device,)), lab_dir, [0.5], period_ms=PERIOD_MS)
    assert changes(run) == []
    assert run.manifest["hardware"]["devices"][0]["power_limit_mw"] is None
    assert device_limits(run.manifest, run.rows("events"))[0].max_mw is None
