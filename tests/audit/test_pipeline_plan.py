"""The plan: paths, selection, fingerprints, checks before anything starts, and how it is shown."""

from __future__ import annotations

import io
import json
import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from rich.console import Console

from harness.audit.plan import RunPlan, describe, load_plan
from harness.audit.problems import PipelineError
from harness.audit.programs import shell, shell_words
from harness.audit.recorded import CommandDigests
from harness.errors import KitError

HEAD = 'protocol: "1.0"\nname: demo\nmethod: kd\nstages:\n'  # lines 1 to 4
CHAIN = (
    HEAD
    + """  - name: data
    kind: preprocess
    command: [prep, "${outputs.out}"]
    inputs: [raw.txt]
    outputs: {out: "${run_dir}/data.npz"}
  - name: cache
    kind: teacher_logits
    command: teach ${stages.data.out} ${outputs.out}
    inputs: {data: "${stages.data.out}"}
    outputs: {out: "${run_dir}/cache"}
    timeout: 2h
    retries: 1
  - name: train
    kind: student_train
    matrix: {seed: [1, 2]}
    command: [train, "${stages.cache.out}/part-0", "${matrix.seed}"]
    inputs: ["${stages.cache.out}/part-0"]
    outputs: ["${run_dir}/${stage_name}"]
  - name: all
    kind: evaluate
    command: eval
    inputs: ["${run_dir}"]
    tokens: {processed: 10}
"""
)


@pytest.fixture(autouse=True)
def here(tmp_path: Path) -> Iterator[None]:
    (tmp_path / "raw.txt").write_text("raw")
    before = Path.cwd()
    os.chdir(tmp_path)
    yield
    os.chdir(before)


def plan(text: str, path: str = "my.yaml", **options: object) -> RunPlan:
    Path(path).write_text(text)
    return load_plan(path, **{"run_dir": "out", "environ": {}, **options})  # type: ignore[arg-type]


def problems(text: str, **options: object) -> list[str]:
    with pytest.raises(PipelineError) as caught:
        plan(text, **options)
    return [str(problem) for problem in caught.value.problems]


def test_a_whole_plan(tmp_path: Path) -> None:
    found = plan(CHAIN)
    assert found.run_dir == tmp_path / "out" / "work"
    assert found.out_dir == tmp_path / "out"
    assert not found.out_dir.exists()
    told = found.settings
    assert (found.name, told.method, told.devices, told.sampling.period_ms) == ("demo", "kd", "auto", 500)
    assert [(stage.index, stage.name, stage.base) for stage in found.stages] == [
        (0, "data", "data"),
        (1, "cache", "cache"),
        (2, "train-seed=1", "train"),
        (3, "train-seed=2", "train"),
        (4, "all", "all"),
    ]
    data, cache, train, _, last = found.stages
    assert data.argv == ("prep", str(tmp_path / "out/work/data.npz"))
    assert data.inputs == {"0": tmp_path / "raw.txt"}
    assert data.producers == {"0": ()}
    assert cache.argv == (*shell(), f"teach {tmp_path}/out/work/data.npz {tmp_path}/out/work/cache")
    assert (cache.timeout_s, cache.retries, cache.producers) == (7200, 1, {"data": ("data",)})
    assert train.producers == {"0": ("cache",)}
    assert last.producers == {"0": ("data", "cache", "train-seed=1", "train-seed=2")}
    assert last.tokens == {"processed": 10}
    assert last.where == "my.yaml:23:5"


def test_default_run_directory_is_named_after_the_pipeline(tmp_path: Path) -> None:
    assert plan(CHAIN, run_dir=None).out_dir == tmp_path / "runs" / "demo"


def test_paths_are_relative_to_the_working_directory_of_the_stage(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "raw.txt").write_text("")
    text = (
        HEAD + "  - {name: a, kind: judge, command: x, cwd: sub, inputs: [raw.txt, ../raw.txt], outputs: y}\n"
    )
    stage = plan(text).stages[0]
    assert stage.cwd == tmp_path / "sub"
    assert list(stage.inputs.values()) == [tmp_path / "sub/raw.txt", tmp_path / "raw.txt"]
    assert stage.outputs == {"0": tmp_path / "sub/y"}


def test_environment_of_a_stage_contains_the_pipelines() -> None:
    text = "env: {A: 1, B: 2}\n" + HEAD + "  - {name: a, kind: judge, command: x, env: {B: '${env.A}3'}}\n"
    assert plan(text).stages[0].env == {"A": "1", "B": "13"}


