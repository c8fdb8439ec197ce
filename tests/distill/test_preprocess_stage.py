"""The preprocess stage: sources in, one data set out, the same bytes whatever happens on the way."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from harness.distill import preprocess as stage
from harness.distill.preprocess import PreprocessConfig, preprocess
from harness.distill.sources import Conversation, SourceConfig, read
from harness.errors import KitError
from harness.models.dataset import TokenDataset
from tests.distill import pocket_fixtures

FILES = ("train.arrow", "validation.arrow", "meta.json")


@pytest.fixture
def base(tmp_path: Path) -> PreprocessConfig:
    return PreprocessConfig(
        out=tmp_path / "data",
        tokenizer=pocket_fixtures.save(tmp_path / "tokenizer"),
        sources=[SourceConfig("pocket", samples=120)],
        seq_len=64,
        validation_fraction=0.2,
        seed=1,
    )


def contents(config: PreprocessConfig) -> dict[str, bytes]:
    return {name: (config.out / name).read_bytes() for name in FILES}


def record(number: int, **more: Any) -> dict[str, Any]:
    messages = [
        {"role": "user", "content": f"ask {number}"},
        {"role": "assistant", "content": f"say {number}"},
    ]
    return {"id": f"r{number}", "task": "talk", "messages": messages, "answer": None, **more}


def jsonl(path: Path, records: list[Any]) -> Path:
    path.write_text("".join(json.dumps(line) + "\n" for line in records), encoding="utf-8")
    return path


def test_the_same_bytes_from_any_batch_size_and_after_an_interruption(
    base: PreprocessConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    meta = preprocess(base)
    expected = contents(base)
    assert (
        meta["examples"]["train"] + meta["examples"]["validation"] == 120
        and meta["examples"]["validation"] > 5
    )
    for split in ("train", "validation"):
        dataset = TokenDataset.open(base.out, split)
        assert dataset.digest() == meta["split_digests"][split]
        assert meta["tokens"][split] == dataset.lengths.sum()
        assert meta["label_tokens"][split] == dataset.label_counts.sum()

    other = replace(base, out=tmp_path / "other", batch_size=7)
    with monkeypatch.context() as patch:

        def broken(source: SourceConfig, seed: int) -> Iterator[Conversation]:
            yield from list(read(source, seed))[:50]
            raise KeyboardInterrupt

        patch.setattr(stage, "read", broken)
        with pytest.raises(KeyboardInterrupt):
            preprocess(other)
    assert not (other.out / "meta.json").exists()
    preprocess(other)
    assert contents(other) == expected


def test_a_finished_data_set_is_reused_and_another_recipe_replaces_it(
    base: PreprocessConfig, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    events = tmp_path / "events.jsonl"
    monkeypatch.setenv("KIT_EVENTS", str(events))
    first = preprocess(base)
    lines = [json.loads(line) for line in events.read_text().splitlines()]
    tokens = sum(first["tokens"].values())
    assert sum(line.get("tokens_processed", 0) for line in lines) == tokens
    assert sum(line.get("tokens_positions", 0) for line in lines) == tokens
    assert lines[-1]["event"] == "dataset" and lines[-1]["label_tokens"] == first["label_tokens"]

    before = (base.out / "train.arrow").stat().st_mtime_ns
    assert preprocess(base) == first
    assert (base.out / "train.arrow").stat().st_mtime_ns == before
    assert json.loads(events.read_text().splitlines()[-1])["event"] == "reused"
    assert preprocess(replace(base, seed=2))["content_digest"] != first["content_digest"]


def test_equal_prompts_stay_in_one_split_and_more_data_moves_nothing(
    base: PreprocessConfig, tmp_path: Path
) -> None:
    records = [record(i % 40, id=f"r{i}") for i in range(120)]

    def prompts(count: int, seed: int) -> dict[str, set[bytes]]:
        source = SourceConfig("examples", jsonl(tmp_path / "x.jsonl", records[:count]))
        config = replace(base, sources=[source], seed=seed, out=tmp_path / f"{count}-{seed}")
        preprocess(config)
        found = {}
        for split in ("train", "validation"):
            dataset = TokenDataset.open(config.out, split)
            found[split] = {dataset.example(i).input_ids.tobytes() for i in range(len(dataset))}
        return found

    small, large = prompts(30, 1), prompts(120, 1)
    assert not large["train"] & large["validation"] and len(large["validation"]) > 2
    assert small["train"] <= large["train"] and small["validation"] <= large["validation"]
    assert prompts(120, 2)["validation"] != large["validation"]


def test_what_is_cut_and_what_is_dropped_is_counted(base: PreprocessConfig, tmp_path: Path) -> None:
    long_answer = record(1)
    long_answer["messages"][1]["content"] = "7" * 100
    long_question = record(2)
    long_question["messages"][0]["content"] = "7" * 100
    records = [
        *(record(i) for i in range(10, 14)),
        long_answer,
        long_question,
        record(3, messages=[]),
        record(4, messages=[{"role": "user", "content": None}]),
        record(5, messages=record(5)["messages"][:1]),
        record(6, messages="not json"),
        record(13),
    ]
    source = SourceConfig("examples", jsonl(tmp_path / "x.jsonl", records), split="train")
    meta = preprocess(replace(base, sources=[source]))
    assert meta["dropped"] == {"empty": 3, "no_assistant_turn": 1, "no_label_within_seq_len": 1}
    dataset = TokenDataset.open(base.out, "train")
    assert [example.id for example in dataset] == ["r10", "r11", "r12", "r13", "r1", "r13~2"]
    cut = dataset.example(4)
    assert len(cut.input_ids) == 64 == meta["longest"]
    assert meta["truncated"] == {"examples": 1, "label_tokens": 101 - int(cut.label_mask.sum())}
    with pytest.raises(KitError, match=r"no training example is left; dropped: \{'empty': 1\}") as caught:
        preprocess(
            replace(
                base, sources=[replace(source, path=jsonl(tmp_path / "y.jsonl", [record(1, messages=[])]))]
            )
        )
    assert caught.value.exit_code == 1


def test_examples_from_json_lines_and_parquet_are_the_same_and_samples_are_drawn(tmp_path: Path) -> None:
    records = [record(i, answer=str(i) if i % 2 else None) for i in range(50)]
    lines = SourceConfig("examples", jsonl(tmp_path / "x.jsonl", records))
    folder = tmp_path / "parquet"
    folder.mkdir()
    pq.write_table(pa.Table.from_pylist(records[:20]), folder / "a.parquet")
    texts = [{**line, "messages": json.dumps(line["messages"])} for line in records[20:]]
    pq.write_table(pa.Table.from_pylist(texts), folder / "b.parquet")
    tables = SourceConfig("examples", folder)
    assert list(read(lines, 0)) == list(read(tables, 0)) and len(list(read(lines, 0))) == 50

    drawn = [item.id for item in read(replace(lines, samples=20), 3)]
    assert drawn == [item.id for item in read(replace(tables, samples=20), 3)]
    assert len(set(drawn)) == 20 and drawn == sorted(drawn, key=lambda name: int(name[1:]))
    assert drawn != [item.id for item in read(replace(lines, samples=20), 4)]
    assert drawn == [item.id for item in read(replace(lines, samples=20, seed=3), 4)]
    assert {item.task for item in read(replace(lines, task="other"), 0)} == {"other"}
    with pytest.raises(KitError, match="holds 50 conversations"):
        list(read(replace(lines, samples=51), 0))


@pytest.mark.parametrize(
    ("kind", "rows", "expected"),
    [
        (
            "tulu",
            {"id": "t1", "messages": record(1)["messages"], "source": "s"},
            Conversation("t1", "tulu", record(1)["messages"]),
        ),
        (
            "openr1-math",
            {"problem": "1+1?", "solution": "It is 2.", "answer": "2", "uuid": "u1", "generations": ["x"]},
            Conversation(
                "u1",
                "openr1-math",
                [{"role": "user", "content": "1+1?"}, {"role": "assistant", "content": "It is 2."}],
                "2",
            ),
        ),
        (
            "openr1-math",
            {"problem": "p", "solution": "s", "answer": "2", "uuid": "u1", "messages": record(2)["messages"]},
            Conversation("u1", "openr1-math", record(2)["messages"], "2"),
        ),
        (
            "codeforces",
            {"id": "852/A", "messages": record(3)["messages"], "prompt": "p", "generation": "g"},
            Conversation("852/A#0", "codeforces", record(3)["messages"]),
        ),
    ],
)
def test_the_papers_data_sets_are_read_from_a_fetched_folder(
    kind: Any, rows: dict[str, Any], expected: Conversation, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    folder = tmp_path / "fetched" / "data"
    folder.mkdir(parents=True)
    pq.write_table(pa.Table.from_pylist([rows]), folder / "train-00000-of-00001.parquet")
    assert list(read(SourceConfig(kind, folder.parent), 0)) == [expected]
    with pytest.raises(KitError, match="cannot be read as a data set"):
        list(read(SourceConfig(kind, folder.parent, part="nothing"), 0))


def test_a_source_that_is_not_there_says_how_to_get_it(tmp_path: Path) -> None:
    with pytest.raises(KitError, match="nothing there") as caught:
        list(read(SourceConfig("tulu", tmp_path / "none"), 0))
    assert caught.value.fix == "kit fetch"
    with pytest.raises(KitError, match=r"x\.jsonl:2: is no JSON object"):
        (tmp_path / "x.jsonl").write_text('{"id": "a"}\nnonsense\n')
        list(read(SourceConfig("examples", tmp_path / "x.jsonl"), 0))
    with pytest.raises(KitError, match="has no end"):
        list(read(SourceConfig("pocket"), 0))


def test_as_a_program(base: PreprocessConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from harness.distill.arguments import run_stage

    text = f"out: {base.out}\ntokenizer: {base.tokenizer}\n"
    text += "sources:\n- {kind: pocket, samples: 9, split: train}\n"
    (tmp_path / "c.yaml").write_text(text)
    assert (
        run_stage(PreprocessConfig, preprocess, ["--config", str(tmp_path / "c.yaml"), "--seq_len", "64"])
        == 0
    )
    assert json.loads((base.out / "config.json").read_text())["seq_len"] == 64
    assert (
        run_stage(PreprocessConfig, preprocess, ["--config", str(tmp_path / "c.yaml"), "--tokenizer", "no"])
        == 2
    )
    assert "no tokenizer there" in capsys.readouterr().err
