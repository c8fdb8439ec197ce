"""The stage as a program: configuration, output folder, and going on after a kill to the same bits."""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import shutil
import signal
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from training_lab import SEQ_LEN, DenseTeacher, make_dataset, make_model, model_config

from harness.distill import arguments, student_train
from harness.distill.checkpoint import StateFolder, recover_folder, replace_folder
from harness.distill.student_train import StudentTrain, train
from harness.errors import KitError
from harness.models.dataset import TokenDataset

PER_RUN = ("tokens_per_s",)


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def lab(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("lab")
    make_dataset(folder / "set", train=24, validation=6)
    model_config().save_pretrained(folder / "config")
    make_model(4).save_pretrained(folder / "model")
    (folder / "model" / "tokenizer.json").write_text('{"version": "1.0"}')
    (folder / "model" / "chat_template.jinja").write_text("{{ messages }}")
    return folder


def settings(lab: Path, out: Path, **changes) -> StudentTrain:
    base = StudentTrain(
        model=lab / "model",
        dataset=lab / "set",
        out=out,
        lr=3e-3,
        warmup_steps=2,
        max_epochs=2,
        effective_batch=2,
        micro_batch=1,
        seq_len=SEQ_LEN,
        eval_every_steps=2,
        patience=0,
        threads=1,
        device="cpu",
    )
    return replace(base, **changes)


def curve(out: Path) -> list[dict]:
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if key not in PER_RUN} for line in lines]


def files(out: Path) -> dict[str, bytes]:
    kept = [out / "summary.json", *sorted((out / "checkpoint").iterdir())]
    return {path.name: path.read_bytes() for path in kept}


def in_child(work, *arguments) -> int | None:
    """Run in a forked process (torch is loaded already); its exit code, negative for a signal."""
    process = multiprocessing.get_context("fork").Process(target=work, args=arguments)
    process.start()
    process.join(60)
    return process.exitcode


def die_at_rename(config: StudentTrain, nth: int) -> None:
    """Train, and be killed before the nth time that a file or folder would get its final name."""
    count = 0

    def counting(original):
        def call(*args, **kwargs):
            nonlocal count
            count += 1
            if count == nth:
                os.kill(os.getpid(), signal.SIGKILL)
            return original(*args, **kwargs)

        return call

    Path.replace, Path.rename = counting(Path.replace), counting(Path.rename)
    train(config)


def test_output_folder(lab, tmp_path, monkeypatch):
    events = tmp_path / "events.jsonl"
    monkeypatch.setenv("KIT_EVENTS", str(events))
    config = settings(lab, tmp_path / "run")
    summary = train(config)
    out = config.out
    assert sorted(path.name for path in out.iterdir()) == [
        "checkpoint",
        "config.json",
        "metrics.jsonl",
        "summary.json",
    ]
    assert json.loads((out / "config.json").read_text())["lr"] == 3e-3
    assert json.loads((out / "summary.json").read_text()) == summary
    names = {path.name for path in (out / "checkpoint").iterdir()}
    assert {"config.json", "model.safetensors", "tokenizer.json", "chat_template.jinja"} <= names
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(out / "checkpoint")
    assert model.dtype == torch.bfloat16
    assert summary["stopped"] == "horizon" and summary["step"] == summary["total_steps"]
    assert summary["trained"] == int(TokenDataset.open(lab / "set", "train").label_counts.sum())
    kinds = {json.loads(line).get("event") for line in events.read_text().splitlines()}
    assert kinds == {None, "model_checked", "evaluation", "student_train"}
    before = files(out)
    assert train(config) == summary and files(out) == before  # complete: nothing is done again


def test_same_seed_same_bits_and_another_seed_another_run(lab, tmp_path):
    runs = [
        settings(lab, tmp_path / "a", init="scratch"),
        settings(lab, tmp_path / "b", init="scratch"),
        settings(lab, tmp_path / "c", init="scratch", seed=1),
    ]
    for config in runs:
        train(config)
    assert files(runs[0].out) == files(runs[1].out) and curve(runs[0].out) == curve(runs[1].out)
    assert curve(runs[0].out)[0]["loss"] != curve(runs[2].out)[0]["loss"]


