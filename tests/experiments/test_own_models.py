"""Models and data of one's own: the files of docs/own_models.md, with tiny models in their places."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from harness.cli.main import main
from harness.errors import KitError
from harness.experiments.own_models import own_folder, own_names, revision_of
from harness.experiments.profile import load_profile
from harness.fetch.lockfile import load_lock
from harness.preflight.plan import make_plan

pytest.importorskip("torch")
pytest.importorskip("transformers")

from click.testing import CliRunner

from harness.bundle import Bundle
from harness.cli.artifacts import cmd as artifacts_cmd
from harness.cli.preflight import outlook_of
from harness.distill import pocket_tasks
from harness.distill.pocket_models import new_model
from harness.distill.pocket_teacher import kept_root
from harness.planning.cards import named_card
from tests.distill import pocket_fixtures

ROOT = Path(__file__).resolve().parents[2]
POSITIONS = 6000
BLOCKS = re.findall(r"```yaml\n(.*?)```", (ROOT / "docs/own_models.md").read_text(encoding="utf-8"), re.S)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the documented file names: two models with tokenizers, and conversations."""
    folder = tmp_path_factory.mktemp("own")
    for name, model in (("teacher", "pocket-32b"), ("student", "pocket-1b")):
        new_model(model, seed=0).save_pretrained(folder / "models" / name)
        pocket_fixtures.save(folder / "models" / name)
    shutil.copy(kept_root() / "model.safetensors", folder / "models/teacher/model.safetensors")
    rows = [e for family in pocket_tasks.FAMILIES for e in pocket_tasks.examples(family, "train", 60, 0)]
    lines = [json.dumps({"messages": row["messages"]}) for row in rows]
    (folder / "chats.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder


def written(place: Path, text: str, name: str = "mine.yaml") -> Path:
    path = place / name
    path.write_text(text, encoding="utf-8")
    return path


def test_data_of_the_synthetic_set_are_looked_for_too(tmp_path: Path) -> None:
    path = written(
        tmp_path,
        "base: paper\nstages: {preprocess_synthetic: {sources: [{kind: hub, asset: own/data}]}}\n",
    )
    assert own_names(load_profile(path), load_lock().assets) == {"own/data": "dataset"}


@pytest.mark.parametrize("text", BLOCKS, ids=["gpu", "cpu"])
def test_the_documented_files_are_planned(
    text: str, place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = written(place, text)
    assert main(["reproduce", "table2", "--profile", str(path), "--dry-run", "--out", str(tmp_path)]) == 0
    told = capsys.readouterr()
    lines = told.out.splitlines()
    assert "preprocess, teacher-logits, teacher-generate-" in lines[0]
    assert ("prerun" in lines[0]) is ("prerun_idle_s: 0" not in text)
    named = [f"{name}-small: student_train, evaluate" for name in ("sft", "kd", "synthetic-sft")]
    again = ["sft-small-again1: student_train"] if "again: 1" in text else []
    assert lines[1:] == named + again
    assert "estimate: not known" in told.err
    problems = [f for f in outlook_of(str(path), "table2", tmp_path).findings if f.status == "problem"]
    assert not problems
    outlook = outlook_of(str(path), "table2", tmp_path)
    assert {stage.model.folder for stage in outlook.of("teacher_logits")} == {place / "models/teacher"}
    assert {stage.model.folder for stage in outlook.of("student_train")} == {place / "models/student"}
    (source,) = outlook.of("preprocess")[0].config.sources
    assert (source.kind, source.path) == ("examples", place / "chats.jsonl")


@pytest.fixture(scope="module")
def ran(place: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The documented file, run to its end with a smaller budget."""
    out = tmp_path_factory.mktemp("ran") / "out"
    path = written(place, BLOCKS[1].replace("positions: 20000", f"positions: {POSITIONS}"))
    words = ["reproduce", "table2", "--profile", str(path), "--out", str(out)]
    assert main(words) == 2  # nobody knows how long, and nobody is there to ask
    assert not (out / "runs").exists()
    assert main([*words, "--yes"]) == 0
    return out


def test_the_documented_file_runs_to_its_table(ran: Path) -> None:
    out = ran
    table = json.loads((out / "tables/table2.json").read_text(encoding="utf-8"))
    cells = {cell["regime"]: cell for cell in table["cells"]}
    assert set(cells) == {"sft", "kd", "synthetic_sft"} and table["labels"] == ["own-models"]
    meta = json.loads((out / "runs/shared/work/dataset/meta.json").read_text(encoding="utf-8"))
    for cell in cells.values():
        assert cell["quality"] is None and 0 < cell["heldout_loss"] < 7 and cell["energy_j"] > 0
        assert 0 < cell["training"]["positions"] <= POSITIONS
        assert cell["reference_tokens"] == meta["label_tokens"]["train"]
        assert {remark["why"] for remark in cell["comparable"]} == {"models or data are not the paper's"}
    spread = table["run_spread"]
    assert spread["cell"] == "sft-small" and len(spread["energies_j"]) == 2 and spread["relative"] >= 0
    declared = json.loads((out / "runs/kd-small/manifest.json").read_text(encoding="utf-8"))["pipeline"][
        "vars"
    ]
    assert declared["deviation_01"] == table["deviations"][0]
    rows = Bundle.open(out / "runs/shared").table("stages", ["name", "status"]).to_pylist()
    assert {"teacher-logits", "evaluate-teacher"} <= {r["name"] for r in rows if r["status"] == "completed"}


def artifacts(path: Path, *folders: Path) -> dict[str, dict[str, Any]]:
    runner = CliRunner()
    words = [word for folder in folders for word in ("--in", str(folder))]
    told = runner.invoke(artifacts_cmd, ["find", str(path), *words, "--json"])
    found = {row["stage"]: row for row in json.loads(told.output)}
    assert told.exit_code == (0 if all(row["fits"] for row in found.values()) else 1)
    return found


def test_what_another_folder_holds_is_found_by_its_content(ran: Path, place: Path, tmp_path: Path) -> None:
    mine = written(place, BLOCKS[1])
    moved = tmp_path / "elsewhere" / "shared"
    shutil.copytree(ran / "runs/shared", moved)
    found = artifacts(mine, tmp_path)
    assert {row["what"] for row in found.values()} == {"data set", "logit cache", "synthetic set"}
    assert all(row["fits"] and row["paid_j"] > 0 for row in found.values())
    assert found["teacher-logits"]["path"] == str(moved / "work/logits")
    other = BLOCKS[1].replace("seq_len: 128, validation", "seq_len: 120, validation")
    found = artifacts(written(place, other, "other.yaml"), tmp_path)
    assert not any(row["fits"] for row in found.values())
    assert "seq_len 128, wanted 120" in found["preprocess"]["differs"]
    hotter = BLOCKS[1].replace("batch_size: 20,", "batch_size: 20, temperature: 0.13,")
    found = artifacts(written(place, hotter, "hotter.yaml"), tmp_path)
    (generated,) = [row for name, row in found.items() if name.startswith("teacher-generate")]
    assert generated["differs"] == ["temperature 0.7, wanted 0.13"] and found["teacher-logits"]["fits"]
    shard = next((moved / "work/logits").glob("shard-*"))
    shard.unlink()
    assert not artifacts(mine, tmp_path)["teacher-logits"]["fits"]


def test_one_key_on_the_paper_changes_that_key_alone(tmp_path: Path) -> None:
    path = written(tmp_path, "base: paper\nstages: {student_train: {lr: 1.0e-5}}\n")
    mine, paper = load_profile(path), load_profile("paper")
    assert mine.settings("student_train") == {**paper.settings("student_train"), "lr": 1.0e-5}
    same = {"name": "", "stages": {}}
    assert mine.model_copy(update=same) == paper.model_copy(update=same)
    assert not mine.own and mine.comparable


def test_what_belongs_to_other_models_or_data_goes(place: Path) -> None:
    path = written(place, "base: paper\nstudents: {small: models/student, 1b: student-1b}\n")
    students = load_profile(path)
    assert students.own and not students.comparable and students.estimate is None and students.amounts is None
    assert students.students == {"small": str(place / "models/student"), "1b": "student-1b"}
    assert students.tokenizer == "tokenizer" and students.reference_tokens == 30_000_000
    taught = load_profile(written(place, "base: paper\nteacher: models/teacher\n"))
    assert (taught.tokenizer, taught.judge, taught.chat_template) == (None, None, "tokenizer")
    data = load_profile(written(place, "base: paper\ndata: [{path: chats.jsonl, samples: 5}]\n"))
    assert data.reference_tokens is None and data.teacher == "teacher-32b"
    assert data.settings("preprocess")["seq_len"] == 1024


def test_a_plan_counts_own_data_and_refuses_what_it_cannot_count(place: Path, tmp_path: Path) -> None:
    amounts: dict[str, Any] = {
        name: load_profile("paper").model_dump()["amounts"][name] for name in ("steps", "evaluate_items")
    }
    amounts |= {name: [100, 100, 100] for name in ("tokens_per_example", "answer_tokens", "prompt_tokens")}
    amounts["label_share"] = [0.5, 0.5, 0.5]
    text = BLOCKS[0] + f"amounts: {json.dumps(amounts)}\n"
    with pytest.raises(KitError, match="no number of conversations"):
        make_plan(outlook_of(str(written(place, text)), "table2", tmp_path), named_card("h100-sxm"))
    text = text.replace("data: chats.jsonl", "data: [{path: chats.jsonl, samples: 180}]")
    plan = make_plan(outlook_of(str(written(place, text)), "table2", tmp_path), named_card("h100-sxm"))
    (first,) = [stage for stage in plan.stages if stage.where == "preprocess"]
    assert "180 conversations" in first.reasons[0]


def test_a_repository_of_the_hub_is_found_in_its_cache(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    commit = "ab" * 20
    repository = tmp_path / "hub" / "models--someone--small-model"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs/main").write_text(commit)
    shutil.copytree(place / "models/student", repository / "snapshots" / commit)
    found = own_folder("someone/small-model", "model")
    assert found is not None and revision_of(found) == commit
    assert own_folder("someone/else", "model") is None
    path = written(place, BLOCKS[0].replace("models/student", "someone/small-model"))
    outlook = outlook_of(str(path), "table2", tmp_path)
    assert {stage.model.folder for stage in outlook.of("student_train")} == {found}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (("models/teacher", "./nowhere"), "nowhere"),
        (("models/student", "someone/else"), "someone/else"),
        (("small:", "Big One:"), "Big One"),
        (("data: chats.jsonl", "data: 7"), "JSON lines"),
        (("{small: models/student}", "{}"), "no student"),
    ],
)
def test_what_is_not_there_is_said(
    change: tuple[str, str], said: str, place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = written(place, BLOCKS[1].replace(*change))
    code = main(["reproduce", "table2", "--profile", str(path), "--yes", "--out", str(tmp_path / "out")])
    told = capsys.readouterr()
    assert code and said in told.out + told.err and "Traceback" not in told.err
    assert not (tmp_path / "out" / "runs").exists()
