"""Checks of a plan against the file system and between stages, before anything starts."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from harness.audit.expand import ExpandedRun, ExpandedStage, absolute, path_nodes
from harness.audit.problems import PipelineProblem, show
from harness.audit.yaml_source import Node
from harness.files import there_is


def paths(stage: ExpandedStage, field_name: str) -> Iterator[tuple[str, Node, str]]:
    """Declared inputs or outputs of a stage: name, value and field path."""
    for name, node in path_nodes(stage.node.get(field_name)).items():
        part = f"[{name}]" if name.isdigit() else f".{name}"
        yield name, node, f"stages[{stage.number}].{field_name}{part}"


def _inside(path: str, folder: str) -> bool:
    return path == folder or path.startswith(folder.rstrip("/") + "/")


def written(node: Node) -> str:
    """A path as an error quotes it: as it stands in the file, references and all."""
    return show(" ".join(node.raw.strip("'\"").split()) or node.text)


def overlap(one: str, other: str) -> bool:
    """Whether two paths are the same or one lies inside the other."""
    return _inside(one, other) or _inside(other, one)


class Outputs:
    """Who writes what, for quick questions about paths that are the same or lie inside each other."""

    def __init__(self) -> None:
        self._makers: dict[str, ExpandedStage] = {}
        self._inside: dict[str, list[str]] = {}

    def add(self, path: str, stage: ExpandedStage) -> None:
        """Note that a stage writes a file or folder."""
        self._makers[path] = stage
        for folder in Path(path).parents:
            self._inside.setdefault(str(folder), []).append(path)

    def touching(self, path: str) -> dict[str, ExpandedStage]:
        """Outputs that are this path, a folder around it or a part of it, each with its stage."""
        around = [str(folder) for folder in (Path(path), *Path(path).parents)]
        found = [*(folder for folder in around if folder in self._makers), *self._inside.get(path, ())]
        return {output: self._makers[output] for output in found}

    def makers_of(self, path: str) -> tuple[str, ...]:
        """Names of the stages that write an input: the path itself, a folder around it, or a part of it."""
        return tuple(dict.fromkeys(stage.name for stage in self.touching(path).values()))


def check_cwd(stage: ExpandedStage, run: ExpandedRun) -> list[PipelineProblem]:
    """The working directory exists, or lies in the run and will be created."""
    node = stage.node.get("cwd")
    if node is None or _inside(stage.cwd, str(run.work)) or os.path.isdir(stage.cwd):  # noqa: PTH112
        return []
    message = f"there is no folder {written(node)} (looked for {stage.cwd}). Create it, or correct the path."
    return [PipelineProblem(node.mark, f"stages[{stage.number}].cwd", message)]


def check_outside_input(
    path: str, node: Node, where: str, stage: ExpandedStage, run: ExpandedRun
) -> list[PipelineProblem]:
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
            f"{written(node)} is written by stage '{later.name}', which comes later. Move that stage up."
        )
        return [PipelineProblem(node.mark, where, message)]
    if there_is(Path(path)):
        return []
    hint = " '~' is not filled in; write ${env.HOME}." if node.text.startswith("~") else ""
    message = (
        f"{written(node)} does not exist (looked for {path}), and no earlier stage lists it as an output."
    )
    return [PipelineProblem(node.mark, where, message + hint)]


def check_output(
    path: str, node: Node, where: str, outputs: Outputs, run: ExpandedRun, directory: Path
) -> list[PipelineProblem]:
    """An output lies in the run or beside the pipeline file, and has one stage only."""
    work, out = str(run.work), str(run.out)
    if path in (work, str(directory)) or (_inside(path, out) and not _inside(path, work)):
        message = f"{written(node)} is not free for outputs. Write below it, as in ${{run_dir}}/NAME."
        return [PipelineProblem(node.mark, where, message)]
    if not _inside(path, work) and not _inside(path, str(directory)):
        allowed = "Allowed: below ${run_dir} or ${pipeline_dir}."
        message = f"{written(node)} lies outside the run (looked at {path}). {allowed}"
        return [PipelineProblem(node.mark, where, message)]
    clashes = outputs.touching(path)
    if not clashes:
        return []
    clash, maker = next(iter(clashes.items()))
    relation = "is" if clash == path else "overlaps with"
    message = f"{written(node)} {relation} an output of stage '{maker.name}'. Every output has one stage."
    if maker.number == _number(where):
        message += " In a matrix stage, put ${stage_name} into the path."
    return [PipelineProblem(node.mark, where, message)]


def _number(where: str) -> int:
    return int(where[len("stages[") : where.index("]")])
