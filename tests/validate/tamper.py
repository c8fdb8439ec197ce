"""Edits of a sealed bundle that keep every digest right, as somebody who wants to deceive would."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from harness.bundle import Bundle, canonical_json, logical_digest
from harness.errors import KitError
from harness.spec import load_protocol


def edit_manifest(folder: Path, change: Callable[[dict[str, Any]], None]) -> None:
    path = folder / "manifest.json"
    manifest = json.loads(path.read_bytes())
    change(manifest)
    path.write_bytes(canonical_json(manifest))


def rewrite(folder: Path, name: str, change: Callable[[pa.Table], pa.Table], **footer: str | None) -> None:
    """Change a table by any means and list it again; `footer` replaces (or, with None, drops) footer keys."""
    protocol = load_protocol()
    path = folder / f"{name}.parquet"
    table = pq.read_table(path)
    stored = pq.ParquetFile(path).metadata.metadata
    meta = {key: value for key, value in stored.items() if key.startswith(b"distill_energy.")}
    table = change(table)
    try:
        digest = logical_digest(table, protocol.arrow_schema(name))
    except (KitError, pa.ArrowException):
        digest = "0" * 64
    meta[b"distill_energy.logical_sha256"] = digest.encode()
    for key, value in footer.items():
        meta.pop(f"distill_energy.{key}".encode(), None)
        if value is not None:
            meta[f"distill_energy.{key}".encode()] = value.encode()
    pq.write_table(table.replace_schema_metadata(meta), path)
    data = path.read_bytes()

    def relist(manifest: dict[str, Any]) -> None:
        for entry in manifest["files"]:
            if entry["path"] == path.name:
                entry.update(
                    sha256=hashlib.sha256(data).hexdigest(),
                    bytes=len(data),
                    rows=table.num_rows,
                    logical_sha256=digest,
                )

    edit_manifest(folder, relist)


def edit_rows(folder: Path, name: str, change: Callable[[list[dict[str, Any]]], Any]) -> None:
    """Change rows of a table in place (or return new ones); types stay as they are."""
    schema = load_protocol().arrow_schema(name)

    def apply(table: pa.Table) -> pa.Table:
        rows = table.to_pylist()
        changed = change(rows)
        return pa.Table.from_pylist(rows if changed is None else changed, schema)

    rewrite(folder, name, apply)


def set_column(name: str, array: Callable[[pa.Table], pa.Array]) -> Callable[[pa.Table], pa.Table]:
    def apply(table: pa.Table) -> pa.Table:
        return table.set_column(table.schema.get_field_index(name), name, array(table))

    return apply


def stages_of(folder: Path) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = Bundle.open(folder).table("stages").to_pylist()
    return rows
