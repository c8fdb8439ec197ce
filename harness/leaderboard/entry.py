"""submission.json: what a submission says of itself. It may come from a stranger."""

from __future__ import annotations

import hashlib
import json
import re
import unicodedata
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from harness.bundle.canonical import canonical_json
from harness.errors import KitError
from harness.files import read_bytes
from harness.leaderboard.rules import submission_rules
from harness.spec import load_protocol
from harness.spec.strict import Slip, build

ENTRY = "submission.json"
LICENCE = "CC-BY-4.0"
MOST_BYTES = 256 * 1024
MOST_TEXT = 500
MOST_FIGURE = 1e12
"""Of a stated figure, whatever its unit: a terawatt-hour is a thousandth of it."""

LAB = re.compile(r"[a-z0-9][a-z0-9-]{0,38}[a-z0-9]")
ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9-]{0,62}[A-Za-z0-9]")
SHA256 = re.compile(r"[0-9a-f]{64}")
FILE = re.compile(r"(bundle/[a-z][a-z_]*(/part-\d{5})?\.parquet|bundle/manifest\.json|trace60s\.parquet)")
URL = re.compile(r"https://[A-Za-z0-9.-]+(:\d+)?(/[A-Za-z0-9._~!$&'()*+,;=:@%/?-]*)?")
STATED = ("energy_kwh", "energy_j_per_token", "quality", "co2e_kg")


@dataclass(frozen=True, kw_only=True)
class Listed:
    """A file of the submission, by its path in the folder; with a URL it lies there instead."""

    path: str
    sha256: str
    bytes: int
    url: str | None = None

    def __post_init__(self) -> None:
        """Raises ValueError for a path, digest or address that cannot be one."""
        if not FILE.fullmatch(self.path):
            raise ValueError(f"{self.path!r} is no file of a submission")
        if not SHA256.fullmatch(self.sha256):
            raise ValueError("sha256 is no digest of 64 hex digits")
        if self.url is not None and not URL.fullmatch(self.url):
            raise ValueError("url is no https address")


@dataclass(frozen=True, kw_only=True)
class Submission:
    """A row of the leaderboard, as its laboratory describes it.

    Attributes:
        origin: `kit`: a bundle measured by this protocol; `import`: figures from another tool's log;
            `publication`: figures that somebody published, without a log.
        party: Who measured: those who built the models, others, or both together.
        conflict: Interests a reader must know; empty: none declared.
        source: Where figures without a bundle were read, and when.
        replicates: LAB/ID of the row that this run repeats.
        supersedes: LAB/ID of the row that this one corrects.
        stated: Figures that the laboratory published elsewhere; compared, never shown as measured.
        stages_kwh: Kind of stage to energy, of figures without a bundle.
        reference_tokens: Denominator, of figures without a bundle.
        hardware: In words, of figures without a bundle.
        doubts: What the laboratory itself doubts.
        files: Every file beside submission.json and its signature.
        commitment: Of a laboratory that stays unnamed for now: sha256 of a secret salt and its name.
    """

    format: str
    lab: str
    id: str
    title: str
    licence: Literal["CC-BY-4.0"]
    origin: Literal["kit", "import", "publication"]
    method: str
    student: str = ""
    teacher: str = ""
    status: Literal["active", "failed", "withdrawn"] = "active"
    reason: str = ""
    party: Literal["first", "third", "collaborative"] = "first"
    conflict: str = ""
    source: str = ""
    replicates: str | None = None
    supersedes: str | None = None
    stated: dict[str, float] = field(default_factory=dict)
    stages_kwh: dict[str, float] = field(default_factory=dict)
    reference_tokens: int | None = None
    hardware: str = ""
    doubts: tuple[str, ...] = ()
    files: tuple[Listed, ...] = ()
    commitment: str | None = None

    def __post_init__(self) -> None:
        """Raises ValueError where its parts contradict each other."""
        if self.format != submission_rules().format:
            raise ValueError(f"format is {self.format!r}, expected {submission_rules().format!r}")
        if not LAB.fullmatch(self.lab) or not ID.fullmatch(self.id):
            raise ValueError(
                "a lab is 2 to 40 small letters, digits and dashes, an id 2 to 64 letters, digits, dashes; "
                "neither begins or ends with a dash"
            )
        if unknown := set(self.stated) - set(STATED):
            raise ValueError(f"stated: {min(unknown)!r} is none of {', '.join(STATED)}")
        for name, value in {**self.stated, **self.stages_kwh}.items():
            if not 0 <= value <= MOST_FIGURE:
                raise ValueError(f"{name} is {value}, expected a number from 0 to {MOST_FIGURE:g}")
        if self.reference_tokens is not None and not 0 < self.reference_tokens < 2**53:
            raise ValueError("reference_tokens is not a whole number from 1 on")
        for name in ("replicates", "supersedes"):
            lab, _, ident = (getattr(self, name) or "a0/a0").partition("/")
            if not LAB.fullmatch(lab) or not ID.fullmatch(ident):
                raise ValueError(f"{name} is not LAB/ID")
        if len({file.path for file in self.files}) != len(self.files):
            raise ValueError("a file is listed twice")
        if (self.origin == "kit") != any(file.path == "bundle/manifest.json" for file in self.files):
            raise ValueError("a run of the kit comes with its bundle, and other figures without one")
        if self.origin == "kit" and (self.stages_kwh or self.hardware or self.reference_tokens is not None):
            raise ValueError("stages_kwh, hardware and reference_tokens are of figures without a bundle")
        if self.method not in load_protocol().method_names:
            raise ValueError(f"method is none of {', '.join(load_protocol().method_names)}")
        if self.origin != "kit" and not (self.source and self.stated.get("energy_kwh")):
            raise ValueError("figures without a bundle need stated.energy_kwh and a source")
        if self.status != "active" and not self.reason:
            raise ValueError("a failed or withdrawn entry gives its reason")
        if (self.commitment is not None) != self.lab.startswith("anon-"):
            raise ValueError("a laboratory is called anon-... if and only if it gives a commitment")
        if self.commitment is not None and not SHA256.fullmatch(self.commitment):
            raise ValueError("commitment is no digest of 64 hex digits")

    @property
    def key(self) -> str:
        """LAB/ID."""
        return f"{self.lab}/{self.id}"

    @property
    def elsewhere(self) -> tuple[Listed, ...]:
        """Files that are not in the folder."""
        return tuple(file for file in self.files if file.url is not None)

    def to_bytes(self) -> bytes:
        """Canonical JSON: what is signed."""
        return canonical_json(json.loads(json.dumps(asdict(self))))


