"""`kit evaluate`: a plan, a metered run with a row for each benchmark, a second call that asks nothing."""

from __future__ import annotations

import json
import math
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from harness.accounting.quality import Z95
from harness.bundle import Bundle
from harness.cli.main import main
from harness.errors import KitError
from harness.evaluation import judge
from harness.evaluation.evaluate import Asked
from harness.evaluation.items import load
from harness.evaluation.judging import load_judge, prompts_digest
from harness.evaluation.loadable import check_judge
from harness.evaluation.planned import Speed, plan, speed_of
from harness.evaluation.suites import read_suite, suite_file, suite_named
from harness.models.generation import TokenWork
from harness.validate import validate
from tests.distill import generation_lab as lab
from tests.distill import pocket_fixtures

torch.set_num_threads(1)
SUITE = suite_named("distill-5-pocket")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return lab.save_teacher(tmp_path_factory.mktemp("model"), end_bias=6.0)


def test_a_folder_without_a_model_is_named(tmp_path: Path) -> None:
    with pytest.raises(KitError, match="no model: config"):
        speed_of(tmp_path, "float32", None, 1)


def test_a_run_is_a_log_with_a_row_for_each_benchmark(
    model: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    words = ["evaluate", str(model), "--suite", "distill-5-pocket", "--judge", str(model), "--limit", "3"]
    words += ["--device", "cpu", "--threads", "1", "--cpu", "none", "--out", str(out)]
    # Nothing is measured on purpose: the scores and the rows are what this is about.
    assert main(words) == 0
    told = capfd.readouterr().out
    assert f"suite {SUITE.id} first 3, pocket" in told and "judged by pocket-teacher@" in told
    assert "pocket_pairs win_rate:" in told and "pocket_arithmetic exact_match (flexible-extract):" in told
    # One meaning of ± in the summary, said once.
    assert told.count("± is half a 95 % interval") == 1
    results = json.loads((out / "work/judged/results.json").read_text())
    (row,) = (row for row in results["benchmarks"] if row["name"] == "pocket_pairs")
    (half,) = re.findall(r"pocket_pairs win_rate: \S+ % ± (\S+),", told)
    assert row["stderr"] > 0 and math.isclose(float(half), Z95 * row["stderr"], rel_tol=0.05)
    bundle = Bundle.open(out)
    rows = {row["stage_uid"]: row for row in bundle.table("stages").to_pylist()}
    tree = [
        (row["stage"], row["name"], rows[row["parent_uid"]]["name"])
        for row in rows.values()
        if row["parent_uid"] is not None
    ]
    names = [benchmark.name for benchmark in SUITE.benchmarks]
    assert tree == [
        *(("evaluate", name, "evaluate") for name in names),
        *(("judge", name, "judge") for name in names[3:]),
    ]
    parts = [row for row in rows.values() if row["parent_uid"] is not None]
    assert all(row["tokens_processed"] for row in parts)
    whole = next(row for row in rows.values() if row["name"] == "evaluate" and row["parent_uid"] is None)
    mine = [row for row in parts if row["parent_uid"] == whole["stage_uid"]]
    assert sum(row["tokens_processed"] for row in mine) == whole["tokens_processed"]
    evals = bundle.table("evals").to_pylist()
    judge = next(row for row in rows.values() if row["name"] == "judge" and row["parent_uid"] is None)
    judged = {row["benchmark"]: row["judge_stage_uid"] for row in evals if row["judge_id"]}
    assert judged == dict.fromkeys(names[3:], judge["stage_uid"])
    groups = {row["group"] for row in bundle.table("eval_items").to_pylist()}
    assert groups == {None, "instructions", "arithmetic", "programs"}
    assert not [f for f in validate(out).findings if f.severity == "error"]

    # Complete: the same call asks nothing and says the same.
    before = (out / "manifest.json").read_bytes()
    assert main(words) == 0
    assert capfd.readouterr().out.splitlines()[-4:] == told.splitlines()[-4:]
    assert (out / "manifest.json").read_bytes() == before


def test_a_dry_run_plans_and_asks_nothing(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    words = ["evaluate", str(model), "--suite", "distill-5-pocket", "--device", "cpu", "--dry-run"]
    assert main(words) == 0
    told = capsys.readouterr().out
    assert told.count("evaluate pocket_") == 5 and "judge pocket_" not in told
    assert (
        "0.33 kWh (1b) and 1.08 kWh (13b) a student" in told and "without --judge nothing is judged" in told
    )
    assert main([*words, "--judge", str(model), "--benchmarks", "pocket_pairs"]) == 0
    told = capsys.readouterr().out
    assert "judge pocket_pairs: 36 items" in told and "pocket_choices" not in told
    assert list(tmp_path.iterdir()) == []
    assert main([*words[:2], "--suite", "distill-5", "--dry-run"]) == 2
    assert "is a draft" in capsys.readouterr().err


def _cut(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-8])


def _lose_a_shard(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    lab.tiny_model().save_pretrained(folder, max_shard_size="60KB")
    sorted(folder.glob("model-*.safetensors"))[1].unlink()


def _widen(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"intermediate_size": 80}))


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda folder: (folder / "model.safetensors").unlink(), "holds no weights"),
        (
            lambda folder: (folder / "model.safetensors").rename(folder / "a.safetensors"),
            "no file named model",
        ),
        (_lose_a_shard, "No such file"),
        (_cut, "not fully covered"),
        (_widen, "no model that can be loaded"),
        (lambda folder: (folder / "config.json").unlink(), "config.json"),
        (lambda folder: (folder / "config.json").write_text('{"model_type": "t5"}'), "no model that can be"),
        (lambda folder: (folder / "tokenizer.json").unlink(), "no tokenizer that can be read"),
        (lambda folder: (folder / "chat_template.jinja").unlink(), "no chat template"),
    ],
    ids=["none", "misnamed", "shard", "cut", "shape", "config", "kind", "tokenizer", "template"],
)
def test_a_dry_run_refuses_a_folder_that_would_not_load(
    model: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    spoil: Callable[[Path], object],
    said: str,
) -> None:
    spoilt = tmp_path / "spoilt"
    shutil.copytree(model, spoilt)
    spoil(spoilt)
    common = ["--suite", "distill-5-pocket", "--device", "cpu"]
    judged = ["evaluate", str(model), *common, "--judge", str(spoilt), "--out", str(tmp_path / "out")]
    for words in (
        ["evaluate", str(spoilt), *common, "--dry-run"],
        [*judged, "--dry-run"],
        judged,  # and so does a run, before it answers anything
    ):
        assert main(words) == 2
        told = capsys.readouterr()
        assert said in told.err and str(spoilt) in told.err and told.out == ""
        assert not (tmp_path / "out").exists()
    # The stage itself refuses it too.
    assert SUITE.judge is not None
    with pytest.raises(KitError):
        load_judge(SUITE.judge, spoilt, batch_size=1, device="cpu", work=TokenWork(), cache=None)


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("chat_template.jinja", "{% if %}", "its chat template fails"),
        ("config.json", "[]", "no model that can be loaded"),
        ("config.json", '{"model_type": "llama", "hidden_size": "x"}', "no model that can be loaded"),
    ],
)
def test_whatever_stands_in_a_strangers_folder_is_no_fault_of_the_kit(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, text: str, said: str
) -> None:
    spoilt = tmp_path / "spoilt"
    shutil.copytree(model, spoilt)
    (spoilt / name).write_text(text)
    assert main(["evaluate", str(spoilt), "--suite", "distill-5-pocket", "--device", "cpu", "--dry-run"]) == 2
    assert said in capsys.readouterr().err