def test_killed_at_every_rename_it_goes_on_bit_for_bit(lab, tmp_path):
    """Each attempt of one run comes one rename further: every place where a state, a checkpoint or a file
    becomes visible is hit.
    """
    changes = {"max_epochs": 1, "state_every_steps": 1}
    whole = settings(lab, tmp_path / "whole", **changes)
    train(whole)
    killed = settings(lab, tmp_path / "killed", **changes)
    deaths = 0
    while (code := in_child(die_at_rename, killed, deaths + 1)) != 0:
        assert code == -signal.SIGKILL
        deaths += 1
        assert deaths < 20
    assert deaths >= 4
    assert curve(killed.out) == curve(whole.out) and files(killed.out) == files(whole.out)
    assert not (killed.out / "state").exists()


def test_killed_at_random_moments_it_goes_on_bit_for_bit(lab, tmp_path):
    whole = settings(lab, tmp_path / "whole", max_epochs=4, rounding="master")
    start = time.monotonic()
    train(whole)
    length = time.monotonic() - start
    killed = settings(lab, tmp_path / "killed", max_epochs=4, rounding="master")
    chance, context = random.Random(7), multiprocessing.get_context("fork")
    deaths = 0
    for _ in range(4):
        process = context.Process(target=train, args=(killed,))
        process.start()
        process.join(chance.uniform(0.2, 0.8) * length)
        if process.exitcode is None:
            deaths += 1
            process.kill()
        process.join()
    assert in_child(train, killed) == 0 and deaths >= 1
    assert curve(killed.out) == curve(whole.out) and files(killed.out) == files(whole.out)


def test_tokens_of_lost_steps_are_processed_again_but_trained_once(lab, tmp_path, monkeypatch):
    """Killed with no state saved, everything is done again: unique label tokens are not counted again."""
    events = tmp_path / "events.jsonl"
    monkeypatch.setenv("KIT_EVENTS", str(events))
    config = settings(lab, tmp_path / "run", max_epochs=1, eval_every_steps=0, state_every_steps=-1)
    total = int(TokenDataset.open(lab / "set", "train").label_counts.sum())

    def stop_in_step_three(config: StudentTrain) -> None:
        from harness.distill.adafactor import Adafactor

        original, steps = Adafactor.step, []

        def step(self, closure=None):
            steps.append(1)
            if len(steps) == 3:
                os.kill(os.getpid(), signal.SIGKILL)
            return original(self, closure)

        Adafactor.step = step
        train(config)

    for _ in range(2):
        assert in_child(stop_in_step_three, config) == -signal.SIGKILL
    summary = train(config)
    lines = [json.loads(line) for line in events.read_text().splitlines()]
    assert sum(line.get("tokens_trained", 0) for line in lines) == total == summary["trained"]
    assert sum(line.get("tokens_processed", 0) for line in lines) > summary["processed"]
    resumed = [line for line in lines if line.get("event") == "resumed"]
    assert [(line["step"], line["lost_steps"]) for line in resumed] == [(0, 2), (0, 2)]


def test_kd_through_the_stage(lab, tmp_path, monkeypatch):
    """The stage opens the cache for its data set, and the rows reach the loss."""
    from harness.distill import logit_cache

    split = TokenDataset.open(lab / "set", "train")
    asked = {}

    class Reader(DenseTeacher):
        @classmethod
        def open(cls, directory, *, dataset_meta, split):
            asked.update(directory=directory, meta=dataset_meta, split=split)
            return cls(TokenDataset.open(lab / "set", "train"))

        def check_temperature(self, temperature, tail):
            asked.update(temperature=temperature, tail=tail)

        def check_kept_mass(self, temperature, least):
            asked.update(least=least)

    monkeypatch.setattr(logit_cache, "CacheReader", Reader)
    fingerprint = tmp_path / "cache" / "fingerprint.json"
    fingerprint.parent.mkdir()
    fingerprint.write_text('{"teacher": "one"}')
    config = settings(
        lab,
        tmp_path / "kd",
        regime="kd",
        cache=tmp_path / "cache",
        temperature=2.0,
        alpha=0.3,
        min_kept_mass=0.2,
    )
    summary = train(config)
    assert asked["meta"] == split.meta and asked["split"] == "train" and asked["temperature"] == 2.0
    assert asked["least"] == 0.2
    assert summary["alpha"] == 0.3 and summary["tail"] == "bucket"
    first = curve(config.out)[0]
    assert first["loss"] == pytest.approx(0.3 * first["ce"] + 0.7 * 4 * first["kl"])
    assert train(config) == summary
    fingerprint.write_text('{"teacher": "another"}')
    with pytest.raises(KitError, match=r"other settings: cache_content .* there, .* here"):
        train(config)


