"""Checks of a plan against the file system and between stages, before anything starts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from harness.audit.expand import ExpandedRun, ExpandedStage, absolute, path_nodes
from harness.audit.problems import Problem, guess, show
from harness.audit.yaml_source import Node


def paths(stage: ExpandedStage, field_name: str) -> Iterator[tuple[str, Node, str]]:
    """Declared inputs or outputs of a stage: name, value and field path."""
    for name, node in path_nodes(stage.node.get(field_name)).items():
        part = f"[{name}]" if name.isdigit() else f".{name}"
        yield name, node, f"stages[{stage.number}].{field_name}{part}"


def _inside(path: str, folder: str) -> bool:
    return path == folder or path.startswith(folder.rstrip("/") + "/")


def overlap(one: str, other: str) -> bool:
    """Whether two paths are the same or one lies inside the other."""
    return _inside(one, other) or _inside(other, one)


def exists(path: str) -> bool:
    """Whether there is such a file or folder; False as well for what cannot be a path."""
    try:
        return Path(path).exists()
    except (OSError, ValueError):
        return False


def makers_of(path: str, makers: Mapping[str, ExpandedStage]) -> tuple[str, ...]:
    """Names of the stages that write an input: the path itself, a folder around it, or a part of it."""
    return tuple(dict.fromkeys(maker.name for output, maker in makers.items() if overlap(output, path)))


def check_cwd(stage: ExpandedStage, run: ExpandedRun) -> list[Problem]:
    """The working directory exists, or lies in the run and will be created."""
    node = stage.node.get("cwd")
    if node is None or _inside(stage.cwd, str(run.work)) or Path(stage.cwd).is_dir():
        return []
    message = (
        f"there is no folder {show(node.text)} (looked for {stage.cwd}). Create it, or correct the path."
    )
    return [Problem(node.mark, f"stages[{stage.number}].cwd", message)]


def check_outside_input(
    path: str, node: Node, where: str, stage: ExpandedStage, run: ExpandedRun
) -> list[Problem]:
    """An input that no earlier stage writes exists already, and no later stage writes it."""
    later = next(
        (
            other
            for other in run.stages
            for output in absolute(other.node.get("outputs"), other.cwd).values()
            if _inside(path, output)
        ),
        None,
    )
    if later is not None and later.name == stage.name:
        return []  # Reported with the output.
    if later is not None:
        message = (
            f"{show(node.text)} is written by stage '{later.name}', which comes later. Move that stage up."
        )
        return [Problem(node.mark, where, message)]
    if exists(path):
        return []
    declared = (
        name for other in run.stages for name in absolute(other.node.get("outputs"), other.cwd).values()
    )
    near = guess(path, declared) or guess(Path(path).name, _beside(path))
    hint = " '~' is not filled in; write ${env.HOME}." if node.text.startswith("~") else ""
    message = (
        f"{show(node.text)} does not exist (looked for {path}), and no earlier stage lists it as an output."
    )
    return [Problem(node.mark, where, message + near + hint)]


def _beside(path: str) -> list[str]:
    try:
        return [entry.name for entry in Path(path).parent.iterdir()][:1000]
    except (OSError, ValueError):
        return []


def check_output(
    path: str, node: Node, where: str, makers: Mapping[str, ExpandedStage], run: ExpandedRun, directory: Path
) -> list[Problem]:
    """An output lies in the run or beside the pipeline file, and has one stage only."""
    work, out = str(run.work), str(run.out)
    if path in (work, str(directory)) or (_inside(path, out) and not _inside(path, work)):
        message = f"{show(node.text)} is not free for outputs. Write below it, as in ${{run_dir}}/NAME."
        return [Problem(node.mark, where, message)]
    if not _inside(path, work) and not _inside(path, str(directory)):
        allowed = "Allowed: below ${run_dir} or ${pipeline_dir}."
        message = f"{show(node.text)} lies outside the run (looked at {path}). {allowed}"
        return [Problem(node.mark, where, message)]
    clash = next((output for output in makers if overlap(output, path)), None)
    if clash is None:
        return []
    relation = "is" if clash == path else "overlaps with"
    message = (
        f"{show(node.text)} {relation} an output of stage '{makers[clash].name}'. Every output has one stage."
    )
    if makers[clash].number == _number(where):
        message += " In a matrix stage, put ${stage_name} into the path."
    return [Problem(node.mark, where, message)]


def _number(where: str) -> int:
    return int(where[len("stages[") : where.index("]")])


def clashes_between_runs(runs: Sequence[ExpandedRun]) -> list[Problem]:
    """Outputs outside `${run_dir}` that two runs of a pipeline matrix would both write."""
    seen: dict[str, str] = {}
    problems = []
    for run in runs:
        for stage in run.stages:
            outputs = absolute(stage.node.get("outputs"), stage.cwd)
            for name, node, where in paths(stage, "outputs"):
                other = seen.setdefault(outputs[name], run.name)
                if other != run.name:
                    message = (
                        f"{show(node.text)} is written by run '{other}' and by run '{run.name}'. "
                        "Put ${run_dir} or ${run_name} into the path."
                    )
                    problems.append(Problem(node.mark, where, message))
    return problems
