"""The plan of a run: the stages of a pipeline file in order, checked before anything starts."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.audit.checks import (
    Outputs,
    check_cwd,
    check_output,
    check_outside_input,
    overlap,
    paths,
    written,
)
from harness.audit.expand import ExpandedRun, absolute, expand
from harness.audit.fields import WHOLE
from harness.audit.pipeline import Pipeline, StageFields, check
from harness.audit.portable import Portable
from harness.audit.problems import PipelineError, PipelineProblem, Place, guess, show
from harness.audit.programs import shell, shell_words, text_of
from harness.audit.recorded import CommandDigests
from harness.audit.yaml_source import Node, load, plain
from harness.files import there_is
from harness.meter.visible import ALL

if TYPE_CHECKING:
    from rich.console import RenderableType

_HARMLESS = {
    "kind",
    "timeout",
    "retries",
    "tokens",
    "pue",
    "method",
    "region",
    "protocol",
    "devices",
    "sampling",
    "log_mb",
}
"""Fields that can be wrong without making variables wrong."""


@dataclass(frozen=True, slots=True)
class PlannedStage:
    """One stage, ready to run.

    Args:
        name: Unique in its run, fit for a file name.
        base: The stage's name in the file (differs from `name` for a matrix stage).
        kind: A stage kind of the protocol, or `x-*`.
        argv: Words for exec; a command given as text is a shell's words and TEXT (`programs.shell`).
        cwd: Absolute working directory; created by the runner if it lies under `run_dir`.
        env: The pipeline's and the stage's variables, to be laid over the process's own.
        inputs: Absolute path by name.
        outputs: Absolute path by name.
        timeout_s: Longest duration of one attempt in seconds; None without a limit.
        retries: Further attempts after a failure.
        index: Place in the whole run from 0, the same with `only` and `from_stage`.
        fingerprint: sha256 (hex) of command, kind, cwd, env, input and output paths, and of the fingerprints
            of the stages it takes inputs from; with `${run_dir}` and `${pipeline_dir}` for those folders, so
            that a run can be moved.
        tokens: Token counts declared in the file.
        matrix: Values of its own combination.
        producers: Names of the producing stages by input name; none for an input from outside the run.
        where: `file:line:column` of the stage.
    """

    name: str
    base: str
    kind: str
    argv: tuple[str, ...]
    cwd: Path
    env: Mapping[str, str]
    inputs: Mapping[str, Path]
    outputs: Mapping[str, Path]
    timeout_s: float | None
    retries: int
    index: int
    fingerprint: str
    tokens: Mapping[str, int] = field(default_factory=dict)
    matrix: Mapping[str, Any] = field(default_factory=dict)
    producers: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    where: str = ""


@dataclass(frozen=True, slots=True)
class RunPlan:
    """One run of a pipeline.

    Args:
        source: The pipeline file.
        out_dir: Where the bundle goes.
        run_dir: `${run_dir}`, the `work` folder in it; neither exists yet.
        pipeline_dir: The pipeline file's folder.
        settings: The file with every reference filled in.
        stages: Those to run, in order.
        variables: `vars` as declared, references to the environment unresolved.
    """

    source: Path
    out_dir: Path
    run_dir: Path
    pipeline_dir: Path
    settings: Pipeline
    stages: tuple[PlannedStage, ...]
    variables: Mapping[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The pipeline's name."""
        return self.settings.name

    def as_dict(self, digests: CommandDigests) -> dict[str, Any]:
        """For the manifest: JSON types only, folders as variables, names but no values of the environment."""
        portable = Portable(self.run_dir, self.pipeline_dir)

        def command(stage: PlannedStage) -> list[str]:
            words = [portable.text(word) for word in stage.argv]
            return words if self.settings.record_commands == WHOLE else digests.words(words)

        waits = self.settings.idle_baseline.model_dump(exclude_none=True)
        return {
            "name": self.name,
            "method": self.settings.method,
            **({"idle_baseline": waits} if waits else {}),
            **({"devices": ALL} if self.settings.devices == ALL else {}),
            **({"vars": dict(self.variables)} if self.variables else {}),
            "stages": [
                {
                    "name": stage.name,
                    "kind": stage.kind,
                    "command": command(stage),
                    "cwd": portable.text(stage.cwd),
                    "env": sorted(stage.env),
                    "inputs": {name: portable.text(path) for name, path in stage.inputs.items()},
                    "outputs": {name: portable.text(path) for name, path in stage.outputs.items()},
                    "timeout_s": stage.timeout_s,
                    "retries": stage.retries,
                    "tokens": dict(stage.tokens),
                    "matrix": dict(stage.matrix),
                    "fingerprint": digests.of(stage.fingerprint),
                }
                for stage in self.stages
            ],
        }


