"""Stored bundles of every version: read by this one, and migrated to what it asks for."""

from __future__ import annotations

import json
import shutil
from itertools import pairwise
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from harness import Meter
from harness.bundle import Bundle
from harness.bundle.writer import conform
from harness.spec import available_versions, load_protocol
from harness.spec.compat import breaking_changes
from harness.spec.migrations import load_migrations, steps_between
from harness.validate import validate

EXAMPLES = Path(__file__).parent / "examples"
TOKENS = ("tokens_trained", "tokens_processed", "tokens_positions", "tokens_generated")


def test_every_version_has_an_example_and_every_migration_a_version() -> None:
    assert sorted(path.name for path in EXAMPLES.iterdir()) == available_versions()
    assert [m.to for m in load_migrations()] == available_versions()[1:]
    assert sum(path.stat().st_size for path in EXAMPLES.rglob("*") if path.is_file()) < 120_000


@pytest.mark.parametrize("version", available_versions())
def test_an_example_runs_through_to_the_newest(version: str) -> None:
    newest = load_protocol()
    bundle = Bundle.open(EXAMPLES / version)
    assert bundle.protocol is newest and bundle.written is load_protocol(version)
    assert bool(bundle.notes) == (version != "1.0")
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


def test_a_later_minor_version_breaks_no_reader() -> None:
    versions = [load_protocol(version) for version in available_versions()]
    for old, new in pairwise(versions):
        steps = steps_between(old.version[:3], new.version[:3])
        assert steps is not None
        if old.major == new.major:
            assert list(breaking_changes(old, new, steps)) == []


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


def test_a_run_of_the_draft_can_be_resumed_and_is_of_this_version_then(tmp_path: Path) -> None:
    shutil.copytree(EXAMPLES / "0.9", tmp_path / "run")
    before = Bundle.open(EXAMPLES / "0.9")
    meter = Meter(tmp_path / "run", cpu="none", devices=[], resume=True)
    with meter, meter.stage("judge") as stage:
        stage.add_tokens(processed=3)
    bundle = Bundle.open(tmp_path / "run")
    assert bundle.manifest["protocol_version"] == load_protocol().version and bundle.notes == []
    assert bundle.table("power").equals(before.table("power"))
    kept = before.table("events").to_pylist()
    assert bundle.table("events").to_pylist()[: len(kept)] == kept
    assert [f for f in validate(tmp_path / "run").findings if f.severity == "error"] == []


def test_what_the_draft_held_is_still_there() -> None:
    folder = EXAMPLES / "0.9"
    bundle = Bundle.open(folder)
    for name in ("stages", "power", "counters", "artifacts"):
        stored = pq.read_table(folder / f"{name}.parquet")
        assert bundle.table(name).to_pylist() == stored.to_pylist()
    events = pq.read_table(folder / "events.parquet").to_pylist()
    given = bundle.table("events").to_pylist()
    assert given[: len(events)] == events and {e["kind"] for e in given[len(events) :]} == {"stage_tokens"}
    assert [e["event_id"] for e in given] == list(range(len(given)))
    assert bundle.rows("evals") == bundle.rows("eval_items") == 0
    assert json.loads((folder / "manifest.json").read_text())["protocol_version"] == "0.9.0"
