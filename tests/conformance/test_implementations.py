"""The kit and the reference pass everything, a fault what its flag does not mark."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from harness.conformance import Answer, load_vectors, run_vector, run_vectors
from harness.conformance.external import external
from tests.oracle import reference
from tests.oracle.faults import FAULTS

VECTORS = load_vectors()


def other(*faults):
    """The reference in this process, its answers by way of JSON text as through a pipe."""

    def ask(identifier, op, given):
        try:
            found = json.loads(json.dumps(reference.answer(op, json.loads(json.dumps(given)), faults)))
        except Exception as error:
            return Answer(broken=repr(error))
        return Answer(found.get("output"), found.get("error"), "unsupported" in found)

    return ask


@pytest.mark.parametrize("vector", VECTORS, ids=lambda vector: vector["id"])
def test_the_kit(vector):
    outcome = run_vector(vector)
    assert outcome.passed, (outcome.verdict, outcome.problems, vector["notes"])


def test_the_reference():
    outcomes = run_vectors(VECTORS, other())
    assert [(o.id, o.problems) for o in outcomes if not o.passed] == []


@pytest.mark.parametrize("fault", sorted(FAULTS))
def test_a_fault_fails_the_vectors_that_carry_its_flag_and_no_others(fault):
    failed = {outcome.id for outcome in run_vectors(VECTORS, other(fault)) if not outcome.passed}
    assert failed == {vector["id"] for vector in VECTORS if fault in vector["flags"]} != set()


def test_two_faults_are_both_found():
    outcomes = run_vectors(VECTORS, other("NullAsZero", "RoundedDown"))
    failed = {outcome.id for outcome in outcomes if not outcome.passed}
    assert failed == {v["id"] for v in VECTORS if {"NullAsZero", "RoundedDown"} & set(v["flags"])}


def test_a_fault_that_nobody_knows_is_no_silent_pass():
    with pytest.raises(SystemExit, match="no such fault: LeftRieman"):
        reference.answer("totals", {"stages": []}, ["LeftRieman"])


def test_an_implementation_that_says_yes_to_everything_passes_nothing():
    def empty(identifier, op, given):
        return Answer(output={})

    assert not [outcome.id for outcome in run_vectors(VECTORS, empty) if outcome.passed]


def test_an_implementation_that_refuses_everything_passes_what_must_be_refused():
    def refusing(identifier, op, given):
        return Answer(refused="no")

    passed = {outcome.id for outcome in run_vectors(VECTORS, refusing) if outcome.passed}
    assert passed == {vector["id"] for vector in VECTORS if vector["result"] != "valid"}


def test_a_fault_through_the_pipe(monkeypatch):
    monkeypatch.chdir(Path(__file__).parents[2])
    command = f"{sys.executable} -m tests.oracle --fault SumBeforeUnwrap"
    chosen = [vector for vector in VECTORS if vector["family"] in ("rapl", "units")]
    implementation = external(command, chosen)
    failed = {outcome.id for outcome in run_vectors(chosen, implementation) if not outcome.passed}
    assert failed == {vector["id"] for vector in chosen if "SumBeforeUnwrap" in vector["flags"]} != set()
