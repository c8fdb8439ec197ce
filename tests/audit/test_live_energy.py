"""Energy while a stage runs: the same counters as the log's, added up as the journals grow."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from harness.audit.live_run import LiveRun, Snapshot, write_status
from harness.bundle import Bundle
from harness.journal.records import KIND_POWER, KIND_ZONE, POWER_ROW, ZONE_ROW, JournalWriter
from tests.audit.kit_process import Kit, pipeline, stage_rows

SECOND = 1_000_000


def power(device: int, at_us: int, power_mw: int, counter_mj: int) -> bytes:
    return POWER_ROW.pack(device, 0, at_us, at_us, power_mw, -1, counter_mj, -1, -1, -1, -1, -1, -1, 9)


def zone(index: int, value: int) -> bytes:
    return ZONE_ROW.pack(index, 0, 0, SECOND, value, -1)


def tick(at_us: int, value: int) -> dict[str, Any]:
    return {"type": "tick", "device_id": 0, "mono_us": at_us, "value": value, "power_mw": 100_000}


@pytest.fixture
def journal(tmp_path: Path) -> JournalWriter:
    """The sampler's journal of a run whose stage began with the clock."""
    folder = tmp_path / "journal"
    folder.mkdir()
    stage = {"type": "stage_start", "session": 0, "stage_uid": 0, "mono_us": 0, "t_us": 0}
    named = {"name": "train", "stage": "student_train", "attempt": 1}
    JournalWriter(folder / "000-000-runner.jnl").append_record({**stage, **named})
    return JournalWriter(folder / "000-001-sampler.jnl")


def joules(live: LiveRun) -> float | None:
    """Of all sources; None while nothing is metered."""
    now = live.snapshot()
    return sum(now.joules.values()) if now.joules else None


def test_counters_grow_wrap_and_are_reset(tmp_path: Path, journal: JournalWriter) -> None:
    live = LiveRun(tmp_path)
    assert joules(live) is None
    parts = {"package-0": "cpu", "core-0": "core", "dram-0": "dram", "psys": "machine"}
    zones = [
        {"label": label, "range": 50_000_000, "part": part}
        for label, part in [*parts.items(), ("package-0", "cpu")]
    ]
    journal.append_record({"type": "sampler_start", "zones": zones})
    assert joules(live) is None
    journal.append_rows(KIND_POWER, power(0, 1 * SECOND, 1, 7_000_000) + power(1, 1 * SECOND, 1, 500))
    journal.append_rows(KIND_ZONE, b"".join(zone(index, 49_000_000) for index in range(5)))
    assert joules(live) == 0.0 and not live.snapshot().estimated
    # 3 J and 1 J on the GPUs; a failed read; of five zones two count, both wrap: 4 J each.
    journal.append_rows(KIND_POWER, power(0, 2 * SECOND, 1, 7_003_000) + power(1, 2 * SECOND, 1, 1_500))
    journal.append_rows(KIND_POWER, power(0, 3 * SECOND, -1, -1))
    journal.append_rows(KIND_ZONE, b"".join(zone(index, 3_000_000) for index in range(5)) + zone(0, -1))
    assert joules(live) == pytest.approx(12.0)
    # A reset counts nothing; what grows afterwards counts.
    journal.append_rows(KIND_POWER, power(0, 4 * SECOND, 1, 100) + power(0, 5 * SECOND, 1, 2_100))
    assert joules(live) == pytest.approx(14.0)


def test_a_tick_written_after_younger_samples_is_no_reset(tmp_path: Path, journal: JournalWriter) -> None:
    live = LiveRun(tmp_path)
    journal.append_record(tick(1 * SECOND, 10_000))
    journal.append_rows(KIND_POWER, power(0, 3 * SECOND, 1, 14_000))
    journal.append_record(tick(2 * SECOND, 12_000))
    journal.append_rows(KIND_POWER, power(0, 4 * SECOND, 1, 15_000))
    assert joules(live) == pytest.approx(5.0)


