"""Checks a bundle against the protocol: level 0 container, 1 schema, 2 accounting invariants.

    findings.py    Hit, Finding, Report
    registry.py    rule id -> function; the words of a rule are in protocol/<version>/rules.yaml
    scan.py        one pass over the files; series.py: one pass over the power series
    container.py, schema.py, invariants.py   the rules, one small function each
    engine.py      runs them
    text.py        says what was found

Nothing here changes a file, and no input makes it raise. Names are loaded on first use.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from harness.validate.engine import validate
    from harness.validate.findings import Finding, Report

__all__ = ["Finding", "Report", "validate"]

_HOME = {"Finding": "findings", "Report": "findings", "validate": "engine"}


def __getattr__(name: str) -> Any:
    if name in _HOME:
        from importlib import import_module

        return getattr(import_module(f"harness.validate.{_HOME[name]}"), name)
    raise AttributeError(f"module 'harness.validate' has no attribute {name!r}")
