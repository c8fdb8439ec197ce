"""The pipeline file as a typed model, and its validation with the place of every value."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from harness.audit import fields as f
from harness.audit.problems import PipelineProblem, Place, guess, show
from harness.audit.yaml_source import Node, plain
from harness.spec import available_versions, load_protocol


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class SamplingOptions(_Strict):
    """How power is sampled."""

    period_ms: f.Period = Field(500, description="Sampling period in ms; the protocol's is 500.")


class IdleBaseline(_Strict):
    """Waits with nothing running, measured as stages of kind idle; the protocol wants 60 s or more each."""

    before: f.Seconds | None = Field(None, description="Wait before the first stage: seconds, or 60s, 2m.")
    after: f.Seconds | None = Field(None, description="Wait after the last stage.")


class TokenCounts(_Strict):
    """Token counts known beforehand; what a stage reports through $KIT_EVENTS takes precedence."""

    trained: f.Tokens | None = Field(None, description="Unique label tokens trained on.")
    processed: f.Tokens | None = Field(None, description="Real tokens through the model, without padding.")
    positions: f.Tokens | None = Field(None, description="Positions through the model, padding included.")
    generated: f.Tokens | None = Field(None, description="Tokens generated.")
    denominator: f.Denominator | None = Field(
        None, description="Declared reference denominator of the stage."
    )


class StageFields(_Strict):
    """One stage: a command run under the meter in a process group of its own."""

    name: f.Name = Field(description="Unique name, used in ${stages.NAME.out}, --only and --from.")
    kind: f.Kind = Field(description="What the stage does, one of the protocol's kinds or x-<your own>.")
    command: f.Command = Field(
        description="Text, run by bash with pipefail (sh where there is no bash), or a list of words, run "
        "without a shell."
    )
    cwd: f.Text | None = Field(
        None, description="Working directory, relative to the pipeline file's; default: the pipeline file's."
    )
    env: dict[f.EnvName, f.EnvText] | None = Field(
        None, description="Environment variables added for this stage."
    )
    inputs: f.Paths | None = Field(None, description="Files and folders it reads, relative to cwd.")
    outputs: f.Paths | None = Field(
        None, description="Files and folders it writes, relative to cwd, under ${run_dir} or ${pipeline_dir}."
    )
    timeout: f.Seconds | None = Field(
        None, description="Longest duration of one attempt: seconds, or 90s, 30m, 2h."
    )
    retries: f.Retries | None = Field(None, description="Further attempts after a failure; default 0.")
    tokens: TokenCounts | None = Field(None, description="Token counts known beforehand.")
    matrix: f.Matrix | None = Field(
        None, description="Run this stage once for every combination of these axes and their values."
    )


class Pipeline(_Strict):
    """A pipeline file for `kit audit`."""

    protocol: f.Protocol = Field(description='Version of the accounting protocol, such as "1.0".')
    name: f.Name = Field(description="Name of the run.")
    method: f.Method = Field(description="Distillation method of the whole pipeline.")
    stages: tuple[StageFields, ...] = Field(
        min_length=1, description="The stages, run one after another in this order."
    )
    region: f.Text | None = Field(None, description="Grid region, as information for the reader of the log.")
    pue: f.Pue | None = Field(
        None, description="Power usage effectiveness; information, never applied to the log."
    )
    devices: f.Devices = Field(
        "auto",
        description="GPUs to meter: auto (what CUDA_VISIBLE_DEVICES shows), all, none, or indices and UUIDs.",
    )
    reference_tokens: f.Denominator | None = Field(None, description="Declared reference token denominator.")
    labels: tuple[f.Name, ...] = Field((), description="Labels of the run, such as pocket.")
    sampling: SamplingOptions = Field(
        default_factory=lambda: SamplingOptions.model_validate({}), description="Sampling options."
    )
    idle_baseline: IdleBaseline = Field(
        default_factory=lambda: IdleBaseline.model_validate({}),
        description="Waits before and after the stages for the idle power; none by default.",
    )
    log_mb: f.LogMb = Field(
        64, description="Longest log of a stage in MB; of a longer one the beginning and the end are kept."
    )
    record_commands: f.Recorded = Field(
        "digest",
        description="How the log has the commands: digest (the program, and a keyed digest of the rest) or "
        "whole, without what looks like a secret.",
    )
    env: dict[f.EnvName, f.EnvText] | None = Field(None, description="Environment variables for all stages.")
    vars: dict[f.Name, f.Scalar] | None = Field(None, description="Your own variables, used as ${vars.NAME}.")


_ALSO_CALLED = {
    "command": "args cmd run script",
    "cwd": "dir directory workdir working_dir working_directory",
    "env": "environment environ",
    "vars": "variables params",
    "kind": "type stage",
    "inputs": "input consumes",
    "outputs": "output produces",
    "retries": "retry max_retries",
    "devices": "gpus device",
    "protocol": "version protocol_version",
    "reference_tokens": "denominator token_denominator reference_token_denominator",
    "labels": "label tags",
    "matrix": "sweep",
    "stages": "steps",
}
"""Our fields, and the names other tools have for them."""


def json_schema() -> dict[str, Any]:
    """JSON Schema (2020-12) of a pipeline file, for editors."""
    protocol, versions = load_protocol(), available_versions()
    # A version may stand without quotes, unless it is another one as a number.
    numbers = [float(version) for version in versions if str(float(version)) == version]
    words: dict[str, list[Any]] = {
        "protocols": [*versions, *numbers],
        "methods": list(protocol.method_names),
        "kinds": list(protocol.named_kinds(idle=False)),
    }
    schema: dict[str, Any] = _filled(Pipeline.model_json_schema(), words)
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": f"pipeline/{versions[-1]}",
        **schema,
    }


def _filled(schema: Any, words: Mapping[str, list[Any]]) -> Any:
    """With the protocol's words, and without pydantic's titles, which tell an editor's user nothing."""
    if isinstance(schema, dict):
        return {
            key: words[value] if key == "enum" and isinstance(value, str) else _filled(value, words)
            for key, value in schema.items()
            if key != "title" or isinstance(value, dict)
        }
    return [_filled(value, words) for value in schema] if isinstance(schema, list) else schema


