"""Energy while a stage runs: the same counters as the log's, added up as the journals grow."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from harness.audit.live_energy import JournalEnergy, StatusFile
from harness.bundle import Bundle
from harness.journal.records import KIND_POWER, KIND_ZONE, POWER_ROW, ZONE_ROW, JournalWriter
from tests.audit.kit_process import Kit, pipeline, stage_rows

SECOND = 1_000_000


def power(device: int, at_us: int, power_mw: int, counter_mj: int) -> bytes:
    return POWER_ROW.pack(device, 0, at_us, at_us, power_mw, -1, counter_mj, -1, -1, -1, -1, -1, -1, 9)


def zone(index: int, value: int) -> bytes:
    return ZONE_ROW.pack(index, 0, 0, 0, value, -1)


def boundary(at_us: int, value: int | None, power_mw: int | None = 100_000) -> dict[str, Any]:
    reading = {"device_id": 0, "mono_us": at_us, "value": value, "power_mw": power_mw}
    return {"type": "boundary", "readings": [reading]}


@pytest.fixture
def journal(tmp_path: Path) -> JournalWriter:
    return JournalWriter(tmp_path / "000-001-sampler.jnl")


def test_counters_grow_wrap_and_are_reset(tmp_path: Path, journal: JournalWriter) -> None:
    energy = JournalEnergy(tmp_path, 0)
    assert energy.read() is None
    parts = {"package-0": "cpu", "core-0": "core", "dram-0": "dram", "psys": "machine"}
    zones = [
        {"label": label, "range": 50_000_000, "part": part}
        for label, part in [*parts.items(), ("package-0", "cpu")]
    ]
    journal.append_record({"type": "sampler_start", "zones": zones})
    assert energy.read() is None
    journal.append_rows(KIND_POWER, power(0, 1 * SECOND, 1, 7_000_000) + power(1, 1 * SECOND, 1, 500))
    journal.append_rows(KIND_ZONE, b"".join(zone(index, 49_000_000) for index in range(5)))
    begun = energy.read()
    assert begun is not None and (begun.joules, begun.estimated) == (0.0, False)
    # 3 J and 1 J on the GPUs; a failed read; of five zones two count, both wrap: 4 J each.
    journal.append_rows(KIND_POWER, power(0, 2 * SECOND, 1, 7_003_000) + power(1, 2 * SECOND, 1, 1_500))
    journal.append_rows(KIND_POWER, power(0, 3 * SECOND, -1, -1))
    journal.append_rows(KIND_ZONE, b"".join(zone(index, 3_000_000) for index in range(5)) + zone(0, -1))
    found = energy.read()
    assert found is not None and found.joules == pytest.approx(12.0)
    # A reset counts nothing; what grows afterwards counts.
    journal.append_rows(KIND_POWER, power(0, 4 * SECOND, 1, 100) + power(0, 5 * SECOND, 1, 2_100))
    found = energy.read()
    assert found is not None and found.joules == pytest.approx(14.0) and str(found) == "14 J"


def test_a_boundary_written_after_younger_samples_is_no_reset(tmp_path: Path, journal: JournalWriter) -> None:
    energy = JournalEnergy(tmp_path, 0)
    journal.append_record(boundary(1 * SECOND, 10_000))
    journal.append_rows(KIND_POWER, power(0, 3 * SECOND, 1, 14_000))
    journal.append_record(boundary(2 * SECOND, 12_000))
    journal.append_rows(KIND_POWER, power(0, 4 * SECOND, 1, 15_000))
    found = energy.read()
    assert found is not None and found.joules == pytest.approx(5.0)


def test_without_a_counter_it_is_the_area_under_the_power(tmp_path: Path, journal: JournalWriter) -> None:
    energy = JournalEnergy(tmp_path, 0)
    for at, power_mw in ((1, 100_000), (2, 300_000), (3, 300_000), (4, -1), (5, 300_000), (6, 300_000)):
        journal.append_rows(KIND_POWER, power(0, at * SECOND, power_mw, -1))
    found = energy.read()
    assert found is not None and found.joules == pytest.approx(200 + 300 + 300)


def test_other_sessions_and_torn_ends_are_left_alone(tmp_path: Path, journal: JournalWriter) -> None:
    energy = JournalEnergy(tmp_path, 0)
    other = JournalWriter(tmp_path / "001-001-sampler.jnl")
    for writer in (journal, other):
        writer.append_rows(KIND_POWER, power(0, 1 * SECOND, 1, 0))
    energy.read()
    other.append_rows(KIND_POWER, power(0, 2 * SECOND, 1, 9_000))
    frame = tmp_path / "whole"
    whole = JournalWriter(frame)
    whole.append_rows(KIND_POWER, power(0, 2 * SECOND, 1, 4_000))
    data = frame.read_bytes()[8:]
    with journal.path.open("ab") as stream:
        stream.write(data[:20])
    found = energy.read()
    assert found is not None and found.joules == 0.0
    with journal.path.open("ab") as stream:
        stream.write(data[20:])
    found = energy.read()
    assert found is not None and found.joules == 4.0


def test_the_status_file_counts_from_its_beginning_and_goes_with_its_stage(
    tmp_path: Path, journal: JournalWriter, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = [0.0]
    monkeypatch.setattr("harness.audit.live_energy.time.monotonic", lambda: clock[0])
    estimate = {"type": "codecarbon", "ram_uj": None}
    journal.append_record({**estimate, "cpu_uj": 1_000_000})
    journal.append_record({**estimate, "cpu_uj": 6_000_000})
    path = tmp_path / "status.json"
    with StatusFile(path, JournalEnergy(tmp_path, 0)) as status:
        assert json.loads(path.read_text()) == {"energy_j": 0.0, "estimated": True}
        journal.append_record({**estimate, "cpu_uj": 8_500_000})
        clock[0] = 0.9
        shown = status.update()
        assert shown is not None and shown.joules == 0.0
        clock[0] = 1.1
        shown = status.update()
        assert shown is not None and (shown.joules, str(shown)) == (2.5, "~2 J")
        assert json.loads(path.read_text()) == {"energy_j": 2.5, "estimated": True}
    assert [entry.name for entry in tmp_path.iterdir()] == [journal.path.name]


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
