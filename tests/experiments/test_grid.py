"""Cells, profiles and the pipeline files made of them."""

from __future__ import annotations

import dataclasses
import importlib
import re
from pathlib import Path

import pytest
import yaml

from harness.audit.plan import load_plan
from harness.cli.reproduce import TARGETS
from harness.distill.arguments import parse
from harness.distill.teacher_generate import TeacherGenerateConfig
from harness.errors import KitError
from harness.experiments.datasets import apart
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
from harness.experiments.reproduce import Request
from harness.report.figures import SWEEPS
from harness.spec import load_protocol

CONFIGURATIONS = {
    "pocket_models": "PocketModels",
    "preprocess": "PreprocessConfig",
    "pocket_teacher": "PocketTeacher",
    "teacher_train": "TeacherTrain",
    "teacher_logits": "TeacherLogitsConfig",
    "teacher_generate": "TeacherGenerateConfig",
    "student_train": "StudentTrain",
    "evaluate": "EvaluateConfig",
    "judging": "JudgingConfig",
}

SIZES = ("1b", "7b", "13b")


def layout_for(profile: Profile, root: Path) -> Layout:
    if profile.kind == "generated":
        return Layout(root, {})
    names = [profile.teacher, *profile.students.values(), profile.tokenizer or profile.teacher]
    names += [profile.judge or profile.teacher]
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
    settings = [(cell.temperature, cell.alpha) for cell in sweep_cells("kd-temperature-alpha")]
    assert sorted(settings) == [(t, a) for t in (1.0, 2.0, 4.0) for a in (0.3, 0.5, 0.8)]
    lengths = [c.variant.max_new_tokens for c in sweep_cells("synthetic-max-new-tokens") if c.variant]
    assert lengths == [256, 512, 1024]
    assert [c.variant.prompts for c in sweep_cells("synthetic-prompts") if c.variant] == [7000, 3500]
    assert {cell.size for name in load_grid().sweeps for cell in sweep_cells(name)} == {"1b"}


def test_every_cell_is_run_once_and_has_a_name_of_its_own() -> None:
    cells = cells_of(target("all"))
    assert len({cell.name for cell in cells}) == len(cells) == len(set(cells))
    # The default cell belongs to the grid and to the sweep of its regime.
    assert [cell.name for cell in cells].count("kd-1b") == 1
    # 9 of the grid; 9 settings of KD and 4 of synthetic SFT with three seeds, two of them in the grid.
    assert len(cells) == 9 + (9 + 4) * 3 - 2


@pytest.mark.parametrize("name", profile_names())
def test_profiles_give_every_stage_settings_it_knows(name: str, tmp_path: Path) -> None:
    profile = load_profile(name)
    layout = layout_for(profile, tmp_path)
    cells = cells_of(target("all"))
    trained, elsewhere = profile.model_copy(update={"kept_teacher": False}), tmp_path / "trained"
    paths = [write_shared(profile, cells, layout), *(write_cell(profile, c, layout, 1000) for c in cells)]
    paths.append(write_shared(trained, cells, dataclasses.replace(layout, root=elsewhere)))
    for path in paths:
        for stage in yaml.safe_load(path.read_text())["stages"]:
            words = stage["command"]
            if stage["kind"] == "prerun" and profile.kind == "assets":
                assert words[2:] == ["harness.cli.main", "doctor"]
                continue
            program = words[2].rpartition(".")[2]
            module = importlib.import_module(words[2])
            known = {field.name for field in dataclasses.fields(getattr(module, CONFIGURATIONS[program]))}
            # `--vllm.version` reaches into a nested configuration; the program itself reads them all.
            assert {word[2:].partition(".")[0] for word in words[3::2]} <= known, stage["name"]
            parse(getattr(module, CONFIGURATIONS[program]), words[3:])
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
        if name == "paper-asrun":
            # The authors' confound, which this profile is there to show, and nothing else.
            assert {key for values in profile.regimes_train.values() for key in values} == {"scale_parameter"}
            assert any("scale_parameter" in line for line in profile.deviations)
            own.add("scale_parameter")
        else:
            assert not profile.regimes_train
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
    assert kinds["teacher-kept"] == "x-teacher_kept" and "student_train" not in kinds.values()
    assert plan.settings.labels == ("pocket",)
    trained = profile.model_copy(update={"kept_teacher": False})
    plan = load_plan(
        write_shared(trained, main_cells(), Layout(tmp_path, {})), run_dir=tmp_path / "runs" / SHARED
    )
    kinds = {stage.name: stage.kind for stage in plan.stages}
    assert kinds["teacher-train"] == "x-teacher_train" and "teacher-kept" not in kinds


