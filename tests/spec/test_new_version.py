"""A version 1.1 is a folder of data: what is run by it is sealed, checked, explained and reported by it."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from harness.bundle import Bundle
from harness.cli.main import main
from harness.errors import KitError
from harness.spec import current_version, load_protocol, protocol_root
from harness.spec.factors import grid_factors
from harness.spec.freeze import frozen_list
from harness.spec.versions import breaking_changes
from harness.validate import validate
from harness.validate.registry import load_rules
from tests.bundle.make import write_small
from tests.spec.versions import kit, next_version

PIPELINE = """
protocol: "{version}"
name: small
method: sft
devices: none
stages:
  - {{name: first, kind: {kind}, command: "sleep 0.1"}}
"""
EXAMPLE = Path(__file__).parents[1] / "protocol" / "examples" / "1.0"
PROTOCOL = Path(__file__).parents[2] / "protocol"


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return next_version(tmp_path_factory.mktemp("root"))


def audit(root: Path | None, folder: Path, version: str, kind: str, code: int = 0) -> str:
    file = folder / f"{version}-{kind}.yaml"
    file.write_text(PIPELINE.format(version=version, kind=kind))
    return kit(root, "audit", file, "--out", folder / "run", "--cpu", "none", code=code)


def test_a_pipeline_of_the_new_version_is_of_it_throughout(root: Path, tmp_path: Path) -> None:
    assert "Allowed: 1.0." in audit(None, tmp_path, "1.1", "quantize", code=2)
    audit(root, tmp_path, "1.1", "quantize")
    run = tmp_path / "run"
    assert json.loads((run / "manifest.json").read_text())["protocol_version"] == "1.1.0"
    stages, power = (pq.read_table(run / f"{name}.parquet") for name in ("stages", "power"))
    assert stages["stage"][0].as_py() == "quantize" and stages["rack_row"].null_count == len(stages)
    assert "fan_rpm" in power.column_names
    assert pq.read_metadata(run / "power.parquet").metadata[b"distill_energy.schema_id"] == b"power/1.1"
    said = kit(root, "validate", run)
    assert "holds" in said
    assert "rule W398 (fan-stopped) was not checked: this kit has no function for it" in said
    assert "protocol 1.1.0" in kit(root, "report", run)
    # A kit without 1.1 reads it and says so.
    said = kit(None, "validate", run)
    assert "W102 newer-minor" in said and "holds: 1 warning" in said


def test_a_pipeline_of_the_old_version_is_of_that(root: Path, tmp_path: Path) -> None:
    assert "'quantize' is not a stage kind" in audit(root, tmp_path, "1.0", "quantize", code=2)
    audit(root, tmp_path, "1.0", "sweep")
    run = tmp_path / "run"
    manifest = json.loads((run / "manifest.json").read_text())
    assert manifest["protocol_version"] == "1.0.0"
    frozen = (PROTOCOL / "1.0.sha256").read_bytes()
    assert manifest["protocol_sha256"] == hashlib.sha256(frozen).hexdigest()
    assert "rack_row" not in pq.read_schema(run / "stages.parquet").names
    said = kit(root, "validate", run)
    assert "holds" in said and "W398" not in said
    # Resumed by a pipeline of the newer version, the run is of that one; what it had stays.
    file = tmp_path / "1.1-sweep.yaml"
    text = PIPELINE.format(version="1.1", kind="sweep")
    file.write_text(text + '  - {name: second, kind: quantize, command: "true"}\n')
    kit(root, "audit", file, "--out", run, "--cpu", "none", "--resume")
    manifest = json.loads((run / "manifest.json").read_text())
    assert manifest["protocol_version"] == "1.1.0"
    assert manifest["protocol_sha256"] == hashlib.sha256(frozen_list(root / "1.1").encode()).hexdigest()
    kinds = pq.read_table(run / "stages.parquet")["stage"].to_pylist()
    assert {"sweep", "quantize"} <= set(kinds)
    assert "holds" in kit(root, "validate", run)


def test_a_bundle_of_the_old_version_is_read_validated_and_reported(root: Path, tmp_path: Path) -> None:
    old = tmp_path / "old"
    shutil.copytree(EXAMPLE, old)
    assert kit(root, "validate", old) == kit(None, "validate", old)
    assert kit(root, "report", old) == kit(None, "report", old)
    assert "protocol 1.0.0" in kit(root, "report", old)


def test_run_meter_and_commands_use_the_newest(root: Path, tmp_path: Path) -> None:
    kit(
        None,
        "--protocol-root",
        root,
        "run",
        "--kind",
        "quantize",
        "--out",
        tmp_path / "r",
        "--cpu",
        "none",
        "true",
    )
    assert json.loads((tmp_path / "r" / "manifest.json").read_text())["protocol_version"] == "1.1.0"
    assert "a fan stands still" in kit(root, "explain", "W398").casefold()
    assert "no rule 'W398'" in kit(root, "explain", "W398", "--protocol", "1.0", code=2)
    assert "no rule 'W398'" in kit(None, "explain", "W398", code=2)
    assert "rack_row" in json.loads(kit(root, "schema", "stages"))["properties"]
    pipeline = json.loads(kit(root, "schema"))
    assert pipeline["properties"]["protocol"]["enum"] == ["1.0", "1.1", 1.0, 1.1]
    assert "protocol 1.1.0" in kit(root, "health")


def test_the_root_is_chosen_by_a_variable(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    own = protocol_root()
    monkeypatch.setenv("KIT_PROTOCOL_ROOT", str(root))
    assert (protocol_root(), current_version(), load_protocol().version) == (root, "1.1", "1.1.0")
    assert list(load_rules()) == [*load_rules("1.0"), "W398"]
    assert grid_factors()[0].unit
    assert list(breaking_changes(load_protocol("1.0"), load_protocol("1.1"))) == []
    (tmp_path / "empty").mkdir()
    monkeypatch.setenv("KIT_PROTOCOL_ROOT", str(tmp_path / "empty"))
    with pytest.raises(KitError, match="holds no protocol version"):
        load_protocol()
    monkeypatch.setenv("KIT_PROTOCOL_ROOT", str(tmp_path / "missing"))
    with pytest.raises(KitError, match="is no folder"):
        load_protocol()
    monkeypatch.delenv("KIT_PROTOCOL_ROOT")
    assert main(["--protocol-root", str(root), "explain", "W398"]) == 0
    assert main(["--protocol-root", str(tmp_path / "missing"), "explain"]) == 2
    assert protocol_root() == own
    capsys.readouterr()


def test_columns_that_the_old_version_lacks_are_null(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KIT_PROTOCOL_ROOT", str(root))
    write_small(tmp_path / "run", load_protocol("1.0"))
    bundle = Bundle.open(tmp_path / "run")
    assert (bundle.written.version, bundle.protocol.version) == ("1.0.0", "1.1.0")
    assert bundle.notes == ["written by protocol 1.0.0, read as 1.1.0"]
    assert bundle.table("stages")["rack_row"].null_count == bundle.rows("stages") > 0
    for _, arrays in bundle.iter_power(("mono_us", "fan_rpm")):
        assert not arrays["fan_rpm_valid"].any() and len(arrays["mono_us"])
    # Its own version must be there: by it files are read.
    alone = tmp_path / "alone"
    shutil.copytree(root / "1.1", alone / "1.1")
    monkeypatch.setenv("KIT_PROTOCOL_ROOT", str(alone))
    with pytest.raises(KitError, match=r"'1\.0\.0' is not known"):
        Bundle.open(tmp_path / "run")
    assert [finding.id for finding in validate(tmp_path / "run").findings] == ["E101"]