def load_plan(
    path: Path | str,
    *,
    only: str | Sequence[str] | None = None,
    from_stage: str | None = None,
    run_dir: Path | str | None = None,
    environ: Mapping[str, str] | None = None,
) -> RunPlan:
    """Read, expand and check a pipeline file.

    Args:
        path: The pipeline file.
        only: Stage (or stages) to run; a matrix stage's name means all its runs.
        from_stage: First stage to run.
        run_dir: What `--out` names, default `runs/<name>`: the run's directory. `${run_dir}` is its `work`
            folder. Nothing is created.
        environ: What `${env.NAME}` sees; the process's environment if omitted.

    Raises:
        KitError: The file cannot be read, or (as `PipelineError`, with all problems) is wrong.
    """
    source = Path(path)
    document = load(source)
    _, problems = check(document, templates=True)
    if problems and not all(_is_harmless(problem) for problem in problems):
        raise PipelineError(problems)
    directory = Path(os.path.abspath(source)).parent  # noqa: PTH100 (resolve() would follow links)
    name = document.value["name"].text
    out = Path(os.path.abspath(run_dir if run_dir is not None else Path("runs") / name))  # noqa: PTH100
    environment = os.environ if environ is None else environ
    run, unresolved = expand(document, directory=directory, out=out, environ=environment)
    problems += unresolved
    if problems:
        raise PipelineError(problems)
    model, problems = check(run.document, numbers=[stage.number for stage in run.stages])
    if model is None:
        raise PipelineError(problems)
    variables = document.get("vars")
    declared = plain(variables) if variables and variables.value else {}
    plan, problems = _plan(run, model, source, directory, declared)
    if problems:
        raise PipelineError(problems)
    return _selected(plan, document, only, from_stage)


def describe(plan: RunPlan) -> RenderableType:
    """For `--dry-run`: the stages in order, a block each: command, what it reads and writes, limits."""
    from rich.console import Group
    from rich.padding import Padding
    from rich.text import Text

    portable = Portable(plan.run_dir, plan.pipeline_dir)
    facts = [
        f"method {plan.settings.method}",
        f"devices {_words(plan.settings.devices)}",
        f"every {plan.settings.sampling.period_ms} ms",
    ]
    waits = plan.settings.idle_baseline.model_dump(exclude_none=True)
    facts += [f"idle {_duration(seconds)} {when}" for when, seconds in waits.items()]
    facts += [shell_words()] if any(text_of(stage.argv) is not None for stage in plan.stages) else []
    blocks: list[RenderableType] = [
        Text.assemble((plan.name, "bold"), f" ({', '.join(facts)})"),
        _pairs([("${run_dir}", str(plan.run_dir)), ("${pipeline_dir}", str(plan.pipeline_dir))]),
    ]
    for stage in plan.stages:
        limits = [] if stage.timeout_s is None else [f"timeout {_duration(stage.timeout_s)}"]
        limits += [f"retries {stage.retries}"] if stage.retries else []
        head = Text.assemble(f"{stage.index + 1:>2} ", (stage.name, "bold"), f"  {stage.kind}")
        head.append("".join(f"  {limit}" for limit in limits), "dim")
        command = text_of(stage.argv) or " ".join(stage.argv)
        lines = [("run", portable.text(command).strip())]
        for name, path in stage.inputs.items():
            makers = "".join(f" (from {maker})" for maker in stage.producers[name])
            lines.append(("read", portable.text(path) + makers))
        lines += [("write", portable.text(path)) for path in stage.outputs.values()]
        blocks += [Text(""), head, Padding(_pairs(lines), (0, 0, 0, 3), expand=False)]
    return Group(*blocks)


def _pairs(lines: Sequence[tuple[str, str]]) -> RenderableType:
    """Words and what belongs to them; long texts wrap beside their word."""
    from rich.table import Table
    from rich.text import Text

    table = Table.grid(padding=(0, 1, 0, 0))
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    for word, text in lines:
        table.add_row(Text(word), Text(text))
    return table


def _is_harmless(problem: PipelineProblem) -> bool:
    parts = problem.path.replace("[", ".").split(".")
    return bool(_HARMLESS.intersection(parts[:3])) and "is not a field" not in problem.message


