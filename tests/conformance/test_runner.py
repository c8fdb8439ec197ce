"""The runner's comparison, the process behind the pipe, and the command."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import pytest

from harness.cli.main import main
from harness.conformance import OPERATIONS, Answer, run_vector
from harness.conformance.external import external
from harness.conformance.runner import judge
from harness.errors import KitError

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "protocol" / "1.0" / "vectors"


def kit(*arguments):
    """Exit code of `kit conformance`."""
    try:
        return main(["conformance", *arguments])
    except SystemExit as done:
        return done.code


def vector(expected=None, result="valid", **more):
    found = {"id": "x-1", "clause": "1", "op": "totals", "result": result, "input": {"stages": []}, **more}
    return found if expected is None else found | {"expected": expected}


def verdict(expected, output, **more):
    return judge(vector(expected, **more), Answer(output=output)).verdict


@pytest.mark.parametrize(
    ("expected", "output", "passes"),
    [
        ({"a": 1.0}, {"a": 1.0 + 0.9e-9}, True),
        ({"a": 1.0}, {"a": 1.0 + 1.1e-9}, False),
        ({"a": 0.0}, {"a": 0.9e-12}, True),
        ({"a": 0.0}, {"a": 1.1e-12}, False),
        ({"a": 10**12}, {"a": 10**12 + 1}, False),
        ({"a": 10}, {"a": 10.0}, True),
        ({"a": 1}, {"a": True}, False),
        ({"a": True}, {"a": 1}, False),
        ({"a": None}, {"a": 0}, False),
        ({"a": 0}, {"a": None}, False),
        ({"a": None}, {}, False),
        ({"a": "1"}, {"a": 1}, False),
        ({"a": 1.5}, {"a": "1.5"}, False),
        ({"a": 1.5}, {"a": float("nan")}, False),
        ({"a": 1}, {"a": 1, "more": 2}, True),
        ({"a": {"b": 1}}, {"a": {"b": 1, "more": 2}}, False),
        ({"a": [{"b": 1}]}, {"a": [{"b": 1, "more": 2}]}, True),
        ({"a": [{"b": {"c": 1}}]}, {"a": [{"b": {"c": 1, "more": 2}}]}, False),
        ({"a": {"b": [{"c": 1}]}}, {"a": {"b": [{"c": 1, "more": 2}]}}, False),
        ({"a": [1, 2]}, {"a": [1, 2, 3]}, False),
        ({"a": [1, 2]}, {"a": [2, 1]}, False),
        ({"a": []}, {"a": None}, False),
        ({"a": {}}, {"a": []}, False),
    ],
)
def test_comparison(expected, output, passes):
    assert verdict(expected, output) == ("pass" if passes else "fail")


def test_tolerance_of_a_vector_replaces_the_usual_one():
    assert verdict({"a": 100.0}, {"a": 100.4}, tolerance={"abs": 0.5}) == "pass"
    assert verdict({"a": 100.0}, {"a": 100.6}, tolerance={"abs": 0.5}) == "fail"
    assert verdict({"a": 100.0}, {"a": 100.0 + 1e-8}, tolerance={"rel": 1e-12}) == "fail"


def test_who_refuses_what():
    refused, answered = Answer(refused="no"), Answer(output={"a": 1})
    assert judge(vector({"a": 1}), refused).problems == ("refused: no",)
    assert judge(vector(result="invalid"), refused).passed
    assert judge(vector(result="invalid"), answered).problems == ("answered what must be refused",)
    assert judge(vector({"a": 1}, "acceptable"), refused).passed
    assert judge(vector({"a": 1}, "acceptable"), answered).passed
    assert not judge(vector({"a": 2}, "acceptable"), answered).passed


def test_a_crash_is_no_refusal():
    assert not judge(vector(result="invalid"), Answer(broken="KeyError: 'stage'")).passed
    broken = vector(result="invalid") | {"input": {"stages": [{}]}}
    assert run_vector(broken).problems == ("KeyError: 'stage'",)


def test_unsupported_is_no_pass():
    outcome = judge(vector({"a": 1}), Answer(unsupported=True))
    assert (outcome.verdict, outcome.passed) == ("unsupported", False)
    assert run_vector(vector({"a": 1}, op="divine")).verdict == "unsupported"


def test_a_difference_names_its_place_and_size():
    outcome = judge(
        vector({"stages": [{"energy_j": 200.0}]}), Answer(output={"stages": [{"energy_j": 150.0}]})
    )
    assert outcome.problems == ("stages[0].energy_j: expected 200.0, got 150.0 (-0.25 relative)",)


def test_vectors_of_a_document_run_too():
    """As PROTOCOL.md's fenced blocks are run."""
    expected = {"case": "finite", "ratio": 10.0, "whole": 10}
    given = {"teacher": 11.00, "baseline_student": 6.30, "distilled_student": 5.20}
    outcome = run_vector(vector(expected, op="break_even", input=given))
    assert outcome.passed and outcome.family == "document"
    with pytest.raises(KitError, match="'clause' is missing"):
        run_vector({"id": "doc-1", "op": "totals", "result": "valid", "input": {}, "expected": {}})
    with pytest.raises(KitError, match="contradict"):
        run_vector(vector(result="valid"))


