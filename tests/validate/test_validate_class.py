"""Level 4: the class a run belongs to, and the labels that keep it out of rankings. Never a refusal."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path
from typing import Any

import pytest

from harness.bundle import canonical_json
from harness.spec import load_protocol
from harness.validate import validate
from harness.validate.findings import Comparability
from tests.validate.full_run import write_full
from tests.validate.tamper import edit_manifest, edit_rows


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_full(tmp_path_factory.mktemp("class") / "run")


@pytest.fixture
def bundle(whole: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(whole, tmp_path / "run"))


def class_of(folder: Path) -> Comparability:
    report = validate(folder)
    assert report.levels[4] == "passed"
    assert report.comparability is not None
    return report.comparability


def labels(folder: Path) -> set[str]:
    return {label.id for label in class_of(folder).labels}


def test_the_class_of_a_measured_run(bundle: Path) -> None:
    found = class_of(bundle)
    assert found.rankable
    assert tuple(found.key) == load_protocol().comparability.key
    assert found.key == {
        "protocol_major": 1,
        "gpu_models": ["2x Lab GPU"],
        "boundary": "gpu measured, cpu measured, dram measured",
        "cpu_energy_method": ["rapl"],
        "reference_tokens": 30_000_000,
        "suite_id": ["two-tasks"],
        "power_limit": ["100%"],
        "shared_node": False,
    }
    assert found.digest == hashlib.sha256(canonical_json(dict(found.key))).hexdigest()
    assert "gpu_models=2x Lab GPU" in found.text and "shared_node=no" in found.text
    assert labels(bundle) == {"C407"}


@pytest.mark.parametrize(
    ("change", "label", "unrankable"),
    [
        ({"labels": ["simulated"]}, "C401", True),
        ({"labels": ["pocket"]}, "C404", True),
        ({"labels": ["cpu_estimated"]}, "C402", True),
        ({"shared_node": True}, "C405", False),
        ({"status": "recovered"}, "C406", True),
        ({"status": "partial"}, "C406", True),
    ],
)
def test_labels_of_the_manifest(bundle: Path, change: dict[str, Any], label: str, unrankable: bool) -> None:
    edit_manifest(bundle, lambda m: m.update(change))
    found = class_of(bundle)
    assert label in {x.id for x in found.labels}
    assert found.rankable != unrankable
    assert validate(bundle).exit_code == 0


def test_a_machine_without_a_gpu_and_with_an_estimate(tmp_path: Path) -> None:
    folder = write_full(tmp_path / "run", gpu=False)
    found = class_of(folder)
    assert {"C402", "C408"} <= {x.id for x in found.labels}
    assert not found.rankable
    assert found.key["gpu_models"] == []
    assert found.key["cpu_energy_method"] == ["codecarbon_process"]


def test_no_scores_and_no_reference(bundle: Path) -> None:
    edit_rows(bundle, "evals", lambda rows: [])
    edit_rows(bundle, "eval_items", lambda rows: [])
    edit_manifest(bundle, lambda m: m.update(reference_tokens=None))
    edit_rows(bundle, "stages", lambda rows: [r.update(token_denominator=None) for r in rows] and None)
    assert {"C409", "C410"} <= labels(bundle)
    assert class_of(bundle).key["suite_id"] is None
    assert not class_of(bundle).rankable


def test_a_held_out_loss_is_no_score(bundle: Path) -> None:
    edit_rows(bundle, "evals", lambda rows: [r.update(suite="heldout") for r in rows] and None)
    assert "C410" in labels(bundle)
    assert class_of(bundle).key["suite_id"] is None
    assert not class_of(bundle).rankable


@pytest.mark.parametrize(
    ("change", "same"),
    [
        (lambda m: m.update(name="other"), True),
        (lambda m: m["hardware"]["devices"][0].update(power_limit_mw=600_000), False),
        (lambda m: m["hardware"]["devices"][1].update(model="Other GPU"), False),
        (lambda m: m.update(shared_node=True), False),
    ],
)
def test_what_makes_another_class(bundle: Path, change: Any, same: bool) -> None:
    before = class_of(bundle).digest
    edit_manifest(bundle, change)
    assert (class_of(bundle).digest == before) == same


def test_judges_are_part_of_the_class(bundle: Path) -> None:
    before = class_of(bundle)
    edit_rows(bundle, "evals", lambda rows: [r.update(judge_id="judge-8b@abc") for r in rows] and None)
    after = class_of(bundle)
    assert after.digest != before.digest
    assert after.key["suite_id"] == ["two-tasks judged by judge-8b@abc"]


def test_what_does_not_hold_is_not_ranked(bundle: Path) -> None:
    edit_rows(bundle, "evals", lambda rows: rows[0].update(score=rows[0]["score"] * 0.9))
    report = validate(bundle)
    assert report.exit_code == 1
    assert report.comparability is not None and not report.comparability.rankable
