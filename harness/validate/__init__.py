"""Checks a bundle against the protocol: 0 container, 1 schema, 2 accounting, 3 plausibility, 4 comparability.

    findings.py    Hit, Finding, Comparability, Report
    registry.py    rule id -> function; the words of a rule are in protocol/<version>/rules.yaml
    scan.py        one pass over the files
    power_facts.py, power_signal.py   what a power series shows beside its energy
    container.py, schema.py                                         levels 0 and 1
    invariants.py, structure.py, tokens.py, scores.py               level 2
    plausibility.py, authenticity.py, claims.py                     level 3
    comparability.py                                                level 4
    across.py      what only several bundles side by side show
    waivers.py     level 3 findings that somebody has explained
    engine.py      runs them
    text.py, sarif.py    say what was found, to people and to programs

A rule is one small function each. Nothing here changes a file, and no bundle makes it raise. Names are loaded
on first use.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from harness.validate.engine import validate as validate
    from harness.validate.engine import validate_many as validate_many
    from harness.validate.findings import Finding as Finding
    from harness.validate.findings import Report as Report

_HOME = {"Finding": "findings", "Report": "findings", "validate": "engine", "validate_many": "engine"}


def __getattr__(name: str) -> Any:
    if name in _HOME:
        from importlib import import_module

        return getattr(import_module(f"harness.validate.{_HOME[name]}"), name)
    raise AttributeError(f"module 'harness.validate' has no attribute {name!r}")
