"""The manifest of a bundle, and by which version of the protocol it was written (6.5)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

from harness.bundle.commit import MANIFEST
from harness.errors import KitError
from harness.spec import Protocol, load_protocol
from harness.spec.migrations import Step, steps_between, verdict


class Written(NamedTuple):
    """The protocol that wrote a bundle, and the steps from it to the one it is given in."""

    protocol: Protocol
    steps: tuple[Step, ...]


def written_by(
    manifest: dict[str, Any], reader: Protocol, path: Path, root: Path | None = None
) -> tuple[Written, list[str]]:
    """Which protocol wrote a bundle, and how its tables come to that of the reader.

    Args:
        manifest: Of the bundle.
        reader: Protocol the tables are to be given in.
        path: Of the manifest, for messages.
        root: Folder of protocol versions and migrations.

    Raises:
        KitError: The version is no version, or one that this reader must refuse (6.5).
    """
    version = manifest.get("protocol_version")
    try:
        answer = verdict(reader.version, version if isinstance(version, str) else "", root=root)
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
    if answer == "warn":
        note = f"written by protocol {version}, read as {reader.version}: newer columns are ignored"
        return Written(reader, ()), [note]
    theirs, ours = (".".join(text.split(".")[:2]) for text in (version, reader.version))
    if theirs == ours:
        return Written(reader, ()), []
    steps = steps_between(theirs, ours, root=root) or ()
    note = f"written by protocol {version}, read as {reader.version}"
    return Written(load_protocol(version, root=root), steps), [note]


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
