"""Which files a submission may hold, and archives of one: looked at before anything in them is read."""

from __future__ import annotations

import hashlib
import os
import stat
import tarfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path, PurePosixPath

from harness.errors import KitError
from harness.leaderboard.entry import ENTRY, FILE, Submission
from harness.leaderboard.rules import found, submission_rules
from harness.validate.findings import Finding

SIGNATURE = f"{ENTRY}.sig"
SIGSTORE = f"{ENTRY}.sigstore.json"
REVIEW = "review.json"
REVEAL = "reveal.json"
BESIDE = frozenset({ENTRY, SIGNATURE, SIGSTORE, REVIEW, f"{REVIEW}.sig", REVEAL})
"""Files that submission.json does not list."""

SUFFIXES = (".tar", ".tar.gz", ".tgz", ".tar.xz")


def walk(folder: Path) -> Iterator[tuple[str, os.stat_result]]:
    """Everything below a folder but plain folders, by its path there; no link is followed."""
    pending, start = [str(folder)], len(str(folder)) + 1
    while pending:
        with os.scandir(pending.pop()) as entries:
            for entry in entries:
                info = entry.stat(follow_symlinks=False)
                if stat.S_ISDIR(info.st_mode):
                    pending.append(entry.path)
                else:
                    yield entry.path[start:].replace(os.sep, "/"), info


def names_and_strays(folder: Path) -> tuple[list[str], list[Finding]]:
    """The files of a submission, sorted, and what must not be in it.

    That is links, devices, foreign names and too much of anything (E502, E503).
    """
    limits = submission_rules().limits
    names, findings, total = [], [], 0
    for name, info in walk(folder):
        names.append(name)
        total += info.st_size
        if len(names) > 10 * limits.files:
            break
        if not stat.S_ISREG(info.st_mode):
            findings.append(found("E502", name, f"{name}: {_kind(info.st_mode)}", "plain files"))
        elif name not in BESIDE and not FILE.fullmatch(name):
            findings.append(found("E502", name, f"{name!r}: no file of a submission", "files of kit submit"))
        elif info.st_size > limits.file_bytes:
            findings.append(
                found("E503", name, f"{name}: {info.st_size} bytes", f"at most {limits.file_bytes}")
            )
    if len(names) > limits.files:
        findings.append(found("E503", ENTRY, f"{len(names)} files or more", f"at most {limits.files}"))
    if total > limits.submission_bytes:
        findings.append(found("E503", ENTRY, f"{total} bytes", f"at most {limits.submission_bytes}"))
    return sorted(names), findings


def mismatches(folder: Path, entry: Submission, digests: Mapping[str, str]) -> list[Finding]:
    """Files that are not those that submission.json lists, and a folder of another name.

    Args:
        folder: submissions/LAB/ID.
        entry: Its submission.json.
        digests: Of its files, as `file_digests` gives them.
    """
    findings = []
    if (folder.parent.name, folder.name) != (entry.lab, entry.id):
        where = f"{folder.parent.name}/{folder.name}"
        findings.append(found("E502", ENTRY, f"it lies in {where}", f"submissions/{entry.key}"))
    listed = {file.path: file for file in entry.files if file.url is None}
    there = set(digests) - BESIDE
    for name in sorted(there ^ set(listed)):
        what = "not listed in submission.json" if name in there else "listed and not there"
        findings.append(found("E502", name, f"{name}: {what}", "the files that submission.json lists"))
    for name in sorted(there & set(listed)):
        if digests[name] != listed[name].sha256:
            findings.append(
                found("E502", name, f"{name}: other bytes than listed", "the bytes of kit submit")
            )
    return findings


def file_digests(folder: Path, names: Iterable[str]) -> dict[str, str]:
    """Path -> sha256 of files that are small, as those of a folder without strays are."""
    return {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in names}


def tree_digest(digests: Mapping[str, str]) -> str:
    """sha256 over every file's path and content."""
    lines = [f"{digest}  {name}\n" for name, digest in digests.items()]
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def unpack(archive: Path, into: Path) -> list[Finding]:
    """Unpack a tar archive if it is no bomb and holds plain files and folders only (E503, E504).

    Members are read one after another and counted as they come, so that a bomb ends at the limit.

    Returns:
        Why it was refused; then nothing of it is used.

    Raises:
        KitError: It is no tar archive.
    """
    limits = submission_rules().limits
    most = min(4 * limits.submission_bytes, limits.expansion * max(1, archive.stat().st_size))
    total, count, findings = 0, 0, []
    try:
        with tarfile.open(archive, "r|*") as tar:
            for member in tar:
                count += 1
                path = PurePosixPath(member.name)
                odd = "\\" in member.name or any(ord(c) < 32 for c in member.name)
                if path.is_absolute() or ".." in path.parts or odd:
                    findings.append(_refused(member.name, "a path that leads outside"))
                elif not (member.isreg() or member.isdir()) or member.issparse():
                    findings.append(_refused(member.name, "no plain file"))
                total += member.size
                if total > most or count > 10 * limits.files:
                    size = f"more than {most} bytes or {10 * limits.files} members unpacked"
                    return [*findings, found("E503", archive.name, size, "a submission")]
                target = into / path
                if findings or target.exists():
                    continue  # a second member of one name changes nothing
                if member.isdir():
                    target.mkdir(parents=True, exist_ok=True)
                    continue
                target.parent.mkdir(parents=True, exist_ok=True)
                stream = tar.extractfile(member)
                target.write_bytes(stream.read(member.size) if stream else b"")
    except (tarfile.TarError, EOFError, OSError, ValueError) as error:
        raise KitError(
            f"is no archive that can be read: {error}", where=str(archive), expected="a tar file"
        ) from None
    return findings


def _refused(name: str, what: str) -> Finding:
    return found("E504", "archive", f"{name[:120]!r}: {what}", "plain files and folders")


def _kind(mode: int) -> str:
    names = {stat.S_IFLNK: "a symbolic link", stat.S_IFIFO: "a pipe", stat.S_IFSOCK: "a socket"}
    return names.get(stat.S_IFMT(mode), "a device")
