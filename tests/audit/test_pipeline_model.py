"""Each wrong field: its line, its column, the offending value, what is allowed, the nearest guess."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.audit.pipeline import check, json_schema
from harness.audit.plan import load_plan
from harness.audit.problems import PipelineError
from harness.audit.yaml_source import parse
from harness.spec import load_protocol

HEAD = 'protocol: "1.0"\nname: demo\nmethod: kd\n'  # lines 1 to 3
STAGE = "stages:\n  - name: cache\n    kind: prerun\n    command: 'true'\n"
MINIMAL = HEAD + STAGE


def problems(tmp_path: Path, text: str) -> list[str]:
    path = tmp_path / "my.yaml"
    path.write_text(text)
    with pytest.raises(PipelineError) as caught:
        load_plan(path, run_dir=tmp_path / "out", environ={})
    return [str(problem).removeprefix(f"{tmp_path}/") for problem in caught.value.problems]


def test_the_message_of_a_wrong_kind(tmp_path: Path) -> None:
    text = MINIMAL + "  # the teacher\n  - name: t\n    command: x\n\n    kind: teacher_logit\n"
    assert problems(tmp_path, text) == [
        "my.yaml:12:11: stages[1].kind: 'teacher_logit' is not a stage kind. Allowed: prerun, preprocess, "
        "teacher_logits, teacher_generate, student_train, evaluate, judge, serve, sweep, x-<your own>. "
        "Did you mean 'teacher_logits'?"
    ]


@pytest.mark.parametrize(
    ("line", "place", "parts"),
    [
        ("pue: 0.9", "4:6: pue", ["0.9 is not a PUE", "from 1.0 to 10.0"]),
        ("pue: lots", "4:6: pue", ["'lots' is not a PUE"]),
        ("pue: true", "4:6: pue", ["true is not a PUE"]),
        (
            "pues: 1.1",
            "4:1",
            ["'pues' is not a field of a pipeline", "Allowed: protocol, name, method,", "mean 'pue'?"],
        ),
        ("environment: {}", "4:1", ["'environment' is not a field", "Did you mean 'env'?"]),
        ("gpus: [0]", "4:1", ["Did you mean 'devices'?"]),
        ("devices: gpu", "4:10: devices", ["'gpu' is no choice of devices", "auto, all, none, or a list"]),
        ("devices: 0", "4:10: devices", ["Did you mean [0]?"]),
        ("devices: 0,1", "4:10: devices", ["Did you mean [0,1]?"]),
        ("devices: []", "4:10: devices", ["the list is empty"]),
        ("devices: [0, -1]", "4:14: devices[1]", ["-1 is not a device", "GPU-<uuid>"]),
        ("devices:", "4:9: devices", ["an empty value stands where auto, all, none"]),
        ("reference_tokens: 0", "4:19: reference_tokens", ["0 is not a number of tokens", "from 1 to"]),
        ("reference_tokens: 1.5", "4:19: reference_tokens", ["1.5 is not a number of tokens"]),
        ("labels: pocket", "4:9: labels", ["'pocket' stands where a list is expected"]),
        ("labels: [a b]", "4:10: labels[0]", ["'a b' cannot be a name"]),
        ("sampling: {period_ms: 5}", "4:23: sampling.period_ms", ["5 is not a period in ms", "from 10 to"]),
        (
            "sampling: {periodms: 5}",
            "4:12: sampling",
            ["'periodms' is not a field of sampling", "'period_ms'"],
        ),
        ("sampling: fast", "4:11: sampling", ["'fast' stands where a mapping"]),
        ("env: {a-b: 1}", "4:7: env", ["'a-b' cannot name an environment variable"]),
        ("env: {KIT_EVENTS: x}", "4:7: env", ["set by the kit"]),
        ("env: {A: }", "4:9: env.A", ["the value is empty. Write ''"]),
        ("env: {A: [1]}", "4:10: env.A", ["a list stands where text"]),
        ("vars: {x: {y: 1}}", "4:11: vars.x", ["a mapping stands where text"]),
        ("vars: {x y: 1}", "4:8: vars", ["'x y' cannot be a name"]),
        ("matrix: {size: [1b]}", "4:1", ["'matrix' is not a field of a pipeline"]),
    ],
)
def test_wrong_fields_of_the_pipeline(tmp_path: Path, line: str, place: str, parts: list[str]) -> None:
    found = problems(tmp_path, HEAD + line + "\n" + STAGE)
    assert len(found) == 1
    assert found[0].startswith(f"my.yaml:{place}:")
    assert all(part in found[0] for part in parts), found[0]


@pytest.mark.parametrize(
    ("line", "place", "parts"),
    [
        ("workdir: /", "8:5: stages[0]", ["'workdir' is not a field of a stage", "Did you mean 'cwd'?"]),
        ("output: x", "8:5: stages[0]", ["Did you mean 'outputs'?"]),
        ("timeout: 3 days", "8:14: stages[0].timeout", ["'3 days' is not a duration", "1h30m"]),
        ("timeout: 0", "8:14: stages[0].timeout", ["0 is not a duration"]),
        ("timeout: 400d", "8:14: stages[0].timeout", ["'400d' is not a duration"]),
        ("timeout: [1]", "8:14: stages[0].timeout", ["a list is not a duration"]),
        ("retries: -1", "8:14: stages[0].retries", ["-1 is not a number of retries", "from 0 to 100"]),
        ("retries: two", "8:14: stages[0].retries", ["'two' is not a number of retries"]),
        ("tokens: {train: 5}", "8:14: stages[0].tokens", ["'train' is not a field of tokens", "'trained'?"]),
        ("tokens: {trained: many}", "8:23: stages[0].tokens.trained", ["'many' is not a number of tokens"]),
        ("cwd: ''", "8:10: stages[0].cwd", ["the text is empty"]),
        ("inputs: {}\n    inputs2: 1", "9:5: stages[0]", ["Did you mean 'inputs'?"]),
        ("outputs: {a b: x}", "8:15: stages[0].outputs", ["'a b' cannot be a name"]),
        ("matrix: [1]", "8:13: stages[0].matrix", ["a list stands where a mapping"]),
        ("matrix: {size: 1b}", "8:20: stages[0].matrix.size", ["'1b' stands where a list is expected"]),
        ("outputs: [[x]]", "8:15: stages[0].outputs[0]", ["a list stands where text"]),
    ],
)
def test_wrong_fields_of_a_stage(tmp_path: Path, line: str, place: str, parts: list[str]) -> None:
    found = problems(tmp_path, f"{MINIMAL}    {line}\n")
    assert len(found) == 1
    assert found[0].startswith(f"my.yaml:{place}:")
    assert all(part in found[0] for part in parts), found[0]


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        (
            'protocol: "1.0"',
            "protocol: 2",
            "my.yaml:1:11: protocol: 2 is not a protocol version. Allowed: 1.0.",
        ),
        ("name: demo", "name: my demo", "my.yaml:2:7: name: 'my demo' cannot be a name."),
        ("name: demo", "name: ${vars.x}", "my.yaml:2:7: name: '${vars.x}' cannot be a name."),
        ("name: demo", "name:", "my.yaml:2:6: name: an empty value cannot be a name."),
        ("method: kd", "method: KD", "my.yaml:3:9: method: 'KD' is not a method. Allowed: sft, kd, "),
        ("method: kd\n", "", "my.yaml:1:1: 'method' is missing."),
        ("    kind: prerun\n", "", "my.yaml:5:5: stages[0]: 'kind' is missing."),
        ("kind: prerun", "kind: idle", "my.yaml:6:11: stages[0].kind: 'idle' is not a stage kind."),
        ("kind: prerun", "kind: x-", "my.yaml:6:11: stages[0].kind: 'x-' is not a stage kind."),
        ("name: cache", "name: a.b", "my.yaml:5:11: stages[0].name: 'a.b' cannot be a name."),
        ("command: 'true'", "command: []", "my.yaml:7:14: stages[0].command: the list is empty"),
        (
            "command: 'true'",
            "command: {a: b}",
            "my.yaml:7:14: stages[0].command: a mapping stands where a command",
        ),
        ("command: 'true'", "command: ' '", "my.yaml:7:14: stages[0].command: the text is empty"),
    ],
)
def test_wrong_required_fields(tmp_path: Path, old: str, new: str, expected: str) -> None:
    found = problems(tmp_path, MINIMAL.replace(old, new))
    assert len(found) == 1
    assert found[0].startswith(expected)


@pytest.mark.parametrize(
    ("stages", "place", "message"),
    [
        ("stages: []\n", "4:9: stages", "the list is empty"),
        ("stages:\n", "4:8: stages", "an empty value stands where a list is expected"),
        ("stages: {cache: {}}\n", "4:9: stages", "a mapping stands where a list is expected"),
        ("stages: [cache]\n", "4:10: stages[0]", "'cache' stands where a mapping"),
        ("", "1:1", "'stages' is missing"),
    ],
)
def test_wrong_stages(tmp_path: Path, stages: str, place: str, message: str) -> None:
    found = problems(tmp_path, HEAD + stages)
    assert len(found) == 1
    assert found[0].startswith(f"my.yaml:{place}: ")
    assert message in found[0]


def test_two_stages_of_one_name(tmp_path: Path) -> None:
    found = problems(tmp_path, MINIMAL + "  - {name: cache, kind: judge, command: x}\n")
    assert len(found) == 1
    assert found[0].startswith("my.yaml:8:12: stages[1].name: 'cache' names a stage already (at ")
    assert found[0].endswith("my.yaml:5:11). Stage names are unique.")


def test_all_problems_at_once_in_file_order(tmp_path: Path) -> None:
    text = MINIMAL.replace("method: kd", "method: kdd").replace("'true'", "echo ${vars.x} ${run_dri}")
    found = problems(tmp_path, "pue: 0\n" + text + "    timeout: never\n")
    assert [line.split(": ")[0] for line in found] == [
        "my.yaml:1:6",
        "my.yaml:4:9",
        "my.yaml:8:19",
        "my.yaml:8:29",
        "my.yaml:9:14",
    ]


def test_many_problems_are_summed_up(tmp_path: Path) -> None:
    (tmp_path / "my.yaml").write_text(HEAD + "stages:\n" + "  - 1\n" * 80)
    with pytest.raises(PipelineError, match=r"\.\.\. and 30 more problems"):
        load_plan(tmp_path / "my.yaml")


def test_kinds_are_those_of_the_protocol() -> None:
    schema = json_schema()["$defs"]["StageFields"]["properties"]["kind"]["anyOf"][0]["anyOf"]
    kinds = set(load_protocol().kind_names) - {"idle", "unattributed"}
    assert (set(schema[0]["enum"]), schema[1]) == (kinds, {"pattern": "^x-"})


def test_everything_that_is_allowed() -> None:
    text = """