def test_a_dry_run_refuses_a_judge_that_cannot_name_answers(
    model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = read_suite(suite_file("distill-5-mini")).judge
    assert spec is not None
    check_judge(model, spec)  # whether it is the suite's own is not looked at
    monkeypatch.setattr(judge, "LABELS", ("m", "not one token"))
    with pytest.raises(KitError, match="the judge's prompts are"):
        check_judge(model, spec)
    with pytest.raises(KitError, match="cannot name answers"):
        check_judge(model, spec.model_copy(update={"template_sha256": prompts_digest()}))


def test_a_dry_run_looks_at_the_teachers_scores_and_at_a_judge_elsewhere(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["evaluate", str(model), "--suite", "distill-5-pocket", "--device", "cpu", "--dry-run"]
    teacher = tmp_path / "results.json"
    teacher.write_text("{}")
    assert main([*words, "--teacher", str(teacher)]) == 2
    assert "holds no results" in capsys.readouterr().err
    for suite, no_q in ((SUITE.id, 0), ("other@1", 1)):
        teacher.write_text(json.dumps({"format": "results/2", "suite": suite}))
        assert main([*words, "--teacher", str(teacher)]) == 0
        assert capsys.readouterr().out.count("--teacher has scores of suite other@1") == no_q
    # The pocket judge is not asked in words, so no endpoint can stand in for it.
    assert main([*words, "--judge-url", "http://localhost:9/v1", "--judge-model", "big"]) == 2
    assert "is no judge that is asked in words" in capsys.readouterr().err
    assert main([*words, "--judge-check"]) == 2
    assert "it has no --dry-run" in capsys.readouterr().err


def test_a_plan_counts_with_the_models_tokenizer() -> None:
    tokenizer = pocket_fixtures.tokenizer()
    speed = Speed(parameters=1000, flops=1e6, step_s=0.5, watts=10.0, words="")
    asked = [
        Asked(benchmark, load(benchmark.data, None, benchmark.name)[:4], []) for benchmark in SUITE.benchmarks
    ]
    rows = {(row.stage, row.name): row for row in plan(asked, tokenizer, speed, speed, 8, batch_size=2)}
    row = rows["evaluate", "pocket_instructions"]
    texts = [item.content["prompt"] for item in asked[2].items]
    tokens = sum(len(tokenizer.encode(text, add_special_tokens=False)) for text in texts)
    assert (row.items, row.answers, row.prompt_tokens, row.generated_tokens) == (4, 4, tokens, 4 * 32)
    assert row.seconds == pytest.approx(2 * 1000 * tokens / 1e6 + 4 * 32 / 2 * 0.5)
    assert row.joules == pytest.approx(10.0 * row.seconds)
    # Likelihoods say nothing; a dialogue is asked turn by turn, and its judge rates every reply.
    assert rows["evaluate", "pocket_choices"].generated_tokens == 0
    turns = rows["evaluate", "pocket_dialogues"].answers
    assert turns == rows["judge", "pocket_dialogues"].answers > 4
    assert rows["judge", "pocket_dialogues"].generated_tokens == 8 * turns
    assert ("judge", "pocket_choices") not in rows


def test_repeats_are_runs_of_their_own(
    model: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    words = ["evaluate", str(model), "--suite", "distill-5-pocket", "--benchmarks", "pocket_choices"]
    words += ["--limit", "3", "--device", "cpu", "--threads", "1", "--cpu", "none", "--out", str(out)]
    assert main([*words, "--repeats", "2"]) == 0
    assert "2 repeats: mean" in capfd.readouterr().out
    scores = [
        json.loads((out / f"repeat-{n}" / "work/scores/results.json").read_text())["benchmarks"]
        for n in (1, 2)
    ]
    assert scores[0] == scores[1]  # greedy, on one machine, in the same batches
    assert len({Bundle.open(out / f"repeat-{n}").manifest["run_id"] for n in (1, 2)}) == 2
