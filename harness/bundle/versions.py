"""The manifest of a bundle, and by which version of the protocol it was written (6.5)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from harness.bundle.commit import MANIFEST
from harness.errors import KitError
from harness.spec import Protocol, load_protocol, short_version
from harness.spec.versions import verdict


def written_by(
    manifest: dict[str, Any], reader: Protocol, path: Path, root: Path | None = None
) -> tuple[Protocol, list[str]]:
    """The protocol a bundle was written by, and a remark where that is not the reader's.

    Args:
        manifest: Of the bundle.
        reader: Protocol the tables are to be given in.
        path: Of the manifest, for messages.
        root: Folder of protocol versions.

    Returns:
        Of a newer minor version, which this installation may not have, the reader's own protocol.

    Raises:
        KitError: The version is no version, or one that this reader must refuse (6.5).
    """
    version = manifest.get("protocol_version")
    try:
        answer = verdict(reader.version, version if isinstance(version, str) else "")
    except KitError:
        raise KitError(
            f"protocol_version is {version!r}", where=str(path), expected="text such as '1.0.0'"
        ) from None
    assert isinstance(version, str)
    if answer == "refuse":
        raise KitError(
            f"is written by protocol {version}",
            where=str(path),
            expected=f"protocol {reader.major}.x",
            fix="read it with a kit that speaks that version",
        )
    note = f"written by protocol {version}, read as {reader.version}"
    if answer == "warn":
        return reader, [f"{note}: newer columns are ignored"]
    if short_version(version) == short_version(reader.version):
        return reader, []
    return load_protocol(version, root=root), [note]


def read_manifest(folder: Path) -> dict[str, Any]:
    """Parse manifest.json; KitError with what is wrong. Of its fields only `files` is looked at here."""
    path = folder / MANIFEST
    try:
        manifest = json.loads(path.read_bytes())
    except FileNotFoundError:
        sealed = not (folder / "journal").is_dir()
        raise KitError(
            "there is no manifest.json" + ("" if sealed else ", only a journal that was never sealed"),
            where=str(folder),
            expected="the folder of a sealed run",
            fix=None if sealed else f"kit recover {folder}",
        ) from None
    except OSError as error:
        raise KitError(f"cannot be read: {error.strerror}", where=str(path)) from None
    except (ValueError, RecursionError) as error:
        raise KitError(f"is not JSON: {error}", where=str(path), fix="copy the file again") from None
    if not isinstance(manifest, dict):
        raise KitError("holds no JSON object", where=str(path))
    entries = manifest.get("files")
    if not isinstance(entries, list) or not all(
        isinstance(entry, dict) and isinstance(entry.get("path"), str) for entry in entries
    ):
        raise KitError("lists no files", where=str(path), expected="files: [{path, sha256, ...}]")
    return manifest


def refuse_outside(folder: Path, path: str) -> None:
    """A manifest may come from a stranger: it names files of this folder and no others."""
    parts = path.split("/")
    if path.startswith("/") or "\\" in path or any(part in ("", ".", "..") for part in parts):
        raise KitError(f"lists {path!r}, a path outside the bundle", where=str(folder / MANIFEST))
    for depth in range(1, len(parts) + 1):
        if folder.joinpath(*parts[:depth]).is_symlink():
            raise KitError(
                "is a link",
                where=str(folder.joinpath(*parts[:depth])),
                expected="a file of the bundle itself",
            )
