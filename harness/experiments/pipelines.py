"""Cells and a profile become pipeline files: one shared run for data and teacher, one run for every cell.

Everything lies in one folder, and the files name all paths by it, so that it can be moved:

    OUT/shared.yaml, OUT/<cell>.yaml      what `kit audit` could run as well
    OUT/runs/shared/, OUT/runs/<cell>/    the bundles; products in their work/

A stage's settings are flags of its command and so part of the log, of its fingerprint and of what resuming
compares.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from harness.errors import KitError
from harness.evaluation.suites import read_suite, suite_file
from harness.experiments.grid import Cell, Variant
from harness.experiments.profile import Profile, Values
from harness.experiments.teacher import kept_teacher
from harness.spec import current_version

SHARED = "shared"
TOKENIZER = "tokenizer"
"""Folder in a data set with the tokenizer it was made with (`harness.distill.preprocess`): every later stage
takes that one."""

ENVIRONMENT = {
    "OMP_WAIT_POLICY": "PASSIVE",  # spinning threads would be billed for waiting
    "TOKENIZERS_PARALLELISM": "false",
    "HF_HUB_OFFLINE": "1",
    "HF_DATASETS_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
}


@dataclass(frozen=True)
class Layout:
    """Where things are in the output folder.

    Args:
        root: The folder.
        assets: Asset to the folder it was fetched into; empty where models and data are made here.
        revisions: Asset to its locked commit. It names weights that were verified when they were fetched, so
            that no stage reads 64 GB again to know its teacher.
    """

    root: Path
    assets: Mapping[str, Path]
    revisions: Mapping[str, str] = field(default_factory=dict)

    def pipeline(self, run: str) -> Path:
        """The pipeline file of a run."""
        return self.root / f"{run}.yaml"

    def run(self, run: str) -> Path:
        """The folder of a run: its bundle and products."""
        return self.root / "runs" / run

    def product(self, run: str, name: str) -> Path:
        """A product of a run."""
        return self.run(run) / "work" / name

    def shared(self, name: str) -> str:
        """A product of the shared run, as a cell's pipeline file names it."""
        return "${pipeline_dir}/runs/" + f"{SHARED}/work/{name}"


def shared_stages(cells: Sequence[Cell]) -> dict[str, str]:
    """Names of the shared stages that cells are charged for -> kind, in order."""
    stages = {"preprocess": "preprocess"}
    if any(cell.regime == "kd" for cell in cells):
        stages["teacher-logits"] = "teacher_logits"
    for variant in _variants(cells):
        stages[f"teacher-generate-{variant.name}"] = "teacher_generate"
        stages[f"preprocess-{variant.name}"] = "preprocess"
    return stages


def charged_stages(cell: Cell) -> dict[str, tuple[str, ...]]:
    """What a cell is charged of the shared run: preprocess and teacher to names of stages."""
    if cell.variant is not None:
        name = cell.variant.name
        return {
            "preprocess": ("preprocess", f"preprocess-{name}"),
            "teacher": (f"teacher-generate-{name}",),
        }
    teacher = ("teacher-logits",) if cell.regime == "kd" else ()
    return {"preprocess": ("preprocess",), "teacher": teacher}


def judged(profile: Profile) -> bool:
    """Whether the profile's suite has answers for a judge."""
    suite = read_suite(suite_file(str(profile.settings("evaluate")["suite"])))
    return any(benchmark.judged for benchmark in suite.benchmarks)


def scored(profile: Profile, run: str) -> str:
    """The product of a run with its last scores."""
    last = "judged" if judged(profile) else "scores"
    return f"teacher-{last}" if run == SHARED else last


def run_stages(profile: Profile, cells: Sequence[Cell]) -> dict[str, list[str]]:
    """Run to the names of its stages that figures need."""
    judge = judged(profile)
    runs = {SHARED: [*shared_stages(cells), "evaluate-teacher", *(["judge-teacher"] if judge else [])]}
    own = ["student_train", "evaluate", *(["judge"] if judge else [])]
    return runs | {
        cell.name: own[:1] if cell.again else [*own, *(["serve"] if cell.serve else [])] for cell in cells
    }


def write_shared(profile: Profile, cells: Sequence[Cell], layout: Layout) -> Path:
    """Write the pipeline file of everything the cells share; returns its path."""
    return _write(layout, SHARED, profile, shared_document(profile, cells, layout))


