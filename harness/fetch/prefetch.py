"""Fetch what a target needs: space first, then file by file with verification, then one rename an asset."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from threading import Lock
from types import ModuleType
from typing import Any

from harness.errors import KitError
from harness.fetch.lockfile import Asset
from harness.fetch.store import Store, check_space, human

LINE_EVERY_S = 10.0
APPROXIMATELY = 0.4
"""How far a round figure of the lock may be from what the hub lists."""
WAITING = "another kit is fetching it; waiting"


class FetchProgress:
    """Shows on standard error how far a fetch is: a bar on a terminal, a line now and then elsewhere."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._bar: Any = None
        self._name = ""
        self._total = self._done = 0
        self._began_s = self._said_s = 0.0

    def begin(self, name: str, total: int) -> None:
        """An asset of `total` bytes starts."""
        self._name, self._total, self._done = name, total, 0
        self._began_s = self._said_s = time.monotonic()
        if sys.stderr.isatty():
            from huggingface_hub.utils import tqdm

            self._bar = tqdm(total=total, desc=f"fetch: {name}", unit="B", unit_scale=True)

    def advance(self, step: int) -> None:
        """`step` more bytes of it are on the disk; negative when some are given up."""
        with self._lock:
            self._done += step
            now_s = time.monotonic()
            if self._bar is not None:
                self._bar.update(step)
            elif now_s - self._said_s >= LINE_EVERY_S:
                self._said_s = now_s
                rate = human(self._done / (now_s - self._began_s))
                self.note(f"{self._name}: {human(self._done)} of {human(self._total)}, {rate}/s")

    def note(self, text: str) -> None:
        """Something worth a line."""
        (print if self._bar is None else self._bar.write)(f"fetch: {text}", file=sys.stderr)
        sys.stderr.flush()

    def end(self, name: str) -> None:
        """The asset is complete."""
        if self._bar is not None:
            self._bar.close()
        self.note(f"{name}: complete, every file verified")


@dataclass(frozen=True)
class MissingAsset:
    """What there is to do for one asset.

    Attributes:
        fault: Why it is not complete; None if it is.
    """

    name: str
    asset: Asset
    fault: str | None
    missing_bytes: int


def make_plan(assets: Mapping[str, Asset], store: Store) -> list[MissingAsset]:
    """Compare what is needed, by name, with what is in a cache, without a network."""
    return [
        MissingAsset(name, asset, store.fault(asset), max(asset.bytes - store.fetched_bytes(asset), 0))
        for name, asset in assets.items()
    ]


def prefetch(assets: Mapping[str, Asset], store: Store, progress: FetchProgress) -> dict[str, Path]:
    """Make every asset complete in the cache.

    Args:
        assets: What is needed, by name.
        store: The cache.
        progress: Who is told. Called from several threads.

    Raises:
        KitError: Too little space, or the hub does not deliver what the lock says. What is complete by then
            stays, and a second call goes on from there.
    """
    plan = make_plan(assets, store)
    check_space(store, sum(item.missing_bytes for item in plan))
    if any(item.fault for item in plan):
        load_client().check_reachable()
    for item in plan:
        if item.fault is None:
            continue
        with store.exclusive(item.asset, on_wait=partial(progress.note, f"{item.name}: {WAITING}")):
            # The other one may have finished it.
            if store.fault(item.asset) is not None:
                _fetch(item.name, item.asset, store, progress)
    return {name: store.files(asset) for name, asset in assets.items()}


def _fetch(name: str, asset: Asset, store: Store, progress: FetchProgress) -> None:
    hub = load_client()
    files = list(asset.files) or hub.list_files(asset)
    total = sum(file.size for file in files)
    if total != asset.bytes if not asset.approximate else abs(total / asset.bytes - 1) > APPROXIMATELY:
        raise KitError(
            f"the hub lists {total:,} bytes at {asset.revision[:12]}, the lock {asset.bytes:,}",
            where=f"{name} ({asset.repository})",
            expected="the total that was observed when the lock was made",
            fix=f"kit lock {name} shows what is there now; kit lock {name} --write takes it over",
            exit_code=1,
        )
    progress.begin(name, total)
    verified = hub.download(asset, files, store.begin(asset), progress)
    receipt = {"fetched_at": datetime.now(UTC).isoformat(timespec="seconds"), "client": hub.CLIENT}
    store.publish(asset, verified, receipt)
    progress.end(name)


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
