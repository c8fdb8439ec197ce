"""The digest of a protocol version: what its files were when it was frozen, and what they are here.

`protocol/1.0.sha256` lists every file of `protocol/1.0` as sha256sum does. The digest of a version is
that of the list as it would be written now: it names the definitions that were used, changed or not.
"""

from __future__ import annotations

import hashlib
from functools import cache
from pathlib import Path

from harness.spec.load import version_folder


def frozen_list(folder: Path) -> str:
    """A line a file, by path: its sha256 and its path from the folder's parent.

    Args:
        folder: Folder of a version.
    """
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return "".join(
        f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.relative_to(folder.parent).as_posix()}\n"
        for path in files
    )


def protocol_digest(version: str | None = None) -> str:
    """sha256 of the list of a version's files; the current version by default.

    Raises:
        KitError: The version is not there.
    """
    return _digest(version_folder(version))


@cache
def _digest(folder: Path) -> str:
    return hashlib.sha256(frozen_list(folder).encode()).hexdigest()
