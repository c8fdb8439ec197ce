"""Cells, profiles and the pipeline files made of them."""

from __future__ import annotations

import dataclasses
import importlib
from pathlib import Path

import pytest
import yaml

from harness.audit.plan import load_plan
from harness.errors import KitError
from harness.experiments.estimate import estimate
from harness.experiments.grid import (
    REGIMES,
    cells_of,
    load_grid,
    load_targets,
    main_cells,
    sweep_cells,
    target,
)
from harness.experiments.pipelines import (
    SHARED,
    Layout,
    charged_stages,
    shared_stages,
    write_cell,
    write_shared,
)
from harness.experiments.profile import Profile, load_profile, profile_names

CONFIGURATIONS = {
    "pocket_models": "PocketModels",
    "preprocess": "PreprocessConfig",
    "teacher_train": "TeacherTrain",
    "teacher_logits": "TeacherLogitsConfig",
    "teacher_generate": "TeacherGenerateConfig",
    "student_train": "StudentTrain",
    "evaluate": "EvaluateConfig",
}

SIZES = ("1b", "7b", "13b")


def layout_for(profile: Profile, root: Path) -> Layout:
    if profile.kind == "generated":
        return Layout(root, {})
    names = [profile.teacher, *profile.students.values(), profile.tokenizer or profile.teacher]
    names += [source["asset"] for source in profile.settings("preprocess")["sources"]]
    assets = {name: root / "assets" / name for name in names}
    for folder in assets.values():
        folder.mkdir(parents=True, exist_ok=True)
    return Layout(root, assets, {name: f"commit-of-{name}" for name in assets})


def test_the_main_grid_is_three_by_three() -> None:
    cells = main_cells()
    assert {(cell.regime, cell.size) for cell in cells} == {(r, s) for r in REGIMES for s in SIZES}
    assert len(cells) == 9
    assert all(cell.is_default for cell in cells)


def test_sweeps_hold_the_papers_values() -> None:
    alphas = sweep_cells("kd-alpha")
    assert [cell.alpha for cell in alphas] == [0.3, 0.5, 0.8]
    assert {cell.temperature for cell in alphas} == {1.0}
    assert [cell.temperature for cell in sweep_cells("kd-temperature")] == [1.0, 2.0, 4.0]
    lengths = [c.variant.max_new_tokens for c in sweep_cells("synthetic-max-new-tokens") if c.variant]
    assert lengths == [256, 512, 1024]
    assert [c.variant.prompts for c in sweep_cells("synthetic-prompts") if c.variant] == [7000, 3500]
    assert {cell.size for name in load_grid().sweeps for cell in sweep_cells(name)} == {"1b"}


def test_every_cell_is_run_once_and_has_a_name_of_its_own() -> None:
    cells = cells_of(target("all"))
    assert len({cell.name for cell in cells}) == len(cells) == len(set(cells))
    # The default cell belongs to the grid and to both sweeps of its regime.
    assert [cell.name for cell in cells].count("kd-1b") == 1
    # 9 of the grid; 5 settings of KD and 4 of synthetic SFT with three seeds, two of them in the grid.
    assert len(cells) == 9 + (5 + 4) * 3 - 2


@pytest.mark.parametrize("name", profile_names())
def test_profiles_give_every_stage_settings_it_knows(name: str, tmp_path: Path) -> None:
    profile = load_profile(name)
    layout = layout_for(profile, tmp_path)
    cells = cells_of(target("all"))
    paths = [write_shared(profile, cells, layout), *(write_cell(profile, c, layout, 1000) for c in cells)]
    for path in paths:
        for stage in yaml.safe_load(path.read_text())["stages"]:
            words = stage["command"]
            program = words[2].rpartition(".")[2]
            module = importlib.import_module(words[2])
            known = {field.name for field in dataclasses.fields(getattr(module, CONFIGURATIONS[program]))}
            assert {word[2:] for word in words[3::2]} <= known, stage["name"]
            # Fetched weights are named by their commit: nothing reads 64 GB to name them.
            given = dict(zip(words[3::2], words[4::2], strict=True))
            teacher = f"commit-of-{profile.teacher}" if profile.kind == "assets" else None
            if "--teacher" in given:
                assert given.get("--teacher_revision") == teacher
            if stage["name"] == "evaluate-teacher":
                assert given.get("--model_revision") == teacher


def test_regimes_differ_in_the_regime_alone() -> None:
    for name in profile_names():
        profile = load_profile(name)
        own = {"regime", "alpha", "temperature", "tail", "cache", "seed"}
        for size in SIZES:
            settings = [
                {k: v for k, v in profile.student_settings(cell).items() if k not in own}
                for cell in main_cells()
                if cell.size == size
            ]
            assert settings[0] == settings[1] == settings[2]


def test_a_cell_is_charged_for_what_it_uses() -> None:
    cells = {cell.name: cell for cell in main_cells()}
    known = shared_stages(main_cells())
    assert charged_stages(cells["sft-1b"]) == {"preprocess": ("preprocess",), "teacher": ()}
    assert charged_stages(cells["kd-1b"])["teacher"] == ("teacher-logits",)
    synthetic = charged_stages(cells["synthetic-sft-1b"])
    assert [known[name] for name in synthetic["preprocess"]] == ["preprocess", "preprocess"]
    assert [known[name] for name in synthetic["teacher"]] == ["teacher_generate"]


def test_the_shared_pipeline_is_a_plan_without_the_students(tmp_path: Path) -> None:
    profile = load_profile("pocket")
    path = write_shared(profile, main_cells(), Layout(tmp_path, {}))
    plan = load_plan(path, run_dir=tmp_path / "runs" / SHARED)
    kinds = {stage.name: stage.kind for stage in plan.stages}
    assert {name: kinds[name] for name in shared_stages(main_cells())} == shared_stages(main_cells())
    assert kinds["teacher-train"] == "x-teacher_train" and "student_train" not in kinds.values()
    assert plan.labels == ("pocket",)


def test_an_estimate_counts_what_is_left() -> None:
    profile, cells = load_profile("pocket"), main_cells()
    whole = estimate(profile, cells)
    assert whole.seconds <= 360
    assert not whole.must_ask
    rest = estimate(profile, cells, {SHARED, *(cell.name for cell in cells[:6])})
    assert 0 < rest.seconds < whole.seconds
    assert estimate(profile, cells, {SHARED, *(cell.name for cell in cells)}).seconds == 0
    assert estimate(load_profile("paper"), cells).must_ask


def test_wrong_names_are_refused() -> None:
    with pytest.raises(KitError, match="no target"):
        target("table9")
    with pytest.raises(KitError, match="pocket"):
        load_profile("poket")


def test_profiles_say_what_deviates() -> None:
    assert {"pocket", "paper", "paper-asrun", "olmo2"} <= set(profile_names())
    assert all(load_profile(name).deviations for name in profile_names())
    assert load_profile("paper-asrun").student_settings(main_cells()[0])["effective_batch"] == 64
    assert set(load_targets()) == {"table2", "table3", "sweeps", "all"}
