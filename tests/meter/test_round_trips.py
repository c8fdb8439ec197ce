"""A boundary is one message to each helper and awaits no answer: helpers sleep while stages come and go."""

from __future__ import annotations

import json
from pathlib import Path

from tests.lab import Const, LabConfig, LabDevice, Refresh, Sine
from tests.meter.runs import environment, run_program
from tests.meter.truth import assert_interval_holds, assert_placed

PROGRAM = """
import json, os, signal, sys, time
from pathlib import Path
from harness import Meter
from harness.meter.helper import Helper

counts = {"sent": 0, "received": 0}
def count(name, key):
    plain = getattr(Helper, name)
    def counted(helper, *arguments):
        counts[key] += 1
        return plain(helper, *arguments)
    setattr(Helper, name, counted)

def asleep(pid):
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"

shown = []
with Meter(out=sys.argv[1], cpu="codecarbon") as meter:
    helpers = meter._session.client.helper_pids()
    time.sleep(1.2)
    count("send", "sent")
    count("receive", "received")
    for sleep in (False, True):
        for position in range(3):
            if sleep and position == 0:
                for pid in helpers:
                    os.kill(pid, signal.SIGSTOP)
                while not all(map(asleep, helpers)):
                    time.sleep(0.01)
            before = dict(counts)
            with meter.stage(f"{'asleep' if sleep else 'awake'}{position}", kind="x-work"):
                time.sleep(0.4)
            shown.append([counts["sent"] - before["sent"], counts["received"] - before["received"]])
        still = all(map(asleep, helpers))
    for pid in helpers:
        os.kill(pid, signal.SIGCONT)
    with meter.stage("awake again", kind="x-work"):
        time.sleep(1.2)
json.dump({"helpers": len(helpers), "stages": shown, "still": still}, open(sys.argv[2], "w"))
"""


def test_a_boundary_awaits_no_answer(lab_dir: Path, tmp_path: Path) -> None:
    waves = (Const(300.0), Sine(80.0, 80.0, 3_000_000))
    config = LabConfig((LabDevice(waves=waves, counter=Refresh(100_000, 12_345)),))
    env = environment(config, lab_dir)
    run = run_program(tmp_path / "run", PROGRAM, str(tmp_path / "shown.json"), env=env)
    shown = json.loads((tmp_path / "shown.json").read_text())
    assert shown["helpers"] == 2
    # One message to each helper where the stage begins and one where it ends, and no answer at all.
    assert shown["stages"] == [[2 * 2, 0]] * 6
    # They slept all the while: nobody can have answered in another way.
    assert shown["still"]
    names = [row["name"] for row in run.stages]
    assert names == [f"{word}{k}" for word in ("awake", "asleep") for k in range(3)] + ["awake again"]
    moments = run.gpu_boundaries()
    assert [row["method"] for row in moments] == ["moment"] * 14
    for row in run.stages:
        assert row["status"] == "completed"
        assert_interval_holds(config, row)
    assert not run.events("sampler_lost")
    # What was told while they slept is read late: no refresh was seen beside it, and the method says so.
    assert run.stage("asleep1")["gpu_energy_method"] == "counter_sample"
    assert_placed(config, run, run.stage("awake1"))