def check(
    document: Node, *, templates: bool = False, numbers: Sequence[int] | None = None
) -> tuple[Pipeline | None, list[PipelineProblem]]:
    """Validate a document and word everything that is wrong with it.

    Args:
        document: The file.
        templates: The stages are as written: let `${...}` pass in values that are filled in later, and hold
            stage names against each other.
        numbers: For an expanded document, the place of each stage in the file.
    """
    model: Pipeline | None = None
    problems: list[PipelineProblem] = []
    try:
        values = plain(document)
        version = f.text_of(values.get("protocol")) if isinstance(values, dict) else None
        known = version if version in available_versions() else None
        model = Pipeline.model_validate(values, context={"protocol": known})
    except ValidationError as error:
        for found in error.errors(include_url=False):
            # Pydantic also calls a list short when its items are wrong.
            short = found["type"] == "too_short" and found["input"]
            if not short and not (templates and _is_template(found)):
                problems.append(problem_of(document, found, Pipeline, numbers))
    return model, problems + (_repeated_names(document) if templates else [])


def _is_template(error: Any) -> bool:
    text = error["input"]
    fixed = {"name", "protocol", "matrix", "[key]"}.intersection(map(str, error["loc"]))
    return error["type"] == "kit" and isinstance(text, str) and "${" in text and not fixed


