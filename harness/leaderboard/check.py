"""Checks submissions against each other and against what was accepted before: data only, nothing is run."""

from __future__ import annotations

import multiprocessing
import os
import stat
import tempfile
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from harness.errors import KitError
from harness.files import file_digest, write_json
from harness.leaderboard.entry import ENTRY
from harness.leaderboard.examine import examine
from harness.leaderboard.examined import Examined, default_cache
from harness.leaderboard.rules import found
from harness.leaderboard.shape import REVIEW, SUFFIXES, unpack
from harness.leaderboard.signing import ALLOWED, REVIEW_NAMESPACE, sign
from harness.leaderboard.sigstore import IDENTITIES
from harness.leaderboard.standing import stand

ROOT_FILES = frozenset({ALLOWED, IDENTITIES, "README.md", ".gitkeep"})
_MANY = 64
"""Submissions from which a second process pays: one takes as long to begin as a dozen of them to check."""


@dataclass(frozen=True)
class Checked:
    """Outcome of a check.

    Attributes:
        asked: What was to be checked, with findings and rows.
        entries: Every submission of the folder, those among them.
        rows: Rows of all, in the order of their keys.
    """

    asked: list[Examined]
    entries: list[Examined]
    rows: list[dict[str, Any]]

    @property
    def errors(self) -> int:
        """Findings that refuse something."""
        return sum(entry.errors for entry in self.asked)


def check(
    paths: Sequence[Path],
    *,
    before: Path | None = None,
    among: Path | None = None,
    raw: Sequence[Path] = (),
    cache: bool = True,
) -> Checked:
    """Check submissions.

    Args:
        paths: Submissions, folders of a laboratory, the folder of all, or tar archives of one submission.
        before: The folder of all as it was accepted; what is as it was there is not reported again.
        among: The folder of all, to find copies and ranks in; found from the paths by default.
        raw: Files that the one submission leaves elsewhere.
        cache: Keep and use results by digest.

    Raises:
        KitError: A path is not there, or an archive cannot be read.
    """
    store = default_cache() if cache else None
    asked: list[Path] = []
    lost: list[Examined] = []
    with tempfile.TemporaryDirectory(prefix="kit-submission-") as temporary:
        for path in paths:
            if not path.exists() and not path.is_symlink():
                raise KitError("is not there", where=str(path), expected="submissions/LAB/ID")
            if path.is_file() and path.name.endswith(SUFFIXES):
                into = Path(temporary) / str(len(asked) + len(lost))
                refused = unpack(path, into)
                if refused:
                    lost.append(Examined(path.name, str(path), "", refused))
                    continue
                path = into
            folders, strange = submissions_below(path)
            asked += folders
            lost += strange
        among = among or _root(asked, paths)
        keys = {f"{folder.parent.name}/{folder.name}" for folder in asked}
        others = submissions_below(among)[0] if among is not None and among not in paths else []
        others = [f for f in others if f"{f.parent.name}/{f.name}" not in keys]
        if others:
            own = {folder.resolve() for folder in asked}
            others = [f for f in others if f.resolve() not in own]
        base = before or among
        allowed = None if base is None else base / ALLOWED
        if raw and len(asked) != 1:
            raise KitError("--raw wants one submission", where=f"{len(asked)} submissions")
        entries = _examine_all(asked, store, raw, allowed) + _examine_all(others, store, (), allowed)
        old: dict[str, Examined] | None = None
        if before is not None:
            old = {e.key: e for e in _examine_all(submissions_below(before)[0], store, (), allowed)}
            there = {entry.key for entry in entries}
            lost += [
                Examined(key, key, "", [found("E508", ENTRY, f"{key} is not there", "every accepted entry")])
                for key in sorted(set(old) - there)
            ]
        mine = entries[: len(asked)]
        unchanged = {e.key for e in mine if old and e.key in old and old[e.key].digest == e.digest}
        fresh = {e.key for e in mine} - unchanged
        rows = stand(entries, fresh=fresh if old is not None or others else (), before=old)
        shown = [e for e in mine if e.key not in unchanged] + [e for e in entries if e.disputed]
        return Checked([*shown, *lost], [*entries, *lost], rows)


def submissions_below(path: Path) -> tuple[list[Path], list[Examined]]:
    """Folders of submissions below a path, and what lies beside them and must not."""
    inside = path.resolve().parents[1:2] and path.resolve().parents[1].name == "submissions"
    root = path.resolve().name == "submissions"
    if inside or (path / ENTRY).is_file() or not (root or _folders(path)):
        return [path], []
    if any((child / ENTRY).is_file() for child in _folders(path)):
        return _folders(path), []
    found_below: list[Path] = []
    strays = [p for p in sorted(path.iterdir()) if not _plain(p) and p.name not in ROOT_FILES]
    for lab in _folders(path):
        found_below += _folders(lab)
        strays += [p for p in sorted(lab.iterdir()) if not _plain(p)]
    strange = [
        Examined(p.name, str(p), "", [found("E502", p.name, f"{p.name!r}: beside submissions", "LAB/ID")])
        for p in strays
    ]
    return found_below, strange


def _plain(path: Path) -> bool:
    return stat.S_ISDIR(path.lstat().st_mode)


def _folders(path: Path) -> list[Path]:
    """Plain folders inside a folder; hidden ones (such as .git) are left out."""
    if not path.is_dir():
        return []
    return sorted(child for child in path.iterdir() if _plain(child) and not child.name.startswith("."))


def _root(asked: Sequence[Path], paths: Sequence[Path]) -> Path | None:
    """The folder `submissions` that holds what was asked for."""
    for path in [*(folder.parent.parent for folder in asked), *paths]:
        if path.resolve().name == "submissions" and path.is_dir():
            return path
    return None


def _examine_all(
    folders: Sequence[Path], cache: Path | None, raw: Sequence[Path], allowed: Path | None
) -> list[Examined]:
    """Every submission, on all processors where many are not in the cache."""
    work = partial(examine, cache=cache, raw=raw, allowed=allowed, threads=1)
    cold = len(folders) - (len(list(cache.glob("*.kept"))) if cache is not None and cache.is_dir() else 0)
    if cold < _MANY:
        return [work(folder) for folder in folders]
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(min(4, os.cpu_count() or 1), mp_context=context) as pool:
        return list(pool.map(work, folders, chunksize=8))


def review(entry: Examined, by: str, key: Path) -> Path:
    """Record that a maintainer re-derived a submission from its raw files: review.json, signed.

    Args:
        entry: Outcome of the check with `raw`.
        by: Name of the maintainer, `maintainer:NAME` in the list of allowed signers.
        key: The maintainer's private key.
    """
    if entry.row is None or entry.errors:
        raise KitError(
            "does not hold and is not recorded", where=entry.key, fix="see its findings", exit_code=1
        )
    folder = Path(entry.folder)
    record = {
        "by": by,
        "submission_sha256": file_digest(folder / ENTRY),
        "errors": entry.errors,
        "level": entry.row["level"],
        "class": entry.row["class"],
        "class_text": entry.row["class_text"],
        "unranked": [x for x in entry.row["unranked"] if x.startswith("C")],
    }
    path = write_json(folder / REVIEW, record)
    sign(path, key, REVIEW_NAMESPACE)
    return path