def write_cell(profile: Profile, cell: Cell, layout: Layout, reference_tokens: int | None) -> Path:
    """Write the pipeline file of one cell; returns its path."""
    return _write(layout, cell.name, profile, cell_document(profile, cell, layout, reference_tokens))


def shared_document(profile: Profile, cells: Sequence[Cell], layout: Layout) -> Values:
    """The pipeline of everything the cells share. Nothing of it needs to be there yet."""
    work = "${run_dir}/"
    stages: list[Values] = []
    if profile.prerun_idle_s:
        looked = ["python", "-m", "harness.cli.main", "doctor"]
        stages.append({"name": "prerun", "kind": "prerun", "command": looked})
    if profile.kind == "generated":
        teacher, made = _made_here(profile, work)
        stages += made
    else:
        teacher = str(layout.assets[profile.teacher])
    tokenizer = _tokenizer(profile, layout, work + "models/tokenizer")
    revision = layout.revisions.get(profile.teacher)
    template = {"teacher": teacher, "tokenizer": None}.get(profile.chat_template, profile.chat_template)
    stages.append(
        _stage(
            "preprocess",
            "preprocess",
            {
                "tokenizer": tokenizer,
                "chat_template": template,
                **_sources(profile.settings("preprocess"), layout),
            },
            inputs={"tokenizer": tokenizer},
            out=work + "dataset",
        )
    )
    if any(cell.regime == "kd" for cell in cells):
        temperatures = sorted({cell.temperature for cell in cells if cell.temperature is not None})
        stages.append(
            _stage(
                "teacher-logits",
                "teacher_logits",
                {
                    "teacher": teacher,
                    "teacher_revision": revision,
                    "dataset": work + "dataset",
                    # Those of the sweep in any case: the cache stays the same when the sweep follows.
                    "temperatures": sorted({1.0, 2.0, 4.0, *temperatures}),
                    **profile.settings("teacher_logits"),
                },
                inputs={"teacher": teacher, "dataset": work + "dataset"},
                out=work + "logits",
            )
        )
    for variant in _variants(cells):
        stages += _synthetic(profile, variant, teacher, layout, work)
    stages.append(
        _stage(
            "evaluate-teacher",
            # The paper's totals charge nobody for scoring the teacher.
            "x-evaluate_teacher",
            {
                "model": teacher,
                "model_revision": revision,
                "tokenizer": f"{work}dataset/{TOKENIZER}",
                "dataset": work + "dataset",
                **profile.settings("evaluate"),
            },
            inputs={"model": teacher, "dataset": work + "dataset"},
            out=work + "teacher-scores",
            program="evaluate",
        )
    )
    made_here = teacher if profile.kind == "generated" else None
    if judged(profile):
        stages.append(
            _judge(
                profile,
                layout,
                "judge-teacher",
                "x-judge_teacher",
                work + "teacher-scores",
                made_here,
                out=work + "teacher-judged",
                inputs={"teacher": teacher},
            )
        )
    document = _document(SHARED, profile, "other", stages, reference_tokens=None)
    if profile.prerun_idle_s:
        document["idle_baseline"] = dict.fromkeys(("before", "after"), f"{profile.prerun_idle_s}s")
    return document