def test_refusals(lab, tmp_path):
    with pytest.raises(KitError, match="kd needs a logit cache"):
        settings(lab, tmp_path, regime="kd")
    with pytest.raises(KitError, match="sft has no teacher"):
        settings(lab, tmp_path, cache=tmp_path)
    with pytest.raises(KitError, match=r"out of range: alpha=1.5, patience=-1"):
        settings(lab, tmp_path, alpha=1.5, patience=-1)
    with pytest.raises(KitError, match=r"out of range: eval_batch=0, clip_norm=-1.0"):
        settings(lab, tmp_path, eval_batch=0, clip_norm=-1.0)
    with pytest.raises(KitError, match="no model that can be loaded"):
        train(settings(lab, tmp_path / "x", model=lab / "config"))  # never from scratch unasked
    with pytest.raises(KitError, match="no data set"):
        train(settings(lab, tmp_path / "y", dataset=lab / "model"))
    first = settings(lab, tmp_path / "z", max_steps=1)
    train(first)
    with pytest.raises(KitError, match=r"other settings: lr 0.003 there, 0.1 here"):
        train(replace(first, lr=0.1))


def test_a_data_set_made_again_is_not_taken_for_the_one_trained_on(lab, tmp_path):
    data, out = tmp_path / "data", tmp_path / "out"
    shutil.copytree(settings(lab, out).dataset, data)
    config = settings(lab, out, dataset=data, max_steps=1)
    done = train(config)
    assert train(config) == done
    meta = json.loads((data / "meta.json").read_text())
    (data / "meta.json").write_text(json.dumps({**meta, "content_digest": "f" * 64}))
    with pytest.raises(KitError, match=r"dataset_content .* there, ffff.* here"):
        train(config)


def test_command_line(lab, tmp_path, capsys):
    config = tmp_path / "student.yaml"
    config.write_text(f"model: {lab / 'model'}\ndataset: {lab / 'set'}\nlr: 5e-5\nseq_len: {SEQ_LEN}\n")
    flags = ["--out", str(tmp_path / "out"), "--max-steps=2", "--threads", "1", "--device", "cpu"]
    parsed = arguments.parse(StudentTrain, ["--config", str(config), *flags])
    assert parsed.lr == 5e-5 and parsed.max_steps == 2 and parsed.out == tmp_path / "out"
    assert arguments.run_stage(StudentTrain, train, ["--config", str(config), *flags]) == 0
    assert (tmp_path / "out" / "checkpoint" / "model.safetensors").exists()
    assert (
        arguments.run_stage(StudentTrain, train, ["--config", str(config), *flags, "--learning-rate", "1"])
        == 2
    )
    assert "unknown field" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        arguments.parse(StudentTrain, ["--help"])
    text = capsys.readouterr().out
    assert "--rounding (nearest | stochastic | master, default stochastic)" in text
    assert student_train.main.__doc__


def test_folders_are_replaced_whole(tmp_path):
    folder = tmp_path / "model"
    replace_folder(folder, lambda new: (new / "a").write_text("1"))
    replace_folder(folder, lambda new: (new / "b").write_text("2"))
    assert [path.name for path in folder.iterdir()] == ["b"]
    folder.rename(tmp_path / ".model.old")  # killed between the two renames
    recover_folder(folder)
    assert (folder / "b").read_text() == "2"

    def fail(new: Path) -> None:
        (new / "c").write_text("3")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        replace_folder(folder, fail)
    assert [path.name for path in folder.iterdir()] == ["b"]


def test_a_damaged_state_says_so(tmp_path):
    folder = StateFolder(tmp_path / "state")
    assert folder.load() is None
    (tmp_path / "state").mkdir()
    (tmp_path / "state" / "latest.json").write_text('{"folder": "step-1"}')
    with pytest.raises(KitError, match="training state cannot be read"):
        folder.load()
