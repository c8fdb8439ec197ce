"""Level 0: every way to spoil the container fires the rule that is named for it."""

from __future__ import annotations

import json

import pytest

from harness.validate import validate
from tests.validate.runs import fired
from tests.validate.tamper import edit_manifest


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"{}", b'{"files": 3}', b"\xff\xfe", b"[" * 100_000])
def test_unreadable_manifest_is_exit_code_2(bundle, content):
    (bundle / "manifest.json").write_bytes(content)
    report = validate(bundle)
    assert [f.id for f in report.findings] == ["E001"]
    assert report.exit_code == 2


def test_no_bundle_at_all(tmp_path):
    assert validate(tmp_path / "nowhere").exit_code == 2
    assert validate(tmp_path).exit_code == 2
    (tmp_path / "file").write_text("x")
    assert validate(tmp_path / "file").exit_code == 2


def test_missing_file(bundle):
    (bundle / "power.parquet").unlink()
    report = validate(bundle)
    assert [f.id for f in report.findings] == ["E002"]
    assert report.levels[2].startswith("not checked")
    assert report.exit_code == 1


def test_flipped_byte(bundle):
    data = bytearray((bundle / "power.parquet").read_bytes())
    data[len(data) // 3] ^= 0xFF
    (bundle / "power.parquet").write_bytes(data)
    assert "E003" in fired(bundle)


def test_unexpected_files_but_not_the_folders_beside(bundle):
    for name in ("work", "logs", "cache"):
        (bundle / name / "deep").mkdir(parents=True)
        (bundle / name / "deep" / "x").write_text("x")
    assert fired(bundle) == set()
    (bundle / "notes").mkdir()
    (bundle / "notes" / "a.txt").write_text("x")
    (bundle / "b.txt").write_text("x")
    found = [f for f in validate(bundle).findings if f.id == "E004"]
    assert {f.file for f in found} == {"notes/a.txt", "b.txt"}


def test_links(bundle, tmp_path):
    (bundle / "power.parquet").rename(tmp_path / "elsewhere.parquet")
    (bundle / "power.parquet").symlink_to(tmp_path / "elsewhere.parquet")
    assert "E005" in fired(bundle)


@pytest.mark.parametrize(
    "path", ["../stages.parquet", "/etc/passwd", "power/../stages.parquet", "a\\b", "x\0y", ""]
)
def test_paths_outside(bundle, path):
    edit_manifest(bundle, lambda m: m["files"].append({**m["files"][0], "path": path}))
    assert {"E005", "E103"} <= fired(bundle)


@pytest.mark.parametrize("size", [0, 3, 11, 200, -9, -1])
def test_cut_files(bundle, size):
    path = bundle / "counters.parquet"
    path.write_bytes(path.read_bytes()[:size])
    report = validate(bundle)
    assert {"E003", "E006", "E007"} <= {f.id for f in report.findings}
    assert report.exit_code == 1


def test_row_count(bundle):
    edit_manifest(bundle, lambda m: m["files"][0].update(rows=m["files"][0]["rows"] + 1))
    assert fired(bundle) == {"E007"}


def test_table_not_listed(bundle):
    (bundle / "events.parquet").unlink()
    edit_manifest(bundle, lambda m: m.update(files=[e for e in m["files"] if e["path"] != "events.parquet"]))
    assert fired(bundle) == {"E008"}


def test_journal_left(bundle):
    (bundle / "journal").mkdir()
    (bundle / "journal" / "sampler.0.jnl").write_bytes(b"x")
    assert fired(bundle) == {"W009"}
    assert validate(bundle).exit_code == 0


def test_pretty_manifest(bundle):
    path = bundle / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_bytes()), indent=2))
    assert fired(bundle) == {"W010"}
