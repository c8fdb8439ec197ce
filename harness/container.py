"""What the kit knows of the container image it runs in, and what messages say there and nowhere else.

The image names a file in KIT_IMAGE (containers/record.py writes it): the installed locks, their digest, the
revision it was built from. Its own digest no image can know; whoever starts it tells it in KIT_IMAGE_DIGEST.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
from pathlib import Path
from typing import Any

from harness.errors import KitError

RECORD = "KIT_IMAGE"
DIGEST = "KIT_IMAGE_DIGEST"
REVISION_FILE = ".revision.json"
"""Beside the examples that the image has baked in: their revision, for they lie in no repository."""

_DIGEST = re.compile(r"(?:[^@\s]+@)?(sha256:[0-9a-f]{64})")


def image_record() -> dict[str, Any] | None:
    """What the image says of itself; None outside of one.

    Raises:
        KitError: The file that KIT_IMAGE names cannot be read.
    """
    name = os.environ.get(RECORD)
    if not name:
        return None
    try:
        found = json.loads(Path(name).read_text(encoding="utf-8"))
        if not isinstance(found, dict):
            raise ValueError("not an object")
    except (OSError, ValueError) as error:
        raise KitError(
            f"the image's own record cannot be read: {error}",
            where=name,
            expected="the file that the image's build wrote",
            fix=f"leave {RECORD} as the image sets it; outside of the image unset it",
        ) from None
    return found


def image_digest() -> str | None:
    """The digest in KIT_IMAGE_DIGEST, `sha256:` and 64 hex digits; None when nobody told it.

    Raises:
        KitError: There is something else in it.
    """
    told = os.environ.get(DIGEST, "").strip()
    if not told:
        return None
    if match := _DIGEST.fullmatch(told):
        return match[1]
    raise KitError(
        f"{DIGEST} is {told!r}",
        expected="sha256:<64 hex digits>, with or without a name and @ before it",
        fix=f"-e {DIGEST}=\"$(docker image inspect --format '{{{{.Id}}}}' IMAGE)\"",
    )


def checked_locks(record: dict[str, Any]) -> list[Path]:
    """The locks of the image, in the order of installation.

    Args:
        record: What `image_record` returned.

    Raises:
        KitError: A lock is missing, or they are not the ones whose digest the build recorded.
    """
    folder = Path(os.environ[RECORD]).parent / "locks"
    names, told = record.get("locks"), record.get("lock_sha256")
    fix = "build the image again: make image"
    if not isinstance(names, list) or not names or not isinstance(told, str):
        raise KitError("the image's own record names no locks", where=os.environ[RECORD], fix=fix)
    locks = [folder / f"{name}.lock" for name in names]
    try:
        digest = hashlib.sha256(b"".join(lock.read_bytes() for lock in locks)).hexdigest()
    except OSError as error:
        raise KitError(f"the image lacks its locks: {error}", where=str(folder), fix=fix) from None
    if digest != told:
        raise KitError(
            f"the image's locks were changed: sha256 {digest}", where=str(folder), expected=told, fix=fix
        )
    return locks


def check_image() -> None:
    """Refuse to begin a run whose manifest would lack what somebody tried to tell it.

    Raises:
        KitError: KIT_IMAGE or KIT_IMAGE_DIGEST cannot be read.
    """
    image_record()
    image_digest()


def revision_of(folder: Path) -> tuple[str | None, bool | None]:
    """Commit and whether there were changes, for a folder that the image baked in; unknown for any other."""
    try:
        found = json.loads((folder / REVISION_FILE).read_text(encoding="utf-8"))
        commit, dirty = found["git_commit"], found["git_dirty"]
    except (OSError, ValueError, KeyError, TypeError):
        return None, None
    return (commit, dirty) if os.environ.get(RECORD) else (None, None)


def fix_for_missing_file(name: str) -> str | None:
    """What to do about a file that is not there, if the likely reason is a missing mount; None elsewhere."""
    if not os.environ.get(RECORD):
        return None
    if Path.cwd().is_mount():
        return (
            f"a relative path starts at {Path.cwd()}, the folder you mounted; name a file that lies below it"
        )
    shown = name if not name.startswith("/") else Path(name).name
    return (
        "the container sees no file of the host that was not mounted. In the folder of the file:\n"
        f'    docker run --rm --gpus all --user "$(id -u):$(id -g)" -v "$PWD:/work" kit audit {shown}'
    )


def fix_for_unwritable_folder(error: OSError, name: str) -> str | None:
    """What to do about a run folder that cannot be written in the image; None outside of one."""
    if not os.environ.get(RECORD):
        return None
    if error.errno == errno.EROFS:
        return f"--out /runs/{name}, which is a volume, or mount a folder that can be written"
    return (
        'docker run --user "$(id -u):$(id -g)" ..., so that it writes as the owner of the mounted folder, '
        f"or --out /runs/{name}"
    )
