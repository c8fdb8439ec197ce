"""kill -9 of the sampler, of its owner, of both, at random moments: at most a second of samples is lost."""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest

from harness.bundle import commit, seal
from harness.errors import KitError
from harness.journal.reading import journal_files
from harness.journal.records import MAGIC
from harness.validate.engine import validate
from tests.lab import LabConfig, LabDevice, Refresh, mono_us, random_waveform
from tests.lab.fixtures import ROOT
from tests.meter.runs import Sealed, environment, kit, write_pipeline
from tests.meter.truth import PLACED, allowed_j, assert_interval_holds, assert_placed, device_truth_j

SEED = 20261122
S = 1_000_000

API = """
import sys, time
from harness import Meter
with Meter(out=sys.argv[1], cpu="none", resume=True) as meter:
    print("ready", meter._session.client.sampler_pid, flush=True)
    for position in range(40):
        with meter.stage(f"stage{position}", kind="x-work") as stage:
            stage.add_tokens(processed=5)
            time.sleep(0.7)
        time.sleep(0.25)
"""
STAGE = {"command": "sleep 0.7"}


@dataclass(frozen=True)
class Kill:
    """Who is killed, how long after the first stage began, and how the run was metered."""

    name: str
    way: str
    victims: tuple[str, ...]
    after_s: float


def kills() -> list[Kill]:
    """Fourteen moments: inside stages, between them, and while a boundary is awaited."""
    rng = random.Random(SEED)
    combinations = [("sampler",), ("owner",), ("sampler", "owner"), ("owner", "sampler")]
    found = []
    for i in range(14):
        victims, way = combinations[i % 4], ("api", "audit")[i // 4 % 2]
        name = f"{i}-{way}-{'+'.join(victims)}"
        found.append(Kill(name, way, victims, rng.uniform(0.05, 3.2)))
    return found


KILLS = kills()


@dataclass(frozen=True)
class Killed:
    config: LabConfig
    folder: Path
    at_us: int
    stages_pids: list[int]
    recover_output: str


def sampler_of(owner: int, limit_s: float = 60) -> int:
    """Pid of the sampler among the children of a process."""
    until = time.monotonic() + limit_s
    while time.monotonic() < until:
        with contextlib.suppress(OSError):
            for child in Path(f"/proc/{owner}/task/{owner}/children").read_text().split():
                line = Path(f"/proc/{child}/cmdline").read_bytes()
                if b"harness.meter.sampler" in line:
                    return int(child)
        time.sleep(0.02)
    raise AssertionError("no sampler appeared")


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def first_stage_began(folder: Path, limit_s: float = 60) -> None:
    until = time.monotonic() + limit_s
    while time.monotonic() < until:
        for path in (folder / "journal").glob("*-000-runner.jnl"):
            if b'"type":"stage_start"' in path.read_bytes():
                return
        time.sleep(0.02)
    raise AssertionError("no stage began")


def run_and_kill(lab: Path, base: Path, kill: Kill) -> Killed:
    base.mkdir()
    folder = base / "run"
    wave = random_waveform(zlib.crc32(kill.name.encode()) % 997)
    config = LabConfig((LabDevice(wave, Refresh(100_000, 40_000)),))
    env = environment(config, lab)
    if kill.way == "api":
        command = [sys.executable, "-c", API, str(folder)]
    else:
        pipeline = write_pipeline(base, [STAGE] * 12)
        command = [sys.executable, "-m", "harness.cli.main", "audit", str(pipeline)]
        command += ["--out", str(folder), "--cpu", "none"]
    with (base / "output").open("wb") as output:
        owner = subprocess.Popen(command, env=env, stdout=output, stderr=output)
    first_stage_began(folder)
    sampler = sampler_of(owner.pid)
    time.sleep(kill.after_s)
    stages = [
        int(pid)
        for pid in Path(f"/proc/{owner.pid}/task/{owner.pid}/children").read_text().split()
        if int(pid) != sampler
    ]
    pids = {"sampler": sampler, "owner": owner.pid}
    for victim in kill.victims:
        os.kill(pids[victim], signal.SIGKILL)
    at_us = mono_us()
    if "owner" in kill.victims:
        owner.wait()
    else:
        # It goes on with a new sampler; some more stages, then it is killed too.
        time.sleep(2.0)
        os.kill(owner.pid, signal.SIGKILL)
        owner.wait()
    done = kit("recover", folder, env=env)
    assert done.returncode == 0, done.stdout + done.stderr + (base / "output").read_text()
    return Killed(config, folder, at_us, stages, done.stdout)


@pytest.fixture(scope="module")
def killed(lab_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[Kill], Killed]]:
    base = tmp_path_factory.mktemp("kill")
    with ThreadPoolExecutor(5) as pool:
        runs: dict[str, Future[Killed]] = {
            kill.name: pool.submit(run_and_kill, lab_dir, base / kill.name, kill) for kill in KILLS
        }
        yield lambda kill: runs[kill.name].result()


