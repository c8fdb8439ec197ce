"""Files replaced whole, made durable and hashed: what every package that writes beside a run uses."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import stat
from importlib.util import find_spec
from pathlib import Path
from typing import Any, BinaryIO

from harness.errors import KitError


def cache_folder() -> Path:
    """$KIT_CACHE, else distill-energy-kit in the user's cache folder ($XDG_CACHE_HOME or ~/.cache)."""
    if chosen := os.environ.get("KIT_CACHE"):
        return Path(chosen).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "distill-energy-kit"


def package_version(name: str) -> str | None:
    """Version of the package that `import name` would find, from the name of the folder beside it.

    importlib.metadata would cost a fifth of a short command's CPU time, and may speak of another copy. None
    where there is no such package or no such folder.
    """
    spec = find_spec(name)
    if spec is None or spec.origin is None:
        return None
    for folder in Path(spec.origin).parents[1].glob(f"{name}-*.dist-info"):
        return folder.name.removesuffix(".dist-info").partition("-")[2]
    return None


def look_at(path: Path, limit: int | None = None) -> os.stat_result:
    """Look at a file before it is opened.

    Args:
        path: A file that may be a stranger's.
        limit: Most bytes it may have.

    Raises:
        KitError: It is missing, a link, a folder, a pipe or a device, or too large.
    """
    try:
        found = path.lstat()
    except FileNotFoundError:
        raise KitError(
            "file is missing", where=str(path), fix="copy it again from the run; a bundle lacks no file"
        ) from None
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise KitError(f"cannot be read: {reason}", where=str(path)) from None
    if not stat.S_ISREG(found.st_mode):
        kinds = {
            stat.S_IFLNK: "is a link",
            stat.S_IFDIR: "cannot be read: Is a directory",
            stat.S_IFIFO: "is a pipe",
        }
        kind = kinds.get(stat.S_IFMT(found.st_mode), "is a device or socket")
        raise KitError(kind, where=str(path), expected="a plain file")
    if limit is not None and found.st_size > limit:
        raise KitError(f"has {found.st_size} bytes", where=str(path), expected=f"at most {limit}")
    return found


def open_plain(path: Path) -> BinaryIO:
    """Open a file for reading that was looked at; neither a link nor a pipe that took its place is.

    Raises:
        KitError: It cannot be opened.
    """
    try:
        return os.fdopen(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC), "rb")
    except OSError as error:
        raise KitError(f"cannot be read: {error.strerror}", where=str(path)) from None


def read_bytes(path: Path, limit: int) -> bytes:
    """The bytes of a plain file of bounded size; KitError as of `look_at`."""
    look_at(path, limit)
    with open_plain(path) as file:
        try:
            return file.read(limit)
        except OSError as error:
            raise KitError(f"cannot be read: {error.strerror}", where=str(path)) from None


def write_bytes(path: Path, data: bytes) -> Path:
    """Write a file so that a reader sees the old one or the new one, whole, even after a power cut."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.tmp")
    with temporary.open("wb") as stream:
        stream.write(data)
        stream.flush()
        os.fsync(stream.fileno())
    temporary.replace(path)
    return path


def write_json(path: Path, value: Any) -> Path:
    """Write JSON as `write_bytes` does."""
    text = json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False) + "\n"
    return write_bytes(path, text.encode())


def there_is(path: Path) -> bool:
    """Whether something stands there; no for a name that nothing can have, where `Path.exists` raises."""
    return os.path.exists(path)  # noqa: PTH110


def existing(path: Path) -> Path:
    """A path, or the nearest folder above it that is there: what will be made lies on that disk."""
    absolute = path.absolute()
    return next(place for place in (absolute, *absolute.parents) if place.exists())


def free_bytes(path: Path) -> int:
    """Free space of the disk that a path is or will be on."""
    found = os.statvfs(existing(path))
    return found.f_bavail * found.f_frsize


def fsync_path(path: Path) -> None:
    """Make a file's bytes, or a folder's names, survive a power cut."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_folder(folder: Path) -> None:
    """Make what was made, renamed or removed in a folder survive a power cut, where the file system can."""
    with contextlib.suppress(OSError):
        fsync_path(folder)


def sync_tree(folder: Path) -> None:
    """Make a folder and the files in it survive a power cut."""
    for path in folder.rglob("*"):
        if path.is_file():
            fsync_path(path)
    sync_folder(folder)


def file_digest(path: Path) -> str:
    """SHA-256 of a file's content, 64 hex digits."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
