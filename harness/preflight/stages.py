"""The stages of a profile or pipeline file with their settings, and what is known of the models they use.

A command of the kit's own programs is parsed as the program itself would parse it; of any other command
nothing is known.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import yaml

from harness.errors import KitError
from harness.evaluation.suites import Suite, read_suite, suite_file
from harness.experiments.grid import DATA, Cell
from harness.experiments.pipelines import SHARED, Layout, cell_document, judged, shared_document
from harness.experiments.profile import Profile
from harness.fetch.lockfile import Asset
from harness.fetch.store import Store
from harness.models.shapes import OLMO2, ModelShape
from harness.preflight.findings import Finding

PROGRAMS = {
    "preprocess": ("harness.distill.preprocess", "PreprocessConfig"),
    "teacher_logits": ("harness.distill.teacher_logits", "TeacherLogitsConfig"),
    "teacher_generate": ("harness.distill.teacher_generate", "TeacherGenerateConfig"),
    "student_train": ("harness.distill.student_train", "StudentTrain"),
    "evaluate": ("harness.evaluation.evaluate", "EvaluateConfig"),
    "judging": ("harness.evaluation.judging", "JudgingConfig"),
}
"""Program to the module and class of its settings."""


@dataclass(frozen=True)
class Model:
    """What is known of a model or tokenizer folder.

    Attributes:
        name: Of the asset, or the folder.
        folder: Its files; None where it is not on the disk.
        files: Names of its files, from the disk or as recorded.
        shape: None where nothing says it, or for a tokenizer.
        tokens: Ids of its tokenizer; None: unknown.
        leading_end_token: Whether its chat template begins with the end-of-text token; None: unknown.
        recorded: Whether this comes from a record and not from the files.
    """

    name: str
    folder: Path | None = None
    files: frozenset[str] = frozenset()
    shape: ModelShape | None = None
    tokens: int | None = None
    leading_end_token: bool | None = None
    recorded: bool = False


@dataclass(frozen=True)
class Stage:
    """One stage.

    Attributes:
        run: The run it belongs to.
        name: Its name there.
        program: Key of PROGRAMS; "" for a command that is not the kit's.
        config: Its settings; None where they do not fit or the program is not the kit's.
        model: Teacher, student or judge; None where it has none.
        suite: What it asks or judges, drafts too; None where it does neither.
    """

    run: str
    name: str
    program: str
    config: Any = None
    model: Model | None = None
    suite: Suite | None = None

    @property
    def where(self) -> str:
        """For a table."""
        return self.name if self.run == SHARED else f"{self.run} {self.name}"


@dataclass
class Outlook:
    """Everything that the checks look at.

    Attributes:
        name: Of the profile or pipeline.
        fetch: The command that gets its assets.
        stages: In order.
        findings: What reading them showed.
        profile: None for a pipeline file.
        assets: Asset to what the lock says; empty for a pipeline file.
        store: Where assets lie.
        out: Where runs go.
        cells: Of a profile.
        models: Known folder to its model.
        more: The same target on further data sets; only disk, time and energy differ.
    """

    name: str
    fetch: str = "kit fetch table2"
    stages: list[Stage] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)
    profile: Profile | None = None
    assets: Mapping[str, Asset] = field(default_factory=dict)
    store: Store = field(default_factory=Store)
    out: Path = Path("runs")
    cells: Sequence[Cell] = ()
    models: dict[str, Model] = field(default_factory=dict)
    more: list[Outlook] = field(default_factory=list)

    def of(self, *programs: str) -> list[Stage]:
        """Stages of some programs whose settings could be read."""
        return [stage for stage in self.stages if stage.program in programs and stage.config is not None]


@cache
def recorded() -> dict[str, dict[str, Any]]:
    """What `recorded.yaml` holds."""
    loaded = yaml.safe_load((DATA / "recorded.yaml").read_text(encoding="utf-8"))
    assert isinstance(loaded, dict)
    return loaded


def of_profile(
    profile: Profile,
    cells: Sequence[Cell],
    assets: Mapping[str, Asset],
    store: Store,
    out: Path,
    own: Mapping[str, Path | None] | None = None,
) -> Outlook:
    """The stages that a target of a profile would run; nothing needs to have been fetched.

    Args:
        profile: The profile.
        cells: Of the target.
        assets: What the lock names of it.
        store: Where assets lie.
        out: Where runs go.
        own: Model or data set that the lock does not name to its folder; None: not on the disk.
    """
    folders = {name: store.files(asset) for name, asset in assets.items()}
    folders |= {name: folder for name, folder in (own or {}).items() if folder is not None}
    outlook = Outlook(profile.name, profile=profile, assets=assets, store=store, out=out, cells=cells)
    if profile.kind == "assets":
        used = {profile.teacher, profile.tokenizer, *(own or {})}
        used |= {profile.judge} if judged(profile) else set()
        used |= {profile.students[cell.size] for cell in cells}
        for name in sorted(filter(None, used - set(folders))):
            found = "the lock of assets does not name it, and there is no such folder or repository here"
            fix = "correct the path, hf download NAME, or add it to the lock of assets"
            outlook.findings.append(Finding("assets", str(name), "problem", found, fix))
            # The rest is looked at all the same.
            folders[str(name)] = store.root / "not-in-the-lock" / str(name)
            outlook.models[str(folders[str(name)])] = _recorded_model(str(name))
    layout = Layout(out.absolute(), folders)
    for name, asset in assets.items():
        outlook.models[str(folders[name])] = asset_model(name, asset, store)
    documents = {SHARED: shared_document(profile, cells, layout)}
    documents |= {cell.name: cell_document(profile, cell, layout, None) for cell in cells}
    for run, document in documents.items():
        for stage in document["stages"]:
            _add(outlook, run, stage["name"], stage["command"])
    return outlook


def of_pipeline(path: Path) -> Outlook:
    """The stages of a pipeline file.

    Raises:
        KitError: It cannot be read. What is wrong inside it becomes findings.
    """
    from harness.audit.plan import load_plan
    from harness.audit.problems import PipelineError

    outlook = Outlook(path.stem)
    try:
        plan = load_plan(path)
    except PipelineError as error:
        for problem in error.problems:
            outlook.findings.append(Finding("pipeline", str(problem.mark), "problem", problem.text))
        return outlook
    outlook.name, outlook.out = plan.name, plan.out_dir
    for stage in plan.stages:
        _add(outlook, plan.name, stage.name, stage.argv)
    return outlook


def asset_model(name: str, asset: Asset, store: Store) -> Model:
    """An asset's model from its files, or from the record where it is not complete on the disk."""
    if store.fault(asset) is None:
        return folder_model(store.files(asset), name)
    files = [file.path for file in asset.files] or recorded().get(name, {}).get("files", ())
    return _recorded_model(name, frozenset(file for file in files if asset.wants(file)))


