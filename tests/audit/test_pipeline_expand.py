"""Variables and sweeps: what comes out, and every refusal at its place."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.audit.plan import RunPlan, load_plan
from harness.audit.problems import PipelineError

HEAD = 'protocol: "1.0"\nname: demo\nmethod: kd\n'  # lines 1 to 3


def plan(folder: Path, text: str) -> RunPlan:
    (folder / "my.yaml").write_text(text)
    environ = {"HOME": "/home/ann", "SPACE": "a b", "COUNT": "7"}
    return load_plan(folder / "my.yaml", run_dir=folder / "out", environ=environ)


def problems(folder: Path, text: str) -> list[str]:
    with pytest.raises(PipelineError) as caught:
        plan(folder, text)
    return [str(problem).replace(f"{folder}/", "") for problem in caught.value.problems]


def shell(name: str, command: str, more: str = "") -> str:
    return f"  - name: {name}\n    kind: x-test\n    command: {command}\n{more}"


# Variables


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ("${run_dir}/x", "OUT/work/x"),
        ("${pipeline_dir}", "HERE"),
        ("${stage_name}", "only"),
        ("${vars.text}-${vars.number}-${vars.flag}", "hello-1e-4-true"),
        ("${ vars.text }", "hello"),
        ("${vars.nested}", "hello/HERE"),
        ("${env.HOME}/${env.SPACE}", "/home/ann/a b"),
        ("${env.SET}", "from the pipeline"),
        ("${env.OWN}", "hello!"),
        ("${env.UNSET:-fallback}", "fallback"),
        ("$${run_dir} $HOME $$ {} $(x)", "${run_dir} $HOME $$ {} $(x)"),
        ("${outputs.log} ${outputs.out} ${inputs.0}", "OUT/work/l OUT/work/o HERE/my.yaml"),
        ("${stages.only.log}", "OUT/work/l"),
        ("${stages.only.outputs.log}", "OUT/work/l"),
    ],
)
def test_variables(tmp_path: Path, written: str, expected: str) -> None:
    text = (
        HEAD
        + "vars: {nested: '${vars.text}/${pipeline_dir}', text: hello, number: 1e-4, flag: true}\n"
        + "env: {SET: from the pipeline}\nstages:\n"
        + shell("only", f"[{written!r}]", "    env: {OWN: '${vars.text}!'}\n    inputs: [my.yaml]\n")
        + "    outputs: {log: '${run_dir}/l', out: '${run_dir}/o'}\n"
    )
    word = plan(tmp_path, text).stages[0].argv[0]
    assert word.replace(f"{tmp_path}/out", "OUT").replace(str(tmp_path), "HERE") == expected


def test_a_variable_keeps_its_type(tmp_path: Path) -> None:
    text = (
        HEAD + "vars: {n: 3, t: 2h}\nreference_tokens: ${env.COUNT}\nstages:\n"
        "  - {name: a, kind: '${vars.kind}', command: x, retries: '${vars.n}', timeout: '${vars.t}'}\n"
    ).replace("n: 3", "n: 3, kind: judge")
    found = plan(tmp_path, text)
    assert found.settings.reference_tokens == 7
    assert (found.stages[0].retries, found.stages[0].timeout_s, found.stages[0].kind) == (3, 7200, "judge")


def test_wrong_value_through_a_variable_is_reported_where_it_is_used(tmp_path: Path) -> None:
    text = HEAD + "vars: {t: soon}\nstages:\n" + shell("a", "x", "    timeout: ${vars.t}\n")
    assert problems(tmp_path, text)[0].startswith(
        "my.yaml:9:14: stages[0].timeout: 'soon' is not a duration."
    )


TWO = shell("cache", "x", "    outputs: {out: '${run_dir}/c', b: '${run_dir}/b'}\n")  # lines 5 to 8


@pytest.mark.parametrize(
    ("second", "place", "parts"),
    [
        ("${run_dri}", "11:14", ["'${run_dri}' is not a variable", "Did you mean '${run_dir}'?"]),
        ("x ${vars.x}", "11:16", ["'${vars.x}' is not a variable"]),
        ("echo ${HOME}", "11:19", ["For the shell's own write $HOME or $${HOME}", "${env.HOME}"]),
        (
            "echo ${env.HOEM}",
            "11:19",
            ["no such environment variable", "${env.NAME:-default}", "'${env.HOME}'"],
        ),
        (
            "a ${stages.cahce.out}",
            "11:16",
            ["no stage 'cahce'", "cache", "Did you mean '${stages.cache.out}'?"],
        ),
        ("a ${stages.cache.bb}", "11:16", ["have no 'bb'", "Known: out, b", "Did you mean 'b'?"]),
        ("a ${stages.cache}", "11:16", ["names no output", "${stages.NAME.out}"]),
        ("a ${stages.last.out}", "11:16", ["stage 'last' comes later", "move 'last' above 'second'"]),
        ("a ${stages.second.out}", "11:16", ["this stage's outputs are none; declare one first"]),
        ("a ${stages.cache[i=1].out}", "11:16", ["'i' is no axis of stage 'cache'", "it has no matrix"]),
        ("a ${env.NO:-${run_dir}", "11:16", ["'${' is not closed by '}'"]),
        ("a ${run_dir", "11:16", ["'${' is not closed by '}'"]),
        ("a ${}", "11:16", ["'${}' is not a variable"]),
        ("a ${matrix.size}", "11:16", ["'${matrix.size}' is not a variable"]),
        ("|\n      first\n      second ${nope.x} $${y} ${run_dri}", "13:14", ["'${nope.x}'"]),
        (">-\n      a\n        ${nope.x}", "13:9", ["'${nope.x}'"]),
        ("'it''s ${nope.x}'", "11:21", ["'${nope.x}'"]),
    ],
)
def test_wrong_references(tmp_path: Path, second: str, place: str, parts: list[str]) -> None:
    text = (
        HEAD
        + "stages:\n"
        + TWO
        + shell("second", second)
        + shell("last", "x", "    outputs: ['${run_dir}/z']\n")
    )
    found = problems(tmp_path, text)
    assert found[0].startswith(f"my.yaml:{place}: stages[1].command: "), found
    assert all(part in found[0] for part in parts), found[0]


def test_an_only_output_is_out_and_several_are_not(tmp_path: Path) -> None:
    one = "stages:\n" + shell("a", "x", "    outputs: ['${run_dir}/p']\n") + shell("b", "['${stages.a.out}']")
    assert plan(tmp_path, HEAD + one).stages[1].argv == (str(tmp_path / "out/work/p"),)
    two = one.replace("/p'", "/p', '${run_dir}/q'")
    assert (
        "the outputs of stage 'a' are 2, none called 'out'. Name one of: 0, 1."
        in problems(tmp_path, HEAD + two)[0]
    )
    assert plan(tmp_path, HEAD + two.replace("a.out", "a.1")).stages[1].argv == (
        str(tmp_path / "out/work/q"),
    )


def test_outputs_cannot_name_themselves(tmp_path: Path) -> None:
    text = (
        HEAD + "stages:\n" + shell("a", "x", "    outputs: {out: '${stages.a.out}', b: '${outputs.out}'}\n")
    )
    found = problems(tmp_path, text)
    assert "is an output of this stage; use it in 'command' or 'env' only" in found[0]
    assert "can be used in 'command' and 'env' of a stage only" in found[1]


def test_variables_in_a_circle(tmp_path: Path) -> None:
    text = HEAD + "vars:\n  a: ${vars.b}\n  b: x${vars.c}\n  c: ${vars.a}\nstages:\n" + shell("s", "x")
    found = problems(tmp_path, text)
    assert len(found) == 1
    assert "these variables need each other: " in found[0]
    assert found[0].split(":")[1] in "567"


def test_long_chains_and_doubling_variables(tmp_path: Path) -> None:
    chain = "".join(f"  v{i}: ${{vars.v{i + 1}}}\n" for i in range(3000)) + "  v3000: end\n"
    text = HEAD + "vars:\n" + chain + "stages:\n" + shell("s", "['${vars.v0}']")
    assert plan(tmp_path, text).stages[0].argv == ("end",)
    doubling = "  v0: 0123456789\n" + "".join(
        f"  v{i}: ${{vars.v{i - 1}}}${{vars.v{i - 1}}}\n" for i in range(1, 40)
    )
    assert (
        "at most 65536 are allowed"
        in problems(tmp_path, HEAD + "vars:\n" + doubling + "stages:\n" + shell("s", "x"))[0]
    )


# Sweeps


def names(folder: Path, matrix: str) -> list[str]:
    text = HEAD + "stages:\n" + shell("train", "[x]", f"    matrix: {matrix}\n")
    return [stage.name for stage in plan(folder, text).stages]


@pytest.mark.parametrize(
    ("matrix", "expected"),
    [
        ("{size: [1b, 7b]}", ["train-size=1b", "train-size=7b"]),
        ("{size: [1b], alpha: [0.5, 1.0]}", ["train-size=1b-alpha=0.5", "train-size=1b-alpha=1"]),
        ("{alpha: [1.0, 0.50], size: [1b]}", ["train-size=1b-alpha=1", "train-size=1b-alpha=0.5"]),
        ("{seed: [1], lr: [1e-4], T: [2]}", ["train-T=2-lr=0.0001-seed=1"]),
        (
            "{x: [true, -1, a b, a/b]}",
            ["train-x=true", "train-x=-1", "train-x=a_b~c8687a", "train-x=a_b~c14cdd"],
        ),
    ],
)
def test_names_of_combinations(tmp_path: Path, matrix: str, expected: list[str]) -> None:
    assert names(tmp_path, matrix) == expected


def test_names_stay_short_and_different(tmp_path: Path) -> None:
    axes = ", ".join(f"axis_{i}: [{'v' * 39}]" for i in range(6))
    first, second = names(tmp_path, f"{{{axes}, last: [1, 2]}}")
    assert len(first) == len(second) == 150
    assert first != second


def test_values_of_combinations(tmp_path: Path) -> None:
    text = (
        HEAD
        + "stages:\n"
        + shell("train", "[x, '${matrix.lr}', '${matrix.size}']")
        + "    matrix:\n      size: [1b, 7b]\n      lr: [1e-4]\n      limit: [1h]\n"
        + "    timeout: ${matrix.limit}\n"
    )
    one, two = plan(tmp_path, text).stages
    assert (one.argv, one.timeout_s, one.matrix) == (
        ("x", "1e-4", "1b"),
        3600,
        {"size": "1b", "lr": 1e-4, "limit": "1h"},
    )
    assert (two.argv, two.timeout_s) == (("x", "1e-4", "7b"), 3600)


@pytest.mark.parametrize(
    ("matrix", "place", "message"),
    [
        ("{}", "8:13", "the mapping is empty"),
        ("{size: []}", "8:20", "the list is empty"),
        ("{a-b: [1]}", "8:14", "'a-b' cannot name an axis"),
        ("{s: [1, 1.0]}", "8:21", "1.0 stands here a second time"),
        ("{s: ['${vars.x}']}", "8:18", "matrix values are literal"),
        ("{s: [1], exclude: [{s: 1}]}", "8:32", "a mapping stands where text"),
        (
            "{a: A, b: A, c: A, d: A}".replace("A", "[0, 1, 2, 3, 4, 5]"),
            "8:13",
            "more than 1000 combinations",
        ),
    ],
)
def test_wrong_matrices(tmp_path: Path, matrix: str, place: str, message: str) -> None:
    text = HEAD + "stages:\n" + shell("train", "[x]", f"    matrix: {matrix}\n")
    found = problems(tmp_path, text)
    assert found[0].startswith(f"my.yaml:{place}: stages[0].matrix"), found
    assert message in found[0]


SWEPT = "stages:\n" + shell(
    "train", "x", "    matrix: {size: [1b, 7b], T: [1, 2]}\n    outputs: ['${run_dir}/${stage_name}']\n"
)


@pytest.mark.parametrize(
    ("second", "expected"),
    [
        ("['${stages.train[size=7b,T=2.0].out}']", ["train-size=7b-T=2"]),
        ("['${stages.train[T=1, size=1b].out}']", ["train-size=1b-T=1"]),
        (
            "['${stages.train[*].out}']",
            ["train-size=1b-T=1", "train-size=1b-T=2", "train-size=7b-T=1", "train-size=7b-T=2"],
        ),
        ("['${stages.train.out}']\n    matrix: {T: [2], size: [7b]}", ["train-size=7b-T=2"]),
    ],
)
def test_references_to_a_matrix_stage(tmp_path: Path, second: str, expected: list[str]) -> None:
    stage = plan(tmp_path, HEAD + SWEPT + shell("second", second)).stages[4]
    assert [Path(word).name for word in stage.argv] == expected


def test_all_runs_of_a_matrix_stage_as_inputs_and_in_text(tmp_path: Path) -> None:
    text = HEAD + SWEPT + shell("all", "ls ${stages.train[*].out}", "    inputs: ${stages.train[*].out}\n")
    stage = plan(tmp_path, text).stages[4]
    assert len(stage.inputs) == 4 and len(stage.argv[-1].split()) == 5
    assert stage.producers["3"] == ("train-size=7b-T=2",)


@pytest.mark.parametrize(
    ("second", "count"),
    [("${stages.train.out}", 4), ("${stages.train[size=1b].out}", 2), ("${stages.train[size=2b].out}", 0)],
)
def test_ambiguous_references_to_a_matrix_stage(tmp_path: Path, second: str, count: int) -> None:
    found = problems(tmp_path, HEAD + SWEPT + shell("second", second))
    assert f"means {count} of the 4 runs of matrix stage 'train', not one" in found[0]
    assert "'${stages.train[size=1b,T=1].out}'" in found[0]
    assert "(size, T)" in found[0]


def test_a_mapping_cannot_hold_all_runs(tmp_path: Path) -> None:
    text = HEAD + SWEPT + shell("second", "x", "    inputs: {all: '${stages.train[*].out}'}\n")
    assert "stages[1].inputs.all: a list stands where text" in problems(tmp_path, text)[0]
