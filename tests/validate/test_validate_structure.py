"""Level 2: windows, attempts, devices, lineage and status must fit each other."""

from __future__ import annotations

import pytest

from harness.accounting.totals import DENOMINATORS
from harness.validate import validate
from tests.accounting.synthetic import Stage, make_run
from tests.validate.runs import STAGES, fired, one, row
from tests.validate.tamper import edit_manifest, edit_rows


def test_negative_tokens(bundle):
    edit_rows(bundle, "stages", lambda rows: row(rows, "train").update(tokens_trained=-1))
    assert fired(bundle) == {"E201", "E226"}


def test_unknown_tokens_are_fine(bundle):
    """A count of 0 needs no report, and where nothing was reported nothing is known."""
    edit_rows(bundle, "events", lambda rows: [r for r in rows if r["kind"] != "stage_tokens"])
    names = [name for name in DENOMINATORS.values() if name != "token_denominator"]
    edit_rows(bundle, "stages", lambda rows: [r.update(dict.fromkeys(names)) for r in rows] and None)
    edit_rows(bundle, "stages", lambda rows: row(rows, "train").update(tokens_processed=0))
    assert fired(bundle) == set()


def test_overlap_names_the_joules(tmp_path):
    stages = (*STAGES, Stage("eval", "evaluate", 70.3, 78.0, 400.0))
    folder = make_run(stages, end_s=80.0).write(tmp_path / "run")
    found = one(folder, "E214")
    assert found.count == 2
    assert found.joules_at_stake == pytest.approx(5 * (400 + 410), rel=0.01)
    edit_rows(folder, "stages", lambda rows: row(rows, "eval").update(parent_uid=2))
    assert "E214" not in fired(folder)


@pytest.mark.parametrize(
    ("attempts", "bad"), [((1, 2), False), ((2, 1), True), ((1, 1), True), ((1, 3), True)]
)
def test_attempts(tmp_path, attempts, bad):
    run = make_run(
        (Stage("a", "evaluate", 2, 12, 300, status="failed"), Stage("a", "evaluate", 12, 22, 300)), end_s=30
    )
    run.manifest["method"] = "sft"
    for item, attempt in zip(run.stages, attempts, strict=True):
        item["attempt"] = attempt
    assert ("E210" in fired(run.write(tmp_path / "run"))) == bad


def test_device_lists(bundle):
    edit_rows(bundle, "stages", lambda rows: row(rows, "train").update(device_ids=[0, 7]))
    assert "E213" in fired(bundle)


def test_teacher_must_be_paid(tmp_path):
    run = make_run((STAGES[0], STAGES[2]), end_s=80.0)
    run.stages[1]["consumes"] = ["sha256:ab"]
    run.artifacts.append(
        {
            "artifact_id": "sha256:ab",
            "name": "cache",
            "kind": "folder",
            "bytes": 1,
            "stage_uid": 1,
            "role": "consumed",
            "origin_run_id": None,
            "origin_energy_j": None,
        }
    )
    assert fired(run.write(tmp_path / "a")) == {"E215"}
    run.artifacts[0]["origin_run_id"] = "01J00000000000000000000000"
    assert fired(run.write(tmp_path / "b")) == set()
    run.artifacts.clear()
    run.stages[1]["consumes"] = []
    assert fired(run.write(tmp_path / "none")) == {"E215"}
    run.manifest["labels"].append("online_teacher")
    online = validate(run.write(tmp_path / "online"))
    assert online.findings == ()
    assert online.comparability is not None
    assert "C413" in {label.id for label in online.comparability.labels}
    run.manifest["labels"].remove("online_teacher")
    run.manifest["method"] = "sft"
    assert fired(run.write(tmp_path / "c")) == set()


def test_artifact_edges(bundle):
    edit_rows(bundle, "stages", lambda rows: row(rows, "train").update(produces=["sha256:cd"]))
    assert fired(bundle) == {"E216"}


def test_parents(bundle):
    edit_rows(bundle, "stages", lambda rows: row(rows, "train").update(parent_uid=99))
    assert "E218" in fired(bundle)
    edit_rows(bundle, "stages", lambda rows: row(rows, "train").update(parent_uid=0))
    assert "E218" in fired(bundle)
    edit_rows(bundle, "stages", lambda rows: row(rows, "train").update(parent_uid=2))
    assert "E218" in fired(bundle)


def test_event_of_no_stage(bundle):
    edit_rows(bundle, "events", lambda rows: rows[0].update(stage_uid=55))
    assert fired(bundle) == {"E219"}


def test_status(bundle):
    edit_rows(bundle, "stages", lambda rows: row(rows, "train").update(status="interrupted"))
    assert fired(bundle) == {"W222"}


def test_boundary_set(bundle):
    edit_manifest(bundle, lambda m: m["boundary"].update(cpu="absent"))
    assert fired(bundle) == {"E223"}


def test_imported_stages_that_overlap(tmp_path):
    """Two trackers of one machine, each a session of its own, count the same joules."""
    folder = make_run(STAGES, end_s=80.0).write(tmp_path / "run")
    edit_manifest(folder, lambda m: m.update(labels=["imported"]))
    assert "W240" not in fired(folder)
    first = {}

    def again(rows):
        first.update(row(rows, "train"))
        rows.append({**first, "stage_uid": 50, "name": "train2", "session": 1})
        rows.sort(key=lambda r: r["stage_uid"])

    edit_rows(folder, "stages", again)
    found = one(folder, "W240")
    length = (first["t_end_us"] - first["t_start_us"]) / 1e6
    assert "train2 (stage_uid 50, session 1) overlaps train" in found.observed
    assert f"by {length:.3f} s" in found.observed