def cell_document(profile: Profile, cell: Cell, layout: Layout, reference_tokens: int | None) -> Values:
    """The pipeline of one cell."""
    model_name = profile.students[cell.size]
    model = str(layout.assets[model_name]) if layout.assets else layout.shared(f"models/{model_name}")
    tokenizer = layout.shared(f"dataset/{TOKENIZER}")
    settings = profile.student_settings(cell)
    # Whole products, as the shared run's log names them.
    inputs = {"model": model} if layout.assets else {"models": layout.shared("models")}
    if cell.variant is not None:
        inputs["dataset"] = layout.shared(f"dataset-{cell.variant.name}")
        # Not read again, but paid for: the log names what the data set was made of, and who made it.
        inputs["synthetic"] = layout.shared(f"synthetic-{cell.variant.name}")
    else:
        inputs["dataset"] = layout.shared("dataset")
    if cell.regime == "kd":
        inputs["cache"] = settings["cache"] = layout.shared("logits")
    train = _stage(
        "student_train",
        "student_train",
        {"model": model, "dataset": inputs["dataset"], "tokenizer": tokenizer, **settings},
        inputs=inputs,
        out="${run_dir}/student",
    )
    if cell.again:
        return _document(cell.name, profile, cell.regime, [train], reference_tokens=reference_tokens)
    checkpoint = "${stages.student_train.out}/checkpoint"
    # Held-out data are the same in all regimes, whatever the student was trained on.
    held_out, teacher = layout.shared("dataset"), layout.shared(scored(profile, SHARED))
    compared = {"dataset": held_out, "teacher_results": f"{teacher}/results.json"}
    evaluate = _stage(
        "evaluate",
        "evaluate",
        {"model": checkpoint, **compared, **profile.settings("evaluate")},
        inputs={"model": "${stages.student_train.out}", "dataset": held_out, "teacher_scores": teacher},
        out="${run_dir}/scores",
    )
    stages = [train, evaluate]
    serve = (
        []
        if not cell.serve
        else [
            _stage(
                "serve",
                "serve",
                {
                    "model": checkpoint,
                    "dataset": held_out,
                    "tokenizer": tokenizer,
                    **profile.settings("serve"),
                },
                inputs={"model": "${stages.student_train.out}", "dataset": held_out},
                out="${run_dir}/served",
            )
        ]
    )
    if not judged(profile):
        return _document(cell.name, profile, cell.regime, stages + serve, reference_tokens=reference_tokens)
    made_here = layout.shared("teacher/checkpoint") if profile.kind == "generated" else None
    judge = _judge(
        profile, layout, "judge", "judge", "${stages.evaluate.out}", made_here, out="${run_dir}/judged",
        teacher=teacher, inputs={"teacher": layout.shared("teacher")} if made_here else {},
    )  # fmt: skip
    stages += [judge, *serve]
    return _document(cell.name, profile, cell.regime, stages, reference_tokens=reference_tokens)


def _judge(
    profile: Profile,
    layout: Layout,
    name: str,
    kind: str,
    answers: str,
    made_here: str | None,
    *,
    out: str,
    teacher: str | None = None,
    inputs: Mapping[str, str],
) -> Values:
    """The stage that judges what an evaluation left: the suite's judge, or a teacher made here."""
    asset = profile.judge or profile.teacher
    if made_here is None and asset not in layout.assets:
        raise KitError(
            f"profile {profile.name} has no judge: the lock of assets names no {asset!r}",
            expected="the weights that suite's judge was pinned with",
            fix="add them to the lock of assets, then: kit fetch",
        )
    judge = made_here or str(layout.assets[asset])
    settings: Values = {"answers": answers, "judge": judge}
    read = {"answers": answers, **({} if made_here else {"judge": judge}), **inputs}
    if teacher is not None:
        settings["teacher_results"] = f"{teacher}/results.json"
        read["teacher_scores"] = teacher
    settings |= profile.settings("judge")
    return _stage(name, kind, settings, inputs=read, out=out, program="judging")


def _made_here(profile: Profile, work: str) -> tuple[str, list[Values]]:
    """Stages that make models, tokenizer and teacher; the teacher's checkpoint."""
    models = _stage(
        "models",
        "prerun",
        profile.settings("pocket_models"),
        inputs={},
        out=work + "models",
        program="pocket_models",
    )
    kept = kept_teacher(profile)
    if kept is not None:
        place = _stage(
            "teacher-kept",
            "x-teacher_kept",
            {"model": f"{work}models/{profile.teacher}", "recipe": kept["recipe_sha256"]},
            inputs={"models": work + "models"},
            out=work + "teacher",
            program="pocket_teacher",
        )
        return work + "teacher/checkpoint", [models, place]
    data = _stage(
        "teacher-data",
        "x-teacher_data",
        {"tokenizer": work + "models/tokenizer", **profile.settings("teacher_data")},
        inputs={"models": work + "models"},
        out=work + "teacher-dataset",
        program="preprocess",
    )
    train = _stage(
        "teacher-train",
        "x-teacher_train",
        {
            "model": f"{work}models/{profile.teacher}",
            "dataset": work + "teacher-dataset",
            **profile.settings("teacher_train"),
        },
        inputs={"models": work + "models", "dataset": work + "teacher-dataset"},
        out=work + "teacher",
        program="teacher_train",
    )
    return work + "teacher/checkpoint", [models, data, train]


