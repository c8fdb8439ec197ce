"""The kept teacher is the one its recipe says, and it is what its weights say."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from harness.distill import pocket_teacher
from harness.distill.pocket_teacher import FACTS, WEIGHTS, PocketTeacher, kept_facts, kept_root, place
from harness.errors import KitError
from harness.experiments.profile import load_profile
from harness.experiments.teacher import kept_teacher, recipe_digest, recipe_of, teacher_words
from harness.files import file_digest

POCKET = load_profile("pocket")


def test_recipe_and_artifact_agree() -> None:
    facts = kept_facts()
    assert facts["recipe"] == recipe_of(POCKET)
    assert facts["recipe_sha256"] == recipe_digest(recipe_of(POCKET))
    assert facts["weights_sha256"] == file_digest(kept_root() / WEIGHTS)
    assert (kept_root() / WEIGHTS).stat().st_size < 4 << 20
    training = facts["training"]
    assert training["process_cpu_s"] > 0
    for part in ("cpu_energy_j", "dram_energy_j"):
        assert training[f"{part}_low"] <= training[part] <= training[f"{part}_high"]
    assert {"where", "date", "run_id", "energy_method", "software"} <= set(training)


def test_another_recipe_is_trained_and_said() -> None:
    assert kept_teacher(POCKET) == kept_facts()
    words = teacher_words(POCKET)
    assert words is not None and "not trained here" in words and "estimated" in words
    settings = {**POCKET.stages, "teacher_train": {**POCKET.stages["teacher_train"], "seed": 1}}
    for other in ({"stages": settings}, {"kept_teacher": False}, {"teacher": "pocket-7b"}):
        profile = POCKET.model_copy(update=other)
        assert kept_teacher(profile) is None
        assert teacher_words(profile) == "The teacher is trained here, from scratch."
    assert teacher_words(load_profile("paper")) is None


def test_the_kept_teacher_is_placed_and_knows_its_tasks(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    from safetensors.torch import load_file
    from transformers import AutoModelForCausalLM

    from harness.distill.pocket_models import PocketModels, make

    (model,) = make(PocketModels(out=tmp_path / "models", names=[POCKET.teacher]))
    recipe = kept_facts()["recipe_sha256"]
    placed = place(PocketTeacher(out=tmp_path / "teacher", model=model, recipe=recipe))
    teacher, kept = AutoModelForCausalLM.from_pretrained(placed), load_file(kept_root() / WEIGHTS)
    weights = teacher.state_dict()
    assert {str(weight.dtype) for weight in weights.values()} == {"torch.float32"}
    assert all(torch.equal(weights[name], weight.float()) for name, weight in kept.items())
    untrained = AutoModelForCausalLM.from_pretrained(model).state_dict()
    assert not any(torch.equal(untrained[name], weights[name]) for name in kept)
    assert (placed / "tokenizer.json").read_bytes() == (model / "tokenizer.json").read_bytes()


def test_weights_or_recipe_of_another_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("torch")
    copy = tmp_path / "kept"
    shutil.copytree(kept_root(), copy)
    monkeypatch.setattr(pocket_teacher, "kept_root", lambda: copy)
    config = PocketTeacher(out=tmp_path / "out", model=tmp_path, recipe="0" * 64)
    with pytest.raises(KitError, match="recipe") as caught:
        place(config)
    assert "--train-teacher" in str(caught.value.fix)
    facts = json.loads((copy / FACTS).read_text())
    damaged = bytearray((copy / WEIGHTS).read_bytes())
    damaged[-1] ^= 1
    (copy / WEIGHTS).write_bytes(damaged)
    with pytest.raises(KitError, match="weights"):
        place(PocketTeacher(out=tmp_path / "out", model=tmp_path, recipe=facts["recipe_sha256"]))
    assert not (tmp_path / "out").exists()
