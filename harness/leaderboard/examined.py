"""What is known of a submission by itself, and how it is kept by its digest."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from harness import __version__
from harness.files import cache_folder
from harness.spec import version_folder
from harness.validate.across import Known
from harness.validate.findings import Finding
from harness.validate.likeness import ALIGNED
from harness.validate.likeness import Trace as Likeness

FORMAT = "examined/4"
_KEPT = ("key", "digest", "row", "scales", "digests", "known")


@dataclass
class Examined:
    """What is known of a submission by itself.

    Attributes:
        key: LAB/ID, by the folder where submission.json cannot be read.
        folder: Where it lies.
        digest: Of its files.
        findings: Worst first; labels (C4xx) among them.
        row: Figures for the index; None where none can be given.
        page: What the row's page shows, as JSON for a script; None without a bundle.
        scales: Its shared scales, by name.
        prints: What a copy of each of its series is recognised by.
        digests: Digests of whole series and of the raw tables -> what they are.
        known: What the rules across bundles ask of it, None without raw samples.
        disputed: It was accepted, and what is under check puts a finding on it.
    """

    key: str
    folder: str
    digest: str
    findings: list[Finding] = field(default_factory=list)
    row: dict[str, Any] | None = None
    page: str | None = None
    scales: dict[str, Any] = field(default_factory=dict)
    prints: list[Likeness] = field(default_factory=list)
    digests: dict[str, str] = field(default_factory=dict)
    known: Known | None = None
    disputed: bool = False

    @property
    def errors(self) -> int:
        """Findings that refuse it."""
        return sum(f.severity == "error" and f.counts for f in self.findings)


def default_cache() -> Path:
    """Results by digest, of this state of the kit and the protocol only: changed code computes again."""
    package = Path(__file__).resolve().parents[1]
    known = hashlib.sha256(f"{FORMAT} {__version__}".encode())
    for root, pattern in ((package, "*.py"), (version_folder(), "*")):
        for path in sorted(root.rglob(pattern)):
            info = path.stat()
            known.update(f"{path.relative_to(root)} {info.st_size} {info.st_mtime_ns}\n".encode())
    return cache_folder() / "submissions" / known.hexdigest()[:16]


def to_bytes(done: Examined) -> bytes:
    """What is kept of it: a line of JSON, then the page and the prints as they are."""
    value = {name: getattr(done, name) for name in _KEPT}
    value["known"] = None if done.known is None else asdict(done.known)
    value["findings"] = [asdict(f) for f in done.findings]
    page = None if done.page is None else done.page.encode()
    value["page"] = None if page is None else len(page)
    value["prints"] = [x.prints.size for x in done.prints]
    line = json.dumps(value, separators=(",", ":"), allow_nan=False).encode()
    arrays = [a for x in done.prints for a in (x.prints.astype("<u8"), x.around.astype("<f4"))]
    return b"".join([line, b"\n", page or b"", *(array.tobytes() for array in arrays)])


def from_cache(path: Path | None, folder: Path, key: str) -> Examined | None:
    """What was kept of a submission; None where nothing was, it cannot be read, or is of another place."""
    if path is None:
        return None
    try:
        data = path.read_bytes()
        place = data.index(b"\n") + 1
        value = json.loads(data[:place])
        if value["key"] != key:
            return None  # the same bytes below another name are a copy, and judged as one
        if (size := value["page"]) is not None:
            value["page"] = data[place : place + size].decode()
            place += size
        prints = []
        for count in value.pop("prints"):
            own_prints = np.frombuffer(data, "<u8", count, place)
            around = np.frombuffer(data, "<f4", count * ALIGNED, place := place + 8 * count)
            prints.append(Likeness(own_prints, around.reshape(-1, ALIGNED)))
            place += around.nbytes
        if place != len(data):
            return None  # cut, or more than was kept
        listed, own = value.pop("findings"), value.pop("known")
        findings = [
            Finding(**{**f, "rows": tuple(f["rows"]), "examples": tuple(f["examples"]), "hits": ()})
            for f in listed
        ]
        return Examined(
            **{**value, "folder": str(folder)}, findings=findings, prints=prints, known=own and Known(**own)
        )
    except (OSError, ValueError, TypeError, KeyError):
        return None
