"""Stage teacher_generate: what it writes and counts, whose prompts it asks, that a kill leaves no trace."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
import yaml

from harness.distill import teacher_generate as stage
from harness.distill.arguments import plain
from harness.distill.filters import FilterConfig
from harness.distill.pocket_tasks import FAMILIES, examples
from harness.distill.preprocess import PreprocessConfig, preprocess
from harness.distill.serve import ServeConfig
from harness.distill.serve import run as serve
from harness.distill.sources import SourceConfig
from harness.distill.teacher_generate import TeacherGenerateConfig, run
from harness.errors import KitError
from harness.models.dataset import TokenDataset
from harness.models.generation import Generation, TokenSampling
from tests.distill import generation_lab as lab

torch.set_num_threads(1)
FILES = ("config.json", "examples.jsonl", "meta.json", "synthetic.parquet")
CAP = 24


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return lab.save_teacher(tmp_path_factory.mktemp("teacher"), end_bias=6.0)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory, teacher: Path) -> Path:
    return lab.save_dataset(tmp_path_factory.mktemp("data"), teacher)


@pytest.fixture
def config(tmp_path: Path, teacher: Path, data: Path) -> TeacherGenerateConfig:
    return TeacherGenerateConfig(
        teacher=teacher,
        dataset=data,
        out=tmp_path / "out",
        prompts=30,
        max_new_tokens=CAP,
        batch_size=4,
        journal_every=8,
        engine="transformers",
        dtype="float32",
        device="cpu",
        threads=1,
    )


def contents(out: Path, without: str = "config.json") -> dict[str, bytes]:
    return {name: (out / name).read_bytes() for name in FILES if name != without}


def table(out: Path) -> list[dict[str, Any]]:
    rows = pq.read_table(out / "synthetic.parquet").to_pylist()
    assert isinstance(rows, list)
    return rows


def test_the_set_says_where_every_answer_came_from_and_went(
    config: TeacherGenerateConfig, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    events = tmp_path / "events.jsonl"
    monkeypatch.setenv("KIT_EVENTS", str(events))
    meta = run(config)
    assert sorted(path.name for path in config.out.iterdir()) == sorted(FILES)

    train = TokenDataset.open(config.dataset, "train")
    held_out = {example.id for example in TokenDataset.open(config.dataset, "validation")}
    source = {e["id"]: e for family in FAMILIES for e in examples(family, "train", 20, 1)}
    by_id = {example.id: example for example in train}
    rows = table(config.out)
    assert len(rows) == len({row["id"] for row in rows}) == 30 and not {r["id"] for r in rows} & held_out
    assert len({row["task"] for row in rows}) == 3
    for row in rows:
        example = by_id[row["id"]]
        first = int(example.label_mask.argmax())
        assert json.loads(row["prompt"]) == source[row["id"]]["messages"][:1]
        assert row["prompt_tokens"] == first
        assert row["n_tokens"] == len(row["token_ids"]) <= CAP
        assert (row["finish_reason"] == "stop") == (row["token_ids"][-1] == 0)
        assert row["kept"] == (row["drop_reason"] is None)
        single = len(source[row["id"]]["messages"]) == 2
        assert row["answer"] == (source[row["id"]]["answer"] if single else None)
    dropped = [row["drop_reason"] for row in rows if not row["kept"]]
    assert meta["dropped"] == {reason: dropped.count(reason) for reason in sorted(set(dropped))}
    assert "no_end" in meta["dropped"] and meta["kept"] == 30 - len(dropped) > 0

    kept = [json.loads(line) for line in (config.out / "examples.jsonl").read_text().splitlines()]
    assert [example["id"] for example in kept] == [row["id"] for row in rows if row["kept"]]
    for example, row in zip(kept, (row for row in rows if row["kept"]), strict=True):
        assert example["messages"][-1] == {"role": "assistant", "content": row["response"]}
    footer = json.loads(
        pq.read_schema(config.out / "synthetic.parquet").metadata[b"distill_energy.provenance"]
    )
    assert footer["teacher"] == meta["teacher"] and footer["sampling"]["top_p"] == 0.9
    assert footer["data"]["content_digest"] == train.meta["content_digest"]
    assert footer["made_with"]["engine"] == "transformers"

    counts = lab.reported(events)
    generated = sum(row["n_tokens"] for row in rows)
    assert counts["tokens_generated"] == generated == meta["generated_tokens"] <= CAP * 30
    assert counts["tokens_processed"] == sum(row["prompt_tokens"] + row["n_tokens"] - 1 for row in rows)
    assert counts["tokens_positions"] > counts["tokens_processed"] and "tokens_trained" not in counts

    # Whole: run again it does nothing. Other settings never overwrite it.
    before = contents(config.out)
    assert run(config) == meta and contents(config.out) == before
    assert lab.reported(events) == counts
    with pytest.raises(KitError, match=r"sampling.top_p: 0.9 there, 0.5 here"):
        run(dataclasses.replace(config, top_p=0.5))


def test_the_kept_answers_are_a_source_for_preprocess(config: TeacherGenerateConfig, tmp_path: Path) -> None:
    meta = run(config)
    made = preprocess(
        PreprocessConfig(
            out=tmp_path / "again",
            tokenizer=config.teacher,
            sources=[SourceConfig("examples", config.out / "examples.jsonl", split="train")],
            seq_len=256,
        )
    )
    assert made["examples"]["train"] == meta["kept"] and made["dropped"] == {}
    dataset, rows = TokenDataset.open(tmp_path / "again", "train"), table(config.out)
    kept = {row["id"]: row for row in rows if row["kept"]}
    original = {example.id: example for example in TokenDataset.open(config.dataset, "train")}
    for example in dataset:
        first = int(example.label_mask.argmax())
        # What the student is given is what the teacher was given, to the token.
        source = original[example.id]
        assert (
            example.input_ids[:first].tolist() == source.input_ids[: int(source.label_mask.argmax())].tolist()
        )
        text = kept[example.id]["response"] + "<|endoftext|>"
        assert lab.encoder().tokenizer.decode(example.input_ids[first:].tolist()) == text


def test_fewer_prompts_are_the_first_of_more(config: TeacherGenerateConfig, tmp_path: Path) -> None:
    run(config)
    few = dataclasses.replace(config, prompts=11, out=tmp_path / "few")
    run(few)
    assert [row["id"] for row in table(few.out)] == [row["id"] for row in table(config.out)][:11]
    answers = {row["id"]: row["token_ids"] for row in table(config.out)}
    assert all(row["token_ids"] == answers[row["id"]] for row in table(few.out))
    other = dataclasses.replace(config, prompts=11, out=tmp_path / "other", seed=5)
    run(other)
    assert [row["id"] for row in table(other.out)] != [row["id"] for row in table(few.out)]
    with pytest.raises(KitError, match="questions of"):
        run(dataclasses.replace(config, prompts=10_000, out=tmp_path / "many"))


def test_equal_questions_are_asked_once(config: TeacherGenerateConfig, tmp_path: Path) -> None:
    def record(number: int, question: str, turns: int = 1) -> dict[str, Any]:
        messages = [{"role": "system", "content": "Be brief."}] if number == 0 else []
        for _ in range(turns):
            messages += [{"role": "user", "content": question}, {"role": "assistant", "content": "Yes."}]
        return {"id": f"r{number}", "task": "talk", "messages": messages, "answer": "Yes."}

    asked = ["Is it?", "Is it?", "Is  it?\n", "IS IT?", "Is it so?"]
    lines = [json.dumps(record(i, text, turns=1 + (i == 4))) for i, text in enumerate(asked)]
    lines.append(json.dumps(record(5, "Is it? " * 60)))
    lines += [json.dumps(record(i, f"Is it {i}?")) for i in range(6, 30)]
    (tmp_path / "x.jsonl").write_text("\n".join(lines) + "\n")
    source = SourceConfig("examples", tmp_path / "x.jsonl", split="train")
    data = tmp_path / "data"
    preprocess(PreprocessConfig(out=data, tokenizer=config.teacher, sources=[source], seq_len=1024))
    filters = FilterConfig(require_end=False, min_tokens=0)
    meta = run(dataclasses.replace(config, dataset=data, prompts=None, filters=filters))
    rows = {row["id"]: row for row in table(config.out)}
    assert meta["passed_over"] == {"duplicate_prompt": 1, "prompt_too_long": 1}
    assert {"r0", "r3", "r4"} <= set(rows) and len(rows) == 4 + 24
    assert [m["role"] for m in json.loads(rows["r0"]["prompt"])] == ["system", "user"]
    # The answer of a longer conversation is not the answer to its first question.
    assert rows["r3"]["answer"] == "Yes." and rows["r4"]["answer"] is None


def test_a_run_that_breaks_off_goes_on_and_asks_nothing_twice(
    config: TeacherGenerateConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(config)
    expected = contents(config.out)
    broken = dataclasses.replace(config, out=tmp_path / "broken")
    asked: list[str] = []
    real = stage._load

    def limited(limit: int) -> Any:
        def load(*arguments: Any) -> Any:
            generator = real(*arguments)
            generate = generator.generate

            def some(prompts: Any, sampling: TokenSampling) -> list[Generation]:
                if len(asked) >= limit:
                    raise KeyboardInterrupt
                asked.extend(prompt.id for prompt in prompts)
                return list(generate(prompts, sampling))

            generator.generate = some
            return generator

        return load

    with monkeypatch.context() as patch:
        patch.setattr(stage, "_load", limited(16))
        with pytest.raises(KeyboardInterrupt):
            run(broken)
    journal = broken.out / "journal.jsonl"
    assert len(asked) == 16 and not (broken.out / "meta.json").exists()
    # A line cut short by a kill counts for nothing.
    lines = journal.read_bytes().splitlines(keepends=True)
    journal.write_bytes(b"".join(lines[:-1]) + lines[-1][: len(lines[-1]) // 2])
    monkeypatch.setattr(stage, "_load", limited(10_000))
    run(broken)
    assert len(asked) == 30 + 8 and asked[8:16] == asked[16:24]
    assert contents(broken.out) == expected


def test_the_journal_of_other_settings_is_refused(
    config: TeacherGenerateConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stage, "publish", lambda *_, **__: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        run(config)
    with pytest.raises(KitError, match=r"sampling.temperature: 0.7 there, 0.1 here"):
        run(dataclasses.replace(config, temperature=0.1))


def test_kill_9_at_any_moment_then_the_same_bytes(config: TeacherGenerateConfig, tmp_path: Path) -> None:
    slow = dataclasses.replace(config, batch_size=1, journal_every=2)
    calm = dataclasses.replace(slow, out=tmp_path / "calm")
    assert _wait(_fork(calm)) == 0
    expected = contents(calm.out)
    journal = slow.out / "journal.jsonl"
    for lines in (0, 1, 2, 5, 9, 14):
        child = _fork(slow)
        while _lines(journal) < lines and os.waitpid(child, os.WNOHANG) == (0, 0):
            time.sleep(0.0005)
        os.kill(child, signal.SIGKILL)
        assert _wait(child) == -signal.SIGKILL
        assert not (slow.out / "meta.json").exists()
    assert _lines(journal) >= 14
    assert _wait(_fork(slow)) == 0
    assert contents(slow.out) == expected and not journal.exists()


def test_the_program_reads_its_file_and_flags(
    config: TeacherGenerateConfig,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    file = tmp_path / "generate.yaml"
    file.write_text(yaml.safe_dump(plain(config)), encoding="utf-8")
    flags = ["--config", str(file), "--prompts", "12", "--filters.min_tokens", "2"]
    monkeypatch.setattr(sys, "argv", ["teacher_generate", *flags])
    assert stage.main() == 0
    meta = json.loads((config.out / "meta.json").read_text())
    assert meta["answers"] == 12 and meta["filters"]["min_tokens"] == 2
    monkeypatch.setattr(sys, "argv", ["teacher_generate", *flags, "--top_p", "2"])
    assert stage.main() == 2
    assert "0 < top_p <= 1" in capsys.readouterr().err


def test_an_engine_that_gives_too_much_is_not_believed(
    config: TeacherGenerateConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Wordy:
        def __init__(self) -> None:
            from harness.models.generation import TokenWork

            self.work = TokenWork()

        one_queue = False

        def answers(self, prompts: Any, sampling: TokenSampling) -> Any:
            self.work.generated += len(prompts) * (CAP + 1)
            return ((prompt, Generation("x", (5,) * (CAP + 1), "length")) for prompt in prompts)

        def describe(self) -> dict[str, Any]:
            return {"engine": "wordy"}

    monkeypatch.setattr(stage, "_load", lambda *_: Wordy())
    with pytest.raises(KitError, match="at most 24 tokens"):
        run(config)


def test_numbers_that_mean_nothing_are_refused(config: TeacherGenerateConfig) -> None:
    for wrong, said in (({"prompts": -1}, "prompts"), ({"threads": 0}, "threads 0")):
        with pytest.raises(KitError, match=said):
            run(dataclasses.replace(config, **wrong))


def test_a_model_without_its_configuration_cannot_serve(
    config: TeacherGenerateConfig, tmp_path: Path
) -> None:
    served = ServeConfig(tmp_path, config.dataset, "serve-1", tmp_path / "out", tokenizer=config.teacher)
    with pytest.raises(KitError, match="no configuration that can be read"):
        serve(served)


def test_another_tokenizer_is_refused(config: TeacherGenerateConfig, tmp_path: Path) -> None:
    from harness.distill.pocket_tokenizer import save_tokenizer

    teacher = tmp_path / "other"
    lab.tiny_model().save_pretrained(teacher)
    save_tokenizer(teacher, examples_per_family=5)
    with pytest.raises(KitError, match="another tokenizer"):
        run(dataclasses.replace(config, teacher=teacher))


def test_nothing_kept_is_an_error_that_keeps_the_journal(config: TeacherGenerateConfig) -> None:
    strict = dataclasses.replace(config, filters=FilterConfig(formats={"*": "never"}))
    with pytest.raises(KitError, match="no answer was kept"):
        run(strict)
    assert (config.out / "journal.jsonl").exists()
    assert run(config)["kept"] > 0


def _fork(config: TeacherGenerateConfig) -> int:
    """The stage in a process of its own, without the seconds that importing torch takes."""
    child = os.fork()
    if not child:
        code = 1
        with contextlib.suppress(BaseException):
            run(config)
            code = 0
        os._exit(code)
    return child


def _wait(child: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def _lines(journal: Path) -> int:
    return journal.read_bytes().count(b"\n") if journal.exists() else -1
