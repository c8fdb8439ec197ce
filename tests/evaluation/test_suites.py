"""The registry of suites: where others plug in, and what it refuses."""

from __future__ import annotations

import json
import math
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from harness.errors import KitError
from harness.evaluation import suites
from harness.evaluation.suites import Benchmark, Score, Subject, Suite, score_suite, suite_named
from harness.models.generation import TokenWork

ROOT = Path(__file__).resolve().parents[2]
ONE = Benchmark("one", "stub", "accuracy", "percent")
TWO = Benchmark("two", "stub", "accuracy", "percent")
OTHER = Benchmark("other", "stub-2", "wins", "rating_1_10")


def result(benchmark: Benchmark, score: float = 50.0, n_scored: int = 4) -> Score:
    return Score(benchmark.name, benchmark.metric, score, benchmark.unit, 4, n_scored, 1.0, "sha")


@pytest.fixture
def subject(tmp_path: Path) -> Subject:
    return Subject(None, None, tmp_path, batch_size=1, items=4, seed=0, work=TokenWork())


@pytest.fixture
def stub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> dict[str, Any]:
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
    root = tmp_path / "protocol"
    shutil.copytree(ROOT / "protocol", root)
    monkeypatch.setenv("KIT_PROTOCOL_ROOT", str(root))
    return answers


def write_suite(tmp_path: Path, name: str, listed: list[Benchmark], **more: object) -> None:
    document = {"suite": name, "doc": "for the test", "benchmarks": [vars(one) for one in listed], **more}
    (tmp_path / f"protocol/1.0/suites/{name}.yaml").write_text(json.dumps(document))


def test_a_suite_of_another_adapter_plugs_in(stub: dict[str, Any], subject: Subject, tmp_path: Path) -> None:
    write_suite(tmp_path, "mine", [ONE, OTHER, TWO])
    suite = suite_named("mine")
    assert suite == Suite("mine", "for the test", (ONE, OTHER, TWO))
    scores = score_suite(suite, subject)
    assert [score.name for score in scores] == ["one", "other", "two"]
    # Those of one adapter come together.
    assert stub["calls"] == [["one", "two"], ["other"]]
    with pytest.raises(KitError, match="no evaluation suite 'theirs'"):
        suite_named("theirs")


@pytest.mark.parametrize(
    ("benchmarks", "more"),
    [
        ([ONE], {"suite": "theirs"}),
        ([ONE, ONE], {}),
        ([], {}),
        ([Benchmark("one", "nobody", "accuracy")], {}),
        ([ONE], {"bench": 1}),
        ([ONE], {"benchmarks": [{"name": "one"}]}),
    ],
)
def test_a_suite_that_cannot_be_meant_is_refused(
    stub: dict[str, Any], tmp_path: Path, benchmarks: list[Benchmark], more: dict[str, Any]
) -> None:
    write_suite(tmp_path, "mine", benchmarks, **more)
    with pytest.raises(KitError, match="suite"):
        suite_named("mine")


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
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)