def test_without_a_counter_it_is_the_area_under_the_power(tmp_path: Path, journal: JournalWriter) -> None:
    live = LiveRun(tmp_path)
    for at, power_mw in ((1, 100_000), (2, 300_000), (3, 300_000), (4, -1), (5, 300_000), (6, 300_000)):
        journal.append_rows(KIND_POWER, power(0, at * SECOND, power_mw, -1))
    assert joules(live) == pytest.approx(200 + 300 + 300)


def test_other_sessions_and_torn_ends_are_left_alone(tmp_path: Path, journal: JournalWriter) -> None:
    live = LiveRun(tmp_path)
    other = JournalWriter(tmp_path / "journal" / "001-001-sampler.jnl")
    for writer in (journal, other):
        writer.append_rows(KIND_POWER, power(0, 1 * SECOND, 1, 0))
    live.snapshot()
    other.append_rows(KIND_POWER, power(0, 2 * SECOND, 1, 9_000))
    frame = tmp_path / "whole"
    whole = JournalWriter(frame)
    whole.append_rows(KIND_POWER, power(0, 2 * SECOND, 1, 4_000))
    data = frame.read_bytes()[8:]
    with journal.path.open("ab") as stream:
        stream.write(data[:20])
    assert joules(live) == 0.0
    with journal.path.open("ab") as stream:
        stream.write(data[20:])
    assert joules(live) == 4.0


def test_a_look_is_a_second_old_at_most_and_the_status_file_says_it(
    tmp_path: Path, journal: JournalWriter, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = [0.0]
    monkeypatch.setattr("harness.audit.live_run.time.monotonic", lambda: clock[0])
    live, path = LiveRun(tmp_path), tmp_path / "status.json"
    estimate = {"type": "codecarbon", "ram_uj": None, "mono_us": SECOND}
    write_status(path, Snapshot())
    assert not path.exists()  # nothing is metered yet
    journal.append_record({**estimate, "cpu_uj": 1_000_000})
    write_status(path, live.look())
    assert json.loads(path.read_text()) == {"energy_j": 0.0, "estimated": True}
    journal.append_record({**estimate, "cpu_uj": 3_500_000})
    clock[0] = 0.9
    assert live.look().joules == {"cpu": 0.0}
    clock[0] = 1.1
    write_status(path, live.look())
    assert json.loads(path.read_text()) == {"energy_j": 2.5, "estimated": True}
    assert [entry.name for entry in tmp_path.iterdir() if entry.is_file()] == ["status.json"]


def test_a_stage_reads_there_what_the_log_will_say(tmp_path: Path) -> None:
    pytest.importorskip("codecarbon")
    kit = Kit(tmp_path)
    kit.write(
        "burn.py",
        "import os, time\n"
        "end = time.monotonic() + 4\n"
        "while time.monotonic() < end: pass\n"
        "status, burnt = os.environ['KIT_STATUS'], time.time()\n"
        "while os.stat(status).st_mtime < burnt + 2.5: time.sleep(0.05)\n"
        "print(open(os.environ['KIT_STATUS']).read())\n",
    )
    kit.write("p.yaml", pipeline("{name: burn, kind: x-burn, command: [python, burn.py]}"))
    kit.run("audit", "p.yaml", "--cpu", "codecarbon")
    (row,) = (row for row in stage_rows(kit.bundle()) if row["name"] == "burn")
    logs = kit.cwd / "runs/p/logs"
    said = json.loads((logs / "burn.1.out").read_text())
    total_j = row["cpu_energy_j"] + (row["dram_energy_j"] or 0.0)
    assert said["estimated"] and 0.4 * total_j < said["energy_j"] < 1.05 * total_j
    assert not list(logs.glob("*status*"))
    assert Bundle.open(kit.cwd / "runs/p").manifest["status"] == "complete"
