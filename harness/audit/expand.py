"""From the file as written to concrete stages: every combination of a matrix, every `${...}`."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from harness.audit.matrix import Combination, combinations, named
from harness.audit.problems import PipelineProblem
from harness.audit.variables import Produced, ReferenceScope, resolve_variables, substitute
from harness.audit.yaml_source import Node

MAX_STAGES = 5_000
MAX_PATH = 4096
_STAGE_FIELDS = ("kind", "timeout", "retries", "tokens", "command")
_HEAD_FIELDS = ("method", "region", "pue", "devices", "reference_tokens", "labels", "sampling")


@dataclass(frozen=True, slots=True)
class ExpandedStage:
    """One stage of a run.

    Args:
        name: Unique in the run: the file's name and that of the combination.
        base: The stage's name in the file.
        number: Its place in the file, from 0.
        matrix: Values of its combination.
        cwd: Absolute working directory.
        node: Its fields with every reference filled in.
    """

    name: str
    base: str
    number: int
    matrix: Combination
    cwd: str
    node: Node


@dataclass(frozen=True, slots=True)
class ExpandedRun:
    """A run of the pipeline: `out` holds its bundle, `work` is `${run_dir}`."""

    out: Path
    work: Path
    document: Node
    stages: tuple[ExpandedStage, ...]


def expand(
    document: Node, *, directory: Path, out: Path, environ: Mapping[str, str]
) -> tuple[ExpandedRun, list[PipelineProblem]]:
    """Make every stage of a document of the right shape concrete.

    Args:
        document: The file, checked.
        directory: Absolute folder of the pipeline file.
        out: Absolute run directory.
        environ: What `${env.NAME}` sees beside the pipeline's own `env`.

    Returns:
        The run, without stages where a matrix is wrong, and all problems.
    """
    problems: list[PipelineProblem] = []
    stages = document.value["stages"]
    sweeps: list[list[Combination]] = []
    for number, stage in enumerate(stages.value):
        found, wrong = combinations(stage.get("matrix"), f"stages[{number}].matrix")
        problems += wrong
        sweeps.append(found)
    if sum(map(len, sweeps)) > MAX_STAGES:
        message = f"the matrices make more than {MAX_STAGES} stages. Split the sweep over several files."
        problems.append(PipelineProblem(stages.mark, "stages", message))
    if problems:
        return ExpandedRun(out, out / "work", document, ()), problems
    scope = ReferenceScope({"run_dir": str(out / "work"), "pipeline_dir": str(directory)}, environ)
    variables = document.get("vars")
    if variables and variables.value:
        scope = replace(scope, variables=resolve_variables(variables.value, scope, problems))
    head: dict[str, Node | None] = {}
    for key in (*_HEAD_FIELDS, "env"):
        node = document.get(key)
        head[key] = substitute(node, scope, key, problems) if node else None
    scope = replace(scope, env={**scope.env, **_texts(head["env"])})
    expanded = _stages(stages, sweeps, scope, head["env"], problems)
    concrete = replace(stages, value=tuple(stage.node for stage in expanded))
    whole = document.having(**head, stages=concrete, vars=None)
    return ExpandedRun(out, out / "work", whole, tuple(expanded)), problems


def _stages(
    stages: Node,
    sweeps: list[list[Combination]],
    scope: ReferenceScope,
    env: Node | None,
    problems: list[PipelineProblem],
) -> list[ExpandedStage]:
    names = tuple(stage.value["name"].text for stage in stages.value)
    produced: dict[str, list[Produced]] = {}
    common = _texts(env)
    expanded: list[ExpandedStage] = []
    for number, stage in enumerate(stages.value):
        base = replace(scope, stages=names, stage=names[number], produced=produced)
        instances: list[Produced] = []
        for combination in sweeps[number]:
            # Each stage carries the pipeline's environment.
            scope.size["characters"] += sum(map(len, common.values()))
            one = _stage(stage, number, combination, base, problems)
            expanded.append(one)
            instances.append(Produced(combination, absolute(one.node.get("outputs"), one.cwd)))
        produced[base.stage] = instances
    return expanded


def _stage(
    stage: Node, number: int, combination: Combination, scope: ReferenceScope, problems: list[PipelineProblem]
) -> ExpandedStage:
    name = named(scope.stage, combination)
    scope = replace(scope, constants={**scope.constants, "stage_name": name}, matrix=combination)
    done: dict[str, Node | None] = {"matrix": None}

    def fill(key: str) -> Node | None:
        node = stage.get(key)
        done[key] = substitute(node, scope, f"stages[{number}].{key}", problems) if node else None
        return done[key]

    cwd_node = fill("cwd")
    directory = scope.constants["pipeline_dir"]
    cwd = os.path.normpath(Path(directory) / (cwd_node.text if cwd_node else ""))
    own = {"outputs": absolute(fill("outputs"), cwd), "inputs": absolute(fill("inputs"), cwd)}
    for key in ("cwd", "outputs", "inputs"):
        for node in path_nodes(done[key]).values():
            if len(node.text) <= MAX_PATH:
                continue
            message = f"a path of {len(node.text)} characters; at most {MAX_PATH} are allowed."
            problems.append(PipelineProblem(node.mark, f"stages[{number}].{key}", message))
    scope = replace(scope, own=own)
    scope = replace(scope, env={**scope.env, **_texts(fill("env"))})
    for key in _STAGE_FIELDS:
        fill(key)
    return ExpandedStage(name, scope.stage, number, combination, cwd, stage.having(**done))


def path_nodes(paths: Node | None) -> dict[str, Node]:
    """Declared paths by name; those of a list are called 0, 1, 2."""
    if paths is None or paths.value is None:
        return {}
    if isinstance(paths.value, dict):
        return dict(paths.value)
    listed = paths.value if isinstance(paths.value, tuple) else (paths,)
    return {str(index): node for index, node in enumerate(listed)}


def absolute(paths: Node | None, cwd: str) -> dict[str, str]:
    """Declared paths, absolute and normalised, by name."""
    return {name: os.path.normpath(Path(cwd) / node.text) for name, node in path_nodes(paths).items()}


def _texts(env: Node | None) -> dict[str, str]:
    return {key: node.text for key, node in env.value.items()} if env and env.value else {}
