"""Fetching with the real client: whole and verified, or refused by name and not published."""

from __future__ import annotations

import json
import random
from hashlib import sha256
from pathlib import Path

import pytest

from harness.errors import KitError
from harness.fetch import store as store_module
from harness.fetch.lockfile import AssetsLock
from harness.fetch.prefetch import make_plan, prefetch
from harness.fetch.require import require_assets
from harness.fetch.store import Store
from tests.fetch.conftest import DATA, MODEL, OLD, Listener, asset_of, locked_files
from tests.fetch.hub import Hub

pytestmark = pytest.mark.usefixtures("client")
SHARD = "model-00001-of-00002.safetensors"


def read_all(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def fetch(lock: AssetsLock, store: Store, hub: Hub, *names: str) -> Listener:
    listener = Listener()
    prefetch({name: lock.asset(name) for name in names or lock.assets}, store, listener)
    return listener


def found(name: str, store: Store, lock: AssetsLock) -> Path:
    return require_assets({name: lock.asset(name)}, f"kit fetch {name}", cache=store.root)[name]


def refuse(lock: AssetsLock, store: Store, hub: Hub, *names: str) -> KitError:
    with pytest.raises(KitError) as caught:
        fetch(lock, store, hub, *names)
    for name in names or lock.assets:
        assert not store.files(lock.asset(name)).exists()
        with pytest.raises(KitError, match="fetched"):
            found(name, store, lock)
    return caught.value


def test_assets_arrive_whole_with_a_receipt(lock: AssetsLock, store: Store, hub: Hub) -> None:
    listener = fetch(lock, store, hub)
    assert listener.ended == ["student", "mixture"]
    assert listener.bytes == sum(map(len, DATA.values()))
    for name, files in (("student", MODEL), ("mixture", DATA)):
        folder = found(name, store, lock)
        assert read_all(folder) == files
        receipt = json.loads((folder.parent / "receipt.json").read_text())
        assert (receipt["revision"], receipt["bytes"]) == (OLD, sum(map(len, files.values())))
        assert receipt["client"].startswith("huggingface_hub 2.")
        assert {file["path"]: file["sha256"] for file in receipt["files"]} == {
            path: sha256(body).hexdigest() for path, body in files.items()
        }
    assert not list((store.root / "partial").iterdir())
    before = hub.requests.total()
    fetch(lock, store, hub)
    assert hub.requests.total() == before, "what is complete needs no network"


def test_patterns_select_files_and_another_selection_is_another_asset(store: Store, hub: Hub) -> None:
    wanted = {"tokenizer.json": MODEL["tokenizer.json"], "config.json": MODEL["config.json"]}
    some = asset_of(wanted, include=["tokenizer*", "config.json"])
    assert some.key != asset_of(MODEL).key
    prefetch({"tokenizer": some}, store, Listener())
    assert read_all(store.files(some)) == wanted
    assert hub.sent[SHARD] == 0


@pytest.mark.parametrize("seed", range(6))
def test_dropped_connections_are_resumed_where_they_stopped(
    lock: AssetsLock, store: Store, hub: Hub, seed: int
) -> None:
    draw = random.Random(seed)
    for path, body in MODEL.items():
        # Lengths of answers, some cut short by a reset.
        cuts = [
            draw.choice([1, -1]) * draw.randint(1, max(len(body) // 4, 1)) for _ in range(draw.randint(0, 4))
        ]
        hub.faults.drop[path] = cuts
    listener = fetch(lock, store, hub, "student")
    assert read_all(found("student", store, lock)) == MODEL
    assert listener.bytes == lock.asset("student").bytes
    assert not any(hub.faults.drop.values())


def test_an_early_end_costs_no_byte_twice(lock: AssetsLock, store: Store, hub: Hub) -> None:
    hub.faults.drop[SHARD] = [100_000, 50_000, 1000]
    fetch(lock, store, hub, "student")
    assert hub.ranges == [(SHARD, 100_000), (SHARD, 150_000), (SHARD, 151_000)]
    assert hub.sent[SHARD] == len(MODEL[SHARD])


def test_a_reset_is_resumed_too(lock: AssetsLock, store: Store, hub: Hub) -> None:
    hub.faults.drop[SHARD] = [-200_000]
    fetch(lock, store, hub, "student")
    [(path, first)] = hub.ranges
    # What had arrived before the reset is a matter of buffers; the rest is asked for from there.
    assert path == SHARD
    assert 0 < first <= 200_000


def test_a_line_that_stays_dead_is_an_error_and_the_rest_is_kept(
    lock: AssetsLock, store: Store, hub: Hub
) -> None:
    hub.faults.drop[SHARD] = [0] * 1000
    error = refuse(lock, store, hub, "student")
    assert SHARD in str(error)
    assert "run the same command again" in str(error)
    hub.faults.drop.clear()
    before = hub.sent.copy()
    fetch(lock, store, hub, "student")
    again = {path for path in MODEL if hub.sent[path] > before[path]}
    assert SHARD in again
    assert "config.json" not in again or before["config.json"] == 0


def test_server_errors_pass(lock: AssetsLock, store: Store, hub: Hub) -> None:
    hub.faults.status = {"tree": [500, 503], "config.json": [429, 502]}
    fetch(lock, store, hub, "student")
    assert read_all(store.files(lock.asset("student"))) == MODEL


def changed(body: bytes) -> bytes:
    return body[:-1] + bytes([body[-1] ^ 1])


@pytest.mark.parametrize("path", [SHARD, "config.json"])
@pytest.mark.parametrize("locked", [False, True])
def test_a_wrong_file_is_refused_by_name(
    lock: AssetsLock, store: Store, hub: Hub, path: str, locked: bool
) -> None:
    if locked:
        asset = asset_of(MODEL, files=[file.model_dump() for file in locked_files(MODEL)])
        lock = lock.model_copy(update={"assets": lock.assets | {"student": asset}})
    hub.faults.content[path] = changed(MODEL[path])
    error = refuse(lock, store, hub, "student")
    assert error.where == f"lab/student: {path}"
    assert "refused twice and not kept" in error.message
    assert error.exit_code == 1
    assert not (store.partial(lock.asset("student")) / "files" / path).exists()
    hub.faults.content.clear()
    fetch(lock, store, hub, "student")
    assert read_all(found("student", store, lock)) == MODEL
    assert hub.requests["tree"] == (0 if locked else 2)


def test_a_file_spoilt_once_on_the_way_is_fetched_again(lock: AssetsLock, store: Store, hub: Hub) -> None:
    hub.faults.content_once[SHARD] = [changed(MODEL[SHARD])]
    listener = fetch(lock, store, hub, "student")
    assert len(listener.notes) == 1
    assert SHARD in listener.notes[0] and "SHA-256" in listener.notes[0]
    assert listener.bytes == lock.asset("student").bytes


@pytest.mark.parametrize("size", [100, 299_999, 300_001])
def test_a_file_of_the_wrong_size_is_refused(lock: AssetsLock, store: Store, hub: Hub, size: int) -> None:
    hub.faults.content[SHARD] = (MODEL[SHARD] + b"more")[:size]
    error = refuse(lock, store, hub, "student")
    assert SHARD in str(error)
    assert f"{size}" in str(error).replace(",", "")


def test_a_missing_file_is_named(lock: AssetsLock, store: Store, hub: Hub) -> None:
    hub.faults.missing.add("tokenizer.json")
    error = refuse(lock, store, hub, "student")
    assert error.where == "lab/student: tokenizer.json"
    assert "no such file" in error.message
    assert hub.requests["HEAD tokenizer.json"] == 1, "what is not there does not come by asking again"


def test_an_unknown_revision_and_an_unknown_repository(lock: AssetsLock, store: Store, hub: Hub) -> None:
    gone = {"student": asset_of(MODEL, revision="3" * 40), "mixture": asset_of(DATA, repository="lab/nobody")}
    lock = lock.model_copy(update={"assets": gone})
    error = refuse(lock, store, hub, "student")
    assert f"no revision {'3' * 40}" in error.message
    assert error.fix == "kit lock --write"
    assert "no such model" in refuse(lock, store, hub, "mixture").message


def test_a_total_that_is_not_the_locked_one_is_refused(lock: AssetsLock, store: Store, hub: Hub) -> None:
    hub.repos["models/lab/student"].commits[OLD]["config.json"] += b" "
    error = refuse(lock, store, hub, "student")
    assert error.where == "student (lab/student)"
    assert "kit lock student" in str(error.fix)
    assert hub.sent.total() == 0


def test_too_little_space_is_said_before_anything_is_fetched(
    lock: AssetsLock, store: Store, hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    room = sum(asset.bytes for asset in lock.assets.values()) + store_module.SPARE_BYTES
    monkeypatch.setattr(Store, "free_bytes", lambda self: room - 1)
    error = refuse(lock, store, hub)
    assert "free" in error.message
    assert "--cache" in str(error.fix)
    assert hub.requests.total() == 0
    monkeypatch.setattr(Store, "free_bytes", lambda self: room)
    fetch(lock, store, hub)
    # What is there counts: nothing is left to fetch, so no space is needed.
    monkeypatch.setattr(Store, "free_bytes", lambda self: 0)
    fetch(lock, store, hub)


def test_no_network_at_all_is_an_error_with_a_remedy(lock: AssetsLock, store: Store) -> None:
    with Hub({}) as hub:
        pass
    assert "check the network" in str(refuse(lock, store, hub, "student").fix)


def test_a_damaged_asset_is_noticed_and_mended(lock: AssetsLock, store: Store, hub: Hub) -> None:
    fetch(lock, store, hub, "student")
    folder = store.files(lock.asset("student"))
    (folder / SHARD).write_bytes(b"short")
    with pytest.raises(KitError, match=rf"has {SHARD} with 5 bytes instead of 300,000"):
        found("student", store, lock)
    [item] = make_plan({"student": lock.asset("student")}, store)
    assert item.missing_bytes == len(MODEL[SHARD]) - 5
    before = hub.sent.copy()
    fetch(lock, store, hub, "student")
    assert read_all(found("student", store, lock)) == MODEL
    assert hub.sent[SHARD] > before[SHARD]
    (folder / "config.json").unlink()
    with pytest.raises(KitError, match=r"lacks config\.json"):
        found("student", store, lock)


def test_the_network_is_not_used_where_it_is_forbidden(
    lock: AssetsLock, store: Store, hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import constants

    from harness.fetch import hub as client

    client.prepare_client.cache_clear()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert "HF_HUB_OFFLINE" in refuse(lock, store, hub, "student").message
    assert hub.requests.total() == 0
