"""Fetch what a target needs: space first, then file by file with verification, then one rename an asset."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from threading import Event
from types import ModuleType
from typing import Protocol

from harness.errors import KitError
from harness.fetch.lockfile import Asset, LockedFile
from harness.fetch.store import Store, check_space

# Several files at once fill a fast line; each keeps a connection and at most one unfinished file on the disk.
WORKERS = 4
WAITING = "another kit is fetching it; waiting"


class Progress(Protocol):
    """Who is told how far it is. Called from several threads."""

    def begin(self, name: str, total: int) -> None:
        """An asset of `total` bytes starts."""

    def advance(self, step: int) -> None:
        """`step` more bytes of it are on the disk; negative when some are given up."""

    def note(self, text: str) -> None:
        """Something worth a line."""

    def end(self, name: str) -> None:
        """The asset is complete."""


@dataclass(frozen=True)
class Planned:
    """What there is to do for one asset."""

    name: str
    asset: Asset
    fault: str | None
    """Why it is not complete; None if it is."""
    missing_bytes: int


def make_plan(assets: Mapping[str, Asset], store: Store) -> list[Planned]:
    """Compare what is needed with what is there, without a network.

    Args:
        assets: What is needed, by name.
        store: The cache.
    """
    return [
        Planned(
            name=name,
            asset=asset,
            fault=store.fault(asset),
            missing_bytes=max(asset.bytes - store.fetched_bytes(asset), 0),
        )
        for name, asset in assets.items()
    ]


def prefetch(
    assets: Mapping[str, Asset], store: Store, progress: Progress, endpoint: str | None = None
) -> dict[str, Path]:
    """Make every asset complete in the cache.

    Args:
        assets: What is needed, by name.
        store: The cache.
        progress: Who is told.
        endpoint: The hub; $HF_ENDPOINT if None.

    Returns:
        Folder of each asset's files.

    Raises:
        KitError: Too little space, or the hub does not deliver what the lock says. What is complete by then
            stays, and a second call goes on from there.
    """
    plan = make_plan(assets, store)
    check_space(store, sum(item.missing_bytes for item in plan))
    for item in plan:
        if item.fault is None:
            continue
        with store.exclusive(item.asset, on_wait=partial(progress.note, f"{item.name}: {WAITING}")):
            # The other one may have finished it.
            if store.fault(item.asset) is not None:
                _fetch(item.name, item.asset, store, progress, endpoint)
    return {name: store.files(asset) for name, asset in assets.items()}


def _fetch(name: str, asset: Asset, store: Store, progress: Progress, endpoint: str | None) -> None:
    hub = load_client()
    files = list(asset.files) or hub.list_files(asset, endpoint)
    total = sum(file.size for file in files)
    if total != asset.bytes:
        raise KitError(
            f"the hub lists {total:,} bytes at {asset.revision[:12]}, the lock {asset.bytes:,}",
            where=f"{name} ({asset.repository})",
            expected="the total that was observed when the lock was made",
            fix=f"kit lock {name} shows what is there now; kit lock {name} --write takes it over",
            exit_code=1,
        )
    progress.begin(name, total)
    folder = store.begin(asset)
    failed, interrupted = Event(), Event()

    def advance(step: int) -> None:
        # The only place where a download can be left: the client calls it for every piece that arrives.
        if interrupted.is_set():
            raise _StoppedError
        progress.advance(step)

    def get(file: LockedFile) -> LockedFile:
        if failed.is_set():
            raise _StoppedError
        found: LockedFile = hub.download(
            asset, file, folder, advance=advance, note=progress.note, endpoint=endpoint
        )
        return found

    # Large files first: the last one to end is then a small one.
    order = sorted(files, key=lambda file: -file.size)
    with ThreadPoolExecutor(WORKERS) as pool:
        futures = [pool.submit(get, file) for file in order]
        try:
            wait(futures, return_when=FIRST_EXCEPTION)
        except BaseException:
            interrupted.set()
            raise
        finally:
            # Files on their way may arrive: they are kept for the next try. No other is begun.
            failed.set()
    verified = sorted(_results(futures), key=lambda file: file.path)
    receipt = {"fetched_at": datetime.now(UTC).isoformat(timespec="seconds"), "client": hub.client_version()}
    store.publish(asset, verified, receipt)
    progress.end(name)


class _StoppedError(Exception):
    """The fetch has failed or was interrupted elsewhere."""


def _results(futures: list[Future[LockedFile]]) -> list[LockedFile]:
    """Every result, or the first error that is not the echo of another."""
    errors = [error for future in futures if (error := future.exception()) is not None]
    for error in errors:
        if not isinstance(error, _StoppedError):
            raise error
    return [future.result() for future in futures]


def load_client() -> ModuleType:
    """The module that speaks with the hub.

    Raises:
        KitError: Its client is not installed.
    """
    try:
        from harness.fetch import hub
    except ModuleNotFoundError as error:
        raise KitError(
            f"fetching needs {error.name}, which is not installed",
            expected="an environment with the train extra",
            fix="make setup-train, or pip install 'distill-energy-kit[train]'",
        ) from error
    return hub
