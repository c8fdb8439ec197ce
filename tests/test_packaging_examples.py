"""The example's scripts: right gradients, real learning, honest token counts, the same products each time."""

from __future__ import annotations

import hashlib
import importlib
import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import yaml

from harness.audit.plan import load_plan

ROOT = Path(__file__).resolve().parent.parent
SCRIPTS = ROOT / "examples" / "minimal"
CORPUS_SHA256 = "261b466a1d49f9a7b1673d14d607882113e0f4a5d55ffb2476761bb94c295d1e"


def run(script: str, events: Path, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, SCRIPTS / script, *arguments],
        capture_output=True,
        text=True,
        env=os.environ | {"KIT_EVENTS": str(events), "OPENBLAS_NUM_THREADS": "2"},
    )


def totals(events: Path) -> Counter[str]:
    """Token counts a stage reported, added up as the meter does."""
    sums: Counter[str] = Counter()
    for line in events.read_text().splitlines():
        sums.update({key: value for key, value in json.loads(line).items() if key.startswith("tokens_")})
    return sums


@pytest.fixture(scope="module")
def small_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The four stages at a hundredth of their size; <stage>.jsonl holds the events of each."""
    out = tmp_path_factory.mktemp("minimal")
    stages: dict[str, list[str | Path]] = {
        "corpus": ["--lines", "8000", "--out", out / "corpus.gz"],
        "preprocess": ["--corpus", out / "corpus.gz", "--out", out / "tokens.npz"],
        "train": ["--tokens", out / "tokens.npz", "--steps", "25", "--out", out / "model.npz"],
        "evaluate": [
            *("--tokens", out / "tokens.npz", "--model", out / "model.npz"),
            *("--requests", "5", "--rate", "500", "--out", out / "scores.json"),
        ],
    }
    for stage, arguments in stages.items():
        done = run(f"{stage}.py", out / f"{stage}.jsonl", *arguments)
        assert done.returncode == 0, done.stderr
    return out


def test_model_learns(small_run: Path) -> None:
    scores = json.loads((small_run / "scores.json").read_text())
    assert 1 < scores["perplexity"] < 0.4 * scores["unigram_perplexity"]


def test_token_counts_are_those_of_the_data(small_run: Path) -> None:
    with np.load(small_run / "tokens.npz") as data:
        tokens, vocabulary = data["tokens"], data["vocabulary"]
    assert totals(small_run / "preprocess.jsonl")["tokens_processed"] == (tokens > 0).sum()
    assert tokens.max() == len(vocabulary) - 1

    trained = totals(small_run / "train.jsonl")
    lines = 25 * 96
    assert trained["tokens_positions"] == lines * tokens.shape[1]
    assert trained["tokens_trained"] == trained["tokens_processed"] - lines

    held_out = tokens[:2000]
    assert totals(small_run / "evaluate.jsonl") == {
        "tokens_processed": (held_out > 0).sum(),
        "tokens_positions": held_out.size,
    }


def test_training_ends_with_a_checkpoint_event(small_run: Path) -> None:
    last = json.loads((small_run / "train.jsonl").read_text().splitlines()[-1])
    assert last["event"] == "checkpoint"
    assert last["step"] == 25


def test_corpus_is_the_same_on_every_machine(small_run: Path) -> None:
    import gzip

    text = gzip.decompress((small_run / "corpus.gz").read_bytes())
    assert hashlib.sha256(text).hexdigest() == CORPUS_SHA256


def test_untrained_model_fails_the_evaluation(small_run: Path, tmp_path: Path) -> None:
    with np.load(small_run / "model.npz") as saved:
        np.savez(tmp_path / "bad.npz", **{name: np.flip(saved[name]) for name in saved.files})
    done = run(
        "evaluate.py",
        tmp_path / "events",
        *("--tokens", small_run / "tokens.npz", "--model", tmp_path / "bad.npz"),
        *("--requests", "2", "--rate", "500", "--out", tmp_path / "scores.json"),
    )
    assert done.returncode == 1
    assert "learnt nothing" in done.stderr


@pytest.fixture
def training(monkeypatch: pytest.MonkeyPatch) -> tuple[ModuleType, ModuleType]:
    monkeypatch.syspath_prepend(str(SCRIPTS))
    for name in ("events", "model", "train"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    return importlib.import_module("train"), importlib.import_module("model")


def test_gradients_agree_with_finite_differences(training: tuple[ModuleType, ModuleType]) -> None:
    train, model = training
    rng = np.random.default_rng(0)
    params = {
        name: value.astype(np.float64) for name, value in model.initial(9, rng, width=3, hidden=5).items()
    }
    # The last positions are padding; token 3 comes twice, so that its embedding collects two gradients.
    lines = np.array([[3, 5, 3, 8, 1, 0, 0], [2, 2, 7, 4, 0, 0, 0]])
    loss, labels, grads = train.gradients(params, lines)
    assert labels == 4 + 3
    assert loss == pytest.approx(model.losses(params, lines).mean())
    for name, value in params.items():
        for index in np.ndindex(value.shape):
            kept, step = value[index], 1e-6
            value[index] = kept + step
            above = model.losses(params, lines).mean()
            value[index] = kept - step
            below = model.losses(params, lines).mean()
            value[index] = kept
            assert grads[name][index] == pytest.approx((above - below) / (2 * step), abs=1e-6), (name, index)


def test_pipeline_file_is_planned_as_written(tmp_path: Path) -> None:
    plan = load_plan(ROOT / "examples" / "minimal.yaml", run_dir=tmp_path)
    kinds = {stage.name: stage.kind for stage in plan.stages}
    assert kinds == {
        "corpus": "prerun",
        "preprocess": "preprocess",
        "train": "student_train",
        "evaluate": "evaluate",
    }
    assert {name for stage in plan.stages for made in stage.producers.values() for name in made} == {
        "corpus",
        "preprocess",
        "train",
    }


def test_pipeline_file_declares_what_the_stages_touch() -> None:
    pipeline = yaml.safe_load((ROOT / "examples" / "minimal.yaml").read_text())
    made: set[str] = set()
    for stage in pipeline["stages"]:
        command = stage["command"] if isinstance(stage["command"], str) else " ".join(stage["command"])
        assert (ROOT / "examples" / command.split()[1]).exists()
        assert all(path in command for path in stage["outputs"] + stage.get("inputs", []))
        assert {f"${{stages.{name}.out}}" for name in made} >= set(stage.get("inputs", []))
        made.add(stage["name"])
    assert len(pipeline["stages"]) >= 3