protocol: 1.0
name: Everything_1
method: synthetic_sft
region: NO
pue: 1.12
devices: [0, "1", GPU-8f3a-11, MIG-22/1/0]
reference_tokens: 3e7
labels: [pocket]
sampling: {period_ms: 100}
env: {A: 1, B: true, C: "", D: 0.50}
stages:
  - name: one
    kind: x-warmup
    command: [python, -m, thing, 1, 2.50, ""]
    cwd: sub
    env: {E: x}
    inputs: data.txt
    outputs: {model: out/model}
    timeout: 1h30m
    retries: 2
    tokens: {trained: 1, processed: 2, positions: 3, generated: 4, denominator: 5}
"""
    model, found = check(parse(text, "p.yaml"))
    assert not found and model is not None
    assert model.protocol == "1.0"
    assert model.region == "NO"
    assert model.devices == (0, 1, "GPU-8f3a-11", "MIG-22/1/0")
    assert model.reference_tokens == 30_000_000
    assert model.env == {"A": "1", "B": "true", "C": "", "D": "0.50"}
    stage = model.stages[0]
    assert stage.command == ("python", "-m", "thing", "1", "2.50", "")
    assert stage.timeout == 5400
    assert stage.tokens is not None and stage.tokens.denominator == 5


@pytest.mark.parametrize(
    ("text", "expected"), [("90s", 90), ("30m", 1800), ("2h", 7200), ("1d", 86400), ("0.5s", 0.5)]
)
def test_durations(text: str, expected: float) -> None:
    model, _ = check(parse(f"{MINIMAL}    timeout: {text}\n", "p.yaml"))
    assert model is not None and model.stages[0].timeout == expected
