"""A valid bundle passes every level, on any machine; every rule has words and a function."""

from __future__ import annotations

import json
from dataclasses import replace

import pyarrow.parquet as pq
import pytest

from harness.spec import load_protocol
from harness.validate import validate
from harness.validate.registry import CHECKS, load_rules
from tests.accounting.synthetic import S, Stage, join, make_run
from tests.validate.runs import fired, small_run
from tests.validate.tamper import edit_manifest


def test_a_good_bundle_passes_every_level(bundle):
    report = validate(bundle)
    assert report.findings == ()
    assert report.levels == dict.fromkeys(range(5), "passed")
    assert report.exit_code == 0
    assert report.rows == sum(e["rows"] for e in json.loads((bundle / "manifest.json").read_bytes())["files"])


@pytest.mark.parametrize(
    "options", [{"devices": 0, "rapl": False, "codecarbon": True}, {"devices": 1, "rapl": False}]
)
def test_other_machines_pass(tmp_path, options):
    assert validate(small_run(**options).write(tmp_path / "run")).findings == ()


def test_two_sessions_pass(tmp_path):
    second = make_run((Stage("again", "evaluate", 2, 12, 300),), end_s=20, session=1, mono0=5 * S, rapl=True)
    assert validate(join(small_run(), second).write(tmp_path / "run")).findings == ()


def test_every_rule_has_words_and_a_function():
    rules = load_rules()
    clauses = load_protocol().clauses
    # Not functions of one bundle: what could not be evaluated, an unused waiver, two bundles side by side.
    assert set(rules) - set(CHECKS) == {"E299", "W399", "E324", "E325", "E229", "E251", "E252"}
    assert set(CHECKS) <= set(rules)
    for entry in rules.values():
        assert entry.clause in clauses, entry
        assert entry.id[0] == {"error": "E", "warning": "W", "label": "C"}[entry.severity]
        assert entry.unrankable <= (entry.severity == "label") == (entry.level == 4)
        assert entry.level == int(entry.id[1])
        assert entry.title and entry.why and entry.fix


def test_parts(tmp_path):
    """A table in several parts and row groups gives the same verdict."""
    protocol = load_protocol()
    container = replace(protocol.container, row_group_rows=37, part_rows=100)
    folder = small_run().write(tmp_path / "run", replace(protocol, container=container))
    assert len(list((folder / "power").iterdir())) > 2
    assert pq.ParquetFile(folder / "power" / "part-00000.parquet").metadata.num_row_groups > 1
    assert validate(folder).findings == ()


def test_another_major_version_is_not_read(tmp_path):
    folder = small_run().write(tmp_path / "run")
    for version in ("0.9.0", "2.0.0"):
        edit_manifest(folder, lambda m, v=version: m.update(protocol_version=v))
        assert fired(folder) == {"E101"}
