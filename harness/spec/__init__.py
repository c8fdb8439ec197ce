"""The protocol as typed objects: reads `protocol/<version>/` and derives Arrow and JSON schemas from it.

What belongs here: models of the protocol's data files and what follows from them alone. No I/O on bundles, no
accounting. The YAML files are the only place where a column, a stage kind or a tolerance is defined.
"""

from __future__ import annotations

from harness.spec.freeze import frozen_list as frozen_list
from harness.spec.freeze import protocol_digest as protocol_digest
from harness.spec.jsonschema import json_schema as json_schema
from harness.spec.load import available_versions as available_versions
from harness.spec.load import current_version as current_version
from harness.spec.load import load_protocol as load_protocol
from harness.spec.load import protocol_root as protocol_root
from harness.spec.load import short_version as short_version
from harness.spec.load import version_folder as version_folder
from harness.spec.model import PowerSource as PowerSource
from harness.spec.model import Protocol as Protocol
from harness.spec.table import Column as Column
from harness.spec.table import TableSpec as TableSpec
