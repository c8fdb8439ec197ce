"""A forger who changes one value and gets every digest right is caught; nobody else is refused."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from harness.validate import validate
from tests.validate.forgery import Edit, Forger, difference, figures
from tests.validate.full_run import write_full

# What readers are given, or what it is computed from: every one of these moves a figure when it is edited.
BEARING = (
    ("counters", "value"), ("counters", "mono_us"), ("power", "power_mw"), ("power", "mono_us"),
    ("power", "energy_counter_mj"), ("stages", "tokens_trained"), ("stages", "tokens_processed"),
    ("stages", "tokens_positions"), ("stages", "token_denominator"), ("stages", "mono_start_us"),
    ("stages", "mono_end_us"), ("stages", "t_start_us"), ("stages", "parent_uid"), ("stages", "attempt"),
    ("stages", "gpu_energy_j"), ("stages", "cpu_energy_j"), ("artifacts", "origin_energy_j"),
    ("events", "detail"), ("evals", "score"), ("evals", "stderr"), ("evals", "score_max"),
    ("eval_items", "score"), ("manifest", "reference_tokens"), ("manifest", "sampling.nominal_period_us"),
)  # fmt: skip


@pytest.fixture(scope="module")
def forger(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Forger]:
    folder = tmp_path_factory.mktemp("tamper")
    write_full(folder / "run")
    yield Forger(folder / "run", folder / "forged")


@pytest.mark.parametrize("gpu", [True, False])
def test_an_untouched_bundle_is_not_refused(tmp_path: Path, gpu: bool) -> None:
    report = validate(write_full(tmp_path / "run", gpu=gpu))
    assert report.findings == ()
    assert report.comparability is not None
    assert report.comparability.rankable == gpu


def test_random_edits_are_caught(forger: Forger) -> None:
    rng = np.random.default_rng(11)
    targets = [target for target in BEARING if target in forger.targets()]
    assert len(targets) > 20
    outcomes = []
    for target in targets:
        edit = None
        while edit is None:
            edit = forger.edit(rng, target)
        outcomes.append(forger.trial(edit))
    material = [outcome for outcome in outcomes if outcome.material]
    assert len(material) >= 10
    assert [str(outcome.edit) for outcome in material if not outcome.caught] == []


def test_the_forger_keeps_the_container_right(forger: Forger) -> None:
    """Else the tests above would show that digests work, and nothing more."""
    edit = Edit("stages", "tokens_trained", (2,), "scale", 1, 2)
    report = validate(forger.forge(edit))
    assert report.levels[0] == report.levels[1] == "passed"
    assert {f.level for f in report.findings} == {2}


def test_figures_know_what_matters(forger: Forger) -> None:
    """An edit inside a figure's interval is not material, a larger one is."""
    name = "totals.it_energy_j"
    value, slack = forger.figures[name]
    assert value is not None and 0 < slack < 0.05 * value
    for factor, moved in ((0.5, False), (1.5, True)):
        changed = {**forger.figures, name: (value + factor * slack, slack)}
        assert bool(difference(forger.figures, changed)) == moved
    assert not difference(forger.figures, forger.figures)
    assert {"score.teacher.adding.exact_match.none", "per_token.energy_j_per_reference_token"} <= set(
        forger.figures
    )


def test_a_boundary_value_that_no_sample_can_have_seen(tmp_path: Path) -> None:
    """Derived columns made to fit do not help: the samples around the boundary tell another story."""
    folder = write_full(tmp_path / "run")
    forger = Forger(folder, tmp_path / "forged", rederive=True)
    rows = forger.tables["counters"].to_pylist()
    place = next(i for i, r in enumerate(rows) if r["source"] == "nvml" and r["boundary"] == 3)
    value = rows[place]["value"]
    outcome = forger.trial(Edit("counters", "value", (place,), "offset", value, value - 2_000_000))
    assert outcome.material
    assert "E305" in outcome.caught
    assert "E203" not in outcome.caught
    assert figures(folder) == forger.figures
