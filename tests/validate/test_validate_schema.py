"""Level 1: every way to spoil names, types, words, keys and digests fires its rule."""

from __future__ import annotations

import json

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from harness.validate import validate
from tests.validate.runs import fired, one
from tests.validate.tamper import edit_manifest, edit_rows, rewrite, set_column


@pytest.mark.parametrize("version", ["2.0.0", "1.0", None, 1, "1.0.0-rc1", "x.y.z", "\u0663.\u0660.\u0660"])
def test_unknown_protocol(bundle, version):
    edit_manifest(bundle, lambda m: m.update(protocol_version=version))
    report = validate(bundle)
    assert [f.id for f in report.findings] == ["E101"]
    assert report.exit_code == 2


def test_newer_minor(bundle):
    edit_manifest(bundle, lambda m: m.update(protocol_version="1.7.0"))
    assert fired(bundle) == {"W102", "E104"}


def test_what_a_newer_minor_version_adds_is_no_finding(bundle):
    def widen(table):
        power = table.column("power_mw").cast(pa.int64())
        return table.set_column(table.schema.get_field_index("power_mw"), "power_mw", power)

    def power_1_1(table):
        return widen(table).append_column("fan_rpm", pa.array([1200] * table.num_rows, pa.int32()))

    edit_manifest(bundle, lambda m: m.update(protocol_version="1.1.0"))
    for name in [
        e["path"].removesuffix(".parquet")
        for e in json.loads((bundle / "manifest.json").read_bytes())["files"]
    ]:
        rewrite(bundle, name, power_1_1 if name == "power" else lambda table: table, protocol_version="1.1.0")
    report = validate(bundle)
    assert {f.id for f in report.findings} == {"W102"}
    assert report.levels[2] == "passed"
    # The same wider type is an error in a bundle of this version.
    edit_manifest(bundle, lambda m: m.update(protocol_version="1.0.0"))
    rewrite(bundle, "power", lambda table: table, protocol_version="1.0.0")
    assert {"E106", "W107"} <= fired(bundle)


def test_manifest_fields(bundle):
    edit_manifest(bundle, lambda m: (m.pop("name"), m.update(method="magic", hostname="node7")))
    found = one(bundle, "E103")
    assert found.count == 3


@pytest.mark.parametrize("field", ["hardware", "sampling", "labels", "boundary", "status", "files"])
@pytest.mark.parametrize("value", [None, 3, [], {}, "x", [None], [{"path": 3}]])
def test_any_manifest_ends_in_findings(bundle, field, value):
    edit_manifest(bundle, lambda m: m.update({field: value}))
    assert validate(bundle).exit_code in (1, 2) or value == []


def test_footer(bundle):
    rewrite(bundle, "events", lambda t: t, run_id="0" * 26, writer=None)
    assert one(bundle, "E104").count == 2


def test_missing_column(bundle):
    rewrite(bundle, "stages", lambda t: t.drop_columns(["flags"]))
    assert "E105" in fired(bundle)
    rewrite(bundle, "power", lambda t: t.drop_columns(["session"]))
    assert "E105" in fired(bundle)


def test_wrong_type(bundle):
    rewrite(bundle, "power", set_column("power_mw", lambda t: t.column("power_mw").cast(pa.float64())))
    report = validate(bundle)
    assert "E106" in {f.id for f in report.findings}
    assert report.levels[2].startswith("not checked")


def test_extra_columns(bundle):
    rewrite(bundle, "events", lambda t: t.append_column("x-mine", pa.array([1] * t.num_rows)))
    assert fired(bundle) == set()
    rewrite(bundle, "events", lambda t: t.append_column("mine", pa.array([1] * t.num_rows)))
    assert fired(bundle) == {"W107"}


def test_null_where_none_may_be(bundle):
    def drop(table):
        keep = np.arange(table.num_rows) != 7
        return pc.if_else(pa.array(keep), table.column("t_us"), None)

    rewrite(bundle, "power", lambda t: pa.table(set_column("t_us", drop)(t).columns, names=t.schema.names))
    found = one(bundle, "E108")
    assert (found.rows, found.count) == ((7,), 1)


def test_unknown_word(bundle):
    edit_rows(bundle, "stages", lambda rows: rows[1].update(stage="teacher_forcing"))
    found = one(bundle, "E109")
    assert found.rows == (1,)
    assert "teacher_logits" in found.expected
    edit_rows(bundle, "stages", lambda rows: rows[1].update(stage="x-mine"))
    assert "E109" not in fired(bundle)


def test_row_twice(bundle):
    edit_rows(bundle, "counters", lambda rows: [*rows, rows[-1]])
    assert "E110" in fired(bundle)


def test_unsorted(bundle):
    rewrite(bundle, "power", lambda t: t.take(pa.array([1, 0, *range(2, t.num_rows)])))
    found = one(bundle, "E111")
    assert found.rows == (1,)


def test_logical_digest(bundle):
    edit_manifest(bundle, lambda m: m["files"][0].update(logical_sha256="a" * 64))
    assert fired(bundle) == {"E104", "E112"}


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_not_finite(bundle, value):
    edit_rows(bundle, "stages", lambda rows: rows[0].update(gpu_energy_j=value))
    assert "E113" in fired(bundle)
