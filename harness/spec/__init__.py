"""The protocol as typed objects: reads `protocol/<version>/` and derives Arrow and JSON schemas from it.

What belongs here: models of the protocol's data files and what follows from them alone. No I/O on bundles, no
accounting. The YAML files are the only place where a column, a stage kind or a tolerance is defined.
"""

from __future__ import annotations

from harness.spec.document import DocumentSpec, Problem
from harness.spec.freeze import frozen_list, protocol_digest
from harness.spec.jsonschema import json_schema
from harness.spec.load import (
    available_versions,
    current_version,
    load_protocol,
    protocol_root,
    short_version,
    version_folder,
)
from harness.spec.model import PowerSource, Protocol, SamplingRules, StageKind, Tolerances
from harness.spec.table import Column, TableSpec

__all__ = [
    "Column",
    "DocumentSpec",
    "PowerSource",
    "Problem",
    "Protocol",
    "SamplingRules",
    "StageKind",
    "TableSpec",
    "Tolerances",
    "available_versions",
    "current_version",
    "frozen_list",
    "json_schema",
    "load_protocol",
    "protocol_digest",
    "protocol_root",
    "short_version",
    "version_folder",
]
