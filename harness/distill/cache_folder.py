"""What a logit-cache folder holds beside its shards: the plan, the fingerprint, the manifest.

    shard-00000.safetensors ...   fingerprint.json   manifest.jsonl   config.json

The plan says which examples a shard holds. It follows from the data set and the shard size alone, so that
any number of workers, each taking every n-th shard, leaves the same files. The fingerprint says what the
cache is a cache of; the manifest holds one line for every finished shard, sorted by name.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from harness.errors import KitError
from harness.files import file_digest, sync_folder, write_bytes, write_json

FINGERPRINT = "fingerprint.json"
MANIFEST = "manifest.jsonl"
LOCK = ".lock"


@dataclass(frozen=True)
class Shard:
    """One shard of the plan: the examples [first, last) with `rows` label positions."""

    index: int
    first: int
    last: int
    rows: int

    @property
    def name(self) -> str:
        """Its file's name."""
        return f"shard-{self.index:05d}.safetensors"


@dataclass(frozen=True)
class ShardRecord:
    """A manifest line.

    Attributes:
        name: File name.
        first: First example.
        last: One past the last example.
        rows: Label positions.
        entries: Stored (position, id) pairs.
        bytes: Size of the file.
        sha256: Of the whole file.
        kept_mass: Temperature to the teacher's mass on the stored ids, mean over the rows.
    """

    name: str
    first: int
    last: int
    rows: int
    entries: int
    bytes: int
    sha256: str
    kept_mass: dict[str, float]


def shard_plan(label_counts: npt.NDArray[np.int64], shard_positions: int) -> list[Shard]:
    """Cut the examples, in order, into shards of at most `shard_positions` label positions.

    An example is never cut; one with more label positions than that is a shard of its own.

    Args:
        label_counts: Label positions of every example.
        shard_positions: Size of a shard.
    """
    if shard_positions < 1:
        raise KitError(f"shard_positions={shard_positions}", expected="at least 1")
    ends = np.cumsum(label_counts, dtype=np.int64)
    plan: list[Shard] = []
    first = before = 0
    while first < len(ends):
        last = max(first + 1, int(np.searchsorted(ends, before + shard_positions, side="right")))
        plan.append(Shard(len(plan), first, last, int(ends[last - 1]) - before))
        first, before = last, int(ends[last - 1])
    return plan


def example_key(example_id: str) -> int:
    """Key of an example in a shard: 64 bits of the digest of its id."""
    return int.from_bytes(hashlib.sha256(example_id.encode()).digest()[:8], "little")


@contextmanager
def locked(path: Path, *, wait: bool = True) -> Iterator[int]:
    """Hold an exclusive lock on a file, made if need be; it falls with the process, however that ends.

    Raises:
        BlockingIOError: Another process holds it, and `wait` is false.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        yield descriptor
    finally:
        os.close(descriptor)


def claim(directory: Path, fingerprint: Mapping[str, Any]) -> None:
    """Make the folder the cache of this fingerprint, or check that it already is.

    Raises:
        KitError: The folder holds a cache of something else, or one made in a way that gives other bits.
    """
    directory.mkdir(parents=True, exist_ok=True)
    with locked(directory / LOCK):
        path = directory / FINGERPRINT
        if path.exists():
            check_fingerprint(
                read_fingerprint(directory),
                fingerprint,
                where=directory.name,
                fix="give another --out, or delete this folder",
            )
        else:
            write_json(path, dict(fingerprint))


def read_fingerprint(directory: Path) -> dict[str, Any]:
    """The fingerprint of a cache.

    Raises:
        KitError: There is none, or it cannot be read.
    """
    try:
        value = json.loads((directory / FINGERPRINT).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise KitError(
            f"no logit cache that can be read ({error})",
            where=str(directory),
            expected=f"{FINGERPRINT}, {MANIFEST} and shards as teacher_logits writes them",
            fix=f"python -m harness.distill.teacher_logits --out {directory.name}",
        ) from None
    if not isinstance(value, dict):
        raise KitError("is no fingerprint", where=str(directory / FINGERPRINT))
    return value


def check_fingerprint(
    found: Mapping[str, Any], expected: Mapping[str, Any], *, where: str, fix: str, prefix: str = ""
) -> None:
    """Compare the fields that `expected` has, folder by folder.

    Raises:
        KitError: Names the first field that differs, with both values.
    """
    for name, value in expected.items():
        place = prefix + name
        other = found.get(name)
        if isinstance(value, Mapping) and isinstance(other, Mapping):
            check_fingerprint(other, value, where=where, fix=fix, prefix=place + ".")
        elif other != (list(value) if isinstance(value, tuple) else value):
            raise KitError(
                f"the logit cache was made with another {place}: {json.dumps(other)}",
                where=where,
                expected=json.dumps(value),
                fix=fix,
            )


def read_manifest(directory: Path) -> dict[str, ShardRecord]:
    """Name to record of every finished shard; nothing when no shard is.

    Raises:
        KitError: A line is no record.
    """
    path = directory / MANIFEST
    if not path.exists():
        return {}
    result = {}
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        try:
            record = ShardRecord(**json.loads(line))
        except (ValueError, TypeError) as error:
            raise KitError(
                f"is no shard record: {error}",
                where=f"{path}:{number}",
                fix="delete the line and run teacher_logits again: it makes that shard again",
            ) from None
        result[record.name] = record
    return result


def record_shard(directory: Path, record: ShardRecord) -> None:
    """Put a finished shard into the manifest, which a reader sees with or without it, never torn.

    The whole file is written again, sorted, under a lock: its bytes then depend neither on how many workers
    there were nor on who finished first.
    """
    with locked(directory / LOCK):
        records = {**read_manifest(directory), record.name: record}
        lines = [json.dumps(asdict(records[name]), separators=(",", ":")) + "\n" for name in sorted(records)]
        write_bytes(directory / MANIFEST, "".join(lines).encode())
        sync_folder(directory)


def damage(directory: Path, record: ShardRecord, *, full: bool) -> str | None:
    """What is wrong with a shard's file against its record; None when nothing is.

    Args:
        directory: The cache.
        record: The manifest's line.
        full: Hash the file; otherwise only look at its size.
    """
    path = directory / record.name
    if not path.exists():
        return "is missing"
    if path.stat().st_size != record.bytes:
        return f"has {path.stat().st_size} bytes, the manifest says {record.bytes}"
    if full and (found := file_digest(path)) != record.sha256:
        return f"has sha256 {found[:16]}..., the manifest says {record.sha256[:16]}..."
    return None