def problem_of(
    document: Node,
    error: Any,
    model: type[BaseModel],
    numbers: Sequence[int] | None = None,
    also: Sequence[str] = (),
) -> PipelineProblem:
    """One of pydantic's errors with its place in the file, what is allowed and the nearest guess.

    Args:
        document: The file.
        error: One of `ValidationError.errors()`.
        model: What the file was held against.
        numbers: For an expanded document, the place of each stage in the file.
        also: Keys of the file that its reader takes out before.
    """
    location = tuple(part for part in error["loc"] if not str(part).startswith("\0"))
    kind = error["type"]

    def path_of(place: tuple[Any, ...]) -> str:
        if numbers and len(place) > 1 and place[0] == "stages" and isinstance(place[1], int):
            place = ("stages", numbers[place[1]], *place[2:])
        return dotted(place)

    if kind == "missing":
        field = str(location[-1])
        parent = location[:-1]
        owner = _owner(model, location)
        known = owner.model_fields.get(field)
        about = (known and known.description) or ""
        return PipelineProblem(
            _mark(document, parent), path_of(parent), f"'{field}' is missing. {about}".rstrip()
        )
    if kind != "extra_forbidden" and location and location[-1] == "[key]":
        return PipelineProblem(
            _mark(document, location[:-1], key=True), path_of(location[:-2]), _words(error)
        )
    if kind == "extra_forbidden":
        key, owner = str(location[-1]), _owner(model, location)
        allowed = list(also) if owner is model else []
        allowed += sorted(owner.model_fields, key=lambda name: not owner.model_fields[name].is_required())
        plain_key = key.casefold().replace("-", "_")
        synonym = next((ours for ours, others in _ALSO_CALLED.items() if plain_key in others.split()), None)
        near = f" Did you mean '{synonym}'?" if synonym in allowed else guess(key, allowed)
        what = {
            "Pipeline": "a pipeline",
            "SamplingOptions": "sampling",
            "IdleBaseline": "idle_baseline",
            "TokenCounts": "tokens",
            "StageFields": "a stage",
            "Profile": "a profile",
        }
        owned = what.get(owner.__name__, dotted(location[:-1]))
        message = f"{show(key)} is not a field of {owned}. Allowed: {', '.join(allowed)}."
        return PipelineProblem(_mark(document, location, key=True), path_of(location[:-1]), message + near)
    return PipelineProblem(_mark(document, location), path_of(location), _words(error))


def _words(error: Any) -> str:
    kind, value = error["type"], error["input"]
    expected = {
        "model_type": "a mapping ('key: value' lines)",
        "model_attributes_type": "a mapping ('key: value' lines)",
        "dict_type": "a mapping ('key: value' lines)",
        "tuple_type": "a list",
        "list_type": "a list",
        "kit_form": error["msg"],
    }
    if kind in expected:
        return f"{show(value)} stands where {expected[kind]} is expected."
    if kind == "literal_error":
        words = error["ctx"]["expected"]
        near = guess(value, re.findall("'(.*?)'", words)) if isinstance(value, str) else ""
        return f"{show(value)} is not allowed. Allowed: {words}.{near}"
    if kind == "too_short":
        what = "mapping" if isinstance(value, dict) else "list"
        return f"the {what} is empty, at least one item is expected."
    return str(error["msg"])


def _owner(model: type[BaseModel], location: tuple[Any, ...]) -> type[BaseModel]:
    """The model that the last part of a location is, or would be, a field of."""
    for part in location[:-1]:
        field = model.model_fields.get(part)
        model = (field and _model_in(field.annotation)) or model
    return model


def _model_in(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next(filter(None, map(_model_in, get_args(annotation))), None)


def _mark(document: Node, location: tuple[Any, ...], *, key: bool = False) -> Place:
    node = document
    for part in location:
        children = node.value
        if isinstance(children, tuple):
            if not isinstance(part, int) or part >= len(children):
                break
        elif not isinstance(children, dict) or part not in children:
            break
        node = children[part]
    return node.key_mark if key and node.key_mark else node.mark


def dotted(location: tuple[Any, ...]) -> str:
    """A location as people write it: `stages[1].env.HOME`."""
    text = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in location)
    return text.removeprefix(".")


def _repeated_names(document: Node) -> list[PipelineProblem]:
    stages = document.get("stages")
    seen: dict[str, Place] = {}
    problems = []
    baseline = document.get("idle_baseline")
    for index, stage in enumerate(stages.value if stages and isinstance(stages.value, tuple) else ()):
        name = stage.get("name")
        if name is None or not name.text:
            continue
        if baseline is not None and name.text in ("idle_before", "idle_after"):
            message = f"{show(name.text)} is the name of a wait of idle_baseline. Give the stage another one."
            problems.append(PipelineProblem(name.mark, f"stages[{index}].name", message))
        if name.text in seen:
            message = (
                f"{show(name.text)} names a stage already (at {seen[name.text]}). Stage names are unique."
            )
            problems.append(PipelineProblem(name.mark, f"stages[{index}].name", message))
        seen.setdefault(name.text, name.mark)
    return problems
