"""PROTOCOL.md says what the data files say and what the code does."""

from __future__ import annotations

import importlib.util
import re
from dataclasses import asdict, replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml

from harness.accounting.counter import GPU_MAX_W, LIMIT_FACTOR, STUCK_J, STUCK_REFRESHES
from harness.accounting.device import TELLING_SAMPLES
from harness.accounting.error_model import CELL_FACTOR, CELL_MEAN_FACTOR, RANDOM_GAPS
from harness.accounting.placement import ALIKE, CELL_US, DOUBTFUL, EVIDENCE, JUST_US, POOLED, SLOPE
from harness.accounting.processor import ESTIMATE_HIGH, UNSEEN_US
from harness.accounting.rapl import (
    CAUGHT_UP,
    SLOW_SHARE,
    SLOW_STILL_US,
    STILL_US,
    ZONE_MAX_W,
    ZONE_REFRESH_US,
)
from harness.accounting.series import Sampling
from harness.audit.reports import parse_report
from harness.conformance import run_vector
from harness.spec import load_protocol, protocol_root
from tests.protocol import text


@pytest.fixture(scope="module")
def maker() -> ModuleType:
    spec = importlib.util.spec_from_file_location("make_schemas", text.ROOT / "scripts" / "make_schemas.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_clauses_are_those_of_the_data() -> None:
    protocol = load_protocol()
    assert text.headings() == protocol.clauses
    rules = yaml.safe_load((protocol_root() / "1.0" / "rules.yaml").read_text())["rules"]
    named = {rule["id"]: rule["clause"] for rule in rules}
    named |= {name: table.clause for name, table in protocol.tables.items()}
    named |= {kind.name: kind.clause for kind in protocol.stage_kinds}
    named["manifest"] = protocol.manifest.clause
    assert {name: clause for name, clause in named.items() if clause not in protocol.clauses} == {}


def test_clauses_are_in_order_and_the_text_stays_short() -> None:
    numbers = [tuple(map(int, number.split("."))) for number in text.headings()]
    assert numbers == sorted(numbers)
    assert len(text.TEXT.splitlines()) < 520
    assert all(len(line) <= 120 for line in text.TEXT.splitlines() if not line.startswith(("|", " ", "{")))


def test_numbers_in_the_text_are_those_of_the_data() -> None:
    protocol = load_protocol()
    fields = {**asdict(protocol.sampling), **asdict(protocol.tolerances)}
    given = text.numbers()
    for name, value in given:
        assert value == pytest.approx(fields[name], rel=1e-12), name
    # What the text does not quote nobody reads.
    quoted = {name for name, _ in given}
    assert {name for name, value in fields.items() if isinstance(value, int | float)} - quoted == set()


def test_numbers_of_the_accounting_are_those_of_the_code() -> None:
    flat = " ".join(text.TEXT.split())
    assert f"{LIMIT_FACTOR:g} x power limit ({GPU_MAX_W / 1000:g} kW where none is known)" in flat
    assert f"one refresh of {Sampling().counter_refresh_us / 1000:g} ms" in flat
    assert STUCK_REFRESHES == 2 and f"for more than two refreshes while {STUCK_J:g} J flow" in flat
    assert f"with {ZONE_MAX_W:g} W, a refresh of {ZONE_REFRESH_US / 1000:g} ms" in flat
    assert SLOW_SHARE == 0.25 and "where more than a quarter of its readings" in flat
    assert f"for more than {STILL_US / 1e6:g} s ({SLOW_STILL_US / 1e6:g} s where" in flat
    assert f"below {CAUGHT_UP:g} x mean rate x time" in flat
    assert RANDOM_GAPS == 0.1 and "gaps of up to a tenth of the window" in flat
    assert f"| T > {CELL_US / 1000:g} ms, or E <= 0, or E > m T," in flat
    assert ALIKE == 50 and "at most a fiftieth of the larger" in flat and "max(p, q) T / 50" in flat
    assert f"p and q differ by at most max(p, q) / {SLOPE}" in flat
    assert f"the next tick comes after at most {JUST_US / 1000:g} ms" in flat
    assert f"A window of fewer than {TELLING_SAMPLES} samples contradicts nothing by itself" in flat
    assert EVIDENCE == 2 and "the two nearest cells" in flat
    assert POOLED == 1 / 2 and "plus half the mean of its **evidence**, over 1.5" in flat
    assert f"min(1, {1 / DOUBTFUL:g} (r + 1/2) / (n + 1))" in flat
    assert f"{CELL_FACTOR:g} R `x` (T - `x`) / T" in flat and f"R = {CELL_MEAN_FACTOR:g} x the rate" in flat
    assert f"more than {UNSEEN_US / 1e6:g} s from an end of the window" in flat
    assert ESTIMATE_HIGH == 2 and "0 to twice the estimate" in flat


def test_a_bold_number_names_its_field() -> None:
    bold = re.findall(r"\*\*\d[^*]*\*\*", text.TEXT)
    assert len(bold) == len(text.numbers()) > 10


@pytest.mark.parametrize("vector", text.vectors(), ids=lambda vector: str(vector["id"]))
def test_examples_are_true(vector: dict[str, Any]) -> None:
    assert vector["clause"] == vector.pop("under") and str(vector["id"]).startswith("doc-")
    outcome = run_vector(vector)
    assert outcome.verdict == "pass", outcome.problems


def test_an_example_that_is_not_true_is_noticed() -> None:
    vector = next(v for v in text.vectors() if v["id"] == "doc-break-even")
    del vector["under"]
    assert run_vector({**vector, "expected": {**vector["expected"], "whole": 11}}).verdict == "fail"


def test_lines_that_the_guide_shows_are_taken() -> None:
    guide = (text.ROOT / "docs" / "pipeline_file.md").read_text(encoding="utf-8")
    lines = re.findall(r'^\{"eval.*$', guide, re.MULTILINE)
    reports = [parse_report(line.replace('"..."', f'"{"a" * 64}"').encode()) for line in lines]
    assert [report.problem for report in reports] == [None, None]
    assert reports[0].score is not None and reports[1].items is not None


def test_links_lead_somewhere() -> None:
    for target in re.findall(r"\]\(([^)#:]+)\)", text.TEXT):
        assert (text.ROOT / target).exists(), target


def test_generated_files_are_what_the_definitions_give(maker: ModuleType) -> None:
    differ = [p.name for p, wanted in maker.wanted().items() if not p.exists() or p.read_text() != wanted]
    assert differ == [], "run: python scripts/make_schemas.py"
    folder = text.ROOT / "protocol/1.0/schema"
    assert {path.name for path in folder.iterdir()} == {p.name for p in maker.wanted() if p.parent == folder}


def test_a_change_of_a_definition_shows_in_the_generated_files(maker: ModuleType) -> None:
    protocol = load_protocol()
    table = protocol.tables["power"]
    column = replace(table.columns[5], type="int64", doc="Other.", stability="deprecated")
    columns = (*table.columns[:5], column, *table.columns[6:])
    tables = {**protocol.tables, "power": replace(table, columns=columns)}
    changed = maker.schema_files(replace(protocol, tables=tables))
    assert "| 5.2.6 | `power_mw` | int64? | mW | Other. *Deprecated.* |" in changed["tables.md"]
    assert changed["arrow.json"] != maker.schema_files(protocol)["arrow.json"]


def test_arrow_json_is_the_schema_of_the_files_we_write() -> None:
    import json

    protocol = load_protocol()
    stored = json.loads((Path(protocol_root()) / "1.0/schema/arrow.json").read_text())
    assert list(stored) == list(protocol.tables)
    for name, fields in stored.items():
        schema = protocol.arrow_schema(name)
        assert [field["name"] for field in fields] == schema.names
        for field, ours in zip(fields, schema, strict=True):
            assert field["nullable"] == ours.nullable
            assert {k.encode(): v.encode() for k, v in field["metadata"].items()} == ours.metadata
