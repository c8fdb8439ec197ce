"""What the rules look at: a bundle's manifest, the facts of its files, its small tables, the
recomputation."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import pyarrow.compute as pc

from harness.bundle import Bundle
from harness.spec import Protocol
from harness.validate.scan import FileFacts
from harness.validate.series import Recomputation


@dataclass
class Context:
    """Everything that is known of a bundle under validation.

    Attributes:
        folder: bundle folder.
        manifest: parsed manifest.json; an empty dict when it cannot be read.
        manifest_bytes: as on disk.
        problem: why the manifest cannot be read.
        protocol: the protocol it is judged by.
        files: facts of the listed files, in the order of the manifest.
        links: listed paths that are links or lead outside.
        recomputed: level 2 only.
    """

    folder: Path
    protocol: Protocol
    manifest: dict[str, Any] = field(default_factory=dict)
    manifest_bytes: bytes = b""
    problem: str | None = None
    files: list[FileFacts] = field(default_factory=list)
    links: list[str] = field(default_factory=list)
    recomputed: Recomputation | None = None

    @cached_property
    def entries(self) -> dict[str, dict[str, Any]]:
        """Listed files by path; entries that are not objects with a path are left to rule E103."""
        listed = self.manifest.get("files")
        found = [e for e in listed if isinstance(e, dict)] if isinstance(listed, list) else []
        return {e["path"]: e for e in found if isinstance(e.get("path"), str)}

    @cached_property
    def bundle(self) -> Bundle:
        """The bundle, opened without touching it."""
        return Bundle(self.folder, self.manifest, self.protocol, [])

    @cached_property
    def stages(self) -> list[dict[str, Any]]:
        """All rows of stages."""
        return self._rows("stages")

    @cached_property
    def events(self) -> list[dict[str, Any]]:
        """All rows of events."""
        return self._rows("events")

    @cached_property
    def artifacts(self) -> list[dict[str, Any]]:
        """All rows of artifacts."""
        return self._rows("artifacts")

    @cached_property
    def boundary_rows(self) -> list[dict[str, Any]]:
        """Rows of counters that belong to a boundary."""
        columns = ["node_id", "source", "device_id", "session", "t_us", "mono_us", "value", "boundary"]
        found: list[dict[str, Any]] = []
        for batch in self.bundle.iter_batches("counters", columns, encoded=True):
            marked = pc.is_valid(batch.column("boundary"))
            found += batch.filter(marked).to_pylist()
        return found

    def _rows(self, table: str) -> list[dict[str, Any]]:
        rows: list[dict[str, Any]] = self.bundle.table(table).to_pylist()
        return rows

    def named(self, row: dict[str, Any]) -> str:
        """A stage row in words."""
        attempt = f", attempt {row['attempt']}" if row["attempt"] != 1 else ""
        return f"{row['name']} (stage_uid {row['stage_uid']}, session {row['session']}{attempt})"
