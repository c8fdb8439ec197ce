"""Settings of a profile: models, data, hyperparameters of every stage, and what deviates from the paper."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from harness.audit.fields import refuse
from harness.audit.pipeline import problem_of
from harness.audit.problems import PipelineError, PipelineProblem, Place, guess, show
from harness.audit.text_file import similar_file
from harness.audit.yaml_source import Node, load, plain
from harness.errors import KitError
from harness.experiments.grid import (
    DATA,
    Cell,
    Defaults,
    Grid,
    Regime,
    Setting,
    Sweep,
    Variant,
    load_grid,
    main_cells,
)
from harness.experiments.own_models import SizeName, anchored, without_others
from harness.files import there_is
from harness.models.shapes import POCKET

PROFILES = DATA / "profiles"
Values = dict[str, Any]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class EstimateData(_Strict):
    """What an estimate before the start rests on.

    Attributes:
        watts: Mean power of the measured components.
        seconds: Of each shared stage, and of one evaluation.
        student_seconds: Of one student's training by size.
    """

    watts: float
    seconds: dict[str, float]
    student_seconds: dict[str, float]


Range = tuple[float, float, float]
"""Low, likely, high."""


class Amounts(_Strict):
    """What a plan must assume, since it shows only when the data are there or training stops.

    Attributes:
        tokens_per_example: Of a conversation, cut at seq_len.
        label_share: Label tokens among them.
        answer_tokens: Of a teacher's answer.
        prompt_tokens: Of a question.
        steps: Optimizer steps until an early stop.
        evaluate_items: Tokens of an item of the evaluation, prompt and answer.
    """

    tokens_per_example: Range
    label_share: Range
    answer_tokens: Range
    prompt_tokens: Range
    steps: Range
    evaluate_items: Range


class ProfileScale(_Strict):
    """The grid's settings in a profile's own units; what is not listed stays as it is."""

    max_new_tokens: dict[int, int] = Field(default_factory=dict)
    prompts: dict[int, int] = Field(default_factory=dict)


def _with_first(seeds: tuple[int, ...]) -> tuple[int, ...]:
    """Refuse seeds without 0, since the tables of the grid show the students of that seed."""
    if 0 not in seeds:
        listed = ", ".join(map(str, seeds)) or "none"
        raise refuse(f"the seeds are {listed}. Allowed: 0, which the main table shows, and others beside it.")
    return seeds


def _some(values: tuple[Any, ...]) -> tuple[Any, ...]:
    """Refuse an empty list. (A least length would be said of a list with a wrong item too.)"""
    if not values:
        raise refuse("the list is empty, at least one item is expected.")
    return values


class GridChanges(_Strict):
    """What of the kit's grid a profile does otherwise; sizes are those of its students.

    Attributes:
        defaults: Setting of a cell to its value: alpha, temperature, max_new_tokens, prompts.
        sweeps: In place of the kit's.
        again: How often the first SFT student is trained once more with everything equal, for the run-to-run
            spread.
    """

    regimes: Annotated[tuple[Regime, ...], AfterValidator(_some)] | None = None
    seeds: Annotated[tuple[int, ...], AfterValidator(_with_first)] | None = None
    repeat_seeds: Annotated[tuple[int, ...], AfterValidator(_some)] | None = None
    defaults: dict[Setting, float] = Field(default_factory=dict)
    sweeps: dict[str, Sweep] | None = None
    again: int = Field(default=0, ge=0)


class Budget(_Strict):
    """What a student may spend.

    Attributes:
        positions: Positions through a student in training steps, at most; padding counts.
    """

    positions: int = Field(gt=0)


class Profile(_Strict):
    """What a file in `data/profiles` holds, its base merged in.

    Attributes:
        name: Name of the file.
        summary: One line.
        labels: Of every run.
        kind: generated: models and data are made here; assets: they are fetched before.
        teacher: Name of the teacher's model.
        students: Size to name of the model.
        tokenizer: Asset with the tokenizer and chat template; the teacher's own if None.
        chat_template: Whose chat template data are made and the teacher is prompted with, for logits as for
            answers: the tokenizer asset's, the teacher's, the one it was trained with, or a file's.
        judge: Asset with the suite's judge; the teacher if None.
        period_ms: Sampling period.
        prerun_idle_s: Seconds of the idle baseline before and after the shared stages, with a look at the
            instruments as stage `prerun`; 0: neither.
        reference_tokens: Declared denominator; None: the label tokens of the training split.
        env: Environment of every stage.
        fork_stages: Whether stages are forked from one process that has imported torch and the rest: for
            stages of seconds.
        kept_teacher: Whether a generated teacher that the kit has kept is used instead of training it.
        scale: See there.
        grid: See there.
        budget: See there; None: none but the stages' own settings.
        own: Whether models or data are not the kit's.
        stages: Stage to its settings.
        students_train: Size to settings of student_train, the same for all regimes.
        regimes_train: Regime to settings of student_train. Regimes that differ are not compared by their
            pipelines alone: only where another's confound is to be shown.
        amounts: See there; None: no plan can be made.
        estimate: See there.
        comparable: Whether its figures may stand beside the published ones at all.
        deviations: What differs from the paper, and why.
    """

    name: str
    summary: str
    labels: tuple[str, ...] = ()
    kind: Literal["generated", "assets"]
    teacher: str
    students: dict[SizeName, str]
    tokenizer: str | None = None
    chat_template: str = "tokenizer"
    judge: str | None = None
    period_ms: float = 500
    prerun_idle_s: int = Field(default=0, ge=0)
    reference_tokens: int | None = None
    env: dict[str, str] = Field(default_factory=dict)
    fork_stages: bool = False
    kept_teacher: bool = False
    scale: ProfileScale = Field(default_factory=ProfileScale)
    grid: GridChanges = Field(default_factory=GridChanges)
    budget: Budget | None = None
    own: bool = False
    stages: dict[str, Values]
    students_train: dict[str, Values] = Field(default_factory=dict)
    regimes_train: dict[Regime, Values] = Field(default_factory=dict)
    comparable: bool = True
    amounts: Amounts | None = None
    estimate: EstimateData | None
    deviations: tuple[str, ...]

    @property
    def own_grid(self) -> Grid:
        """The grid with this profile's students and changes."""
        kit = load_grid()
        changed = self.grid.model_dump(exclude_none=True, exclude={"defaults", "sweeps", "again"})
        sizes = tuple(self.students)
        sweeps = kit.sweeps if self.grid.sweeps is None else self.grid.sweeps
        # A sweep is around the smallest of the paper's students; here around the first.
        sweeps = {
            name: sweep if sweep.size in sizes else sweep.model_copy(update={"size": sizes[0]})
            for name, sweep in sweeps.items()
        }
        defaults = Defaults.model_validate({**kit.defaults.model_dump(), **self.grid.defaults})
        return kit.model_copy(update={**changed, "sizes": sizes, "defaults": defaults, "sweeps": sweeps})

    @property
    def lock_profile(self) -> str:
        """The profile that the lock of assets knows it by: the kit's own, or for a file the one of its
        kind."""
        if (PROFILES / f"{self.name}.yaml").exists():
            return self.name
        return "paper" if self.kind == "assets" else "pocket"

    @property
    def is_pocket(self) -> bool:
        """Whether its figures say nothing about the paper's models."""
        return self.kind == "generated"

    def settings(self, stage: str) -> Values:
        """Settings of a stage; empty where the profile says nothing."""
        return dict(self.stages.get(stage, {}))

    def student_settings(self, cell: Cell) -> Values:
        """Settings of a cell's training: those of its size, and the regime's own numbers.

        Raises:
            KitError: The budget is less than a step takes, or there is no telling what a step takes.
        """
        values = {**self.settings("student_train"), **self.students_train.get(cell.size, {})}
        values |= self.regimes_train.get(cell.regime, {})
        values["seed"] = cell.seed
        if self.budget is not None:
            # A row never holds more than seq_len positions, so this many steps stay within the budget.
            batch, length = values.get("effective_batch"), values.get("seq_len")
            if not (isinstance(batch, int) and isinstance(length, int) and min(batch, length) > 0):
                message = f"student_train has effective_batch {show(batch)} and seq_len {show(length)}"
                raise KitError(message, where=f"profile {self.name}", expected="whole numbers from 1 on")
            steps = self.budget.positions // (batch * length)
            if not steps:
                raise KitError(
                    f"a budget of {self.budget.positions} positions holds no step of student {cell.size}",
                    where=f"profile {self.name}",
                    expected=f"{batch * length} at least: effective_batch {batch} times seq_len {length}",
                )
            values["max_steps"] = min(steps, values.get("max_steps") or steps)
        if cell.regime == "kd":
            return {**values, "regime": "kd", "alpha": cell.alpha, "temperature": cell.temperature}
        values.pop("tail", None)
        return {**values, "regime": "sft"}

    def scaled(self, variant: Variant) -> Variant:
        """A set of answers in this profile's units."""
        return Variant(
            self.scale.max_new_tokens.get(variant.max_new_tokens, variant.max_new_tokens),
            self.scale.prompts.get(variant.prompts, variant.prompts),
        )


