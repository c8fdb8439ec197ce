"""A folder is claimed stage by stage: changed settings of one do not make the others' products unusable."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from harness.audit.plan import load_plan
from harness.errors import KitError
from harness.experiments.grid import target
from harness.experiments.pipelines import SHARED, Layout, write_shared
from harness.experiments.profile import Profile, load_profile
from harness.experiments.reproduce import Request, claim


def request(profile: Profile, out: Path) -> Request:
    return Request("table2", target("table2"), profile, out)


def changed(profile: Profile, stage: str, **values: object) -> Profile:
    stages = {**profile.stages, stage: {**profile.stages[stage], **values}}
    return profile.model_copy(update={"stages": stages})


def test_another_evaluation_or_a_smaller_batch_is_told_and_taken(tmp_path: Path) -> None:
    paper = load_profile("paper")
    assert claim(request(paper, tmp_path)) == []
    other = changed(changed(paper, "evaluate", eval_batch=2), "teacher_generate", engine="transformers")
    assert claim(request(other, tmp_path)) == ["evaluate", "teacher_generate"]
    assert claim(request(other, tmp_path)) == []
    sizes = paper.model_copy(update={"students_train": {"13b": {"micro_batch": 2}}})
    assert claim(request(sizes, tmp_path)) == ["evaluate", "students_train", "teacher_generate"]


def test_the_cached_logits_keep_their_command(tmp_path: Path) -> None:
    """Whether a stage runs again is decided by its own command: that of the logits stays."""
    paper = load_profile("paper")
    assert paper.tokenizer is not None and paper.judge is not None
    names = [
        paper.teacher,
        paper.judge,
        paper.tokenizer,
        *paper.students.values(),
        "tulu-3",
        "openr1-math",
        "codeforces-cots",
    ]
    layout = Layout(tmp_path, {name: tmp_path / "assets" / name for name in names})
    for folder in layout.assets.values():
        folder.mkdir(parents=True)
    cells = request(paper, tmp_path).cells
    marks = []
    for profile in (paper, changed(paper, "teacher_generate", **{"vllm.max_num_seqs": 64})):
        plan = load_plan(write_shared(profile, cells, layout), run_dir=layout.run(SHARED))
        marks.append({stage.kind: stage.fingerprint for stage in plan.stages})
    assert marks[0]["teacher_logits"] == marks[1]["teacher_logits"]
    assert marks[0]["teacher_generate"] != marks[1]["teacher_generate"]


@pytest.mark.parametrize(
    "update", [{"teacher": "student-7b"}, {"chat_template": "tokenizer"}, {"period_ms": 100.0}]
)
def test_other_models_or_conditions_are_refused(update: dict[str, object], tmp_path: Path) -> None:
    paper = load_profile("paper")
    claim(request(paper, tmp_path))
    before = (tmp_path / "reproduction.json").read_bytes()
    with pytest.raises(KitError, match="other models or conditions"):
        claim(request(paper.model_copy(update=update), tmp_path))
    assert (tmp_path / "reproduction.json").read_bytes() == before
    (tmp_path / "reproduction.json").write_text(json.dumps([]))
    with pytest.raises(KitError, match="something else"):
        claim(request(paper, tmp_path))
