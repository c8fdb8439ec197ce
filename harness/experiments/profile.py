"""Settings of a profile: models, data, hyperparameters of every stage, and what deviates from the paper."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from harness.errors import KitError
from harness.experiments.grid import DATA, Cell, Variant

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


class ProfileScale(_Strict):
    """The grid's settings in a profile's own units; what is not listed stays as it is."""

    max_new_tokens: dict[int, int] = Field(default_factory=dict)
    prompts: dict[int, int] = Field(default_factory=dict)


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
        period_ms: Sampling period.
        reference_tokens: Declared denominator; None: the label tokens of the training split.
        env: Environment of every stage.
        fork_stages: Whether stages are forked from one process that has imported torch and the rest: for
            stages of seconds.
        scale: See there.
        stages: Stage to its settings.
        students_train: Size to settings of student_train, the same for all regimes.
        estimate: See there.
        deviations: What differs from the paper, and why.
    """

    name: str
    summary: str
    labels: tuple[str, ...] = ()
    kind: Literal["generated", "assets"]
    teacher: str
    students: dict[str, str]
    tokenizer: str | None = None
    period_ms: float = 500
    reference_tokens: int | None = None
    env: dict[str, str] = Field(default_factory=dict)
    fork_stages: bool = False
    scale: ProfileScale = Field(default_factory=ProfileScale)
    stages: dict[str, Values]
    students_train: dict[str, Values] = Field(default_factory=dict)
    estimate: EstimateData
    deviations: tuple[str, ...]

    @property
    def is_pocket(self) -> bool:
        """Whether its figures say nothing about the paper's models."""
        return self.kind == "generated"

    def settings(self, stage: str) -> Values:
        """Settings of a stage; empty where the profile says nothing."""
        return dict(self.stages.get(stage, {}))

    def student_settings(self, cell: Cell) -> Values:
        """Settings of a cell's training: those of its size, and the regime's own numbers."""
        values = {**self.settings("student_train"), **self.students_train.get(cell.size, {})}
        values["seed"] = cell.seed
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
        KitError: No such profile, or a file that does not fit.
    """
    path = Path(name) if str(name).endswith((".yaml", ".yml")) else PROFILES / f"{name}.yaml"
    values = _read(path)
    values["name"] = path.stem
    try:
        return Profile.model_validate(values)
    except ValidationError as error:
        lines = [f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors()]
        raise KitError("; ".join(lines), where=str(path)) from None


def _read(path: Path, depth: int = 0) -> Values:
    try:
        loaded = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise KitError(f"no profile {path.stem!r}", expected=f"one of {', '.join(profile_names())}") from None
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise KitError(f"cannot be read: {' '.join(str(error).split())}", where=str(path)) from None
    if not isinstance(loaded, dict) or depth > 5:
        raise KitError("is no profile", where=str(path), expected="a mapping, based on five others at most")
    base = loaded.pop("base", None)
    if base is None:
        return loaded
    below = path.with_name(f"{base}.yaml")
    return _merged(_read(below if below.exists() else PROFILES / f"{base}.yaml", depth + 1), loaded)


def _merged(base: Values, own: Values) -> Values:
    """Mappings key by key, everything else replaced, the list of deviations too."""
    result = dict(base)
    for key, value in own.items():
        if isinstance(value, dict) and isinstance(base.get(key), dict):
            result[key] = _merged(base[key], value)
        else:
            result[key] = value
    return result
