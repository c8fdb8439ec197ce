"""The registry of suites: where others plug in, and what it refuses."""

from __future__ import annotations

import dataclasses
import math
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from harness.errors import KitError
from harness.evaluation import suites
from harness.evaluation.suites import Benchmark, Score, Subject, Suite, register, score_suite, suite_named
from harness.models.generation import TokenWork

ONE = Benchmark("one", "stub", "accuracy", "percent")
TWO = Benchmark("two", "stub", "accuracy", "percent")
OTHER = Benchmark("other", "stub-2", "wins", "rating_1_10")


def result(benchmark: Benchmark, score: float = 50.0, n_scored: int = 4) -> Score:
    return Score(benchmark.name, benchmark.metric, score, benchmark.unit, 4, n_scored, 1.0, "sha")


@pytest.fixture
def subject(tmp_path: Path) -> Subject:
    return Subject(None, None, tmp_path, batch_size=1, items=4, seed=0, work=TokenWork())


@pytest.fixture
def stub(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Two adapters, found as any other; `answers` says what they give back."""
    answers: dict[str, Any] = {"calls": []}

    def score(benchmarks: list[Benchmark], subject: Subject) -> list[Score]:
        answers["calls"].append([benchmark.name for benchmark in benchmarks])
        return [answers.get(benchmark.name, result(benchmark)) for benchmark in benchmarks]

    for name in ("stub", "stub-2"):
        module = ModuleType(f"adapter_{name}")
        module.score = score  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, module.__name__, module)
        monkeypatch.setitem(suites.ADAPTERS, name, module.__name__)
    monkeypatch.setattr(suites, "_SUITES", {})
    return answers


def test_a_suite_of_another_adapter_plugs_in(stub: dict[str, Any], subject: Subject) -> None:
    suite = register(Suite("mine", "for the test", (ONE, OTHER, TWO)))
    assert suite_named("mine") is suite
    scores = score_suite(suite, subject)
    assert [score.name for score in scores] == ["one", "other", "two"]
    # Those of one adapter come together.
    assert stub["calls"] == [["one", "two"], ["other"]]
    with pytest.raises(KitError, match="no evaluation suite 'theirs'"):
        suite_named("theirs")


def test_a_suite_that_cannot_be_meant_is_refused(stub: dict[str, Any]) -> None:
    register(Suite("mine", "", (ONE,)))
    for wrong in (
        Suite("mine", "", (TWO,)),
        Suite("twice", "", (ONE, ONE)),
        Suite("none", "", ()),
        Suite("unknown", "", (dataclasses.replace(ONE, adapter="nobody"),)),
    ):
        with pytest.raises(ValueError, match="suite"):
            register(wrong)


@pytest.mark.parametrize("bad", [result(TWO, n_scored=0), result(TWO, math.nan), result(ONE)])
def test_nothing_scored_is_an_error_and_no_zero(stub: dict[str, Any], subject: Subject, bad: Score) -> None:
    stub["two"] = bad
    with pytest.raises(KitError, match="two scored"):
        score_suite(Suite("mine", "", (ONE, TWO)), subject)


def test_the_registry_and_q_need_no_torch() -> None:
    code = (
        "import sys, harness.evaluation.suites;"
        "assert not {'torch', 'transformers', 'lm_eval', 'numpy'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).resolve().parents[2])
