"""Where fetched assets lie, and what makes one complete.

    CACHE/assets/KEY/files/...      a complete asset, and nothing else
    CACHE/assets/KEY/receipt.json   what was fetched and how each file was verified
    CACHE/partial/KEY/...           the same folder while it is being filled
    CACHE/locks/KEY.lock            held by the process that fills it

An asset moves from partial/ to assets/ by one rename, after every file was verified and forced to the disk,
so whatever is found under assets/ was complete when it got there.
"""

from __future__ import annotations

import fcntl
import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from harness.errors import KitError
from harness.fetch.lockfile import Asset, LockedFile
from harness.files import cache_folder, free_bytes, fsync_path

RECEIPT_SCHEMA = "asset-receipt/1.0"
# Left free on top of what is fetched: a full disk ruins more than a download.
SPARE_BYTES = 1 << 30


class Store:
    """A cache folder; `cache_folder()` if none is named. Reading never writes to it."""

    def __init__(self, root: Path | None = None) -> None:
        self.root = root or cache_folder()

    def files(self, asset: Asset) -> Path:
        """Folder of a complete asset's files."""
        return self.root / "assets" / asset.key / "files"

    def partial(self, asset: Asset) -> Path:
        """Folder in which an asset is put together."""
        return self.root / "partial" / asset.key

    def fault(self, asset: Asset) -> str | None:
        """Why an asset cannot be used; None if it is complete.

        Looks at names and sizes. The contents were verified before the asset was published.
        """
        files = self.files(asset)
        if not files.parent.is_dir():
            return "has not been fetched" if not self.partial(asset).is_dir() else "has been fetched in part"
        try:
            receipt = json.loads((files.parent / "receipt.json").read_text(encoding="utf-8"))
            listed = {file["path"]: file["size"] for file in receipt["files"]}
        except (OSError, ValueError, KeyError, TypeError):
            return "has no readable receipt"
        if receipt.get("revision") != asset.revision or receipt.get("repository") != asset.repository:
            return "has the receipt of something else"
        if asset.files and listed != {file.path: file.size for file in asset.files}:
            return "has other files than the lock"
        for path, size in listed.items():
            try:
                found = (files / path).stat().st_size
            except OSError:
                return f"lacks {path}"
            if found != size:
                return f"has {path} with {found:,} bytes instead of {size:,}"
        return None

    def fetched_bytes(self, asset: Asset) -> int:
        """Bytes of an asset that need not be fetched again; finished files of a partial fetch count."""
        if self.fault(asset) is None:
            return asset.bytes
        return sum(
            path.stat().st_size
            for folder in (self.files(asset), self.partial(asset) / "files")
            for path in folder.rglob("*")
            if path.is_file() and ".cache" not in path.relative_to(folder).parts
        )

    def free_bytes(self) -> int:
        """Free space of the disk the cache is or will be on."""
        return free_bytes(self.root)

    @contextmanager
    def exclusive(self, asset: Asset, on_wait: Callable[[], None]) -> Iterator[None]:
        """Hold an asset against other processes; the system lets go when this one dies.

        Args:
            asset: What is going to be fetched.
            on_wait: Called once if another process holds it.
        """
        path = self.root / "locks" / f"{asset.key}.lock"
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a") as handle:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                on_wait()
                fcntl.flock(handle, fcntl.LOCK_EX)
            yield

    def begin(self, asset: Asset) -> Path:
        """The folder to fill; what is left of a damaged asset is taken back into it.

        Returns:
            Its `files` folder, without the leftovers of a process that was killed.
        """
        partial, published = self.partial(asset), self.files(asset).parent
        if published.exists():
            shutil.rmtree(partial, ignore_errors=True)
            partial.parent.mkdir(parents=True, exist_ok=True)
            published.rename(partial)
            (partial / "receipt.json").unlink(missing_ok=True)
        files = partial / "files"
        files.mkdir(parents=True, exist_ok=True)
        # The hub's client names these after itself and never takes them up again.
        for leftover in files.glob(".cache/**/*.incomplete"):
            leftover.unlink()
        return files

    def publish(self, asset: Asset, files: Sequence[LockedFile], receipt: dict[str, Any]) -> None:
        """Make a filled folder visible as complete.

        Args:
            asset: What it is.
            files: Every file, verified, with its SHA-256.
            receipt: More to record.
        """
        partial, published = self.partial(asset), self.files(asset).parent
        shutil.rmtree(partial / "files" / ".cache", ignore_errors=True)
        wanted = {partial / "files" / file.path for file in files}
        for path in list((partial / "files").rglob("*")):
            if path.is_file() and path not in wanted:
                path.unlink()
        document = {
            "schema": RECEIPT_SCHEMA,
            **asset.model_dump(include={"type", "repository", "revision"}),
            "include": list(asset.include),
            "bytes": sum(file.size for file in files),
            "files": [file.model_dump(exclude_none=True) for file in files],
            **receipt,
        }
        (partial / "receipt.json").write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
        for path in (*partial.rglob("*"), partial):
            fsync_path(path)
        published.parent.mkdir(parents=True, exist_ok=True)
        partial.rename(published)
        fsync_path(published.parent)


def check_space(store: Store, needed: int) -> None:
    """Refuse to begin what cannot end.

    Raises:
        KitError: The disk has too little room for `needed` bytes.
    """
    free = store.free_bytes()
    if needed and free < needed + SPARE_BYTES:
        raise KitError(
            f"{human(needed)} are to be fetched and the disk has {human(free)} free",
            where=str(store.root),
            expected=f"{human(needed + SPARE_BYTES)} free",
            fix="make room, or choose a folder on another disk: kit fetch ... --cache DIR (or set KIT_CACHE)",
        )


def human(size: float) -> str:
    """A size in decimal units, as disks and the hub give it."""
    if size < 1000:
        return f"{size:.0f} B"
    for unit in ("kB", "MB", "GB"):
        size /= 1000
        if size < 1000:
            return f"{size:.1f} {unit}"
    return f"{size / 1000:.1f} TB"
