"""The sampler is a process of its own: what a stage does to its interpreter costs no sample."""

from __future__ import annotations

import json
import re
import time
from itertools import pairwise
from pathlib import Path

import pytest

from harness.journal.records import read_journal
from harness.meter.cells import LOOKS_BEHIND
from harness.meter.client import MeterClient, MeterConfig
from tests.lab import LabConfig, LabDevice, Refresh, random_waveform, read_calls
from tests.meter.runs import environment, run_program
from tests.meter.truth import assert_placed

# Holds the interpreter lock for four seconds: PyDLL calls C without releasing it.
HOLDS_THE_LOCK = """
import ctypes, sys, threading, time
from harness import Meter
with Meter(out=sys.argv[1], cpu="none") as meter:
    with meter.stage("hold", kind="x-work"):
        ticks = []
        def count():
            while not done:
                ticks.append(time.monotonic())
                time.sleep(0.01)
        done = False
        thread = threading.Thread(target=count)
        thread.start()
        before = time.monotonic()
        ctypes.PyDLL(None).sleep(4)
        held = time.monotonic()
        done = True
        thread.join()
assert not [t for t in ticks if before + 0.5 < t < held - 0.5], "the lock was not held"
"""


def test_a_stage_that_holds_the_interpreter_lock_costs_no_sample(lab_dir: Path, tmp_path: Path) -> None:
    config = LabConfig((LabDevice(random_waveform(11)),))
    run = run_program(tmp_path / "run", HOLDS_THE_LOCK, env=environment(config, lab_dir))
    hold = run.stage("hold")
    assert hold["missed_samples"] == 0
    assert hold["gap_us"] == 0
    mono = [r["mono_us"] for r in run.rows("power")]
    inside = [m for m in mono if hold["mono_start_us"] <= m <= hold["mono_end_us"]]
    assert len(inside) >= 7
    assert max(b - a for a, b in pairwise(mono)) < 800_000
    assert_placed(config, run, *run.stages)


def test_samples_keep_to_their_deadlines(lab_dir: Path, tmp_path: Path) -> None:
    """The schedule is absolute: an offset of one sample is not carried over to the next ones."""
    config = LabConfig((LabDevice(),))
    code = """
    import sys, time
    from harness import Meter
    with Meter(out=sys.argv[1], cpu="none", period_ms=20) as meter, meter.stage("idle"):
        time.sleep(6)
    """
    run = run_program(tmp_path / "run", code, env=environment(config, lab_dir))
    mono = [r["mono_us"] for r in run.rows("power")]
    session = run.manifest["sampling"]["sessions"][0]
    gaps = [
        (e["mono_us"], json.loads(e["detail"])["missed_ticks"])
        for e in run.rows("events")
        if e["kind"] == "gap"
    ]
    missed = sum(ticks for at_us, ticks in gaps if at_us > mono[0])
    # A busy machine delays single samples, and says which it missed. A relative schedule would lose its own
    # cost at every tick: over 300 ticks, several of them.
    assert len(mono) - 1 + missed == pytest.approx((mono[-1] - mono[0]) / 20_000, abs=2.5)
    assert session["ticks"] >= 290 - session["missed_ticks"]
    assert session["sampler_cpu_s"] > 0
    assert session["sampler_wall_s"] > 6
    assert run.manifest["sampling"]["nominal_period_us"] == 20_000
    assert session["jitter_p50_us"] <= session["jitter_p95_us"] <= session["jitter_max_us"]


def test_the_sampler_loads_nothing_heavy(lab_dir: Path, tmp_path: Path) -> None:
    code = """
    import json, os, sys, time
    from pathlib import Path
    from harness.meter.client import MeterClient, MeterConfig
    folder = Path(sys.argv[1])
    folder.mkdir()
    client = MeterClient(folder, 0, MeterConfig(cpu="none"), lambda *words: None)
    client.start()
    client.boundary(time.monotonic_ns() // 1000)
    client.settle()
    maps = Path(f"/proc/{client.sampler_pid}/maps").read_text()
    status = Path(f"/proc/{client.sampler_pid}/status").read_text()
    print(json.dumps({"maps": maps, "status": status}), file=open(sys.argv[2], "w"))
    client.stop()
    """
    seen = tmp_path / "seen.json"
    run_program(tmp_path / "journal", code, str(seen), env=environment(LabConfig(), lab_dir))
    found = json.loads(seen.read_text())
    mapped = {Path(line.split()[-1]).name for line in found["maps"].splitlines() if ".so" in line}
    assert "libnvidia-ml.so.1" in mapped
    assert not [name for name in mapped if re.search("numpy|arrow|torch|openblas|pydantic|pandas", name)]
    resident_kib = int(re.search(r"VmRSS:\s+(\d+)", found["status"])[1])  # type: ignore[index]
    assert resident_kib < 60_000
    threads = int(re.search(r"Threads:\s+(\d+)", found["status"])[1])  # type: ignore[index]
    assert threads == 1


