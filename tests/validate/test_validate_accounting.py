"""Level 2: raw rows, derived columns, holes and totals must fit each other."""

from __future__ import annotations

import pytest

from harness.spec import load_protocol
from harness.validate import validate
from tests.accounting.synthetic import EPOCH_US, S
from tests.validate.runs import fired, one, row, small_run
from tests.validate.tamper import edit_rows


def test_changed_power_sample(bundle):
    def change(rows):
        rows[100]["power_mw"] += 1

    edit_rows(bundle, "power", change)
    assert fired(bundle) == {"E203"}
    assert "gpu_energy_integral_j" in one(bundle, "E203").observed


def test_changed_boundary_counter(bundle):
    def change(rows):
        marked = [r for r in rows if r["source"] == "nvml" and r["boundary"] is not None]
        marked[2]["value"] += 5

    edit_rows(bundle, "counters", change)
    assert "E203" in fired(bundle)


def test_counter_that_falls(bundle):
    def change(rows):
        mine = [r for r in rows if r["device_id"] == 1 and r["mono_us"] > 1040 * S]
        for item in mine:
            item["energy_counter_mj"] -= 10_000_000

    edit_rows(bundle, "power", change)
    found = {f.id for f in validate(bundle).findings}
    assert {"E209", "E203"} <= found
    mark = {
        "event_id": 1,
        "session": 0,
        "t_us": 0,
        "mono_us": 0,
        "kind": "counter_reset",
        "stage_uid": None,
        "device_id": 1,
        "severity": "warning",
        "detail": None,
    }
    edit_rows(bundle, "events", lambda rows: [*rows, mark])
    assert "E209" not in fired(bundle)


@pytest.mark.parametrize(("step", "ids"), [(60_000, {"W205"}), (-600_000, {"E206"}), (30_000, set())])
def test_clock_step(tmp_path, step, ids):
    run = small_run()
    late = run.power["mono_us"] > 1078 * S
    run.power["t_us"][late] += step
    folder = run.write(tmp_path / "run")
    assert fired(folder) == ids
    run.events.append(
        {
            "event_id": 1,
            "session": 0,
            "t_us": EPOCH_US,
            "mono_us": 1078 * S,
            "kind": "clock_step",
            "stage_uid": None,
            "device_id": None,
            "severity": "warning",
            "detail": None,
        }
    )
    assert fired(run.write(tmp_path / "run2")) == ids - {"W205"}


def test_samples_that_end_early(tmp_path):
    run = small_run()
    keep = run.power["mono_us"] < 1060 * S
    run.power = {name: values[keep] for name, values in run.power.items()}
    report = validate(run.write(tmp_path / "run"))
    assert {f.id for f in report.findings} == {"E221", "W307"}
    assert report.findings[0].count == 2


def test_window_moved_away_from_its_boundary(bundle):
    edit_rows(bundle, "stages", lambda rows: row(rows, "train").update(device_end_us=[1075 * S, 1075 * S]))
    assert "E220" in fired(bundle)
    edit_rows(bundle, "stages", lambda rows: row(rows, "train").update(t_end_us=EPOCH_US + 1076 * S))
    assert one(bundle, "E220").count >= 1


def test_boundary_number_that_does_not_exist(bundle):
    edit_rows(bundle, "stages", lambda rows: row(rows, "train").update(boundary_end=77))
    assert "E212" in fired(bundle)


DERIVED = [c for c in load_protocol().tables["stages"].columns if c.derived]


@pytest.mark.parametrize("column", DERIVED, ids=lambda c: c.name)
def test_every_derived_column_is_recomputed(bundle, column):
    def change(rows):
        target = row(rows, "train")
        value = target[column.name]
        if column.type == "string":
            target[column.name] = next(w for w in column.enum if w not in (value, "imported"))
        elif column.type == "list<string>":
            target[column.name] = [*value, "gap"]
        elif column.type == "list<float64>":
            target[column.name] = [value[0] + 1e-3, value[1] - 1e-3]
        else:
            target[column.name] = (value or 0) + (1 if column.type == "int64" else 1e-3)

    edit_rows(bundle, "stages", change)
    found = one(bundle, "E203")
    assert column.name in found.observed + "".join(found.examples)


def test_joules_at_stake(bundle):
    edit_rows(
        bundle,
        "stages",
        lambda rows: row(rows, "train").update(gpu_energy_j=20_000.0, gpu_energy_j_low=19_999.0),
    )
    found = one(bundle, "E203")
    assert found.joules_at_stake == pytest.approx(40 * 1210 - 20_000, abs=0.1)
    assert "train" in found.observed


def test_deleted_hole(bundle):
    edit_rows(
        bundle,
        "stages",
        lambda rows: [r for r in rows if r["stage"] != "unattributed" or r["boundary_start"] != 3],
    )
    ids = fired(bundle)
    assert {"E204", "E211"} <= ids
    assert one(bundle, "E204").joules_at_stake > 3 * 150


def test_invented_hole(bundle):
    def change(rows):
        extra = {**rows[-1], "stage_uid": rows[-1]["stage_uid"] + 1, "boundary_start": 1, "boundary_end": 2}
        return [*rows, extra]

    edit_rows(bundle, "stages", change)
    assert {"E204", "E211", "E214"} <= fired(bundle)


def test_closure(bundle):
    edit_rows(
        bundle,
        "stages",
        lambda rows: row(rows, "train").update(
            device_energy_j=[e + 0.001 for e in row(rows, "train")["device_energy_j"]]
        ),
    )
    assert "E211" in fired(bundle)


def test_interval_order(bundle):
    edit_rows(bundle, "stages", lambda rows: row(rows, "train").update(gpu_energy_j_low=1e6))
    assert "E207" in fired(bundle)
    edit_rows(bundle, "stages", lambda rows: row(rows, "train").update(gpu_energy_j_low=None))
    assert "E207" in fired(bundle)


def test_negative_energy(bundle):
    edit_rows(bundle, "stages", lambda rows: row(rows, "train").update(gpu_energy_j=-299_400.0))
    found = one(bundle, "E208")
    assert found.joules_at_stake == 299_400.0


def test_imported_figures_need_the_label(bundle):
    edit_rows(bundle, "stages", lambda rows: row(rows, "train").update(gpu_energy_method="imported"))
    assert "E217" in fired(bundle)
