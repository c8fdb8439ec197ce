"""Makes a submission from a run: submissions/LAB/ID with deterministic bytes."""

from __future__ import annotations

import hashlib
import io
import shlex
import shutil
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from harness.bundle import Bundle, scrub
from harness.bundle.commit import MANIFEST
from harness.errors import KitError
from harness.files import file_digest, write_bytes
from harness.leaderboard.entry import ENTRY, LICENCE, Listed, Submission
from harness.leaderboard.examine import BUNDLE, TRACE, texts_of
from harness.leaderboard.rules import submission_rules
from harness.leaderboard.signing import sign

RAW = ("power", "eval_items")
"""Tables that may lie behind a link, the largest first."""


def pack(
    run: Path, submissions: Path, said: Mapping[str, Any], raw_url: str | None, key: Path | None
) -> Path:
    """Write the submission of a run.

    Args:
        run: Sealed run folder; it is not touched.
        submissions: Folder that holds LAB/ID.
        said: Fields of `Submission` that the laboratory chose; `lab` among them.
        raw_url: https address of the folder where files that are too large will lie.
        key: Private key of ssh to sign with.

    Raises:
        KitError: The run cannot be read, is too large without a `raw_url`, or is there already.
    """
    bundle = Bundle.open(run)
    manifest = bundle.manifest
    for problem in bundle.written.manifest.problems(manifest):
        raise KitError(
            f"{problem.path} is {problem.observed}",
            where=str(run / MANIFEST),
            expected=problem.expected,
            fix=f"kit validate {run}",
        )
    folder = submissions / str(said["lab"]) / str(manifest["run_id"])
    if folder.exists():
        raise KitError("is there already", where=str(folder), fix="withdraw it, or submit with --supersedes")
    try:
        pipeline = manifest.get("pipeline") or {}
        entry = Submission(
            **{
                "format": submission_rules().format,
                "id": str(manifest["run_id"]),
                "title": str(manifest["name"])[:120],
                "licence": LICENCE,
                "origin": "kit",
                "method": str(manifest["method"]),
                "status": "active" if manifest["status"] == "complete" else "failed",
                "reason": "" if manifest["status"] == "complete" else f"run is {manifest['status']}",
                "files": tuple(_listed(bundle, raw_url)),
                **{k: pipeline[k] for k in ("student", "teacher") if isinstance(pipeline.get(k), str)},
                **{k: v for k, v in said.items() if v is not None},
            }
        )
    except ValueError as error:
        raise KitError(str(error), where="the submission", fix="kit submit --help") from None
    for where, text in texts_of(asdict(entry)):
        if scrub(text) != text:
            raise KitError(
                f"{where} names a person, a machine or a secret: {text[:120]!r}",
                where="the submission",
                fix="say it with --title, --student, --teacher or --conflict in other words",
            )
    partial = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        for file in entry.files:
            if file.url is None:
                target = partial / file.path
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(run / file.path.removeprefix(f"{BUNDLE}/"), target)
        data = trace(bundle)
        partial.mkdir(parents=True, exist_ok=True)
        write_bytes(partial / TRACE, data)
        here = Listed(path=TRACE, sha256=hashlib.sha256(data).hexdigest(), bytes=len(data))
        entry = replace(entry, files=(*entry.files, here))
        write_bytes(partial / ENTRY, entry.to_bytes())
        if key is not None:
            sign(partial / ENTRY, key)
        partial.rename(folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return folder


def _listed(bundle: Bundle, raw_url: str | None) -> list[Listed]:
    """The bundle's files; the largest raw ones behind a link where all together are too large."""
    limits = submission_rules().limits
    sizes = {MANIFEST: (bundle.folder / MANIFEST).stat().st_size}
    for file in bundle.manifest["files"]:
        try:
            sizes[file["path"]] = (bundle.folder / file["path"]).stat().st_size
        except OSError:
            raise KitError(
                f"{file['path']} is not there", where=str(bundle.folder), fix=f"kit validate {bundle.folder}"
            ) from None
    away: set[str] = set()
    room = limits.submission_bytes * 9 // 10  # the trace and the signature want some
    for table in RAW:
        names = [path for path in sizes if path.split("/")[0].removesuffix(".parquet") == table]
        kept = sum(size for path, size in sizes.items() if path not in away)
        if kept > room or any(sizes[path] > limits.file_bytes for path in names):
            away |= set(names)
    kept = sum(size for path, size in sizes.items() if path not in away)
    if kept > room:
        raise KitError(
            f"holds {kept} bytes without its raw tables", where=str(bundle.folder), expected=f"at most {room}"
        )
    if away and raw_url is None:
        raise KitError(
            f"{', '.join(sorted(away))}: {sum(sizes[p] for p in away)} bytes are too many for a pull request",
            where=str(bundle.folder),
            expected=f"at most {room} bytes in all",
            fix="put them where anybody can read them and add --raw-url https://...",
        )
    return [
        Listed(
            path=f"{BUNDLE}/{path}",
            sha256=file_digest(bundle.folder / path),
            bytes=size,
            url=f"{raw_url.rstrip('/')}/{path}" if raw_url and path in away else None,
        )
        for path, size in sorted(sizes.items())
    ]


def trace(bundle: Bundle) -> bytes:
    """Power by minute and device: mean, least and largest reading in mW, readings; Parquet."""
    period = submission_rules().limits.trace_period_us
    names = ("device_id", "session", "minute_us", "power_mean_mw", "power_min_mw", "power_max_mw", "readings")
    schema = pa.schema([("node_id", pa.string()), *((name, pa.int64()) for name in names)])
    tables = [schema.empty_table()]
    for key, rows in bundle.iter_power(("mono_us", "power_mw")):
        minute, read = rows["mono_us"] // period * period, rows["power_mw_valid"]
        starts = np.flatnonzero(np.diff(minute, prepend=minute[0] - 1))
        count = np.add.reduceat(read.astype(np.int64), starts)
        power, largest = rows["power_mw"].astype(np.int64), np.iinfo(np.int64).max
        figures = (
            np.add.reduceat(np.where(read, power, 0), starts) // np.maximum(count, 1),
            np.minimum.reduceat(np.where(read, power, largest), starts),
            np.maximum.reduceat(np.where(read, power, -largest), starts),
        )
        columns = [pa.repeat(part, len(starts)) for part in key]
        columns += [minute[starts], *(pa.array(values, mask=count == 0) for values in figures), count]
        tables.append(pa.table(dict(zip(schema.names, columns, strict=True))).cast(schema))
    out = io.BytesIO()
    table = pa.concat_tables(tables).combine_chunks()
    pq.write_table(table, out, compression="zstd", use_dictionary=["node_id"], store_schema=False)
    return out.getvalue()


def git_commands(folders: list[Path], repository: Path) -> list[str]:
    """What makes the pull request, ready to be pasted."""
    names = [folder.relative_to(repository).as_posix() for folder in folders]
    git = f"git -C {shlex.quote(str(repository))}"
    branch = f"submit-{folders[0].parent.name}-{folders[0].name[-6:].lower()}"
    return [
        f"{git} switch -c {branch}",
        f"{git} add {' '.join(names)}",
        f'{git} commit -m "Submit runs of {folders[0].parent.name}: {len(names)}"',
        f"{git} push -u origin {branch}",
        "then open a pull request of that branch on the repository's page",
    ]