def test_calls_of_a_tick_are_few(lab_dir: Path, tmp_path: Path) -> None:
    """Each call takes the driver's lock: a field query and five gauges a sample; process lists at ends."""
    calls = tmp_path / "calls"
    config = LabConfig((LabDevice(), LabDevice()), calls_path=str(calls))
    code = """
    import sys, time
    from pathlib import Path
    from harness.meter.client import MeterClient, MeterConfig
    folder = Path(sys.argv[1])
    folder.mkdir()
    client = MeterClient(folder, 0, MeterConfig(cpu="none", period_us=100_000), lambda *words: None)
    client.start()
    sys.path.insert(0, sys.argv[3])
    from tests.lab import read_calls
    before = read_calls(Path(sys.argv[2]))
    def samples(counts):
        return counts["nvmlDeviceGetTemperature"]
    until = time.monotonic() + 120
    while samples(after := read_calls(Path(sys.argv[2]))) < samples(before) + 40 and time.monotonic() < until:
        time.sleep(0.1)
    client.boundary(time.monotonic_ns() // 1000)
    client.settle()
    started = read_calls(Path(sys.argv[2]))
    client.boundary(time.monotonic_ns() // 1000, 0)
    client.settle()
    ended = read_calls(Path(sys.argv[2]))
    client.stop()
    import json
    print(json.dumps([before, after, started, ended]), file=open(sys.argv[4], "w"))
    """
    out = tmp_path / "counts.json"
    root = str(Path(__file__).resolve().parents[2])
    run_program(tmp_path / "journal", code, str(calls), root, str(out), env=environment(config, lab_dir))
    before, after, started, ended = json.loads(out.read_text())
    ticks = after["nvmlDeviceGetTemperature"] - before["nvmlDeviceGetTemperature"]
    assert ticks >= 20
    fields = after["nvmlDeviceGetFieldValues"] - before["nvmlDeviceGetFieldValues"]
    assert fields <= 1.5 * ticks + 40  # the rest: an occasional look at the ticks
    names = {name for name in after if after[name] != before.get(name, 0)}
    assert not [name for name in names if "Processes" in name or "GetHandle" in name]

    def lists(counts: dict[str, int]) -> int:
        return sum(count for name, count in counts.items() if "ComputeRunningProcesses" in name)

    assert lists(started) == lists(before)
    assert lists(ended) == lists(before) + 2
    assert read_calls(calls)


def test_boundaries_of_one_moment_share_their_ticks(lab_dir: Path, tmp_path: Path) -> None:
    """One stage ends where the next begins: both lie in one cell of the counter, written down once."""
    code = """
    import sys, time
    from pathlib import Path
    from harness.meter.client import MeterClient, MeterConfig
    folder = Path(sys.argv[1])
    folder.mkdir()
    client = MeterClient(folder, 0, MeterConfig(cpu="none"), lambda *words: None)
    client.start()
    now = time.monotonic_ns() // 1000
    numbers = [client.boundary(now), client.boundary(now + 10), client.boundary(now + 20)]
    assert numbers == [0, 1, 2]
    client.settle()
    client.stop()
    """
    config = LabConfig((LabDevice(counter=Refresh(100_000, 5_000)),))
    run_program(tmp_path / "journal", code, env=environment(config, lab_dir))
    (path,) = (tmp_path / "journal").glob("*.jnl")
    records = [frame.record for frame in read_journal(path)]
    assert [r["boundary"] for r in records if r.get("type") == "boundary"] == [0, 1, 2]
    ticks = [r["mono_us"] for r in records if r.get("type") == "tick"]
    assert 2 <= len(ticks) <= 2 + LOOKS_BEHIND and ticks == sorted(set(ticks))


def test_a_boundary_takes_no_time(tmp_path: Path) -> None:
    client = MeterClient(tmp_path, 0, MeterConfig(cpu="none", devices=()), lambda *words: None)
    client.start()
    try:
        taken_s = []
        for _ in range(20):
            before = time.monotonic()
            client.boundary(time.monotonic_ns() // 1000)
            taken_s.append(time.monotonic() - before)
        assert min(taken_s) < 0.02  # less than any counter's refresh; a busy machine delays most of them
    finally:
        client.stop()
    assert not list(tmp_path.glob("*.stderr"))