# Selection


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"only": "data"}, ["data"]),
        ({"only": "train"}, ["train-seed=1", "train-seed=2"]),
        ({"only": "train-seed=2"}, ["train-seed=2"]),
        ({"only": ["data", "cache"]}, ["data", "cache"]),
        ({"from_stage": "cache"}, ["cache", "train-seed=1", "train-seed=2", "all"]),
        ({"from_stage": "train-seed=2"}, ["train-seed=2", "all"]),
        ({"from_stage": "cache", "only": "all"}, ["all"]),
    ],
)
def test_selection(tmp_path: Path, options: dict[str, object], expected: list[str]) -> None:
    (tmp_path / "out/work/cache").mkdir(parents=True)
    (tmp_path / "out/work/cache/part-0").touch()
    (tmp_path / "out/work/data.npz").touch()
    whole = {stage.name: stage for stage in plan(CHAIN).stages}
    chosen = plan(CHAIN, **options).stages
    assert [stage.name for stage in chosen] == expected
    assert all(stage == whole[stage.name] for stage in chosen)


def test_selection_needs_what_it_leaves_out() -> None:
    found = problems(CHAIN, only="cache")
    assert len(found) == 1
    assert found[0].startswith("my.yaml:10:5: stages.cache.inputs: input ")
    assert found[0].endswith(
        "is written by stage 'data', which is left out, and is not there yet. Run 'data' first, "
        "or go on with a run that has it: --resume."
    )


def test_selection_of_nothing() -> None:
    assert "--only 'trian': there is no such stage." in problems(CHAIN, only="trian")[0]
    assert "Did you mean 'train'?" in problems(CHAIN, only="trian")[0]
    assert (
        "--from 'x': there is no such stage. Stages: data, cache, train" in problems(CHAIN, from_stage="x")[0]
    )
    assert problems(CHAIN, only="data", from_stage="cache")[0].endswith("leave no stage.")


# Fingerprints


def prints(text: str, **options: object) -> dict[str, str]:
    return {stage.name: stage.fingerprint for stage in plan(text, **options).stages}


def test_fingerprints_are_stable_and_movable(tmp_path: Path) -> None:
    first = prints(CHAIN)
    assert all(len(value) == 64 for value in first.values())
    assert prints(CHAIN, run_dir="elsewhere") == first
    (tmp_path / "moved").mkdir()
    (tmp_path / "moved/raw.txt").touch()
    assert prints(CHAIN, path="moved/other.yaml") == first


@pytest.mark.parametrize(
    ("old", "new", "changed"),
    [
        ("timeout: 2h", "timeout: 3h", []),
        ("retries: 1", "retries: 2", []),
        ("[prep,", "[prep2,", ["data", "cache", "train-seed=1", "train-seed=2", "all"]),
        ("teach ", "teach -v ", ["cache", "train-seed=1", "train-seed=2", "all"]),
        ("seed: [1, 2]", "seed: [3, 2]", ["train-seed=3", "all"]),
        ("command: eval", "command: eval\n    env: {A: 1}", ["all"]),
        ("command: eval", "command: eval\n    cwd: ${run_dir}", ["all"]),
        ("kind: evaluate", "kind: judge", ["all"]),
    ],
)
def test_what_changes_a_fingerprint(old: str, new: str, changed: list[str]) -> None:
    first, second = prints(CHAIN), prints(CHAIN.replace(old, new))
    assert [name for name, value in second.items() if first.get(name) != value] == changed


# Checks

OUTPUT, LOWER = "8:14: stages[0].outputs[0]", "9:14: stages[0].outputs[0]"
SECOND = "8:18: stages[0].outputs[1]"


