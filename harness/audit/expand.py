"""From the file as written to concrete stages: includes, the profile, every combination, every `${...}`."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from harness.audit.matrix import Combination, combinations, named
from harness.audit.pipeline import Settings
from harness.audit.problems import PipelineError, Problem, guess, show
from harness.audit.text_file import similar_file
from harness.audit.variables import Produced, Scope, resolve_variables, substitute
from harness.audit.yaml_source import Node, load

MAX_STAGES = 5_000
MAX_INCLUDES = 50
_STAGE_FIELDS = ("kind", "timeout", "retries", "tokens", "command")
_HEAD_FIELDS = ("method", "region", "pue", "devices", "reference_tokens", "labels", "sampling")


@dataclass(frozen=True, slots=True)
class ExpandedStage:
    """One stage of one run.

    Args:
        name: Unique in the run: the file's name and the label of the combination.
        base: The stage's name in the file.
        number: Its place in the file, from 0.
        matrix: Values of its own combination.
        cwd: Absolute working directory.
        node: Its fields with every reference filled in.
    """

    name: str
    base: str
    number: int
    matrix: dict[str, Node]
    cwd: str
    node: Node


@dataclass(frozen=True, slots=True)
class ExpandedRun:
    """One run of the pipeline: `out` holds its bundle, `work` is `${run_dir}`."""

    name: str
    matrix: dict[str, Node]
    out: Path
    work: Path
    document: Node
    stages: tuple[ExpandedStage, ...]


def compose(path: Path, shown: str | None = None) -> Node:
    """Read a pipeline file and all it includes.

    Of two files the including one wins: mappings are merged key by key, stages are joined (the included ones
    first), everything else is replaced, and an empty value takes away what was included.

    Raises:
        KitError: A file cannot be read; an include is missing, or includes itself.
    """
    return _compose(path, shown or str(path), (), [0])


def _compose(path: Path, shown: str, chain: tuple[tuple[str, str], ...], count: list[int]) -> Node:
    document = load(path, shown)
    chain = (*chain, (os.path.realpath(path), shown))
    include = document.get("include")
    if include is None or isinstance(include.value, dict):
        return document
    base: Node | None = None
    for item in include.value if isinstance(include.value, tuple) else (include,):
        if not isinstance(item.value, str) or not item.value.strip():
            continue  # The model says what is wrong with it.
        target = path.parent / item.value
        name = os.path.normpath(Path(shown).parent / item.value)
        count[0] += 1
        circle = [file for file, _ in chain]
        if os.path.realpath(target) in circle:
            begin = circle.index(os.path.realpath(target))
            names = " -> ".join([*(file for _, file in chain[begin:]), name])
            raise PipelineError([Problem(item.mark, "include", f"these files include each other: {names}.")])
        if count[0] > MAX_INCLUDES:
            message = f"more than {MAX_INCLUDES} files are included."
            raise PipelineError([Problem(item.mark, "include", message)])
        if not _is_file(target):
            message = f"there is no file {show(item.value)} beside {shown}.{similar_file(target)}"
            raise PipelineError([Problem(item.mark, "include", message)])
        part = _compose(target, name, chain, count)
        base = merge(base, part) if base else part
    return replace(merge(base, document), mark=document.mark) if base else document


def merge(base: Node, over: Node) -> Node:
    """Lay one pipeline file over another (see `compose`)."""
    own, other = base.get("stages"), over.get("stages")
    merged = _overlay(base, over)
    if own and other and isinstance(own.value, tuple) and isinstance(other.value, tuple):
        merged = merged.having(stages=replace(other, value=own.value + other.value))
    return merged


def _overlay(base: Node, over: Node) -> Node:
    if not isinstance(base.value, dict) or not isinstance(over.value, dict):
        return over
    values = dict(base.value)
    for key, node in over.value.items():
        if node.value is None and key in values:
            del values[key]
        else:
            values[key] = _overlay(values[key], node) if key in values else node
    return replace(over, value=values)


def apply_profile(document: Node, name: str, source: Node | None = None) -> Node:
    """Merge `profiles.NAME` into the document; wrong shapes are left for the model to report.

    Raises:
        PipelineError: There is no such profile, or it changes a stage that does not exist.
    """
    profiles = document.get("profiles")
    if profiles is None or not isinstance(profiles.value, dict) or name not in profiles.value:
        known = list(profiles.value) if profiles and isinstance(profiles.value, dict) else []
        listed = f"Profiles: {', '.join(known)}." if known else "This file has no profiles."
        place = profiles or document
        message = f"there is no profile {show(name)}. {listed}{guess(name, known)}"
        raise PipelineError([Problem(place.key_mark or place.mark, "profiles", message)])
    override = profiles.value[name]
    if not isinstance(override.value, dict):
        return document
    settings = {key: node for key, node in override.value.items() if key in Settings.model_fields}
    merged = replace(_overlay(document, replace(override, value=settings)), mark=document.mark)
    changes, stages = override.get("stages"), document.get("stages")
    if changes is None or stages is None:
        return merged
    if not isinstance(changes.value, dict) or not isinstance(stages.value, tuple):
        return merged
    names = [stage.get("name") for stage in stages.value]
    known = [node.text for node in names if node is not None]
    problems = [
        Problem(
            node.key_mark or node.mark,
            f"profiles.{name}.stages",
            f"{show(key)} is no stage of this pipeline. Stages: {', '.join(known)}.{guess(key, known)}",
        )
        for key, node in changes.value.items()
        if key not in known
    ]
    if problems:
        raise PipelineError(problems)
    changed: list[Node] = []
    for stage, node in zip(stages.value, names, strict=True):
        change = changes.get(node.text) if node is not None else None
        if change is None:
            changed.append(stage)
        elif isinstance(change.value, dict):
            changed.append(replace(_overlay(stage, change), mark=stage.mark))
        elif change.value is not None:
            changed.append(stage)
    return merged.having(stages=replace(stages, value=tuple(changed)))


def expand(
    document: Node, *, directory: Path, out: Path, environ: Mapping[str, str]
) -> tuple[list[ExpandedRun], list[Problem]]:
    """Make every run of a document of the right shape concrete.

    Args:
        document: With includes and profile merged in, and checked.
        directory: Absolute folder of the pipeline file.
        out: Absolute run directory; with a pipeline matrix, the folder that holds one such directory a run.
        environ: What `${env.NAME}` sees beside the pipeline's own `env`.
    """
    points, problems = combinations(document.get("matrix"), "matrix")
    stages, name = document.get("stages"), document.get("name")
    if stages is None or name is None:
        return [], problems
    sweeps: list[list[Combination]] = []
    for number, stage in enumerate(stages.value):
        found, wrong = combinations(stage.get("matrix"), f"stages[{number}].matrix")
        problems += wrong + _shared_axes(stage, number, points)
        sweeps.append(found)
    if len(points) * sum(map(len, sweeps)) > MAX_STAGES:
        message = f"the matrices make more than {MAX_STAGES} stages. Split the sweep over several files."
        problems.append(Problem(stages.mark, "stages", message))
    if problems:
        return [], problems
    runs = []
    for point in points:
        run_name = named(name.text, point.label)
        run_out = out / run_name if point.axes else out
        constants = {
            "run_dir": str(run_out / "work"),
            "pipeline_dir": str(directory),
            "run_name": run_name,
        }
        scope = Scope(constants, environ, matrix=point.values)
        runs.append(_run(document, scope, point, sweeps, run_out, problems))
    return runs, problems


def _shared_axes(stage: Node, number: int, points: list[Combination]) -> list[Problem]:
    matrix = stage.get("matrix")
    outer = points[0].values if points else {}
    keys = matrix.value if matrix and isinstance(matrix.value, dict) else {}
    return [
        Problem(
            node.key_mark or node.mark,
            f"stages[{number}].matrix",
            f"{show(key)} is an axis of the whole pipeline already. Rename one of them.",
        )
        for key, node in keys.items()
        if key in outer
    ]


def _run(
    document: Node,
    scope: Scope,
    point: Combination,
    sweeps: list[list[Combination]],
    out: Path,
    problems: list[Problem],
) -> ExpandedRun:
    variables = document.get("vars")
    if variables and variables.value:
        scope = replace(scope, variables=resolve_variables(variables.value, scope, problems))
    head = {}
    for key in _HEAD_FIELDS:
        node = document.get(key)
        head[key] = substitute(node, scope, key, problems) if node else None
    env = document.get("env")
    env = substitute(env, scope, "env", problems) if env else None
    scope = replace(scope, env={**scope.env, **_texts(env)})
    written = document.value["stages"]
    names = tuple(stage.value["name"].text for stage in written.value if stage.get("name"))
    produced: dict[str, list[Produced]] = {}
    expanded: list[ExpandedStage] = []
    for number, stage in enumerate(written.value):
        if stage.get("name") is None:
            continue
        base = replace(scope, stages=names, stage=stage.value["name"].text, produced=produced)
        instances: list[Produced] = []
        for combination in sweeps[number]:
            one = _stage(stage, number, combination, base, problems)
            expanded.append(one)
            axes = {axis: combination.values[axis] for axis in combination.axes}
            instances.append(Produced(axes, absolute(one.node.get("outputs"), one.cwd)))
        produced[base.stage] = instances
    concrete = document.having(
        **head,
        env=env,
        stages=replace(written, value=tuple(stage.node for stage in expanded)),
        matrix=None,
        vars=None,
        include=None,
        profiles=None,
    )
    return ExpandedRun(
        scope.constants["run_name"],
        point.values,
        out,
        Path(scope.constants["run_dir"]),
        concrete,
        tuple(expanded),
    )


def _stage(
    stage: Node, number: int, combination: Combination, scope: Scope, problems: list[Problem]
) -> ExpandedStage:
    path = f"stages[{number}]"
    name = named(scope.stage, combination.label)
    axes = {axis: combination.values[axis] for axis in combination.axes}
    scope = replace(
        scope,
        constants={**scope.constants, "stage_name": name},
        matrix={**scope.matrix, **combination.values},
        swept=axes,
    )
    done: dict[str, Node | None] = {"matrix": None}

    def fill(key: str) -> Node | None:
        node = stage.get(key)
        done[key] = substitute(node, scope, f"{path}.{key}", problems) if node else None
        return done[key]

    cwd_node = fill("cwd")
    directory = scope.constants["pipeline_dir"]
    cwd = os.path.normpath(Path(directory) / (cwd_node.text if cwd_node else ""))
    own = {"outputs": absolute(fill("outputs"), cwd), "inputs": absolute(fill("inputs"), cwd)}
    scope = replace(scope, own=own)
    scope = replace(scope, env={**scope.env, **_texts(fill("env"))})
    for key in _STAGE_FIELDS:
        fill(key)
    return ExpandedStage(name, scope.stage, number, combination.values, cwd, stage.having(**done))


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


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):
        return False
