"""The run log on disk: Parquet tables and a manifest, written, read, digested and scrubbed.

What belongs here: everything that touches the files of a bundle, and the one recompute (`derive.py`). No
sum of its own, that is accounting; no judgement of what the numbers mean: a file that cannot be read is a
KitError, a number that cannot be right is a finding.
Names are loaded on first use, so that importing this package stays cheap.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from harness.bundle.canonical import canonical_json as canonical_json
    from harness.bundle.digest import logical_digest as logical_digest
    from harness.bundle.files import file_sha256 as file_sha256
    from harness.bundle.order import KeyOrder as KeyOrder
    from harness.bundle.privacy import Scrubber as Scrubber
    from harness.bundle.privacy import scrub as scrub
    from harness.bundle.privacy import scrub_value as scrub_value
    from harness.bundle.reader import Bundle as Bundle
    from harness.bundle.series import SeriesKey as SeriesKey
    from harness.bundle.writer import BundleWriter as BundleWriter

_HOME = {
    "Bundle": "reader",
    "BundleWriter": "writer",
    "KeyOrder": "order",
    "Scrubber": "privacy",
    "SeriesKey": "series",
    "canonical_json": "canonical",
    "file_sha256": "files",
    "logical_digest": "digest",
    "scrub": "privacy",
    "scrub_value": "privacy",
}


def __getattr__(name: str) -> Any:
    if name in _HOME:
        from importlib import import_module

        value = getattr(import_module(f"harness.bundle.{_HOME[name]}"), name)
        globals()[name] = value
        return value
    raise AttributeError(f"module 'harness.bundle' has no attribute {name!r}")
