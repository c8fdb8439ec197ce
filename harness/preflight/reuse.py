"""Reuse before regenerate: which data set, logit cache or synthetic set on the disk fits a recipe, by digest.

A recipe is what decides content: sources, tokenizer and template of a data set; its digest and the teacher's
for what a teacher made of it. Where it lies, who made it and on what machine decides nothing.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.bundle import Bundle
from harness.distill.cache_folder import FINGERPRINT
from harness.distill.logit_cache import CacheReader
from harness.distill.preprocess import recipe_of
from harness.distill.teacher_logits_model import teacher_identity
from harness.errors import KitError
from harness.experiments.lineage import energy_of, stage_rows
from harness.models.chat import PLAIN
from harness.preflight.stages import Outlook, Stage


@dataclass(frozen=True)
class Found:
    """A product on the disk beside a stage that wants one.

    Attributes:
        stage: Name of the stage that would make it.
        what: data set, logit cache or synthetic set.
        path: Its folder; None: the stage is looked for in vain, or cannot be looked for.
        differs: What of the recipe is other there, in words; empty where it fits.
        digest: Names its content, where its own files say it.
        paid_j: Joules of the stage that made it; None: unknown.
        paid_by: Run that made it; None: it lies in no run.
    """

    stage: str
    what: str
    path: Path | None
    differs: tuple[str, ...] = ()
    digest: str | None = None
    paid_j: float | None = None
    paid_by: str | None = None

    @property
    def fits(self) -> bool:
        """Whether the stage need not run."""
        return self.path is not None and not self.differs


def find(outlook: Outlook, folders: Sequence[Path]) -> list[Found]:
    """Look for what the stages of a profile or pipeline would make.

    Returns:
        For each stage what fits, else the nearest that does not, else an entry without a path.

    Raises:
        KitError: A folder is not there.
    """
    for folder in folders:
        if not folder.is_dir():
            raise KitError("no such folder", where=str(folder), expected="a folder with runs or products")
    kept = [found for folder in folders for found in _products(folder)]
    made: dict[str, list[str]] = {}
    answer: list[Found] = []
    for stage in outlook.of("preprocess", "teacher_logits", "teacher_generate"):
        if stage.name != "preprocess" and stage.program == "preprocess":
            continue  # tokenised answers follow from the synthetic set
        if missing := _missing(stage, outlook):
            what = _WHAT[stage.program]
            answer.append(Found(stage.name, what, None, (f"not on the disk: {missing}",)))
            continue
        looked = _dataset(stage, kept, made) if stage.program == "preprocess" else _taught(stage, kept, made)
        looked.sort(key=lambda found: (len(found.differs), str(found.path)))
        answer += [found for found in looked if found.fits] or looked[:1]
    return answer


_WHAT = {
    "preprocess": "data set",
    "teacher_logits": "logit cache",
    "teacher_generate": "synthetic set",
}
"""What a program makes."""


def _missing(stage: Stage, outlook: Outlook) -> str:
    """What a stage reads and nobody has put on the disk, with the command that fetches it; empty: nothing."""
    config = stage.config
    if stage.program == "preprocess":
        paths = [config.tokenizer, config.chat_template, *(source.path for source in config.sources)]
    else:
        paths = [config.teacher]
    assets = {outlook.store.files(asset): name for name, asset in outlook.assets.items()}
    names = {}
    for path in paths:
        if path is not None and str(path) != PLAIN and not _made_in_the_run(path) and not path.exists():
            known = outlook.models.get(str(path))
            names[path] = assets.get(path) or (known.name if known else str(path))
    return ", ".join(names.values()) + (f": {outlook.fetch}" if names.keys() & assets.keys() else "")


Product = tuple[str, Path, dict[str, Any]]
"""What it is, its folder, and what it says of itself."""


def _products(folder: Path) -> Iterator[Product]:
    for path in sorted(folder.rglob("*.json")):
        if path.name not in ("meta.json", FINGERPRINT):
            continue
        try:
            said = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            continue
        if not isinstance(said, dict):
            continue
        if path.name == FINGERPRINT:
            yield "logit cache", path.parent, said
        elif (path.parent / "examples.jsonl").exists():
            yield "synthetic set", path.parent, said
        elif (path.parent / "train.arrow").exists():
            yield "data set", path.parent, said


_TOLD_LATER = "the run itself makes its {}, so nothing can be compared before"


def _made_in_the_run(path: object) -> bool:
    return "${run_dir}" in str(path)


def _dataset(stage: Stage, kept: Sequence[Product], made: dict[str, list[str]]) -> list[Found]:
    if _made_in_the_run(stage.config.tokenizer):
        return [Found(stage.name, "data set", None, (_TOLD_LATER.format("tokenizer"),))]
    with tempfile.TemporaryDirectory() as folder:
        try:
            _, recipe = recipe_of(stage.config, Path(folder) / "tokenizer")
        except KitError as error:
            return [Found(stage.name, "data set", None, (error.message,))]
    found = []
    for what, path, said in kept:
        if what == "data set":
            differs = _differences(recipe, said)
            found.append(_entry(stage, what, path, differs, said.get("content_digest")))
            if not differs:
                made.setdefault("digests", []).append(str(said["content_digest"]))
    return found or [Found(stage.name, "data set", None, ("none in these folders",))]


def _taught(stage: Stage, kept: Sequence[Product], made: Mapping[str, list[str]]) -> list[Found]:
    what, config = _WHAT[stage.program], stage.config
    if _made_in_the_run(config.teacher):
        return [Found(stage.name, what, None, (_TOLD_LATER.format("teacher"),))]
    try:
        teacher = teacher_identity(config.teacher, config.teacher_revision).describe(config.dtype)
    except KitError as error:
        return [Found(stage.name, what, None, (f"teacher: {error.message}",))]
    found = []
    for kind, path, said in kept:
        if kind != what:
            continue
        differs = [f"teacher {name}" for name in _differences(teacher, said.get("teacher", {}))]
        digest = said.get("data", {}).get("content_digest")
        if digest not in made.get("digests", ()):
            differs.append("made of another data set, or of one that is not in these folders")
        if what == "logit cache":
            differs += _cache_differences(config, path)
        else:
            sampling = {
                "temperature": config.temperature,
                "top_p": config.top_p,
                "max_new_tokens": config.max_new_tokens,
            }
            there = {**said.get("sampling", {}), "prompts": said.get("prompts"), "seed": said.get("seed")}
            differs += _differences({**sampling, "prompts": config.prompts, "seed": config.seed}, there)
        found.append(_entry(stage, what, path, differs, said.get("content_digest")))
    return found or [Found(stage.name, what, None, ("none in these folders",))]


def _cache_differences(config: Any, path: Path) -> list[str]:
    """What a cache lacks: whole shards, ids a row, temperatures."""
    try:
        spec = CacheReader.open(path).spec
    except KitError as error:
        return [error.message]
    differs = []
    if spec.mode != config.mode:
        differs.append(f"mode {spec.mode}, wanted {config.mode}")
    if spec.k < config.k:
        differs.append(f"k {spec.k}, wanted {config.k}")
    missing = {t for t in config.temperatures if t != 1} - set(spec.temperatures)
    if missing:
        differs.append(f"no normaliser for T = {', '.join(f'{t:g}' for t in sorted(missing))}")
    return differs


def _differences(wanted: Mapping[str, Any], there: Mapping[str, Any]) -> list[str]:
    plain = json.loads(json.dumps(wanted))
    return [
        f"{name} {_short(there.get(name))}, wanted {_short(value)}"
        for name, value in plain.items()
        if there.get(name) != value
    ]


def _short(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    return text if len(text) <= 40 else f"{text[:37]}..."


def _entry(stage: Stage, what: str, path: Path, differs: Sequence[str], digest: Any) -> Found:
    joules, run = _paid(path) if not differs else (None, None)
    return Found(stage.name, what, path, tuple(differs), None if digest is None else str(digest), joules, run)


def _paid(path: Path) -> tuple[float | None, str | None]:
    """Joules of the stage that made a product of a run, and the run; unknown where it lies in none."""
    run = next((folder for folder in path.parents if (folder / "manifest.json").is_file()), None)
    if run is None:
        return None, None
    try:
        bundle = Bundle.open(run)
        names = {row["stage_uid"]: row["name"] for row in bundle.table("stages").to_pylist()}
        rows = bundle.table("artifacts").to_pylist()
        makers = [
            names[row["stage_uid"]]
            for row in rows
            if row["role"] == "produced" and Path(row["name"]).name == path.name
        ]
        energy = energy_of(stage_rows(run), makers[:1]) if makers else None
        return None if energy is None else energy.best, str(bundle.manifest["run_id"])
    except KitError:
        return None, None
