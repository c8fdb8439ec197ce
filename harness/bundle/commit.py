"""All files of a bundle change together, or none does.

A writer stages each file under a hidden name beside its place, durable on disk. The new manifest, renamed to
its own hidden name, is the decision: from then on the renames are only work left to do, and whoever opens the
folder next finishes them.
"""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Iterable
from pathlib import Path

from harness.errors import KitError
from harness.files import fsync_path, read_bytes

MANIFEST = "manifest.json"
_TABLE_FILE = re.compile(r"[a-z][a-z_]*(/part-\d{5,9})?\.parquet")
DECISION = ".manifest.json.commit"


def staged_path(final: Path) -> Path:
    """Where a file waits for its commit."""
    return final.with_name(f".{final.name}.new")


def discard_staged(folder: Path) -> None:
    """Remove what a writer that never decided has left."""
    for leftover in [*folder.glob(".*.new"), *folder.glob("*/.*.parquet.new")]:
        leftover.unlink(missing_ok=True)


def decide(folder: Path, manifest: bytes) -> None:
    """Write the new manifest under the decision's name. Every file it lists must be staged and durable."""
    waiting = folder / ".manifest.json.new"
    waiting.write_bytes(manifest)
    fsync_path(waiting)
    waiting.replace(folder / DECISION)
    fsync_path(folder)


def finish_commit(folder: Path, tables: Iterable[str] = ()) -> bool:
    """Carry out a decided commit, if there is one. Safe to repeat, also by two processes at once.

    Args:
        folder: Bundle folder.
        tables: Tables of the protocol: their files that the new manifest does not list are removed.

    Returns:
        Whether there was one to finish.

    Raises:
        KitError: The folder cannot be written, or the decision is not readable.
    """
    decision = folder / DECISION
    if not decision.exists():
        return False
    from harness.bundle.files import MAX_MANIFEST  # loads pyarrow, which most callers do without

    try:
        # The folder may be a stranger's: names of tables only, or a rename could reach out of it.
        listed = [str(entry["path"]) for entry in json.loads(read_bytes(decision, MAX_MANIFEST))["files"]]
        for path in listed:
            parent = (folder / path).parent
            if not _TABLE_FILE.fullmatch(path) or (parent != folder and parent.is_symlink()):
                raise ValueError(f"it lists {path[:60]!r}")
            final = folder / path
            with contextlib.suppress(FileNotFoundError):
                staged_path(final).replace(final)
        for table in tables:
            _remove_unlisted(folder, table, set(listed))
        for parent in {(folder / path).parent for path in listed} - {folder}:
            fsync_path(parent)
        fsync_path(folder)
        with contextlib.suppress(FileNotFoundError):
            decision.replace(folder / MANIFEST)
        fsync_path(folder)
    except FileNotFoundError:
        return True
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise KitError(
            f"an interrupted write could not be finished: {error}",
            where=str(decision),
            fix="make the folder writable and run the command again",
        ) from None
    return True


def _remove_unlisted(folder: Path, table: str, listed: set[str]) -> None:
    for path in [folder / f"{table}.parquet", *(folder / table).glob("part-*.parquet")]:
        if path.relative_to(folder).as_posix() not in listed:
            path.unlink(missing_ok=True)
    with contextlib.suppress(OSError):
        (folder / table).rmdir()
