"""The kit and a second implementation pass everything, a mistake what its flag does not mark."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from harness.conformance import Answer, load_vectors, run_vector, run_vectors
from harness.conformance.external import External

sys.path.insert(0, str(Path(__file__).parent))
import wrong_implementation

VECTORS = load_vectors()
FLAGS = sorted({flag for vector in VECTORS for flag in vector["flags"]})


def other(identifier, op, given):
    """The second implementation in this process, its answers by way of JSON text as through a pipe."""
    try:
        found = json.loads(json.dumps(wrong_implementation.answer(op, json.loads(json.dumps(given)))))
    except Exception as error:
        return Answer(broken=repr(error))
    return Answer(found.get("output"), found.get("error"), "unsupported" in found)


@pytest.fixture
def bugs():
    wrong_implementation.BUGS.clear()
    yield wrong_implementation.BUGS
    wrong_implementation.BUGS.clear()


@pytest.mark.parametrize("vector", VECTORS, ids=lambda vector: vector["id"])
def test_the_kit(vector):
    outcome = run_vector(vector)
    assert outcome.passed, (outcome.verdict, outcome.problems, vector["notes"])


def test_a_second_implementation(bugs):
    outcomes = run_vectors(VECTORS, other)
    assert [(o.id, o.problems) for o in outcomes if not o.passed] == []


@pytest.mark.parametrize("flag", FLAGS)
def test_a_mistake_fails_the_vectors_that_carry_its_flag_and_no_others(bugs, flag):
    bugs.add(flag)
    failed = {outcome.id for outcome in run_vectors(VECTORS, other) if not outcome.passed}
    assert failed == {vector["id"] for vector in VECTORS if flag in vector["flags"]}


def test_two_mistakes_are_both_found(bugs):
    bugs.update({"NullAsZero", "RoundedDown"})
    failed = {outcome.id for outcome in run_vectors(VECTORS, other) if not outcome.passed}
    assert failed == {v["id"] for v in VECTORS if {"NullAsZero", "RoundedDown"} & set(v["flags"])}


def test_an_implementation_that_says_yes_to_everything_passes_nothing():
    def empty(identifier, op, given):
        return Answer(output={})

    assert not [outcome.id for outcome in run_vectors(VECTORS, empty) if outcome.passed]


def test_an_implementation_that_refuses_everything_passes_what_must_be_refused():
    def refusing(identifier, op, given):
        return Answer(refused="no")

    passed = {outcome.id for outcome in run_vectors(VECTORS, refusing) if outcome.passed}
    assert passed == {vector["id"] for vector in VECTORS if vector["result"] != "valid"}


def test_a_mistake_through_the_pipe():
    command = f"{sys.executable} {wrong_implementation.__file__} --bug SumBeforeUnwrap"
    chosen = [vector for vector in VECTORS if vector["family"] in ("rapl", "units")]
    with External(command) as implementation:
        failed = {outcome.id for outcome in run_vectors(chosen, implementation) if not outcome.passed}
    assert failed == {vector["id"] for vector in chosen if "SumBeforeUnwrap" in vector["flags"]} != set()
