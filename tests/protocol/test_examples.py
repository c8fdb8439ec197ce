"""Stored bundles of every version, read by the current one."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from harness.bundle import Bundle
from harness.bundle.writer import conform
from harness.spec import available_versions, load_protocol
from harness.validate import validate

EXAMPLES = Path(__file__).parent / "examples"
TOKENS = ("tokens_trained", "tokens_processed", "tokens_positions", "tokens_generated")


def test_every_version_has_an_example() -> None:
    assert sorted(path.name for path in EXAMPLES.iterdir()) == available_versions()
    assert sum(path.stat().st_size for path in EXAMPLES.rglob("*") if path.is_file()) < 120_000


@pytest.mark.parametrize("version", available_versions())
def test_an_example_runs_through_to_the_newest(version: str) -> None:
    newest = load_protocol()
    bundle = Bundle.open(EXAMPLES / version)
    assert bundle.protocol is newest and bundle.written is load_protocol(version)
    assert bool(bundle.notes) == (bundle.written is not newest)
    for name, spec in newest.tables.items():
        table = bundle.table(name)
        assert conform(table, spec, newest.arrow_schema(name)).equals(table)
        assert bundle.rows(name) == table.num_rows
        keys = table.select(list(spec.key)).to_pylist()
        assert len({json.dumps(row) for row in keys}) == len(keys)
    problems = newest.manifest.problems({**bundle.manifest, "schema_id": newest.manifest.schema_id})
    assert problems == []


@pytest.mark.parametrize("version", available_versions())
def test_an_example_holds_and_is_classed_by_the_version_that_wrote_it(version: str) -> None:
    report = validate(EXAMPLES / version)
    assert [(f.id, f.observed) for f in report.findings if f.severity == "error"] == []
    assert report.comparability is not None
    assert f"protocol_major={version[0]};" in str(report.comparability)


@pytest.mark.parametrize("version", available_versions())
def test_counts_are_the_sums_of_their_reports(version: str) -> None:
    bundle = Bundle.open(EXAMPLES / version)
    sums: dict[tuple[int, str], int] = {}
    for event in bundle.table("events").to_pylist():
        if event["kind"] == "stage_tokens":
            for name, count in json.loads(event["detail"]).items():
                sums[event["stage_uid"], name] = sums.get((event["stage_uid"], name), 0) + count
    counted = {
        (row["stage_uid"], name): row[name]
        for row in bundle.table("stages").to_pylist()
        for name in TOKENS
        if row[name] is not None
    }
    assert sums == counted and len(counted) >= 4
