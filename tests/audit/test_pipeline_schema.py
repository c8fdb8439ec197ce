"""The JSON Schema an editor uses agrees with what `load_plan` accepts, and the page on the file is true."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from click.testing import CliRunner

from harness.audit.pipeline import Pipeline, SamplingOptions, StageFields, TokenCounts, json_schema
from harness.audit.plan import load_plan
from harness.cli.schema import cmd
from harness.errors import KitError

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "pipeline_file.md").read_text()
EXAMPLES = [
    *re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)[:2],
    *map(Path.read_text, ROOT.glob("examples/*.yaml")),
]


def validator() -> Any:
    schema = json_schema()
    jsonschema.Draft202012Validator.check_schema(schema)
    return jsonschema.Draft202012Validator(schema)


@pytest.mark.parametrize("text", EXAMPLES)
def test_examples_satisfy_the_schema(text: str) -> None:
    validator().validate(yaml.safe_load(text))


def test_the_example_of_the_page_makes_a_plan(tmp_path: Path) -> None:
    (tmp_path / "kd.yaml").write_text(EXAMPLES[0])
    (tmp_path / "corpus.txt").touch()
    full = load_plan(tmp_path / "kd.yaml", run_dir=tmp_path / "out", environ={"HOME": "/home/ann"})
    swept = [stage.name for stage in full.stages if stage.matrix]
    assert len(swept) == 2 and all(name in PAGE for name in swept)
    pocket = {"HOME": "/home/ann", "EXAMPLES": "200"}
    small = load_plan(tmp_path / "kd.yaml", run_dir=tmp_path / "out", environ=pocket)
    assert (full.stages[0].argv[-1], small.stages[0].argv[-1]) == ("100000", "200")


@pytest.mark.parametrize(
    ("change", "path"),
    [
        ({"pue": 0.5}, ["pue"]),
        ({"method": "kdd"}, ["method"]),
        ({"extra": 1}, []),
        ({"devices": "gpu"}, ["devices"]),
        ({"sampling": {"period_ms": "x"}}, ["sampling", "period_ms"]),
        ({"stages": []}, ["stages"]),
        ({"stages": [{"name": "a", "kind": "teacher_logit", "command": "x"}]}, ["stages", 0, "kind"]),
        ({"stages": [{"name": "a", "kind": "judge"}]}, ["stages", 0]),
        (
            {"stages": [{"name": "a", "kind": "judge", "command": "x", "timeout": "soon"}]},
            ["stages", 0, "timeout"],
        ),
        ({"stages": [{"name": "a", "kind": "judge", "command": []}]}, ["stages", 0, "command"]),
        ({"stages": [{"name": "a", "kind": "judge", "command": "x", "matrix": {}}]}, ["stages", 0, "matrix"]),
    ],
)
def test_the_schema_refuses_what_the_model_refuses(change: dict[str, Any], path: list[str | int]) -> None:
    good = {
        "protocol": "1.0",
        "name": "a",
        "method": "kd",
        "stages": [{"name": "a", "kind": "x-y", "command": "x"}],
    }
    assert validator().is_valid(good)
    errors = list(validator().iter_errors({**good, **change}))
    assert any(list(error.absolute_path)[: len(path)] == path for error in errors)


def test_every_field_is_described_in_schema_and_page() -> None:
    for model in (Pipeline, StageFields, SamplingOptions, TokenCounts):
        for name, field in model.model_fields.items():
            assert field.description
            assert f"`{name}`" in PAGE, name


def test_the_command_prints_it() -> None:
    shown = CliRunner().invoke(cmd, ["pipeline"])
    assert shown.exit_code == 0
    assert json.loads(shown.output) == json_schema()
    assert json.loads(CliRunner().invoke(cmd, ["power"]).output)["title"] == "power"
    wrong = CliRunner().invoke(cmd, ["pipline"]).exception
    assert isinstance(wrong, KitError)
    assert "Did you mean 'pipeline'?" in str(wrong)