@pytest.mark.parametrize("kill", KILLS, ids=lambda kill: f"{kill.name}-{kill.after_s:.2f}s")
def test_kill_9_loses_at_most_a_second(killed: Callable[[Kill], Killed], kill: Kill) -> None:
    one = killed(kill)
    run = Sealed(one.folder)
    assert not journal_files(one.folder)
    assert run.manifest["status"] == "recovered"
    session = run.manifest["sampling"]["sessions"][0]
    # A sampler that was killed young has left no statistics, and none may be made up.
    assert session["sampler_wall_s"] is None or session["sampler_wall_s"] < 60
    assert session["sampler_cpu_s"] is None or 0 < session["sampler_cpu_s"] < session["sampler_wall_s"]
    mono = [row["mono_us"] for row in run.rows("power")]
    before = [m for m in mono if m <= one.at_us]
    assert before and one.at_us - before[-1] < S, (one.at_us - before[-1]) / S
    if kill.victims == ("sampler",):
        assert [m for m in mono if m > one.at_us], "no sampler came back"
        lost = run.events("sampler_lost")
        assert lost and lost[0]["detail"]["exit_code"] == -9
    assert run.stages
    for row in run.stages:
        assert row["status"] in ("completed", "interrupted")
        assert row["status"] == "completed" or row["flags"]
        if row["gpu_energy_j"] is None:
            assert row["flags"]
            continue
        assert row["gpu_energy_j"] >= 0
        assert_interval_holds(one.config, row)
        truth_j = sum(device_truth_j(one.config, row))
        error = abs(row["gpu_energy_j"] - truth_j)
        assert error <= allowed_j(one.config, row, 0) or (
            row["gpu_energy_method"] not in PLACED and row["flags"]
        )
    completed = [row for row in run.stages if row["status"] == "completed"]
    assert [row["name"] for row in run.stages] == [f"stage{i}" for i in range(len(run.stages))]
    assert len(completed) >= len(run.stages) - 1
    if kill.way == "api":
        assert all(row["tokens_processed"] == 5 for row in completed)
    findings = [f for f in validate(one.folder).findings if f.severity == "error"]
    assert not findings, findings
    for pid in one.stages_pids:
        assert not alive(pid), "a stage went on unmeasured"


def test_recovering_twice_is_harmless(killed: Callable[[Kill], Killed], lab_dir: Path) -> None:
    one = killed(KILLS[1])
    before = {path.name: path.read_bytes() for path in one.folder.iterdir() if path.is_file()}
    done = kit("recover", one.folder, env=environment(None, lab_dir))
    assert done.returncode == 0
    assert "nothing to recover" in done.stdout
    assert {path.name: path.read_bytes() for path in one.folder.iterdir() if path.is_file()} == before


def test_a_killed_audit_is_resumed(killed: Callable[[Kill], Killed], lab_dir: Path) -> None:
    one = killed(next(kill for kill in KILLS if kill.way == "audit" and "owner" in kill.victims))
    folder = one.folder.parent / "resumed"
    shutil.copytree(one.folder, folder)
    pipeline = one.folder.parent / "pipeline.yaml"
    before = Sealed(folder).stages
    env = environment(one.config, lab_dir)
    done = kit("audit", pipeline, "--out", folder, "--resume", "--cpu", "none", env=env)
    assert done.returncode == 0, done.stdout + done.stderr
    run = Sealed(folder)
    assert run.stages[: len(before)] == before, "a resumed run changed the figures of the first session"
    again = run.stages[len(before) :]
    assert {row["session"] for row in again} == {1}
    names = {row["name"] for row in run.stages if row["status"] == "completed"}
    assert names == {f"stage{i}" for i in range(12)}
    interrupted = [row["name"] for row in before if row["status"] == "interrupted"]
    for name in interrupted:
        attempts = [row["attempt"] for row in run.stages if row["name"] == name]
        assert attempts == [1, 2]
    assert_placed(one.config, run, *again)