def committed(salt: str, lab: str) -> str:
    """The digest that a laboratory which stays unnamed gives: of a secret salt and its name."""
    return hashlib.sha256(f"{salt} {lab}".encode()).hexdigest()


def read_entry(path: Path) -> Submission:
    """Read submission.json.

    Raises:
        KitError: It cannot be read, or is not what the leaderboard reads.
    """
    value = read_json(path)
    try:
        return build(Submission, value)
    except Slip as slip:
        raise KitError(slip.message, where=".".join(map(str, slip.path)) or ENTRY) from None
    except (ValueError, RecursionError, OverflowError) as error:
        raise KitError(f"is no JSON of ours: {str(error)[:120]}", where=ENTRY) from None


def read_json(path: Path) -> Any:
    """A stranger's JSON: of bounded size, no key twice, no NaN, no text that looks like another one.

    Raises:
        KitError: It cannot be read, or is not that.
    """
    try:
        data = read_bytes(path, MOST_BYTES)
        value = json.loads(data.decode(), object_pairs_hook=_unique, parse_constant=_no_constant)
        _check_text(value)
    except KitError as error:
        raise KitError(error.message, where=path.name) from None
    except (ValueError, RecursionError) as error:
        raise KitError(f"is no JSON of ours: {str(error)[:120]}", where=path.name) from None
    return value


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len({name for name, _ in pairs}) != len(pairs):
        raise ValueError("a key is given twice")
    return dict(pairs)


def _no_constant(word: str) -> float:
    raise ValueError(f"{word} is no number")


def _check_text(value: object) -> None:
    """Refuse control and direction marks, which make a text look like another one, and endless texts."""
    if isinstance(value, dict):
        for name, item in value.items():
            _check_text(name)
            _check_text(item)
    elif isinstance(value, list):
        for item in value:
            _check_text(item)
    elif isinstance(value, str):
        if len(value) > MOST_TEXT:
            raise ValueError(f"a text has {len(value)} characters, at most {MOST_TEXT} are read")
        if value.isprintable():
            return
        odd = next(
            (c for c in value if unicodedata.category(c) in ("Cc", "Cf", "Cs", "Co", "Zl", "Zp")), None
        )
        if odd is not None:
            raise ValueError(f"a text holds the control character U+{ord(odd):04X}")
