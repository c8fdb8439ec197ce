"""`kit fetch` and `kit lock` as processes: killed, run twice at once, offline, and writing the lock."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from datetime import date
from pathlib import Path

import pytest
import yaml

from harness.errors import KitError
from harness.experiments.profile import load_profile
from harness.fetch.lockfile import LOCK_PATH, AssetsLock, dump_lock, load_lock
from harness.fetch.prefetch import WAITING
from harness.fetch.relock import difference, relock
from harness.fetch.require import require_assets
from harness.fetch.store import Store
from tests.fetch.conftest import DATA, MODEL, NEW, OLD, asset_of, locked_files
from tests.fetch.hub import Hub

ROOT = Path(__file__).resolve().parents[2]
HANGS_S = 300
"""After this long something hangs, on any machine."""
SHARD = "model-00001-of-00002.safetensors"


@pytest.fixture
def lock_file(lock: AssetsLock, tmp_path: Path) -> Path:
    path = tmp_path / "assets.lock.yaml"
    path.write_text(dump_lock(lock, "# Where it came from.\n"))
    return path


def start(hub: Hub, tmp_path: Path, *arguments: str, **environment: str) -> subprocess.Popen[str]:
    """`kit ...` in a process of its own that may use the network."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "KIT_"))}
    settings = {
        "HF_ENDPOINT": hub.endpoint,
        "HF_HOME": str(tmp_path / "hf"),
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "KIT_CACHE": str(tmp_path / "cache"),
        "PYTHONPATH": str(ROOT),
    }
    return subprocess.Popen(
        [sys.executable, "-m", "harness.cli.main", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=tmp_path,
        env=clean | settings | environment,
        # A shell starts what runs in the background with interrupts ignored, and children inherit that.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )


def run(hub: Hub, tmp_path: Path, *arguments: str, **environment: str) -> tuple[int, str, str]:
    process = start(hub, tmp_path, *arguments, **environment)
    out, err = process.communicate(timeout=HANGS_S)
    return process.returncode, out, err


def wait_for(condition: object, what: str) -> None:
    assert callable(condition)
    until = time.monotonic() + HANGS_S
    while not condition():
        assert time.monotonic() < until, f"never happened: {what}"
        time.sleep(0.01)


def taken(pid: int) -> Callable[[], bool]:
    """Whether a process has taken its signals: none is pending, and its main thread sleeps for a while."""
    seen: list[tuple[str, ...]] = []

    def condition() -> bool:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
        status = dict(line.split(":\t", 1) for line in lines)
        seen.append(tuple(status[n] for n in ("SigPnd", "ShdPnd", "State", "voluntary_ctxt_switches")))
        pending = int(status["SigPnd"], 16) | int(status["ShdPnd"], 16)
        return not pending and status["State"].startswith("S") and len(seen) > 9 and len(set(seen[-9:])) == 1

    return condition


def complete(folder: Path, files: dict[str, bytes]) -> bool:
    found = {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    return found == files


def test_fetch_says_what_it_will_do_and_does_it(
    lock_file: Path, store: Store, hub: Hub, tmp_path: Path
) -> None:
    lock = load_lock(lock_file)
    plan = run(hub, tmp_path, "fetch", "table2", "--dry-run", "--lock", str(lock_file), HF_HUB_OFFLINE="1")
    assert plan[0] == 0, plan[2]
    assert "lab/student at 111111111111: has not been fetched" in plan[1]
    assert "475.0 kB to fetch" in plan[1]
    assert not store.root.exists()
    assert hub.requests.total() == 0

    done = run(hub, tmp_path, "fetch", "table2", "--lock", str(lock_file))
    assert done[0] == 0, done[2]
    assert "student: complete, every file verified" in done[2]
    assert complete(store.files(lock.asset("student")), MODEL)
    assert complete(store.files(lock.asset("mixture")), DATA)
    again = run(hub, tmp_path, "fetch", "table2", "--lock", str(lock_file), HF_HUB_OFFLINE="1")
    assert again[0] == 0, again[2]
    assert "0 B to fetch" in again[1]


def test_fetch_reports_a_refusal_without_a_traceback(lock_file: Path, hub: Hub, tmp_path: Path) -> None:
    hub.faults.content["config.json"] = b'{"model_type": "olmo9"}'
    code, _, err = run(hub, tmp_path, "fetch", "student", "--lock", str(lock_file))
    assert code == 1
    assert "lab/student: config.json: has git blob" in err
    assert "Traceback" not in err
    assert run(hub, tmp_path, "fetch", "student", "--lock", str(lock_file), HF_HUB_OFFLINE="1")[0] == 2


def test_a_killed_fetch_leaves_nothing_that_looks_complete(
    lock: AssetsLock, lock_file: Path, store: Store, hub: Hub, tmp_path: Path
) -> None:
    asset = lock.asset("student")
    leftovers = 0
    # Each time a little further: at the listing, at the first contents, and with some files there.
    for moment in ("tree", f"content {SHARD}", "content tokenizer.json"):
        hub.faults.hold = threading.Event()
        seen = hub.requests[moment]
        process = start(hub, tmp_path, "fetch", "student", "--lock", str(lock_file))
        wait_for(lambda key=moment, count=seen: hub.requests[key] > count, moment)
        process.kill()
        process.communicate()
        hub.faults.hold.set()
        assert not (store.root / "assets").exists()
        with pytest.raises(KitError, match="fetched"):
            require_assets({"student": asset}, "", cache=store.root)
        leftovers += len(list(store.partial(asset).rglob("*.incomplete")))
    assert leftovers, "no kill came in the middle of a file"
    hub.faults.hold = None
    code, _, err = run(hub, tmp_path, "fetch", "student", "--lock", str(lock_file))
    assert code == 0, err
    assert complete(require_assets({"student": asset}, "", cache=store.root)["student"], MODEL)
    assert not list(store.root.rglob("*.incomplete"))


def test_an_interrupt_ends_a_fetch_at_once(lock_file: Path, store: Store, hub: Hub, tmp_path: Path) -> None:
    hub.faults.hold = threading.Event()
    process = start(hub, tmp_path, "fetch", "student", "--lock", str(lock_file))
    wait_for(lambda: hub.requests[f"content {SHARD}"], "a file is on its way")
    process.send_signal(signal.SIGINT)
    wait_for(taken(process.pid), "the interrupt is taken")
    hub.faults.hold.set()
    _, err = process.communicate(timeout=HANGS_S)
    assert process.returncode == 130, err
    assert "Traceback" not in err
    assert not (store.root / "assets").exists()


def test_files_that_were_finished_before_a_kill_are_not_fetched_again(
    lock_file: Path, store: Store, hub: Hub, tmp_path: Path
) -> None:
    hub.faults.drop[SHARD] = [1] * 1000
    process = start(hub, tmp_path, "fetch", "student", "--lock", str(lock_file))
    others = set(MODEL) - {SHARD}
    wait_for(lambda: all(hub.sent[path] == len(MODEL[path]) for path in others), "the other files arrive")
    folder = store.partial(load_lock(lock_file).asset("student")) / "files"
    metadata = folder / ".cache" / "huggingface" / "download"
    wait_for(
        lambda: all((metadata / f"{path}.metadata").exists() for path in others), "the client notes them"
    )
    process.kill()
    process.communicate()
    hub.faults.drop.clear()
    code, _, err = run(hub, tmp_path, "fetch", "student", "--lock", str(lock_file))
    assert code == 0, err
    assert {path: hub.sent[path] for path in others} == {path: len(MODEL[path]) for path in others}


def test_two_at_once_fetch_everything_once(
    lock: AssetsLock, lock_file: Path, store: Store, hub: Hub, tmp_path: Path
) -> None:
    hub.faults.hold = threading.Event()
    first = start(hub, tmp_path, "fetch", "student", "--lock", str(lock_file))
    wait_for(lambda: hub.requests[f"content {SHARD}"], "the first is at work")
    second = start(hub, tmp_path, "fetch", "table2", "--lock", str(lock_file))
    assert second.stderr is not None
    assert WAITING in second.stderr.readline()
    hub.faults.hold.set()
    for process in (first, second):
        _, err = process.communicate(timeout=HANGS_S)
        assert process.returncode == 0, err
    assert {path: hub.sent[path] for path in MODEL} == {path: len(body) for path, body in MODEL.items()}
    assert complete(store.files(lock.asset("student")), MODEL)
    assert complete(store.files(lock.asset("mixture")), DATA)


def test_what_is_missing_is_named_with_the_command_that_gets_it(lock: AssetsLock, tmp_path: Path) -> None:
    needed = lock.needed_by("table2", "paper")
    with pytest.raises(
        KitError, match="student has not been fetched; mixture has not been fetched"
    ) as caught:
        require_assets(needed, "kit fetch table2", cache=tmp_path / "elsewhere")
    assert caught.value.fix == "kit fetch table2"
    assert lock.needed_by("table2", "pocket") == {}
    for words, target, profile in (
        ("did you mean student", "studnet", "paper"),
        ("no profile", "student", "papper"),
    ):
        with pytest.raises(KitError, match=words):
            lock.needed_by(target, profile)


def test_looking_for_assets_needs_neither_the_client_nor_a_network(tmp_path: Path) -> None:
    code = (
        "import sys; from harness.fetch.lockfile import load_lock\n"
        "from harness.fetch.require import require_assets\n"
        "try: require_assets(load_lock().needed_by('student-1b', 'paper'), 'kit fetch student-1b')\n"
        "except Exception as error: print(error)\n"
        "print({'huggingface_hub', 'httpx2', 'rich'} & set(sys.modules))"
    )
    environment = os.environ | {"KIT_CACHE": str(tmp_path), "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=True
    )
    assert "fix: kit fetch student-1b\n" in done.stdout
    assert done.stdout.endswith("set()\n")


@pytest.mark.usefixtures("client")
def test_relock_resolves_main_and_lists_every_file(lock: AssetsLock, hub: Hub) -> None:
    today = date(2026, 12, 1)
    resolved = relock(lock, lock.assets, today)
    newer = hub.repos["models/lab/student"].commits[NEW]
    student = resolved.asset("student")
    assert (student.revision, student.observed) == (NEW, "2026-12-01")
    assert student.bytes == sum(map(len, newer.values()))
    assert list(student.files) == locked_files(newer)
    # The data set has not moved: it keeps its day and gains its files.
    assert (resolved.asset("mixture").revision, resolved.asset("mixture").observed) == (OLD, "2026-07-30")
    assert list(resolved.asset("mixture").files) == locked_files(DATA)
    assert relock(resolved, resolved.assets, today) == resolved
    assert difference(resolved, resolved) == ""


def test_lock_shows_the_difference_and_writes_only_when_told(
    lock_file: Path, hub: Hub, tmp_path: Path
) -> None:
    before = lock_file.read_text()
    code, out, err = run(hub, tmp_path, "lock", "student", "--lock", str(lock_file))
    assert code == 0, err
    assert f"-    revision: '{OLD}'" in out
    assert f"+    revision: '{NEW}'" in out
    assert "extra.bin" in out
    assert "--write" in err
    assert lock_file.read_text() == before
    assert run(hub, tmp_path, "lock", "student", "--write", "--lock", str(lock_file))[0] == 0
    written = load_lock(lock_file)
    assert written.asset("student").revision == NEW
    assert written.asset("mixture") == load_lock(lock_file).asset("mixture")
    assert lock_file.read_text().startswith("# Where it came from.\n")
    assert not list(tmp_path.glob(".assets*"))
    code, out, _ = run(hub, tmp_path, "lock", "student", "--lock", str(lock_file))
    assert "nothing has changed" in out


def test_the_kits_own_lock_names_the_papers_assets() -> None:
    lock = load_lock()
    assert dump_lock(load_lock(LOCK_PATH), "") in LOCK_PATH.read_text()
    table2 = lock.needed_by("table2", "paper")
    assert {asset.role for asset in table2.values()} == {"teacher", "student", "tokenizer", "data"}
    assert sum(asset.bytes for asset in table2.values()) == 160_171_094_337
    assert lock.needed_by("table2", "pocket") == {}
    assert set(lock.needed_by("sweeps", "paper")) < set(table2)
    assert len({asset.key for asset in lock.assets.values()}) == len(lock.assets)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"revision": "main"}, "revision"),
        ({"bytes": 1}, "do not add up"),
        ({"repository": "../elsewhere"}, "repository"),
        ({"type": "space"}, "type"),
    ],
)
def test_a_damaged_lock_is_refused_by_field(
    lock: AssetsLock, tmp_path: Path, change: dict[str, object], message: str
) -> None:
    asset = asset_of(MODEL, files=[file.model_dump() for file in locked_files(MODEL)])
    path = tmp_path / "assets.lock.yaml"
    damaged = lock.model_copy(update={"assets": {"student": asset.model_copy(update=change)}})
    path.write_text(dump_lock(damaged.model_copy(update={"targets": {"sweeps": ("student",)}})))
    with pytest.raises(KitError, match=message) as caught:
        load_lock(path)
    assert caught.value.where == "assets.lock.yaml"


