"""The fake powercap tree has the shape of sysfs and its counters move by the closed form."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from tests.lab import (
    Const,
    FakePowercap,
    Noise,
    Square,
    Zone,
    counter_reset,
    counter_stuck,
    mono_us,
    obey_file_modes,
    random_waveform,
)

PACKAGES = (
    Zone("package-0", (Const(40.0), Square(0.0, 80.0, 70_000)), offset_uj=123_456),
    Zone("dram", (Noise(2.0, 30.0, 11_000, seed=3),), parent="package-0"),
    Zone("core", (Const(25.0),), parent="package-0"),
    Zone("package-1", random_waveform(5, 20.0, 200.0)),
    Zone("dram", (Const(5.0),), parent="package-1"),
    Zone("psys", (Const(300.0),)),
    Zone("package-0", (Const(40.0), Square(0.0, 80.0, 70_000)), control="intel-rapl-mmio", offset_uj=9),
)


def read_uj(path: Path) -> int:
    return int((path / "energy_uj").read_text())


def test_the_tree_has_the_shape_of_sysfs(tmp_path: Path) -> None:
    tree = FakePowercap(tmp_path, PACKAGES)
    zones = {
        "intel-rapl:0": "package-0",
        "intel-rapl:0/intel-rapl:0:0": "dram",
        "intel-rapl:0/intel-rapl:0:1": "core",
        "intel-rapl:1": "package-1",
        "intel-rapl:1/intel-rapl:1:0": "dram",
        "intel-rapl:2": "psys",
        "intel-rapl-mmio:0": "package-0",
    }
    assert [str(tree.path(i).relative_to(tmp_path)) for i in range(len(PACKAGES))] == list(zones)
    for place, name in zones.items():
        flat = tmp_path / Path(place).name
        assert (flat / "name").read_text() == f"{name}\n"
        assert (flat / "energy_uj").samefile(tmp_path / place / "energy_uj")
        assert (flat / "max_energy_range_uj").read_text() == "262143328850\n"
    assert (tmp_path / "intel-rapl" / "enabled").exists() and (tmp_path / "intel-rapl-mmio").is_dir()
    assert tree.env() == {"KIT_POWERCAP_ROOT": str(tmp_path)}


def grid(tree: FakePowercap, zone: int, before_us: int, after_us: int, late_us: int) -> set[int]:
    """Every counter value the writer may have left behind for a read within [before, after]."""
    return {tree.counter_uj(zone, at) for at in range(before_us - late_us, after_us + 1000, 1000)}


def test_every_reading_is_the_closed_form_of_a_recent_millisecond(tmp_path: Path) -> None:
    with FakePowercap(tmp_path, PACKAGES) as tree:
        kept = [os.open(tree.path(i) / "energy_uj", os.O_RDONLY) for i in range(len(PACKAGES))]
        reads = []
        until = time.monotonic() + 60
        while len({value for i, *_, value in reads if i == 0}) <= 20 and time.monotonic() < until:
            time.sleep(0.011)
            for i, fd in enumerate(kept):
                before = mono_us()
                by_name, by_descriptor = read_uj(tree.path(i)), int(os.pread(fd, 32, 0))
                reads += [(i, before, mono_us(), value) for value in (by_name, by_descriptor)]
        for fd in kept:
            os.close(fd)
    # The writer is late where the machine is busy, and never always.
    prompt = [value in grid(tree, i, before, after, 5_000) for i, before, after, value in reads]
    late = [read for read, is_prompt in zip(reads, prompt, strict=True) if not is_prompt]
    assert all(value in grid(tree, i, before, after, 2_000_000) for i, before, after, value in late)
    assert any(prompt)
    assert len({value for i, *_, value in reads if i == 0}) > 20


def test_the_joules_are_the_integral_of_the_watts(tmp_path: Path) -> None:
    tree = FakePowercap(tmp_path, PACKAGES)
    for i, zone in enumerate(PACKAGES):
        cells = (sum(wave.power_w(tau + 0.5) for wave in zone.waves) for tau in range(100_000))
        truth_j = tree.true_energy_j(i, tree.t0_us, tree.t0_us + 100_000)
        assert truth_j == pytest.approx(sum(cells) / 1e6, rel=1e-9)


def test_a_counter_wraps_at_its_range() -> None:
    zone = Zone("package-0", (Const(50.0),), range_uj=5_000_000, offset_uj=4_900_000)
    assert [zone.counter_uj(tau) for tau in (0, 1999, 2000, 2001)] == [4_900_000, 4_999_950, 0, 50]
    assert zone.counter_uj(102_000) == 0


def test_a_small_range_wraps_and_unwraps(tmp_path: Path) -> None:
    # 50 W wrap a range of 500 J every ten seconds: no reader is so slow that it misses one.
    zone = Zone("package-0", (Const(50.0),), range_uj=500_000_000)
    zone = replace(zone, offset_uj=zone.range_uj - 20_000_000)
    late_us = 2_000_000  # of a writer on a busy machine
    with FakePowercap(tmp_path, (zone,)) as tree:
        start_us, last = mono_us(), read_uj(tree.path(0))
        started_us = mono_us()
        total = wraps = 0
        until = time.monotonic() + 60
        while not wraps and time.monotonic() < until:
            time.sleep(0.01)
            end_us, value = mono_us(), read_uj(tree.path(0))
            ended_us = mono_us()
            wraps += value < last
            total += (value - last) % zone.range_uj
            last = value
            assert 0 <= value < zone.range_uj
    assert wraps == 1
    least_j = tree.true_energy_j(0, started_us, max(started_us, end_us - late_us))
    assert least_j <= total / 1e6 <= tree.true_energy_j(0, start_us - late_us, ended_us)


def test_counters_can_stick_and_restart() -> None:
    zone = Zone(
        "package-0", (Const(10.0),), offset_uj=7, faults=(counter_stuck(1000, 2000), counter_reset(5000))
    )
    shown = [zone.counter_uj(tau) for tau in (0, 999, 1000, 1999, 2000, 4999, 5000, 6000)]
    assert shown == [7, 9997, 10_007, 10_007, 20_007, 49_997, 0, 10_000]


def test_permission_can_be_lost_and_given_back(tmp_path: Path) -> None:
    with FakePowercap(tmp_path, PACKAGES[:2]) as tree:
        tree.deny("package-0")

        def attempts() -> list[str]:
            code = "import sys\nfor path in sys.argv[1:]:\n try: open(path).read(); print('ok')\n"
            code += " except PermissionError: print('refused')"
            paths = [str(tree.path(i) / "energy_uj") for i in range(2)]
            command = [sys.executable, "-c", code, *paths]
            try:
                done = subprocess.run(
                    command, preexec_fn=obey_file_modes, capture_output=True, text=True, check=True
                )
            except subprocess.SubprocessError as error:
                pytest.skip(f"root may not drop capabilities here: {error}")
            return done.stdout.split()

        assert attempts() == ["refused", "ok"]
        tree.allow("package-0")
        assert attempts() == ["ok", "ok"]


def moving(process: psutil.Process) -> bool:
    """Whether a process still runs; a container without an init leaves an orphan behind as a zombie."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def test_the_writer_ends_with_its_context_and_with_its_parent(tmp_path: Path) -> None:
    with pytest.raises(KeyError), FakePowercap(tmp_path / "a") as tree:
        pid = tree.pid
        assert psutil.pid_exists(pid)
        raise KeyError
    assert not psutil.pid_exists(pid)

    root = Path(__file__).resolve().parents[1]
    code = "import sys, time; from pathlib import Path; from tests.lab import FakePowercap\n"
    code += "with FakePowercap(Path(sys.argv[1])) as tree: print(tree.pid, flush=True); time.sleep(60)"
    parent = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path / "b")],
        env={**os.environ, "PYTHONPATH": str(root)},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert parent.stdout is not None
    writer = psutil.Process(int(parent.stdout.readline()))
    parent.send_signal(signal.SIGKILL)
    parent.communicate()
    deadline = time.monotonic() + 10
    while moving(writer) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not moving(writer)
