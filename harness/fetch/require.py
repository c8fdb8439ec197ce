"""How a measured program gets at a model or data set: offline, and only what is locked and complete."""

from __future__ import annotations

from pathlib import Path

from harness.errors import KitError
from harness.fetch.lockfile import LOCK_PATH, AssetsLock, load_lock
from harness.fetch.store import Store

OFFLINE = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}
"""Environment of a measured stage: no library looks anything up while joules are counted."""


def require(
    asset: str, profile: str = "paper", *, cache: Path | None = None, lock: AssetsLock | None = None
) -> Path:
    """Find a fetched asset without a network.

    Args:
        asset: Name in the assets' lock, such as `teacher-32b`.
        profile: Profile of the run; one that makes its assets itself has none to require.
        cache: Cache folder; $KIT_CACHE or the default if None.
        lock: The lock; the kit's own if None.

    Returns:
        The folder with the files of the repository.

    Raises:
        KitError: It is not in the lock, or not complete in the cache; `fix` is the command that gets it.
    """
    lock = lock or load_lock()
    if profile in lock.generated_profiles:
        raise KitError(
            f"profile {profile} makes its models and data itself", expected="a profile with fetched assets"
        )
    found = lock.needed_by(asset, profile).get(asset)
    if found is None:
        raise KitError(f"{asset!r} is a target, not an asset", expected=", ".join(lock.assets))
    store = Store(cache)
    if fault := store.fault(found):
        raise KitError(
            f"{asset} ({found.repository} at {found.revision[:12]}) {fault}",
            where=str(store.root),
            expected="every asset complete before anything is measured",
            fix=fetch_command(asset, profile, cache),
        )
    return store.files(found)


def require_target(
    target: str, profile: str = "paper", *, cache: Path | None = None, lock: AssetsLock | None = None
) -> dict[str, Path]:
    """Find everything a target needs, before its first stage starts.

    Args:
        target: Target of `kit reproduce`, such as `table2`.
        profile: Profile of the run.
        cache: Cache folder; $KIT_CACHE or the default if None.
        lock: The lock; the kit's own if None.

    Returns:
        Folder of each asset by its name; empty for a profile that makes its assets itself.

    Raises:
        KitError: Something is missing; the message names all of it and `fix` is one command for all.
    """
    lock = lock or load_lock()
    store = Store(cache)
    needed = lock.needed_by(target, profile)
    if faults := {name: fault for name, asset in needed.items() if (fault := store.fault(asset))}:
        raise KitError(
            "; ".join(f"{name} {fault}" for name, fault in faults.items()),
            where=str(store.root),
            expected=f"what {target} needs, complete before anything is measured",
            fix=fetch_command(target, profile, cache),
        )
    return {name: store.files(asset) for name, asset in needed.items()}


def fetch_command(target: str, profile: str, cache: Path | None) -> str:
    """The command line that gets a target or an asset."""
    command = f"kit fetch {target}"
    if profile != "paper":
        command += f" --profile {profile}"
    return command if cache is None else f"{command} --cache {cache}"


__all__ = ["LOCK_PATH", "OFFLINE", "fetch_command", "require", "require_target"]
