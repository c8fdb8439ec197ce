"""The manifest of a bundle, and by which version of the protocol it was written (6.5)."""

from __future__ import annotations

import json
from math import isfinite
from os.path import lexists
from pathlib import Path
from typing import Any

from harness.bundle.commit import MANIFEST
from harness.bundle.files import MAX_MANIFEST
from harness.errors import KitError
from harness.files import read_bytes
from harness.spec import Protocol, load_protocol, short_version
from harness.spec.versions import verdict

MAX_PATH = 200
"""Letters of the path of a file in a bundle, which is a table's name and perhaps a part's."""


def written_by(manifest: dict[str, Any], reader: Protocol, path: Path) -> tuple[Protocol, list[str]]:
    """The protocol a bundle was written by, and a remark where that is not the reader's.

    Args:
        manifest: Of the bundle.
        reader: Protocol the tables are to be given in.
        path: Of the manifest, for messages.

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
    return load_protocol(version), [note]


def strict_json(data: bytes) -> Any:
    """JSON as RFC 8259 has it: UTF-8 without a byte order mark, no NaN, infinity or overflow, no key twice.

    Raises:
        ValueError: It is not.
    """
    text = data.decode()  # bytes in UTF-16 would be taken too
    return json.loads(text, parse_constant=_no_number, parse_float=_finite, object_pairs_hook=_each_once)


def _no_number(word: str) -> Any:
    raise ValueError(f"{word} is no number")


def _finite(text: str) -> float:
    number = float(text)
    return number if isfinite(number) else _no_number(text[:40])


def _each_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("an object has a key twice")
    return found


def read_manifest(folder: Path) -> tuple[dict[str, Any], bytes]:
    """Parse manifest.json; its bytes too. Of its fields only `files` is looked at here, which is a list.

    Raises:
        KitError: There is no such folder or file, or it is no manifest.
    """
    path = folder / MANIFEST
    if not folder.is_dir():
        found = "is a file" if folder.exists() else "does not exist"
        raise KitError(found, where=str(folder), expected="a run folder with manifest.json")
    if not lexists(path):
        sealed = not (folder / "journal").is_dir()
        raise KitError(
            "there is no manifest.json" + ("" if sealed else ", only a journal that was never sealed"),
            where=str(folder),
            expected="the folder of a sealed run",
            fix=f"kit runs {folder} lists the runs below it" if sealed else f"kit recover {folder}",
        )
    data = read_bytes(path, MAX_MANIFEST)
    try:
        manifest = strict_json(data)
    except (ValueError, RecursionError) as error:
        reason = f"is not JSON: {str(error)[:120]}"
        raise KitError(reason, where=str(path), fix="copy the file again") from None
    if not isinstance(manifest, dict):
        raise KitError("holds no JSON object", where=str(path))
    if not isinstance(manifest.get("files"), list):
        raise KitError("lists no files", where=str(path), expected="files: [{path, sha256, ...}]")
    return manifest, data


def refuse_outside(folder: Path, path: str) -> None:
    """A manifest may come from a stranger: it names files of this folder and no others."""
    parts = path.split("/")
    if "\\" in path or "\0" in path or any(part in ("", ".", "..") for part in parts):
        raise KitError(f"lists {path!r}, a path outside the bundle", where=str(folder / MANIFEST))
    if len(path) > MAX_PATH or len(parts) > 2:
        raise KitError(f"lists a path of {len(path)} letters", where=str(folder / MANIFEST))
    place = folder
    for part in parts:
        place /= part
        if place.is_symlink():
            raise KitError("is a link", where=str(place), expected="a file of the bundle itself")