def test_an_estimate_counts_what_is_left() -> None:
    profile, cells = load_profile("pocket"), main_cells()
    whole = estimate(profile, cells)
    assert whole.seconds <= 200
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


def test_each_result_of_the_paper_is_a_target_of_kit_and_of_make() -> None:
    """And what the list of claims tells to run exists."""
    root = Path(__file__).parents[2]
    makefile = (root / "Makefile").read_text()
    made = set(re.findall(r"^([a-z][a-z0-9-]*):", makefile, flags=re.MULTILINE))
    assert tuple(load_targets()) == TARGETS
    assert {f"reproduce-{name}" for name in TARGETS} == {t for t in made if t.startswith("reproduce-")}
    claims = yaml.safe_load((root / "artifacts/claims.yaml").read_text())["claims"]
    commands = [claim["command"] for claim in claims if "command" in claim]
    assert commands
    for command in commands:
        found = re.fullmatch(r'make (\S+)(?: PROFILE=(\w+))?(?: ARGS="[^"]+")?', command)
        assert found is not None and found[1] in made, command
        assert (found[2] in profile_names()) == found[1].startswith("reproduce-"), command


def test_only_one_target_has_students_serve(tmp_path: Path) -> None:
    profile = load_profile("pocket")
    names = {}
    for name in ("table2", "serving"):
        cell = Request(name, target(name), profile, tmp_path).cells[0]
        document = yaml.safe_load(write_cell(profile, cell, layout_for(profile, tmp_path), 1).read_text())
        names[name] = [stage["name"] for stage in document["stages"]]
    assert names["serving"] == [*names["table2"], "serve"]
    assert profile.settings("serve")["workload"] in {w.name for w in load_protocol().serving_workloads}


def test_figures_of_targets_are_drawn_and_need_cells_for_them() -> None:
    known = {"pareto", "breakdown", "breakdown-share", "amortization", "serving"}
    for name, aim in load_targets().items():
        sweeps = {f for f in aim.figures if f.startswith("sweep-")}
        assert set(aim.figures) - sweeps <= known
        assert len(sweeps) <= len(aim.sweeps) and (aim.grid or not set(aim.figures) - sweeps), name
        assert sweeps <= {f"sweep-{figure}" for figure in SWEEPS}


def test_the_authors_confound_is_shown_by_their_profile() -> None:
    profile = load_profile("paper-asrun")
    scaled = {c.regime: profile.student_settings(c)["scale_parameter"] for c in main_cells()}
    assert scaled == {"sft": False, "kd": True, "synthetic_sft": False}
    amounts = {
        s["kind"]: (s["samples"], s.get("strip_think", False))
        for s in profile.settings("preprocess")["sources"]
    }
    assert amounts == {"tulu": (200_000, False), "openr1-math": (8_000, True), "codeforces": (47_680, True)}


