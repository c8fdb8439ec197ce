"""Artifacts by content: the digest of a file or folder, remembered while size and times stay the same."""

from __future__ import annotations

import hashlib
import json
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.errors import KitError
from harness.files import write_bytes

_RACY_NS = 2_000_000_000  # a file changed this recently may change again within the clock's resolution


@dataclass(frozen=True)
class Artifact:
    """A file or folder named by its content.

    Attributes:
        artifact_id: "sha256:" and the digest; of a folder, that of the sorted list of its files' paths and
            digests.
        kind: "file" or "folder".
        size_bytes: Sum over the files.
    """

    artifact_id: str
    kind: str
    size_bytes: int


class DigestCache:
    """Digests kept beside the run, so that a 64 GB checkpoint is read once however many stages consume it."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._known: dict[str, list[Any]] = {}
        try:
            loaded = json.loads(path.read_text())
        except (OSError, ValueError):
            loaded = {}  # a cache: without it everything is read again
        if isinstance(loaded, dict):
            self._known = loaded

    def artifact(self, path: Path) -> Artifact:
        """Digest a file or folder; links are followed, other kinds of file are refused.

        Raises:
            KitError: It does not exist or cannot be read.
        """
        try:
            if path.is_dir():
                files = sorted(file for file in path.rglob("*") if file.is_file())
                digests = [[str(file.relative_to(path)), self._digest(file)] for file in files]
                listing = json.dumps(digests, separators=(",", ":"), ensure_ascii=True).encode()
                size = sum(file.stat().st_size for file in files)
                return Artifact("sha256:" + hashlib.sha256(listing).hexdigest(), "folder", size)
            if not path.is_file():
                raise FileNotFoundError(2, "no such file or folder")
            return Artifact("sha256:" + self._digest(path), "file", path.stat().st_size)
        except OSError as error:
            raise KitError(f"cannot be read: {error.strerror}", where=str(path)) from None

    def _digest(self, file: Path) -> str:
        status = file.stat()
        signature = [status.st_size, status.st_mtime_ns, status.st_ino]
        key = str(file)
        known = self._known.get(key)
        if isinstance(known, list) and known[:3] == signature:
            return str(known[3])
        with file.open("rb") as stream:
            digest = hashlib.file_digest(stream, "sha256").hexdigest()
        if time.time_ns() - status.st_mtime_ns > _RACY_NS:
            self._known[key] = [*signature, digest]
        return digest

    def save(self) -> None:
        """Write the cache; an unwritable one only costs time later."""
        with suppress(OSError):
            write_bytes(self._path, json.dumps(self._known).encode())
