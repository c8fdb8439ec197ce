"""How a measured program gets at a model or data set: offline, and only what is locked and complete."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from harness.errors import KitError
from harness.fetch.lockfile import Asset
from harness.fetch.store import Store


def require_assets(
    needed: Mapping[str, Asset], command: str, *, cache: Path | None = None
) -> dict[str, Path]:
    """Folder of each of some assets, before the first stage starts, without a network.

    Args:
        needed: Name to asset.
        command: What gets them, for the message.
        cache: Cache folder; $KIT_CACHE or the default if None.

    Raises:
        KitError: Something is missing; the message names all of it.
    """
    store = Store(cache)
    if faults := {name: fault for name, asset in needed.items() if (fault := store.fault(asset))}:
        raise KitError(
            "; ".join(f"{name} {fault}" for name, fault in faults.items()),
            where=str(store.root),
            expected="every asset complete before anything is measured",
            fix=command,
        )
    return {name: store.files(asset) for name, asset in needed.items()}