@pytest.mark.parametrize("name", ["paper", "pocket"])
def test_each_data_set_by_itself_is_a_reproduction_of_its_own(name: str, tmp_path: Path) -> None:
    request = Request("datasets", target("datasets"), load_profile(name), tmp_path)
    parts = apart(request)
    assert len(parts) == 3 and {part.out for part in parts.values()} == {tmp_path / n for n in parts}
    for part in parts.values():
        cells = part.cells
        assert len(cells) == 27 and {cell.seed for cell in cells} == {0, 1, 2}
        assert len({cell.name for cell in cells}) == 27
    whole = request.profile.settings("preprocess")["sources"]
    taken = [source for part in parts.values() for source in part.profile.settings("preprocess")["sources"]]
    for split in ("train", "validation", None):
        assert sum(s["samples"] for s in whole if s.get("split") == split) == pytest.approx(
            sum(s["samples"] for s in taken if s.get("split") == split), abs=2
        )
    assert apart(Request("table2", target("table2"), request.profile, tmp_path))[""].out == tmp_path


def test_data_sets_of_one_kind_keep_apart(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    sources = "[{kind: tulu, asset: tulu-3, samples: 10}, {kind: tulu, asset: tulu-3, samples: 20}]"
    path.write_text(f"base: paper\nstages: {{preprocess: {{sources: {sources}}}}}\n", encoding="utf-8")
    parts = apart(Request("datasets", target("datasets"), load_profile(path), tmp_path))
    taken = {name: part.profile.settings("preprocess")["sources"] for name, part in parts.items()}
    assert {name: [s["samples"] for s in found] for name, found in taken.items()} == {
        "tulu": [10],
        "data2": [20],
    }
    path.write_text("base: pocket\nstages: {preprocess: {sources: [{kind: pocket}]}}\n", encoding="utf-8")
    with pytest.raises(KitError, match="samples"):
        apart(Request("datasets", target("datasets"), load_profile(path), tmp_path))


def test_students_and_sweeps_of_a_profile_that_the_kit_has_no_figures_of(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(
        "base: pocket\nstudents: {xl: pocket-1b}\n"
        "grid: {sweeps: {mine: {regime: kd, size: xl, alpha: [0.5]}}}\n",
        encoding="utf-8",
    )
    profile = load_profile(path)
    assert estimate(profile, cells_of(target("table2"), profile.own_grid)).seconds is None
    with pytest.raises(KitError, match="among its sweeps: mine"):
        cells_of(target("sweeps"), profile.own_grid)


def test_a_lower_limit_of_answers_takes_no_examples_away(tmp_path: Path) -> None:
    profile = load_profile("paper")
    path = write_shared(profile, cells_of(target("sweeps")), layout_for(profile, tmp_path))
    kept = {}
    for stage in yaml.safe_load(path.read_text())["stages"]:
        if stage["kind"] == "teacher_generate":
            config = parse(TeacherGenerateConfig, stage["command"][3:])
            kept[config.max_new_tokens, config.prompts] = config.filters.require_end
    assert kept == {(1024, 7000): True, (256, 7000): False, (512, 7000): False, (1024, 3500): True}


def test_the_prerun_is_measured_and_nobody_pays_for_it(tmp_path: Path) -> None:
    profile = load_profile("paper")
    cells = main_cells()
    document = yaml.safe_load(write_shared(profile, cells, layout_for(profile, tmp_path)).read_text())
    assert document["idle_baseline"] == {"before": "60s", "after": "60s"}
    assert (document["stages"][0]["name"], document["stages"][0]["kind"]) == ("prerun", "prerun")
    charged = {name for cell in cells for names in charged_stages(cell).values() for name in names}
    assert not charged & {"prerun", "idle_before", "idle_after"}


def test_one_cell_is_trained_again_with_everything_equal_and_not_evaluated(tmp_path: Path) -> None:
    profile = load_profile("pocket")
    request = Request("table2", target("table2"), profile, tmp_path)
    assert [cell.name for cell in request.again] == ["sft-1b-again1"]
    layout = layout_for(profile, tmp_path)
    paths = [write_cell(profile, cell, layout, 1) for cell in (request.cells[0], request.again[0])]
    first, again = (yaml.safe_load(path.read_text())["stages"] for path in paths)
    assert again == first[:1]
    assert not Request("sweeps", target("sweeps"), profile, tmp_path).again
