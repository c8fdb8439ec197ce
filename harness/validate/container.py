"""Level 0: the files are there, whole, and no others."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from harness.bundle.canonical import canonical_json
from harness.bundle.commit import MANIFEST
from harness.validate.context import Context
from harness.validate.findings import Hit
from harness.validate.registry import rule

BESIDE = frozenset({"journal", "work", "logs", "cache"})
"""Folders of a run that lie beside its bundle and are never part of it."""


@rule("E001")
def manifest_readable(ctx: Context) -> Iterator[Hit]:
    """The manifest is there and is a JSON object that lists files."""
    if ctx.problem:
        yield Hit(MANIFEST, ctx.problem, "a manifest.json that lists the files of a sealed run")


@rule("E002")
def files_there(ctx: Context) -> Iterator[Hit]:
    """Every listed file exists."""
    for facts in ctx.files:
        if facts.missing and facts.path not in ctx.links:
            rows = ctx.entries[facts.path].get("rows")
            yield Hit(facts.path, "not there", f"{rows} rows, as the manifest lists")


@rule("E003")
def bytes_as_listed(ctx: Context) -> Iterator[Hit]:
    """The sha256 of every file is the listed one."""
    for facts in ctx.files:
        listed = ctx.entries[facts.path].get("sha256")
        if facts.sha256 is not None and facts.sha256 != listed:
            yield Hit(facts.path, f"sha256 {facts.sha256[:16]}...", f"{str(listed)[:16]}...")


@rule("E004")
def nothing_else(ctx: Context) -> Iterator[Hit]:
    """No file lies in the bundle that is not listed."""
    if ctx.problem:
        return
    listed = set(ctx.entries)
    for name, is_link in _inside(ctx.folder):
        if name not in listed and name != MANIFEST and not is_link:
            yield Hit(name, "not listed in manifest.json", "only listed files")


def _inside(folder: Path) -> list[tuple[str, bool]]:
    """Path of everything in a bundle but its folders, in order, and whether it is a link."""
    found, pending = [], [(str(folder), "")]
    while pending:
        place, below = pending.pop()
        with os.scandir(place) as entries:
            for entry in entries:
                name = below + entry.name
                if not entry.is_dir(follow_symlinks=False):
                    found.append((name, entry.is_symlink()))
                elif name not in BESIDE:
                    pending.append((entry.path, f"{name}/"))
    return sorted(found, key=lambda item: item[0].split("/"))


@rule("E005")
def no_links(ctx: Context) -> Iterator[Hit]:
    """Nothing in the bundle points out of it."""
    for name in ctx.links:
        yield Hit(name, "a path outside the bundle, or a link", "a plain file in the bundle")
    if (ctx.folder / MANIFEST).is_symlink():
        yield Hit(MANIFEST, "a link", "a plain file in the bundle")
    if not ctx.problem:
        for name, is_link in _inside(ctx.folder):
            if is_link and name not in ctx.links and name != MANIFEST:
                yield Hit(name, "a link", "a plain file in the bundle")


@rule("E006")
def files_decode(ctx: Context) -> Iterator[Hit]:
    """Every file is Parquet and decodes to its last page."""
    for facts in ctx.files:
        if facts.damaged:
            yield Hit(facts.path, facts.damaged, "a Parquet file that decodes")


@rule("E007")
def sizes_as_listed(ctx: Context) -> Iterator[Hit]:
    """Bytes and rows are those listed."""
    for facts in ctx.files:
        entry = ctx.entries[facts.path]
        if facts.missing:
            continue
        if facts.bytes != entry.get("bytes"):
            yield Hit(facts.path, f"{facts.bytes} bytes", f"{entry.get('bytes')} bytes")
        if not facts.damaged and facts.rows != entry.get("rows"):
            yield Hit(facts.path, f"{facts.rows} rows", f"{entry.get('rows')} rows")


@rule("E008")
def tables_there(ctx: Context) -> Iterator[Hit]:
    """Every table of the protocol has a file."""
    if ctx.problem:
        return
    present = {facts.table.table for facts in ctx.files}
    for name in ctx.written.tables:
        if name not in present:
            yield Hit(
                f"{name}.parquet", "no file in the manifest", f"{name}.parquet, if need be without rows"
            )


@rule("W009")
def journals_sealed(ctx: Context) -> Iterator[Hit]:
    """No journal was left unsealed."""
    folder = ctx.folder / "journal"
    left = sorted(p.name for p in folder.glob("*.jnl") if p.is_file()) if folder.is_dir() else []
    if left:
        yield Hit("journal", f"{len(left)} journals", "none once the run is sealed", count=len(left))


@rule("W010")
def manifest_canonical(ctx: Context) -> Iterator[Hit]:
    """The manifest's bytes are the canonical form of what it says."""
    if ctx.problem:
        return
    try:
        canonical = canonical_json(ctx.manifest)
    except Exception as error:
        yield Hit(MANIFEST, f"no canonical form: {error}", "RFC 8785")
        return
    if canonical != ctx.manifest_bytes:
        yield Hit(MANIFEST, f"{len(ctx.manifest_bytes)} bytes", f"RFC 8785: {len(canonical)} bytes")
