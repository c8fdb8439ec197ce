"""A clean copy of a bundle: the same rows without what names people, machines or secrets (7)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from harness.bundle.privacy import Scrubber
from harness.bundle.reader import Bundle
from harness.bundle.writer import BundleWriter
from harness.errors import KitError

SCRUBBED = "scrubbed"
"""Label of a bundle that is a clean copy: its digests are its own, not those of the run it was made from."""
_KEYS = ("node_id", "source", "zone", "unit")
"""Text that the tables are ordered by, or a word of the protocol: it names nobody."""


def clean_copy(source: Path, target: Path, scrubber: Scrubber) -> list[str]:
    """Write a bundle again without its private text. Rows, times and joules stay; digests are computed again.

    Args:
        source: A sealed bundle; it is left as it is.
        target: Folder of the copy; it must not exist.
        scrubber: What is private.

    Returns:
        What was taken, a place and a count each; nothing where the bundle was clean.

    Raises:
        KitError: The bundle cannot be read, or `target` exists.
    """
    if target.exists():
        raise KitError("is there already", where=str(target), expected="a new folder for the copy")
    bundle = Bundle.open(source)
    taken: Counter[str] = Counter()
    writer = BundleWriter(target, bundle.protocol, run_id=str(bundle.manifest["run_id"]))
    for name in bundle.protocol.tables:
        text = [
            c.name
            for c in bundle.protocol.tables[name].columns
            if c.type == "string" and c.enum is None and c.name not in _KEYS
        ]
        writer.write_table(name, _batches(bundle, name, text, scrubber, taken))
    manifest = {key: value for key, value in bundle.manifest.items() if key not in ("files", "run_id")}
    clean: dict[str, Any] = {key: scrubber.scrub_value(value) for key, value in manifest.items()}
    taken.update(f"manifest.{key}" for key, value in clean.items() if value != manifest[key])
    if taken:
        clean["labels"] = sorted({*clean["labels"], SCRUBBED})
    writer.write_manifest(clean)
    return [f"{place}: {count}" for place, count in sorted(taken.items())]


def _batches(
    bundle: Bundle, name: str, text: list[str], scrubber: Scrubber, taken: Counter[str]
) -> Iterator[pa.RecordBatch]:
    for batch in bundle.iter_batches(name):
        for column in text:
            array = batch.column(column)
            words = pc.unique(array).to_pylist()
            clean = {word: scrubber.scrub(word) for word in words if word is not None}
            changed = {word for word, new in clean.items() if new != word}
            if not changed:
                continue
            rows = array.to_pylist()
            taken[f"{name}.{column}"] += sum(row in changed for row in rows)
            new = pa.array([None if row is None else clean[row] for row in rows], array.type)
            batch = batch.set_column(batch.schema.get_field_index(column), batch.schema.field(column), new)
        yield batch