@pytest.mark.parametrize(
    ("fields", "place", "parts"),
    [
        (
            "inputs: [row.txt]",
            "8:14: stages[0].inputs[0]",
            ["(looked for HERE/row.txt)", "no earlier stage lists it"],
        ),
        ("inputs: {a: ~/x}", "8:17: stages[0].inputs.a", ["'~/x' does not exist", "write ${env.HOME}"]),
        ("inputs: ['${run_dir}/late']", "8:14: stages[0].inputs[0]", ["'${run_dir}/late' is written by"]),
        ("cwd: nowhere", "8:10: stages[0].cwd", ["'nowhere' (looked for HERE/nowhere)."]),
        ("outputs: /etc/x", OUTPUT, ["'/etc/x' lies outside the run", "${pipeline_dir}"]),
        ("outputs: ../x", OUTPUT, ["'../x' lies outside the run (looked at "]),
        ("outputs: .", OUTPUT, ["'.' is not free for outputs"]),
        ("outputs: ${run_dir}", OUTPUT, ["'${run_dir}' is not free for outputs"]),
        ("outputs: out/stages.parquet", OUTPUT, ["is not free for outputs"]),
        ("outputs: [x, x]", SECOND, ["'x' is an output of stage 'a'."]),
        ("outputs: [x, x/y]", SECOND, ["'x/y' overlaps with an output of stage 'a'."]),
        ("outputs: ${run_dir}/late", "12:14: stages[1].outputs[0]", ["'${run_dir}/late' is an output"]),
        ("inputs: raw.txt\n    outputs: raw.txt", LOWER, ["is an input of this stage too"]),
        ("outputs: x\n    inputs: x", OUTPUT, ["is an input of this stage too"]),
        ("matrix: {i: [1, 2]}\n    outputs: x", LOWER, ["'a-i=1'", "put ${stage_name}"]),
    ],
)
def test_refused_before_anything_starts(tmp_path: Path, fields: str, place: str, parts: list[str]) -> None:
    text = (
        HEAD
        + f"  - name: a\n    kind: judge\n    command: x\n    {fields}\n"
        + "  - name: b\n    kind: judge\n    command: x\n    outputs: ${run_dir}/late\n"
    )
    found = problems(text)
    assert len(found) == 1
    line = found[0].replace(str(tmp_path), "HERE")
    assert line.startswith(f"my.yaml:{place}: ")
    assert all(part in line for part in parts), line


def test_missing_pipeline_file() -> None:
    Path("my.yaml").write_text(CHAIN)
    with pytest.raises(KitError, match=r"mine\.yaml:1:1: there is no such file\. Did you mean 'my\.yaml'\?"):
        load_plan("mine.yaml")


# Shown


def test_described_for_a_dry_run() -> None:
    out = io.StringIO()
    Console(file=out, width=160).print(describe(plan(CHAIN.replace("teach ", "teach [b] "))))
    text = out.getvalue()
    for part in (
        f"demo (method kd, devices auto, every 500 ms, {shell_words()})",
        "train-seed=2",
        "teach [b] ${run_dir}/data.npz",
        "2h",
    ):
        assert part in text
    assert "${run_dir}/data.npz (from" in text
    assert text.index("cache") < text.index("train-seed=1") < text.index("evaluate")


def test_a_command_is_recorded_as_program_and_keyed_digest(tmp_path: Path) -> None:
    one, other = CommandDigests(tmp_path / "one"), CommandDigests(tmp_path / "other")
    first, second = (plan(CHAIN).as_dict(digests)["stages"] for digests in (one, other))
    program, digest = first[1]["command"]
    assert program == shell()[0] and re.fullmatch(r"hmac-sha256:[0-9a-f]{64}", digest)
    assert "teach" not in json.dumps([stage["command"] for stage in first])
    again = plan(CHAIN).as_dict(CommandDigests(tmp_path / "one"))["stages"]
    assert again == first, "the key is kept"
    assert second[1]["command"] != first[1]["command"]
    assert second[1]["fingerprint"] != first[1]["fingerprint"], "or a secret in env could be guessed by it"
    assert (tmp_path / "one" / "cache" / "commands.key").stat().st_mode & 0o077 == 0


def test_as_dict_is_portable_json_without_secrets(tmp_path: Path) -> None:
    text = CHAIN.replace("command: eval", "command: eval\n    env: {TOKEN: s3cret}")
    text = text.replace("stages:\n", 'vars: {key: "${env.KEY}", rows: 4, rate: 0.5}\nstages:\n', 1)
    planned = plan("record_commands: whole\n" + text, environ={"KEY": "s3cret"})
    found = planned.as_dict(CommandDigests(tmp_path))
    assert found["vars"] == {"key": "${env.KEY}", "rows": 4, "rate": 0.5}
    written = json.dumps(found)
    assert "s3cret" not in written and str(Path.cwd()) not in written
    assert found["stages"][1]["command"] == [*shell(), "teach ${run_dir}/data.npz ${run_dir}/cache"]
    assert found["stages"][0]["inputs"] == {"0": "${pipeline_dir}/raw.txt"}
    assert found["stages"][4]["env"] == ["TOKEN"]
