"""The meter's own misfortunes while a stage runs: full disks, read-only folders, a sampler that dies."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest

from tests.lab import gpu_lost, obey_file_modes
from tests.meter.faults import PLACED, Plays, Scenario, assert_counter_exact, assert_right_or_flagged, playing
from tests.meter.truth import assert_placed

SCENARIOS: dict[str, Scenario] = {
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
time.sleep(0.5)  # the stage before has its last tick in the log
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
    "sampler dies on a full disk": Scenario(
        during="""
resource.prlimit(0, resource.RLIMIT_FSIZE, (64, resource.RLIM_INFINITY))
dead = meter._session.client.sampler_pid
os.kill(dead, 9)
until = time.monotonic() + 20
while meter._session.client.sampler_pid in (dead, None) and time.monotonic() < until:
    time.sleep(0.05)
time.sleep(1.5)
for pid in (0, meter._session.client.sampler_pid):
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
"""
    ),
    "gpu lost, then the sampler dies": Scenario(
        lambda at: [gpu_lost(at(1.5))],
        others=1,
        during="time.sleep(1.2); os.kill(meter._session.client.sampler_pid, 9)",
    ),
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
        "disk full for a while",
        "journal folder becomes read-only",
    ],
)
def test_faults_between_the_boundaries_leave_the_counter_exact(played: Plays, name: str) -> None:
    assert_counter_exact(played(name))


def test_a_full_disk_delays_the_log_and_loses_nothing(played: Plays) -> None:
    run = played("disk full for a while").run
    events = [e["detail"]["recovered"] for e in run.events("disk_full")]
    assert False in events and True in events
    assert "journal_delayed" in run.stage("hit")["flags"]
    mono = [r["mono_us"] for r in run.rows("power")]
    assert max(b - a for a, b in pairwise(mono)) < 1_000_000
    assert run.stage("hit")["missed_samples"] == 0


def test_a_disk_that_stays_full_keeps_the_stages(played: Plays) -> None:
    run = (one := played("disk full for the sampler to the end")).run
    assert_placed(one.config, run, run.stage("before"))
    for name in ("hit", "after"):
        row = run.stage(name)
        assert row["mono_end_us"] > row["mono_start_us"]
        assert row["gpu_energy_method"] not in PLACED
        assert row["flags"]
    assert run.events("journal_error")


def test_a_dead_sampler_is_replaced(played: Plays) -> None:
    run = played("sampler dies").run
    hit = run.stage("hit")
    assert "sampler_restarted" in hit["flags"]
    assert_placed(played("sampler dies").config, run, hit)
    assert run.events("sampler_lost")[0]["detail"]["exit_code"] == -9
    boundaries = [r["boundary"] for r in run.gpu_boundaries()]
    assert len(boundaries) == len(set(boundaries))


def test_a_sampler_that_cannot_come_back_is_done_without(played: Plays) -> None:
    run = (one := played("sampler dies in a read-only folder")).run
    assert_placed(one.config, run, run.stage("before"))
    assert "sampler_restarted" in run.stage("hit")["flags"]
    assert any(e["detail"].get("final") for e in run.events("sampler_lost"))
    assert run.stage("after")["gpu_energy_method"] not in PLACED


def test_a_device_that_is_gone_when_the_sampler_returns_stays_in_the_books(
    played: Plays,
) -> None:
    run = played("gpu lost, then the sampler dies").run
    hit = run.stage("hit")
    assert hit["device_ids"] == [0, 1]
    assert {"gpu_lost", "sampler_restarted"} <= set(hit["flags"])