@pytest.mark.parametrize("path", ["../secret", "/etc/passwd", "a/../../b", ""])
def test_a_listed_path_cannot_leave_the_folder(path: str) -> None:
    with pytest.raises(ValueError, match="path inside the repository"):
        locked_files({path: b"x"})


def test_every_profile_and_target_finds_what_it_names() -> None:
    lock = load_lock()
    data = LOCK_PATH.parent
    targets = yaml.safe_load((data / "targets.yaml").read_text())
    assert set(targets) == set(lock.targets)
    for path in (data / "profiles").glob("*.yaml"):
        profile = load_profile(path.stem)
        if profile.kind == "generated":
            assert path.stem in lock.generated_profiles
            continue
        sources = [source["asset"] for source in profile.stages["preprocess"]["sources"]]
        named = {profile.teacher, profile.tokenizer, *profile.students.values(), *sources}
        assert named == set(lock.needed_by("table2", path.stem))


def test_without_a_network_it_says_so_within_seconds(lock_file: Path, hub: Hub, tmp_path: Path) -> None:
    """One question to the hub before anything is tried again and again; no file is begun."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound, and nobody listens
        port = taken.getsockname()[1]
        code, _, err = run(
            hub,
            tmp_path,
            "fetch",
            "student",
            "--lock",
            str(lock_file),
            HF_ENDPOINT=f"http://127.0.0.1:{port}",
        )
    assert code == 1 and "does not answer within 5 s" in err and "trying again" not in err
    assert "Traceback" not in err and hub.requests.total() == 0
