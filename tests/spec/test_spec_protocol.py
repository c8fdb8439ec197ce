"""The protocol's data files: complete, strict, and the one source of every schema."""

from __future__ import annotations

import shutil
from dataclasses import FrozenInstanceError
from pathlib import Path

import jsonschema
import pyarrow as pa
import pytest

from harness.errors import KitError
from harness.spec import available_versions, json_schema, load_protocol, protocol_root

# The columns that other parts of the kit name; a change here changes the protocol.
EXPECTED = {
    "power": "node_id device_id session t_us mono_us power_mw? power_average_mw? energy_counter_mj? "
    "util_pct? mem_used_mib? temp_c? sm_clock_mhz? throttle_bits? power_limit_mw? read_us?",
    "counters": "node_id source device_id? zone? session t_us mono_us uncertainty_us value? unit range? "
    "boundary? method power_mw?",
    "events": "event_id session t_us mono_us kind stage_uid? device_id? severity detail?",
    "artifacts": "artifact_id name kind bytes stage_uid role origin_run_id? origin_energy_j?",
    "evals": "stage_uid subject suite benchmark benchmark_version? dataset_sha256? metric filter n_items "
    "n_scored n_unparsed score score_unit score_min score_max higher_is_better aggregation stderr? judge_id? "
    "judge_stage_uid? harness harness_version? model_sha256? items_sha256?",
    "eval_items": "stage_uid subject benchmark metric filter item item_sha256? score? group?",
    "stages": "stage_uid name stage parent_uid? attempt status node_id session clock_id t_start_us t_end_us "
    "mono_start_us mono_end_us boundary_start boundary_end device_ids "
    "device_start_us device_end_us device_energy_j? tokens_trained? tokens_processed? tokens_positions? "
    "tokens_generated? token_denominator? exit_code? command_sha256? process_cpu_s? gpu_energy_j? "
    "gpu_energy_j_low? gpu_energy_j_high? gpu_energy_counter_j? gpu_energy_integral_j? gpu_energy_method "
    "gpu_energy_boundary_j? gpu_energy_gap_j? energy_in_gaps_j? gpu_counter_vs_integral? cpu_energy_j? "
    "cpu_energy_j_low? cpu_energy_j_high? cpu_energy_method dram_energy_j? dram_energy_j_low? "
    "dram_energy_j_high? dram_energy_method samples missed_samples longest_gap_us gap_us flags produces "
    "consumes",
}
SUFFIX_UNITS = {"_us": "us", "_mw": "mW", "_mj": "mJ", "_j": "J", "_mib": "MiBy", "_mhz": "MHz", "_pct": "%"}


@pytest.mark.parametrize("table", EXPECTED)
def test_columns_are_those_of_the_protocol(table: str) -> None:
    columns = load_protocol().tables[table].columns
    assert " ".join(c.name + "?" * c.nullable for c in columns) == EXPECTED[table]
    assert [c.field_id for c in columns] == list(range(1, len(columns) + 1))
    assert len({c.clause for c in columns}) == len(columns)


@pytest.mark.parametrize("table", EXPECTED)
def test_a_unit_in_the_name_is_the_unit_of_the_column(table: str) -> None:
    for column in load_protocol().tables[table].columns:
        bare = column.name.removesuffix("_low").removesuffix("_high")
        for suffix, unit in SUFFIX_UNITS.items():
            if bare.endswith(suffix):
                assert column.unit == unit, column.name


@pytest.mark.parametrize("table", EXPECTED)
def test_arrow_schema_carries_type_null_unit_and_field_id(table: str) -> None:
    protocol = load_protocol()
    schema = protocol.arrow_schema(table)
    assert schema is protocol.arrow_schema(table)
    assert schema.names == list(protocol.tables[table].names)
    for field, column in zip(schema, protocol.tables[table].columns, strict=True):
        assert field.nullable == column.nullable
        assert field.metadata[b"PARQUET:field_id"] == str(column.field_id).encode()
        assert field.metadata.get(b"unit") == (column.unit.encode() if column.unit else None)
        if pa.types.is_list(field.type):
            assert not field.type.value_field.nullable


def test_numbers_of_the_protocol() -> None:
    protocol = load_protocol()
    assert (protocol.version, protocol.major) == ("1.0.0", 1)
    assert (protocol.sampling.nominal_period_us, protocol.sampling.gap_factor) == (500_000, 2.0)
    assert protocol.tolerances.closure_rel == 1e-9
    assert protocol.tolerances.counter_vs_integral_finding_low_power == 0.15
    for kind in ("x-warmup", "judge", "idle"):
        assert protocol.check_kind(kind, "here") == kind
    for kind, fix in (
        ("x-", "own"),
        ("traim", "own"),
        ("student_trian", "student_train"),
        ("unattributed", "itself"),
    ):
        with pytest.raises(KitError, match=f"here: '{kind}' is not a stage kind") as caught:
            protocol.check_kind(kind, "here")
        assert fix in str(caught.value.fix)
    assert protocol.tables["events"].column("kind").allows("x-mine")
    assert not protocol.tables["stages"].column("status").allows("x-mine")