def profile_names() -> list[str]:
    """Names of the kit's profiles."""
    return sorted(path.stem for path in PROFILES.glob("*.yaml"))


def load_profile(name: str | Path) -> Profile:
    """Read a profile and what it is based on.

    Args:
        name: One of the kit's, or a file of the same form.

    Raises:
        KitError: No such profile, a file that does not fit, or a budget that no student can be trained with.
    """
    path = Path(name)
    if path.suffix not in (".yaml", ".yml") and path.name == str(name):
        path = _of_the_kit(str(name), None)
    documents: list[Node] = []
    values = _read(path, documents)
    values["name"] = path.stem
    try:
        profile = Profile.model_validate(values)
        _ = profile.own_grid if profile.students else None
    except ValidationError as error:
        inside = ("grid", "defaults") if error.title == "Defaults" else ()
        errors: list[Any] = [{**e, "loc": (*inside, *e["loc"])} for e in error.errors(include_url=False)]
        found = [(e, _nearest_document(documents, e["loc"], path)) for e in errors]
        raise PipelineError(
            [problem_of(document, e, Profile, also=("base", "data")) for e, document in found]
        ) from None
    if not profile.students:
        raise KitError("names no student", where=str(path), expected="students: {NAME: folder or hub id}")
    if "suite" not in profile.settings("evaluate"):
        raise KitError("names no suite", where=str(path), expected="stages: {evaluate: {suite: NAME}}")
    models = {"teacher": profile.teacher, **{f"students.{size}": m for size, m in profile.students.items()}}
    for key, model in models.items() if profile.is_pocket else ():
        if model not in POCKET:
            message = f"{key}: {model!r} is no pocket model.{guess(model, list(POCKET))}"
            fix = "for models of your own: base: paper"
            raise KitError(message, where=str(path), expected=f"one of {', '.join(POCKET)}", fix=fix)
    for cell in main_cells(profile.own_grid):
        profile.student_settings(cell)
    return profile


