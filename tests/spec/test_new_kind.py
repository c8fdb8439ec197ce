"""One entry in protocol.yaml adds a stage kind: every door of the kit knows it, and what it counts as."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from harness import Meter
from harness.errors import KitError
from harness.report.model import Options, build
from harness.spec import json_schema, load_protocol, protocol_root
from harness.validate import validate
from tests.accounting.synthetic import Stage, make_run
from tests.spec.versions import kit, with_kind

PIPELINE = """
protocol: "1.0"
name: small
method: kd
devices: none
stages:
  - {name: less, kind: quantize, command: "true"}
  - {name: train, kind: student_train, command: "true"}
"""


@pytest.fixture(params=["", "teacher: true"], ids=["plain", "teacher"])
def root(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    root = tmp_path / "root"
    shutil.copytree(protocol_root() / "1.0", root / "1.0")
    path = root / "1.0" / "protocol.yaml"
    path.write_text(with_kind(path.read_text(), request.param))
    monkeypatch.setenv("KIT_PROTOCOL_ROOT", str(root))
    return root


def kinds(run: Path) -> set[str]:
    return set(pq.read_table(run / "stages.parquet")["stage"].to_pylist())


def test_run_meter_and_pipeline_know_it(root: Path, tmp_path: Path) -> None:
    assert "quantize" in load_protocol().kind_names
    assert "quantize" in json_schema("stages")["properties"]["stage"]["anyOf"][0]["enum"]
    kit(root, "run", "--kind", "quantize", "--out", tmp_path / "run", "--cpu", "none", "true")
    with Meter(tmp_path / "meter", cpu="none", devices=[]) as meter, meter.stage("quantize"):
        pass
    (tmp_path / "small.yaml").write_text(PIPELINE)
    kit(root, "audit", tmp_path / "small.yaml", "--out", tmp_path / "audit", "--cpu", "none")
    for name in ("run", "meter", "audit"):
        assert "quantize" in kinds(tmp_path / name)
    teacher = load_protocol().kinds("teacher")
    # A distilled student's teacher is in the run if a stage of one of its kinds is.
    missing = [f.id for f in validate(tmp_path / "audit").findings if f.id == "E215"]
    assert missing == ([] if "quantize" in teacher else ["E215"])
    assert [f for f in validate(tmp_path / "meter").findings if f.severity == "error"] == []
    schema = json.loads(kit(root, "schema"))["$defs"]["StageFields"]["properties"]["kind"]
    assert "quantize" in str(schema)


def test_the_report_counts_it_as_what_it_is(root: Path, tmp_path: Path) -> None:
    stages = (
        Stage("quantize", "quantize", 2, 12, 300),
        Stage("train", "student_train", 14, 24, 400),
    )
    folder = make_run(stages, end_s=30).write(tmp_path / "run")
    report = build(folder, Options(amortize=2))
    whole = report.totals.by_kind["quantize"].best
    assert whole > 2500
    if "quantize" in load_protocol().kinds("teacher"):
        assert report.totals.teacher is not None and report.totals.teacher.best == whole
        assert report.reuse is not None
        full, amortized = report.reuse.full.best, report.reuse.amortized.best
        assert amortized == pytest.approx(full - whole / 2)
    else:
        assert report.totals.teacher is None
    said = kit(root, "report", folder)
    assert "quantize" in said and "protocol 1.0.0" in said


def test_without_the_entry_every_door_says_the_same(tmp_path: Path) -> None:
    names = ", ".join(load_protocol().named_kinds())
    with Meter(tmp_path / "run", cpu="none", devices=[]) as meter:
        with pytest.raises(KitError, match="'quantize' is not a stage kind") as caught:
            meter.stage("quantize")
        assert caught.value.expected == f"{names}, x-<your own>"
        with pytest.raises(KitError, match="did you mean 'student_train'"):
            meter.stage("last", kind="student_trian")
        with meter.stage("less", kind="x-quantize"):
            pass
    assert kinds(tmp_path / "run") >= {"x-quantize"}
    said = kit(None, "run", "--kind", "quantize", "true", code=2)
    assert f"'quantize' is not a stage kind\n  expected: {names}, x-<your own>" in said
    (tmp_path / "small.yaml").write_text(PIPELINE)
    said = kit(None, "audit", tmp_path / "small.yaml", "--dry-run", code=2)
    assert "'quantize' is not a stage kind. Allowed: prerun" in said and "x-<your own>" in said