def test_models_cannot_be_changed() -> None:
    protocol = load_protocol()
    with pytest.raises(FrozenInstanceError):
        protocol.sampling.nominal_period_us = 1  # type: ignore[misc]
    assert isinstance(protocol.tables["power"].columns, tuple)


def test_unknown_version_says_which_exist() -> None:
    with pytest.raises(KitError, match=r"9\.9") as caught:
        load_protocol("9.9")
    assert caught.value.expected == "one of 1.0"
    assert load_protocol("1.0.7") is load_protocol()
    assert available_versions() == ["1.0"]


@pytest.mark.parametrize("table", [*EXPECTED, "manifest"])
def test_json_schema_is_a_schema(table: str) -> None:
    jsonschema.Draft202012Validator.check_schema(json_schema(table))


def test_json_schema_of_a_row_agrees_with_the_columns() -> None:
    validator = jsonschema.Draft202012Validator(json_schema("events"))
    row = {"event_id": 1, "session": 0, "t_us": 5, "mono_us": 5, "kind": "gap", "severity": "warning"}
    row |= {"stage_uid": None, "device_id": None, "detail": None}
    assert validator.is_valid(row) and validator.is_valid(row | {"kind": "x-own"})
    for wrong in ({"kind": "gaps"}, {"t_us": None}, {"session": 40_000}, {"session": 1.5}, {"extra": 1}):
        assert not validator.is_valid(row | wrong), wrong
    assert not validator.is_valid({k: v for k, v in row.items() if k != "kind"})


def test_json_schema_of_an_unknown_table() -> None:
    with pytest.raises(KitError, match="no table 'powr'"):
        json_schema("powr")


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    shutil.copytree(protocol_root() / "1.0", tmp_path / "1.0")
    return tmp_path


@pytest.mark.parametrize(
    ("file", "old", "new", "message"),
    [
        (
            "tables/power.yaml",
            "nullable: true, encoding: delta, field_id: 6",
            "nulable: true, field_id: 6",
            "nulable",
        ),
        ("tables/power.yaml", "field_id: 6", "field_id: 5", "field_id given twice: 5"),
        ("tables/power.yaml", "type: int16", "type: int17", "int17"),
        ("tables/power.yaml", 'clause: "5.2.1"', "clause: 5.2", "clause"),
        ("tables/power.yaml", 'clause: "5.2.1"', 'clause: "5.3.1"', "outside 5.2"),
        ("tables/power.yaml", "table: power\n", "table: powers\n", "powers"),
        ("tables/power.yaml", "sort: [node_id", "sort: [node", "'node'"),
        ("tables/power.yaml", "doc: >-", "doc: again\ndoc: >-", "given twice"),
        ("tables/power.yaml", "table: power\n", "table: [power\n", "not readable as YAML"),
        ("tables/stages.yaml", "enum: stage_kinds", "enum: [idle, x-*]", "stage_kinds differ in .'evaluate'"),
        ("tables/stages.yaml", "enum: stage_kinds", "enum: stage_kind", "stage_kinds differ in .'evaluate'"),
        ("protocol.yaml", "gap_factor: 2.0", 'gap_factor: "2.0"', "gap_factor"),
        ("protocol.yaml", "gap_factor: 2.0", "", "gap_factor' is missing"),
        ("protocol.yaml", "title:", "titel:", "titel|title"),
        ("protocol.yaml", "tables: [stages", "tables: [stage", "file is missing"),
        ("manifest.yaml", "type: object, open: true", "type: objekt, open: true", "objekt"),
    ],
)
def test_a_slip_in_a_protocol_file_is_refused_by_name(
    copy: Path, file: str, old: str, new: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = copy / "1.0" / file
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))
    monkeypatch.setenv("KIT_PROTOCOL_ROOT", str(copy))
    with pytest.raises(KitError, match=message) as caught:
        load_protocol("1.0")
    named = {"stages.yaml": "protocol.yaml"}.get(path.name, path.name)  # a clash of both is told at the first
    assert caught.value.where == str(
        path.with_name(named) if named == path.name else copy / "1.0" / named
    ) or ("file is missing" in str(caught.value))


def test_the_protocol_is_found_inside_an_installed_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import harness.spec.load as load

    package = tmp_path / "site-packages" / "harness"
    shutil.copytree(protocol_root(), package / "_protocol")
    (package / "spec").mkdir()
    monkeypatch.setattr(load, "__file__", str(package / "spec" / "load.py"))
    assert load.protocol_root() == package / "_protocol"
    shutil.rmtree(package / "_protocol")
    with pytest.raises(KitError, match="missing from this installation"):
        load.protocol_root()


def test_the_accounting_derives_the_flags_that_the_protocol_says_it_does() -> None:
    from harness.accounting.stages import DERIVED_FLAGS

    assert {flag.name for flag in load_protocol().flags if flag.derived} == DERIVED_FLAGS