def program(tmp_path, body):
    path = tmp_path / "other.py"
    path.write_text(f"import json, os, sys, time\nfor number, line in enumerate(sys.stdin):\n    {body}\n")
    return f"{sys.executable} {path}"


GOOD = "print(json.dumps({'id': json.loads(line)['id'], 'output': {}}), flush=True)"
ASKED = [vector(id=f"x-{number}") for number in (1, 2, 3)]


def test_one_process_answers_all_in_any_order(tmp_path):
    body = "print(json.dumps({'id': f'x-{3 - number}', 'output': {'pid': os.getpid()}}))"
    other = external(program(tmp_path, body), ASKED)
    assert len({other(f"x-{number}", "totals", {}).output["pid"] for number in (1, 2, 3)}) == 1


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("sys.exit('out of memory')", r"ended with exit code 1: out of memory"),
        ("os.kill(os.getpid(), 9)", r"was ended by signal 9"),
        ("print('hello', flush=True)", r"no JSON: 'hello'"),
        ("print('[1]', flush=True)", r"without one of output, error, unsupported"),
        ("print(json.dumps({'id': 'x-1', 'output': 3}), flush=True)", r"its output is no JSON object"),
        ("time.sleep(60)", r"did not answer all within 2 s"),
    ],
)
def test_faults_of_the_other_side(tmp_path, body, message):
    """Without one answer nothing can be tested; else what lacks one has failed, and says why."""
    timeout_s = 2.0 if "sleep" in body else 60.0
    with pytest.raises(KitError, match=message):
        external(program(tmp_path, body), ASKED, timeout_s)
    command = program(tmp_path, f"exec({GOOD!r} if number == 0 else {body!r})")
    if "sleep" in body:
        return  # whether the first answer came in time is the machine's affair
    other = external(command, ASKED, timeout_s)
    assert other("x-1", "totals", {}).output == {}
    assert re.search(message, other("x-2", "totals", {}).broken)


def test_an_answer_to_another_id_is_none(tmp_path):
    other = external(program(tmp_path, "print(json.dumps({'id': 'y', 'output': {}}))"), ASKED)
    assert other("x-1", "totals", {}).broken == "no answer: the command ended with exit code 0"


def test_commands_that_cannot_start():
    with pytest.raises(KitError, match="cannot be started"):
        external("./no-such-program", ASKED)
    for command in ("", "   ", "'half"):
        with pytest.raises(KitError, match="--cmd"):
            external(command, ASKED)


def test_the_readmes_runner_runs(tmp_path, capfd):
    text = (FOLDER / "README.md").read_text()
    code = re.search(r"```python\n(.*?)```", text, re.DOTALL).group(1)
    (tmp_path / "runner.py").write_text(code)
    command = f"{sys.executable} {tmp_path / 'runner.py'}"
    assert kit("--cmd", command, "--family", "units", "--family", "facility") == 0
    assert kit("--cmd", command) == 1
    out = capfd.readouterr().out
    offered = {"convert", "facility"}
    assert f"not offered, so not tested: {', '.join(sorted(set(OPERATIONS) - offered))}" in out
    assert "FAIL" not in out
    assert kit("--cmd", command, "--allow-unsupported") == 0


def test_text_for_people(monkeypatch, capfd):
    monkeypatch.chdir(ROOT)
    command = f"{sys.executable} -m tests.oracle --fault RoundedDown"
    assert kit("--cmd", command, "--family", "reuses", "--id", "reuses-half") == 1
    out = re.sub(r" +", " ", capfd.readouterr().out)
    for part in (
        "reuses 0 of 1 pass, 1 fail",
        "FAIL reuses-half clause 4.6 op break_even",
        "whole: expected 3, got 2",
        '"teacher": 2.5',
        "effect: one reuse too few",
        "0 of 1 vectors pass",
    ):
        assert part in out


def test_json_for_programs(capfd):
    assert kit("--family", "published", "--format", "json") == 0
    found = json.loads(capfd.readouterr().out)
    assert found["counts"] == {"pass": 22, "fail": 0, "unsupported": 0}
    assert found["vectors"][0]["verdict"] == "pass" and found["vectors"][0]["clause"] == "4"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--family", "reuse"], "--family reuses"),
        (["--id", "reuses-haf"], "--id reuses-half"),
        (["--cmd", "./no-such-program"], "cannot be started"),
    ],
)
def test_wrong_usage(arguments, message, capfd):
    assert kit(*arguments) == 2
    assert message in capfd.readouterr().err