def _of_the_kit(name: str, where: Place | None) -> Path:
    """The file of one of the kit's own profiles."""
    path = PROFILES / f"{name}.yaml"
    if name not in profile_names():
        names = profile_names()
        near = guess(name, names) or similar_file(Path(f"{name}.yaml"))
        message, expected = f"no profile {name!r}.{near}", f"one of {', '.join(names)}, or a file's path"
        raise KitError(message, where=None if where is None else str(where), expected=expected)
    return path


def _nearest_document(documents: list[Node], location: tuple[Any, ...], path: Path) -> Node:
    """Of the files read, the user's own first, the one that has most of a location."""

    def known(document: Node) -> int:
        node: Node | None = document
        parts = 0
        while node is not None and parts < len(location):
            node = node.get(str(location[parts]))
            parts += node is not None
        return parts

    return max(documents, key=known, default=Node({}, Place(str(path), 1, 1)))


def _read(path: Path, documents: list[Node], depth: int = 0) -> Values:
    """A profile with its base merged in; `documents` takes the places of what files of the user's hold."""
    own = path.parent != PROFILES
    if own and not there_is(path):
        raise KitError(
            f"there is no such file.{similar_file(path)}",
            where=str(path),
            expected=f"{path.absolute()}, or one of the kit's profiles: {', '.join(profile_names())}",
        )
    document = load(path)
    if depth > 5:
        raise KitError("is based on too many others", where=str(path), expected="five at most")
    loaded = plain(document, written=False)
    base = loaded.pop("base", None)
    values: Values = {}
    if own:
        documents.append(document)
    if base is not None:
        below = path.parent / (str(base) if str(base).endswith((".yaml", ".yml")) else f"{base}.yaml")
        if not there_is(below):
            below = _of_the_kit(str(base), document.value["base"].mark)
        values = _read(below, documents, depth + 1)
    if own:
        _check_stages(document, list(values.get("stages", {})))
        loaded = anchored(loaded, path.parent.absolute(), str((document.get("data") or document).mark))
    if own and values.get("kind") == "assets":
        values, others = without_others(values, loaded), values
        if values != others:
            loaded = {**_OF_OWN_MODELS, **loaded, "own": True, "comparable": False}
    return _merged(values, loaded)


def _check_stages(document: Node, known: list[str]) -> None:
    """Refuse settings of a stage that the base does not have, since nothing would read them."""
    stages = document.get("stages")
    if stages is None:
        return
    if not isinstance(stages.value, dict):
        message = f"{show(plain(stages))} stands where a mapping from stage to its settings is expected."
        raise PipelineError([PipelineProblem(stages.mark, "stages", message)])
    wrong = []
    for name, node in stages.value.items():
        if known and name not in known:
            message = f"{name!r} is no stage of the base. Allowed: {', '.join(known)}.{guess(name, known)}"
            wrong.append(PipelineProblem(node.key_mark or node.mark, "stages", message))
        elif not isinstance(node.value, dict):
            message = f"{show(plain(node))} stands where a mapping of settings is expected."
            wrong.append(PipelineProblem(node.mark, f"stages.{name}", message))
        elif (sources := node.get("sources")) is not None and not _are_mappings(sources):
            message = f"{show(plain(sources))} stands where a list of mappings is expected."
            wrong.append(PipelineProblem(sources.mark, f"stages.{name}.sources", message))
    if wrong:
        raise PipelineError(wrong)


def _are_mappings(node: Node) -> bool:
    return isinstance(node.value, tuple) and all(isinstance(entry.value, dict) for entry in node.value)


_OF_OWN_MODELS: Values = {
    "summary": "models or data of your own in the paper's experiment",
    "labels": ["own-models"],
    "deviations": ["Models or data are not the paper's; no figure stands beside a published one."],
}


def _merged(base: Values, own: Values) -> Values:
    """Mappings key by key, everything else replaced, the list of deviations too."""
    result = dict(base)
    for key, value in own.items():
        if isinstance(value, dict) and isinstance(base.get(key), dict):
            result[key] = _merged(base[key], value)
        else:
            result[key] = value
    return result
