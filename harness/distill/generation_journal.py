"""The journal of finished prompts: what a run that was killed goes on from.

One JSON line a chunk of prompts, appended and flushed to the disk once the chunk is done, after a first line
that names the run. A line that a kill cut short counts for nothing, so its chunk is done again as a whole,
with the same batches and hence the same bits.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.errors import KitError


@dataclass(frozen=True)
class Answered:
    """A finished prompt: its id, the sampled tokens, the text, "stop" or "length"."""

    id: str
    token_ids: tuple[int, ...]
    text: str
    finish_reason: str


class Journal:
    """Opens or begins a journal.

    Args:
        path: The file.
        run: Names the run; JSON values.

    Attributes:
        done: Finished prompts by id.

    Raises:
        KitError: The file is another run's.
    """

    def __init__(self, path: Path, run: Mapping[str, Any]) -> None:
        self.done: dict[str, Answered] = {}
        self._path = path
        header = json.loads(json.dumps({"run": run}))
        whole = self._read(header)
        if path.exists() and path.stat().st_size > whole:
            os.truncate(path, whole)
        if not whole:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._write(header)

    def append(self, answered: list[Answered]) -> None:
        """Record a chunk; on return it is on the disk."""
        rows = [[item.id, list(item.token_ids), item.text, item.finish_reason] for item in answered]
        self._write({"answered": rows})
        self.done.update((item.id, item) for item in answered)

    def remove(self) -> None:
        """Remove the file: what it held is published."""
        self._path.unlink(missing_ok=True)

    def _read(self, header: dict[str, Any]) -> int:
        """Take in whole lines; returns the bytes they fill."""
        if not self._path.exists():
            return 0
        data = self._path.read_bytes()
        position = 0
        for line in data.splitlines(keepends=True):
            try:
                record = json.loads(line) if line.endswith(b"\n") else None
            except ValueError:
                record = None
            if not isinstance(record, dict):
                break
            if position == 0 and record != header:
                _refuse(self._path, record.get("run"), header["run"])
            for name, token_ids, text, reason in record.get("answered", []):
                self.done[name] = Answered(name, tuple(token_ids), text, reason)
            position += len(line)
        return position

    def _write(self, record: Mapping[str, Any]) -> None:
        line = json.dumps(record, ensure_ascii=False, separators=(",", ":")) + "\n"
        with self._path.open("ab") as stream:
            stream.write(line.encode())
            stream.flush()
            os.fsync(stream.fileno())


def differences(found: Any, wanted: Any, name: str = "") -> list[str]:
    """Where two recipes differ, as "name: found there, wanted here"."""
    if isinstance(found, dict) and isinstance(wanted, dict):
        result = []
        for key in sorted({*found, *wanted}):
            result += differences(found.get(key), wanted.get(key), f"{name}.{key}" if name else key)
        return result
    return [] if found == wanted else [f"{name}: {found} there, {wanted} here"]


def _refuse(path: Path, found: Any, wanted: Any) -> None:
    raise KitError(
        "holds a run of other settings: " + "; ".join(differences(found, wanted)),
        where=str(path.parent),
        fix="choose another --out, or remove the folder",
    )
