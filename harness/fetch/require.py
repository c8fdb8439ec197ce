"""How a measured program gets at a model or data set: offline, and only what is locked and complete."""

from __future__ import annotations

from pathlib import Path

from harness.errors import KitError
from harness.fetch.lockfile import AssetsLock, load_lock
from harness.fetch.store import Store


def require(
    asset: str, profile: str = "paper", *, cache: Path | None = None, lock: AssetsLock | None = None
) -> Path:
    """Find one fetched asset without a network: its folder, as `require_target` finds those of a target.

    Raises:
        KitError: It is not in the lock, or not complete in the cache; `fix` is the command that gets it.
    """
    lock = lock or load_lock()
    found = require_target(asset, profile, cache=cache, lock=lock) if asset not in lock.targets else {}
    if asset in found:
        return found[asset]
    if profile in lock.generated_profiles:
        raise KitError(
            f"profile {profile} makes its models and data itself", expected="a profile with fetched assets"
        )
    raise KitError(f"{asset!r} is a target, not an asset", expected=", ".join(lock.assets))


def require_target(
    target: str, profile: str = "paper", *, cache: Path | None = None, lock: AssetsLock | None = None
) -> dict[str, Path]:
    """Find everything a target needs, before its first stage starts, without a network.

    Args:
        target: Target of `kit reproduce`, such as `table2`, or an asset of the lock.
        profile: Profile of the run.
        cache: Cache folder; $KIT_CACHE or the default if None.
        lock: The lock; the kit's own if None.

    Returns:
        Folder with the files of each repository, by the asset's name; empty for a profile that makes its
        assets itself.

    Raises:
        KitError: Something is missing; the message names all of it and `fix` is one command for all.
    """
    store = Store(cache)
    needed = (lock or load_lock()).needed_by(target, profile)
    if faults := {name: fault for name, asset in needed.items() if (fault := store.fault(asset))}:
        command = f"kit fetch {target}"
        command += f" --profile {profile}" if profile != "paper" else ""
        raise KitError(
            "; ".join(f"{name} {fault}" for name, fault in faults.items()),
            where=str(store.root),
            expected=f"what {target} needs, complete before anything is measured",
            fix=command if cache is None else f"{command} --cache {cache}",
        )
    return {name: store.files(asset) for name, asset in needed.items()}
