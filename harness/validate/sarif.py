"""Findings for programs: SARIF 2.1.0 for code scanning, workflow commands for annotations of a pull request.

SARIF: https://docs.oasis-open.org/sarif/sarif/v2.1.0/. A Parquet row has no line of text; it is given as a
logical location, and the region names line 1, which annotations need.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from harness.text import MAX_LINE, shown
from harness.validate.findings import Finding, Report
from harness.validate.registry import Rule

SCHEMA = "https://json.schemastore.org/sarif-2.1.0.json"
_LEVELS = {"error": "error", "warning": "warning", "label": "note"}
_ANNOTATIONS = {"error": "error", "warning": "warning", "label": "notice"}


def sarif(reports: Sequence[Report], folders: Sequence[str], rules: Mapping[str, Rule], version: str) -> Any:
    """A SARIF 2.1.0 log with one run.

    Args:
        reports: one a bundle.
        folders: the bundles' folders, in the same order, as the user named them.
        rules: every rule, by id.
        version: of the kit.
    """
    index = {rule_id: number for number, rule_id in enumerate(rules)}
    results = []
    for report, folder in zip(reports, folders, strict=True):
        labels = report.comparability.labels if report.comparability else ()
        results += [_result(finding, folder, index) for finding in (*report.findings, *labels)]
    driver = {
        "name": "kit",
        "semanticVersion": version,
        "rules": [_rule(entry) for entry in rules.values()],
    }
    return {
        "$schema": SCHEMA,
        "version": "2.1.0",
        "runs": [{"tool": {"driver": driver}, "columnKind": "unicodeCodePoints", "results": results}],
    }


def _rule(entry: Rule) -> dict[str, Any]:
    return {
        "id": entry.id,
        "name": entry.name,
        "shortDescription": {"text": entry.title},
        "fullDescription": {"text": entry.why},
        "help": {"text": f"{entry.fix}. Clause {entry.clause}; kit explain {entry.id}"},
        "defaultConfiguration": {"level": _LEVELS[entry.severity]},
        "properties": {"level": entry.level, "clause": entry.clause},
    }


def _result(finding: Finding, folder: str, index: Mapping[str, int]) -> dict[str, Any]:
    location: dict[str, Any] = {
        "physicalLocation": {
            "artifactLocation": {"uri": _uri(f"{folder}/{finding.file}")},
            "region": {"startLine": 1},
        }
    }
    if finding.rows:
        location["logicalLocations"] = [
            {"fullyQualifiedName": f"{finding.file}#row={row}", "kind": "row"} for row in finding.rows
        ]
    result: dict[str, Any] = {
        "ruleId": finding.id,
        "ruleIndex": index[finding.id],
        "level": _LEVELS[finding.severity],
        "message": {"text": f"{finding.message}. Fix: {finding.fix}"},
        "locations": [location],
        "occurrenceCount": max(1, finding.count),
        "properties": {
            "observed": finding.observed,
            "expected": finding.expected,
            "joules_at_stake_j": finding.joules_at_stake,
            "clause": finding.clause,
        },
    }
    if finding.waived is not None:
        result["suppressions"] = [{"kind": "external", "status": "accepted", "justification": finding.waived}]
    return result


def _uri(path: str) -> str:
    from urllib.parse import quote

    return quote(path.removeprefix("./"))


def workflow_commands(reports: Sequence[Report], folders: Sequence[str]) -> list[str]:
    """One GitHub workflow command a finding: `::error file=...,line=1,title=...::message`."""
    lines = []
    for report, folder in zip(reports, folders, strict=True):
        labels = report.comparability.labels if report.comparability else ()
        for finding in (*report.findings, *labels):
            word = _ANNOTATIONS[finding.severity] if finding.counts else "notice"
            text = finding.message if finding.counts else f"waived: {finding.waived} ({finding.message})"
            rows = f" Rows {', '.join(map(str, finding.rows[:6]))}." if finding.rows else ""
            stake = finding.joules_at_stake
            at_stake = "" if stake is None else f" At stake: {stake:.6g} J."
            where = shown(f"{folder}/{finding.file}".removeprefix("./"), "property", limit=MAX_LINE)
            title = shown(f"{finding.id} {finding.name}", "property")
            text = f"{text}.{rows}{at_stake} Fix: {finding.fix}. Clause {finding.clause}."
            message = shown(text, "annotation", limit=MAX_LINE)
            lines.append(f"::{word} file={where},line=1,title={title}::{message}")
    return lines