def _plan(
    run: ExpandedRun, model: Pipeline, source: Path, directory: Path, declared: Mapping[str, Any]
) -> tuple[RunPlan, list[PipelineProblem]]:
    common = dict(model.env or {})
    portable = Portable(run.work, directory)
    problems: list[PipelineProblem] = []
    made = Outputs()
    fingerprints: dict[str, str] = {}
    planned: list[PlannedStage] = []
    for index, (stage, fields) in enumerate(zip(run.stages, model.stages, strict=True)):
        inputs = absolute(stage.node.get("inputs"), stage.cwd)
        outputs = absolute(stage.node.get("outputs"), stage.cwd)
        problems += check_cwd(stage, run)
        producers: dict[str, tuple[str, ...]] = {}
        for name, node, where in paths(stage, "inputs"):
            producers[name] = made.makers_of(inputs[name])
            if not producers[name]:
                problems += check_outside_input(inputs[name], node, where, stage, run)
        for name, node, where in paths(stage, "outputs"):
            wrong = check_output(outputs[name], node, where, made, run, directory)
            if any(overlap(path, outputs[name]) for path in inputs.values()):
                message = f"{written(node)} is an input of this stage too. Write the result to another path."
                wrong.append(PipelineProblem(node.mark, where, message))
            if not wrong:
                made.add(outputs[name], stage)
            problems += wrong
        env = {**common, **(fields.env or {})}
        argv = fields.command if isinstance(fields.command, tuple) else (*shell(), fields.command)
        content = {
            "kind": fields.kind,
            "argv": argv,
            "cwd": stage.cwd,
            "env": env,
            "inputs": {
                name: [path, [fingerprints[maker] for maker in producers[name]]]
                for name, path in inputs.items()
            },
            "outputs": outputs,
        }
        fingerprints[stage.name] = portable.digest(content)
        planned.append(
            PlannedStage(
                name=stage.name,
                base=stage.base,
                kind=fields.kind,
                argv=argv,
                cwd=Path(stage.cwd),
                env=env,
                inputs={name: Path(path) for name, path in inputs.items()},
                outputs={name: Path(path) for name, path in outputs.items()},
                timeout_s=fields.timeout,
                retries=fields.retries or 0,
                index=index,
                fingerprint=fingerprints[stage.name],
                tokens=_declared_tokens(fields),
                matrix={key: _builtin(node) for key, node in stage.matrix.items()},
                producers=producers,
                where=str(stage.node.mark),
            )
        )
    plan = RunPlan(
        source=source,
        out_dir=run.out,
        run_dir=run.work,
        pipeline_dir=directory,
        settings=model,
        stages=tuple(planned),
        variables=declared,
    )
    return plan, problems


def _declared_tokens(stage: StageFields) -> dict[str, int]:
    return stage.tokens.model_dump(exclude_none=True) if stage.tokens else {}


def _builtin(node: Node) -> Any:
    value = plain(node)
    if isinstance(value, bool | str):
        return value
    return int(value) if isinstance(value, int) else float(value)


def _selected(
    plan: RunPlan, document: Node, only: str | Sequence[str] | None, from_stage: str | None
) -> RunPlan:
    wanted = [only] if isinstance(only, str) else list(only or ())
    known = list(dict.fromkeys(name for stage in plan.stages for name in (stage.base, stage.name)))
    mark = document.value["stages"].mark
    for option, names in (("--only", wanted), ("--from", [from_stage] if from_stage is not None else [])):
        for name in names:
            if name not in known:
                listed = f"Stages: {', '.join(known)}.{guess(name, known)}"
                message = f"{option} {show(name)}: there is no such stage. {listed}"
                raise PipelineError([PipelineProblem(mark, "stages", message)])
    chosen = list(plan.stages)
    if from_stage is not None:
        first = min(stage.index for stage in chosen if from_stage in (stage.base, stage.name))
        chosen = [stage for stage in chosen if stage.index >= first]
    if wanted:
        chosen = [stage for stage in chosen if stage.base in wanted or stage.name in wanted]
    problems = (
        [] if chosen else [PipelineProblem(mark, "stages", "--only and --from together leave no stage.")]
    )
    names_chosen = {stage.name for stage in chosen}
    for stage in chosen:
        for name, makers in stage.producers.items():
            left_out = [maker for maker in makers if maker not in names_chosen]
            if left_out and not there_is(stage.inputs[name]):
                file, line, column = stage.where.rsplit(":", 2)
                message = (
                    f"input {stage.inputs[name]} of '{stage.name}' is written by stage '{left_out[0]}', "
                    f"which is left out, and is not there yet. Run '{left_out[0]}' first, "
                    "or go on with a run that has it: --resume."
                )
                where = Place(file, int(line), int(column))
                problems.append(PipelineProblem(where, f"stages.{stage.base}.inputs", message))
    if problems:
        raise PipelineError(problems)
    return replace(plan, stages=tuple(chosen))


def _words(devices: str | tuple[int | str, ...]) -> str:
    return devices if isinstance(devices, str) else ", ".join(map(str, devices))


def _duration(seconds: float) -> str:
    parts = []
    for size, unit in ((86400, "d"), (3600, "h"), (60, "m")):
        if seconds >= size:
            parts.append(f"{int(seconds // size)}{unit}")
            seconds %= size
    return "".join([*parts, f"{seconds:g}s" if seconds or not parts else ""])
