"""Resolve the lock again: the head of each repository's main branch, and its files' sizes and digests."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from datetime import date

from harness.fetch.lockfile import Asset, AssetsLock, dump_lock
from harness.fetch.prefetch import load_client


def relock(lock: AssetsLock, names: Iterable[str], today: date) -> AssetsLock:
    """The lock with some assets resolved from `main`.

    Args:
        lock: The present lock.
        names: Assets to resolve.
        today: Day to record for a revision that is new; one that has not moved keeps its day.

    Raises:
        KitError: A repository cannot be found or the hub cannot be reached.
    """
    resolved = {name: _resolve(lock.asset(name), today) for name in names}
    return lock.model_copy(update={"assets": lock.assets | resolved})


def _resolve(asset: Asset, today: date) -> Asset:
    hub = load_client()
    revision: str = hub.head(asset)
    observed = asset.observed if revision == asset.revision else today.isoformat()
    moved = asset.model_copy(update={"revision": revision, "observed": observed})
    files = tuple(hub.list_files(moved))
    changed = {"files": files, "bytes": sum(file.size for file in files), "approximate": False}
    # Checked once more: what a hub says goes into a file that others trust.
    return Asset.model_validate(moved.model_copy(update=changed).model_dump())


def difference(old: AssetsLock, new: AssetsLock) -> str:
    """A unified diff of two locks; empty if they are the same."""
    before, after = (dump_lock(lock).splitlines(keepends=True) for lock in (old, new))
    return "".join(difflib.unified_diff(before, after, fromfile="locked", tofile="resolved"))


def head_of(repository: str) -> str:
    """Commit at the head of a model repository's main branch.

    Raises:
        KitError: It cannot be found, or the hub cannot be reached.
    """
    unknown = "0" * 40
    asset = Asset.model_validate(
        {
            "role": "judge",
            "type": "model",
            "repository": repository,
            "revision": unknown,
            "observed": "1970-01-01",
            "bytes": 1,
        }
    )
    head: str = load_client().head(asset)
    return head