SHORT = """
import os, sys, time
from harness import Meter
meter = Meter(out=sys.argv[1], cpu="none")
meter.start()
with meter.stage("prerun") as stage:
    stage.add_tokens(processed=3)
    time.sleep(0.15)
    stage.event("checkpoint", step=1)
with meter.stage("evaluate"):
    time.sleep(0.6)
    os.kill(meter._session.client.sampler_pid, 9)
    os.kill(os.getpid(), 9)
"""


@pytest.fixture(scope="module")
def left_behind(lab_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder as kill -9 of everything leaves it: one stage done, one running, a few samples."""
    folder = tmp_path_factory.mktemp("torn") / "run"
    env = environment(LabConfig((LabDevice(random_waveform(5)),)), lab_dir)
    subprocess.run([sys.executable, "-c", SHORT, str(folder)], env=env, capture_output=True, check=False)
    assert len(journal_files(folder)) == 2
    return folder


def restored(source: Path, target: Path, cut: dict[str, int]) -> Path:
    """A copy of a run folder with some journals cut to a length in bytes."""
    if target.exists():
        shutil.rmtree(target)
    (target / "journal").mkdir(parents=True)
    for file in journal_files(source):
        content = file.read_bytes()
        (target / "journal" / file.name).write_bytes(content[: cut.get(file.name, len(content))])
    return target


@pytest.mark.parametrize("which", ["runner", "sampler"])
def test_a_torn_journal_is_sealed_at_every_length(left_behind: Path, tmp_path: Path, which: str) -> None:
    """Every length near the frames' ends, and a sample of those between: each frame's inside is alike."""
    file = next(path for path in journal_files(left_behind) if which in path.name)
    content = file.read_bytes()
    lengths = sorted({*interesting_lengths(content), *random.Random(SEED).sample(range(len(content)), 40)})
    whole = Sealed(seal.seal(restored(left_behind, tmp_path / "whole", {}), recovered=True))
    everything = len(whole.rows("power"))
    sealed = 0
    for length in lengths:
        folder = restored(left_behind, tmp_path / "cut", {file.name: length})
        try:
            seal.recover(folder)
        except KitError as error:
            # Only where the run's own first record is gone is there nothing to seal.
            assert which == "runner" and "hold no run" in error.message, (length, error)
            assert journal_files(folder), "a journal was removed though nothing was sealed"
            continue
        sealed += 1
        run = Sealed(folder)
        assert not journal_files(folder)
        for row in run.stages:
            assert row["gpu_energy_j"] is None or row["gpu_energy_j"] >= 0
            known = [r for r in whole.stages if r["stage_uid"] == row["stage_uid"]]
            assert known and known[0]["name"] == row["name"]
        assert len(run.rows("power")) <= everything
        assert which == "sampler" or len(run.rows("power")) == everything
        torn = run.events("journal_error")
        assert bool(torn) == (length not in (0, *frame_ends(content))), length
    assert sealed > len(lengths) / 2


def frame_ends(content: bytes) -> list[int]:
    ends, position = [len(MAGIC)], len(MAGIC)
    while position + 9 <= len(content):
        position += 9 + int.from_bytes(content[position : position + 4], "little")
        ends.append(position)
    assert ends[-1] == len(content)
    return ends


def interesting_lengths(content: bytes) -> list[int]:
    """Around the ends of some frames, and all of the header."""
    ends = frame_ends(content)
    chosen = ends if len(ends) < 12 else [*ends[:6], *ends[-5:]]
    around = [end + shift for end in chosen for shift in (-1, 0, 1, 8, 9)]
    return [length for length in [0, 1, 7, *around] if 0 <= length <= len(content)]


def test_a_flipped_bit_costs_what_comes_after_it(left_behind: Path, tmp_path: Path) -> None:
    file = next(path for path in journal_files(left_behind) if "sampler" in path.name)
    content = bytearray(file.read_bytes())
    rng = random.Random(SEED)
    for _ in range(12):
        folder = restored(left_behind, tmp_path / "flipped", {})
        damaged = bytearray(content)
        damaged[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
        (folder / "journal" / file.name).write_bytes(damaged)
        seal.recover(folder)
        run = Sealed(folder)
        assert run.events("journal_error")
        assert all(row["gpu_energy_j"] is None or row["gpu_energy_j"] >= 0 for row in run.all_stages)


class Killed9(BaseException):
    """Stands for the process's death: nothing after it runs."""


@pytest.mark.parametrize("step", range(9))
def test_a_seal_that_is_killed_is_finished_by_the_next(
    left_behind: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    """Death before and after the decision, at each rename, and at each removal of a journal."""
    reference = Sealed(seal.seal(restored(left_behind, tmp_path / "reference", {}), recovered=True))
    folder = restored(left_behind, tmp_path / "run", {})
    calls = {"left": 0}

    def dying(function: Callable[..., object], when: str) -> Callable[..., object]:
        def wrapper(*arguments: object, **named: object) -> object:
            if when == "before" and calls["left"] == 0:
                raise Killed9
            calls["left"] -= 1
            done = function(*arguments, **named)
            if when == "after" and calls["left"] < 0:
                raise Killed9
            return done

        return wrapper

    with monkeypatch.context() as patch:
        if step == 0:
            patch.setattr(commit, "decide", dying(commit.decide, "before"))
        elif step == 1:
            patch.setattr(commit, "finish_commit", dying(commit.finish_commit, "before"))
        elif step == 2:
            patch.setattr(seal, "_remove", dying(seal._remove, "before"))
        elif step <= 4:
            calls["left"] = step - 3
            patch.setattr(Path, "unlink", dying(Path.unlink, "after"))
        else:
            calls["left"] = 2 * (step - 5)
            patch.setattr(Path, "replace", dying(Path.replace, "before"))
        with contextlib.suppress(Killed9):
            seal.seal(folder, recovered=True)
    seal.recover(folder)
    run = Sealed(folder)
    assert not journal_files(folder)
    assert run.stages == reference.stages
    assert run.rows("power") == reference.rows("power")
    assert not list(folder.glob(".*"))
    seal.recover(folder)
    assert Sealed(folder).stages == reference.stages


def test_a_run_that_goes_on_is_not_recovered(lab_dir: Path, tmp_path: Path) -> None:
    """`kit recover` of a live run would take its journals away."""
    env = environment(LabConfig(), lab_dir)
    owner = subprocess.Popen(
        [sys.executable, "-c", API, str(tmp_path / "run")],
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    try:
        first_stage_began(tmp_path / "run")
        code = (
            "import sys\nfrom harness.journal.reading import await_writers\nfrom pathlib import Path\n"
            "from harness.errors import KitError\n"
            "try:\n    await_writers(Path(sys.argv[1]), 0.3)\nexcept KitError:\n    sys.exit(9)\n"
        )
        done = subprocess.run(
            [sys.executable, "-c", code, str(tmp_path / "run")], cwd=ROOT, env=env, check=False
        )
        assert done.returncode == 9
        assert len(journal_files(tmp_path / "run")) == 2
    finally:
        owner.kill()
        owner.wait()
        assert owner.stdout is not None
        owner.stdout.close()


def test_the_run_id_survives_a_resume_through_the_api(lab_dir: Path, tmp_path: Path) -> None:
    env = environment(LabConfig((LabDevice(random_waveform(6)),)), lab_dir)
    code = SHORT.replace('cpu="none")', 'cpu="none", resume=True)')
    ids = []
    for _ in range(2):
        subprocess.run([sys.executable, "-c", code, str(tmp_path)], env=env, capture_output=True, check=False)
    seal.recover(tmp_path)
    run = Sealed(tmp_path)
    ids.append(run.manifest["run_id"])
    assert [s["session"] for s in run.manifest["sampling"]["sessions"]] == [0, 1]
    assert [row["attempt"] for row in run.stages if row["name"] == "prerun"] == [1, 2]
    assert [row["status"] for row in run.stages] == ["completed", "interrupted"] * 2
    assert len({row["stage_uid"] for row in run.stages}) == 4
    assert json.loads((tmp_path / "manifest.json").read_text())["run_id"] == ids[0]