def _synthetic(profile: Profile, variant: Variant, teacher: str, layout: Layout, work: str) -> list[Values]:
    tokenizer = f"{work}dataset/{TOKENIZER}"
    scaled = profile.scaled(variant)
    answers = f"{work}synthetic-{variant.name}"
    settings = profile.settings("teacher_generate")
    if variant.max_new_tokens < profile.own_grid.defaults.max_new_tokens:
        # Answers that a lower limit cuts stay in: else the sweep of lengths would be one of amounts as well.
        settings["filters.require_end"] = False
    generate = _stage(
        f"teacher-generate-{variant.name}",
        "teacher_generate",
        {
            "teacher": teacher,
            "teacher_revision": layout.revisions.get(profile.teacher),
            "tokenizer": tokenizer,
            "dataset": work + "dataset",
            "prompts": scaled.prompts,
            "max_new_tokens": scaled.max_new_tokens,
            **settings,
        },
        inputs={"teacher": teacher, "dataset": work + "dataset"},
        out=answers,
        program="teacher_generate",
    )
    settings = _sources(profile.settings("preprocess_synthetic"), layout)
    own = {"kind": "examples", "path": f"{answers}/examples.jsonl"}
    # With a held-out source of its own (the same as in the other regimes) all answers are trained on.
    own |= {"split": "train"} if settings.get("sources") else {}
    settings["sources"] = [own, *settings.get("sources", ())]
    tokenise = _stage(
        f"preprocess-{variant.name}",
        "preprocess",
        {"tokenizer": tokenizer, **settings},
        inputs={"dataset": work + "dataset", "answers": answers},
        out=f"{work}dataset-{variant.name}",
        program="preprocess",
    )
    return [generate, tokenise]


def _tokenizer(profile: Profile, layout: Layout, made_here: str) -> str:
    if profile.kind == "generated":
        return made_here
    return str(layout.assets[profile.tokenizer or profile.teacher])


def _sources(settings: Values, layout: Layout) -> Values:
    """Sources with the folders of their assets in place of the names."""
    if "sources" not in settings:
        return settings
    sources = []
    for source in settings["sources"]:
        found = dict(source)
        asset = found.pop("asset", None)
        if asset is not None:
            found["path"] = str(layout.assets[asset])
        sources.append(found)
    return {**settings, "sources": sources}


def _variants(cells: Sequence[Cell]) -> list[Variant]:
    return list(dict.fromkeys(cell.variant for cell in cells if cell.variant is not None))


def _stage(
    name: str, kind: str, settings: Values, *, inputs: Mapping[str, str], out: str, program: str | None = None
) -> Values:
    package = "evaluation" if (program or kind) in ("evaluate", "judging") else "distill"
    words = ["python", "-m", f"harness.{package}.{program or kind}", "--out", "${outputs.out}"]
    for key, value in settings.items():
        if value is not None:
            words += [f"--{key}", _word(value)]
    stage: Values = {"name": name, "kind": kind, "command": words, "outputs": {"out": out}}
    return {**stage, "inputs": dict(inputs)} if inputs else stage


def _word(value: Any) -> str:
    if isinstance(value, bool | list | dict):
        return json.dumps(value)
    return repr(value) if isinstance(value, float) else str(value)


def _document(
    run: str, profile: Profile, method: str, stages: list[Values], *, reference_tokens: int | None
) -> Values:
    document: Values = {"protocol": current_version(), "name": run, "method": method}
    document["labels"] = list(profile.labels)
    document["sampling"] = {"period_ms": profile.period_ms}
    document["record_commands"] = "whole"  # the settings of a cell, which sweeps are drawn by
    document["env"] = {**ENVIRONMENT, **profile.env}
    if reference_tokens is not None:
        document["reference_tokens"] = reference_tokens
    # No stage uses them: with them each bundle's manifest says what differs from the paper.
    declared = {f"deviation_{n:02}": " ".join(words.split()) for n, words in enumerate(profile.deviations, 1)}
    document["vars"] = {"profile": profile.name, **declared}
    document["stages"] = stages
    return document


def _write(layout: Layout, run: str, profile: Profile, document: Values) -> Path:
    text = f"# Profile {profile.name}, written by kit reproduce.\n" + yaml.safe_dump(
        document, sort_keys=False, width=110
    )
    path = layout.pipeline(run)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            waiting = path.with_name(f".{path.name}.new")
            waiting.write_text(text, encoding="utf-8")
            waiting.replace(path)
    except OSError as error:
        raise KitError(f"cannot be written: {error.strerror}", where=str(path)) from None
    return path
