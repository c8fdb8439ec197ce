"""What the leaderboard asks of a submission: `protocol/<version>/submission.yaml` as typed objects."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path

from harness.errors import KitError
from harness.spec import version_folder
from harness.spec.load import read_yaml
from harness.spec.strict import Slip, build
from harness.validate.findings import Finding, Hit
from harness.validate.registry import Rule, finding


@dataclass(frozen=True)
class Level:
    """How far a row's figures have been checked.

    Attributes:
        ranked: Whether such a row may be ranked inside its class.
        next: What would raise it.
    """

    name: str
    ranked: bool
    doc: str
    next: str


@dataclass(frozen=True)
class Limits:
    """Sizes; `expansion` is the unpacked over the packed size of an archive."""

    submission_bytes: int
    file_bytes: int
    files: int
    expansion: int
    trace_period_us: int


@dataclass(frozen=True)
class SubmissionRules:
    """The whole file; `levels` from weakest to strongest."""

    format: str
    limits: Limits
    edit_rel: float
    levels: tuple[Level, ...]
    rules: tuple[Rule, ...]

    def level(self, name: str) -> Level:
        """The level called `name`."""
        return next(level for level in self.levels if level.name == name)

    @cached_property
    def by_id(self) -> dict[str, Rule]:
        """Rules by id."""
        return {rule.id: rule for rule in self.rules}


def submission_rules(version: str | None = None) -> SubmissionRules:
    """Levels, limits and rules of a protocol version, the current one by default.

    Raises:
        KitError: The file is missing or not as it should be.
    """
    return _read(version_folder(version) / "submission.yaml")


@cache
def _read(path: Path) -> SubmissionRules:
    try:
        return build(SubmissionRules, read_yaml(path))
    except Slip as slip:
        raise KitError(slip.message, where=f"{path}: {'.'.join(map(str, slip.path))}") from None


def found(rule_id: str, file: str, observed: str, expected: str, joules: float | None = None) -> Finding:
    """A finding of one of the leaderboard's rules."""
    return finding(submission_rules().by_id[rule_id], file, [Hit(file, observed, expected, (), joules)])
