"""Level 2: scores follow from their items, token counts from reports, inherited joules from an event."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from harness.bundle import canonical_json
from harness.validate import validate
from tests.validate.full_run import write_full
from tests.validate.runs import fired, one, row
from tests.validate.tamper import edit_manifest, edit_rows

Rows = list[dict[str, Any]]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_full(tmp_path_factory.mktemp("whole") / "run")


@pytest.fixture
def bundle(whole: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(whole, tmp_path / "run"))


def exact(rows: Rows, subject: str = "student") -> dict[str, Any]:
    """The exact match of 60 items, right or wrong."""
    return next(r for r in rows if r["metric"] == "exact_match" and r["subject"] == subject)


def without_items(bundle: Path, subject: str = "student") -> None:
    """A score whose items are not given; its own row must hold by itself."""
    edit_rows(
        bundle,
        "eval_items",
        lambda rows: [r for r in rows if r["metric"] != "exact_match" or r["subject"] != subject],
    )


def test_scores_without_items_are_fine(bundle: Path) -> None:
    without_items(bundle)
    assert fired(bundle) == set()


@pytest.mark.parametrize(
    ("change", "rule"),
    [
        (lambda r: r.update(n_items=61), "E230"),
        (lambda r: r.update(n_scored=59), "E230"),
        (lambda r: r.update(n_scored=59, n_unparsed=1), "E230"),
        (lambda r: r.update(n_scored=0, n_unparsed=60), "E231"),
        (lambda r: r.update(score=1.01), "E232"),
        (lambda r: r.update(score_max=100.0), "E232"),
        (lambda r: r.update(score_unit="percent"), "E232"),
        (lambda r: r.update(score=r["score"] + 1 / 60), "E233"),
        (lambda r: r.update(score=r["score"] + 1e-6), "E233"),
        (lambda r: r.update(stderr=r["stderr"] * 1.00001), "E234"),
        (lambda r: r.update(stderr=None), "W239"),
        (lambda r: r.update(stderr=-r["stderr"]), "E234"),
        (lambda r: r.update(judge_stage_uid=0), "E235"),
        (lambda r: r.update(items_sha256="0" * 64), "E236"),
    ],
)
def test_each_fault_of_a_score(bundle: Path, change: Callable[[dict[str, Any]], None], rule: str) -> None:
    edit_rows(bundle, "evals", lambda rows: change(exact(rows)))
    assert rule in fired(bundle)
    assert "student adding" in one(bundle, rule).observed


def test_a_share_of_an_item_was_never_right(bundle: Path) -> None:
    """Without items an exact match is still a whole number of sixtieths, and its error follows from it."""
    without_items(bundle)
    edit_rows(bundle, "evals", lambda rows: exact(rows).update(score=0.555))
    assert {"E233", "E234"} <= fired(bundle)
    # 33 of 60: sqrt(p (1 - p) / 59) = 0.064768...
    edit_rows(bundle, "evals", lambda rows: exact(rows).update(score=33 / 60, stderr=0.06476768))
    assert fired(bundle) == {"E234"}
    edit_rows(bundle, "evals", lambda rows: exact(rows).update(stderr=(33 / 60 * 27 / 60 / 59) ** 0.5))
    assert fired(bundle) == set()


def test_a_score_rounded_to_four_digits_holds(bundle: Path) -> None:
    """20 of 60 is 0.3333, sqrt(p (1 - p) / 59) = 0.06137; a coarser or another figure is none of theirs."""
    without_items(bundle)
    for score, stderr, wrong in (
        (0.3333, 0.0614, set()),
        (0.333333, 0.06137, set()),
        (0.333, 0.0614, {"E233"}),
        (0.3334, 0.0614, {"E233"}),
        (0.3333, 0.0613, {"E234"}),
    ):
        edit_rows(bundle, "evals", lambda rows, a=score, b=stderr: exact(rows).update(score=a, stderr=b))
        assert fired(bundle) == wrong, (score, stderr)


def test_an_error_larger_than_any_items_have(bundle: Path) -> None:
    """A rating of 5.5 on 1 to 10 over 59 judged items varies by 4.5 at most: 4.5 / sqrt(58) = 0.591."""

    def change(stderr: float) -> None:
        def rating(rows: Rows) -> None:
            target = next(r for r in rows if r["score_unit"] == "rating_1_10")
            target.update(score=5.5, stderr=stderr)

        edit_rows(bundle, "evals", rating)

    edit_rows(bundle, "eval_items", lambda rows: [r for r in rows if r["benchmark"] != "talking"])
    change(0.590)
    assert fired(bundle) == {"E233"}
    change(0.592)
    assert fired(bundle) == {"E233", "E234"}


def test_a_mean_without_items(bundle: Path) -> None:
    """Nothing recomputes it: it is refused, unless the attempt was stopped before its items came."""
    edit_rows(bundle, "eval_items", lambda rows: [r for r in rows if r["benchmark"] != "talking"])
    assert fired(bundle) == {"E233"}
    assert one(bundle, "E233").count == 2

    def external(rows: Rows) -> None:
        for found in rows:
            found["aggregation"] = "external" if found["benchmark"] == "talking" else "mean"

    stopped = Path(shutil.copytree(bundle, bundle.parent / "stopped"))
    edit_rows(bundle, "evals", external)
    assert fired(bundle) == set()
    edit_rows(stopped, "stages", lambda rows: row(rows, "eval").update(status="interrupted"))
    assert "E233" not in fired(stopped)


def test_items_of_no_score_and_holes_in_their_numbers(bundle: Path) -> None:
    edit_rows(bundle, "evals", lambda rows: [r for r in rows if r is not exact(rows)])
    assert fired(bundle) == {"E235"}


def test_an_item_left_out(bundle: Path) -> None:
    edit_rows(bundle, "eval_items", lambda rows: rows[:3] + rows[4:])
    assert {"E230", "E236"} <= fired(bundle)


def test_one_items_score(bundle: Path) -> None:
    def change(rows: Rows) -> None:
        target = next(r for r in rows if r["metric"] == "exact_match" and r["subject"] == "teacher")
        target["score"] = 1.0 - target["score"]

    edit_rows(bundle, "eval_items", change)
    assert "E233" in fired(bundle)


def test_student_and_teacher_on_two_scales(bundle: Path) -> None:
    without_items(bundle)
    edit_rows(
        bundle,
        "evals",
        lambda rows: exact(rows).update(
            score_unit="percent", score_max=100.0, score=55.0, stderr=100 * (33 / 60 * 27 / 60 / 59) ** 0.5
        ),
    )
    assert fired(bundle) == {"E237"}


@pytest.mark.parametrize(("value", "rules"), [(10**6 + 1, {"E226", "E247"}), (None, {"E226"}), (0, {"E226"})])
def test_token_counts_are_the_sums_of_reports(bundle: Path, value: int | None, rules: set[str]) -> None:
    def change(rows: Rows) -> None:
        next(r for r in rows if r["name"] == "train" and r["attempt"] == 2)["tokens_trained"] = value

    edit_rows(bundle, "stages", change)
    assert fired(bundle) == rules  # E247: more trained than processed
    assert "1000000, the sum of its reports" in one(bundle, "E226").expected


def test_a_report_that_was_changed(bundle: Path) -> None:
    def change(rows: Rows) -> None:
        target = next(r for r in rows if r["kind"] == "stage_tokens")
        detail = json.loads(target["detail"])
        name = sorted(detail)[0]
        target["detail"] = canonical_json({**detail, name: detail[name] - 1}).decode()

    edit_rows(bundle, "events", change)
    assert fired(bundle) == {"E226"}


def test_counts_without_reports(bundle: Path) -> None:
    """Nothing vouches for them; an imported log has no reports, and its counts are labelled."""
    edit_rows(bundle, "events", lambda rows: [r for r in rows if r["kind"] != "stage_tokens"])
    assert fired(bundle) == {"E226"}
    edit_manifest(bundle, lambda m: m.update(labels=["imported"]))
    report = validate(bundle)
    assert report.findings == ()
    assert report.comparability is not None
    assert "C412" in {label.id for label in report.comparability.labels}


def test_denominators(bundle: Path) -> None:
    edit_rows(bundle, "stages", lambda rows: row(rows, "eval").update(token_denominator=77))
    assert fired(bundle) == {"W227"}
    tokens = {"eval": {"denominator": 77}}
    stages = [
        {"name": name, "tokens": tokens.get(name, {})} for name in ("prepare", "cache", "train", "eval")
    ]
    edit_manifest(bundle, lambda m: m["pipeline"].update(stages=stages))
    assert fired(bundle) == set()
    edit_manifest(bundle, lambda m: m.update(reference_tokens=29_000_000))
    assert one(bundle, "W227").count == 5


@pytest.mark.parametrize("energy", [1234.55, None, -12_345.5])
def test_inherited_joules(bundle: Path, energy: float | None) -> None:
    edit_rows(bundle, "artifacts", lambda rows: rows[0].update(origin_energy_j=energy))
    assert fired(bundle) == {"E228"}
    if energy == 1234.55:
        assert one(bundle, "E228").joules_at_stake == pytest.approx(12_345.5 - 1234.55)


def test_a_window_that_two_clocks_measure_differently(tmp_path: Path) -> None:
    """Where no device has a boundary of its own, only UTC says how long a stage was."""
    folder = write_full(tmp_path / "run", gpu=False)
    edit_rows(folder, "counters", lambda rows: [])
    report = validate(folder)
    assert "E225" not in {f.id for f in report.findings}

    def shorten(rows: Rows) -> None:
        row(rows, "eval")["mono_end_us"] -= 9_000_000

    edit_rows(folder, "stages", shorten)
    assert "E225" in fired(folder)


def test_the_window_of_a_hole(bundle: Path) -> None:
    def change(rows: Rows) -> None:
        hole = next(r for r in rows if r["stage"] == "unattributed")
        hole["mono_end_us"] += 1
        hole["t_end_us"] += 1

    edit_rows(bundle, "stages", change)
    assert "E238" in fired(bundle)