def _recorded_model(name: str, files: frozenset[str] = frozenset()) -> Model:
    known = recorded().get(name, {})
    shape = known.get("shape", "")
    return Model(
        name,
        files=files,
        shape=ModelShape(**shape) if isinstance(shape, dict) else OLMO2.get(shape),
        tokens=known.get("tokens"),
        leading_end_token=known.get("leading_end_token"),
        recorded=True,
    )


def folder_model(folder: Path, name: str | None = None) -> Model:
    """A folder's model, without its weights."""
    files = frozenset(path.name for path in folder.iterdir() if path.is_file())
    shape = None
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        if any(file.endswith(".safetensors") for file in files):
            shape = ModelShape.of(SimpleNamespace(**config))
    except (OSError, ValueError, TypeError, AttributeError):
        pass
    tokens = template = None
    try:
        described = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
        ids = list(described["model"]["vocab"].values())
        tokens = 1 + max([*ids, *(token["id"] for token in described["added_tokens"])])
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        pass
    try:
        from harness.models.chat import read_template

        template = read_template(folder)
    except KitError:
        pass
    leading = None if template is None else template.lstrip().startswith(("{{ bos_token", "{{bos_token"))
    return Model(name or folder.name, folder, files, shape, tokens, leading)


def model_at(outlook: Outlook, path: Path) -> Model | None:
    """The model or tokenizer at a path, where it does not come from a stage of the run."""
    if str(path) not in outlook.models and path.is_dir():
        outlook.models[str(path)] = folder_model(path)
    return outlook.models.get(str(path))


def _add(outlook: Outlook, run: str, name: str, command: Iterable[str]) -> None:
    words = list(command)
    if words[1:3] == ["-m", "harness.cli.main"]:
        return  # kit itself: needs nothing that a stage could lack
    program = _program(words)
    if program is None:
        outlook.stages.append(Stage(run, name, ""))
        return
    module, cls = PROGRAMS[program]
    try:
        from harness.distill.arguments import parse

        config: Any = parse(getattr(import_module(module), cls), words[3:])
    except ModuleNotFoundError as error:
        found = f"{error.name} is not installed, so no stage can run"
        fix = "make setup-train in a checkout, else pip install 'distill-energy-kit[train]'"
        finding = Finding("packages", "machine", "problem", found, fix)
        if finding not in outlook.findings:
            outlook.findings.append(finding)
        outlook.stages.append(Stage(run, name, program))
        return
    except KitError as error:
        outlook.findings.append(Finding("settings", f"{run} {name}", "problem", error.message, error.fix))
        outlook.stages.append(Stage(run, name, program))
        return
    suite = None
    if program == "evaluate":
        suite = _suite_of(config.suite)
    elif program == "judging":
        asked = [stage.suite for stage in outlook.stages if stage.run == run and stage.suite is not None]
        suite = asked[-1] if asked else None
    outlook.stages.append(Stage(run, name, program, config, _model_of(outlook, run, config), suite))


def _suite_of(name: str) -> Suite | None:
    """A suite, be it a draft; None where there is none, which a check says."""
    try:
        return read_suite(suite_file(name))
    except KitError:
        return None


def _program(words: Sequence[str]) -> str | None:
    if len(words) < 3 or not Path(words[0]).name.startswith("python") or words[1] != "-m":
        return None
    return next((name for name, (module, _) in PROGRAMS.items() if module == words[2]), None)


def _model_of(outlook: Outlook, run: str, config: Any) -> Model | None:
    named = (getattr(config, name, None) for name in ("teacher", "model", "judge"))
    path = next((path for path in named if path is not None), None)
    if path is None:
        return None
    if (known := model_at(outlook, path)) is not None:
        return known
    # A checkpoint of the run's own training has its student's shape and the tokenizer it was trained with.
    for stage in reversed(outlook.stages):
        trains = stage.program == "student_train" and stage.run == run and stage.model is not None
        if trains and path.name == "checkpoint":
            assert stage.model is not None
            return Model(f"trained {stage.model.name}", shape=stage.model.shape, recorded=True)
    return None
