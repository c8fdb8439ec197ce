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
import yaml

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
    kind: Any, rows: dict[str, Any], expected: Conversation, tmp_path: Path
) -> None:
    folder = tmp_path / "fetched" / "data"
    folder.mkdir(parents=True)
    pq.write_table(pa.Table.from_pylist([rows]), folder / "train-00000-of-00001.parquet")
    assert list(read(SourceConfig(kind, folder.parent), 0)) == [expected]
    with pytest.raises(KitError, match="cannot be read as a data set"):
        list(read(SourceConfig(kind, folder.parent, part="nothing"), 0))


def test_the_chain_of_thought_is_left_out_of_answers_alone(tmp_path: Path) -> None:
    said = {
        "a": ("<think>long\nthought</think>\n\n42", "42"),
        "b": ("no thought", "no thought"),
        "c": ("<think>cut off before its end", None),
        "d": ("<think>one</think>x <think>two</think>y", "x y"),
    }
    asked = {"role": "user", "content": "why <think>?</think>"}
    rows = [{"id": k, "messages": [asked, {"role": "assistant", "content": v[0]}]} for k, v in said.items()]
    source = SourceConfig("examples", jsonl(tmp_path / "a.jsonl", rows), strip_think=True)
    for found, (_, left) in zip(read(source, 0), said.values(), strict=True):
        answered = [asked, {"role": "assistant", "content": left}]
        assert found.messages == ([] if left is None else answered)
    kept = [c.messages[1]["content"] for c in read(replace(source, strip_think=False), 0)]
    assert kept == [v[0] for v in said.values()]


def test_an_answer_that_is_all_thought_is_dropped_and_counted(base: PreprocessConfig, tmp_path: Path) -> None:
    rows = [record(n) for n in range(8)]
    rows[3]["messages"][1]["content"] = "<think>never ends"
    path = jsonl(tmp_path / "a.jsonl", rows)
    meta = preprocess(replace(base, sources=[SourceConfig("examples", path, strip_think=True)]))
    assert sum(meta["dropped"].values()) == 1 and sum(meta["examples"].values()) == 7


def test_a_source_that_is_not_there_says_how_to_get_it(tmp_path: Path) -> None:
    with pytest.raises(KitError, match="nothing there") as caught:
        list(read(SourceConfig("tulu", tmp_path / "none"), 0))
    assert caught.value.fix == "kit fetch"
    with pytest.raises(KitError, match=r"x\.jsonl:2: is no JSON object"):
        (tmp_path / "x.jsonl").write_text('{"id": "a"}\nnonsense\n')
        list(read(SourceConfig("examples", tmp_path / "x.jsonl"), 0))
    with pytest.raises(KitError, match="has no end"):
        list(read(SourceConfig("pocket"), 0))


def test_a_source_may_lie_in_a_hidden_folder_and_what_is_hidden_in_it_is_left_out(tmp_path: Path) -> None:
    place = tmp_path / ".cache" / "data"
    (place / ".git").mkdir(parents=True)
    jsonl(place / "all.jsonl", [record(number) for number in range(3)])
    jsonl(place / ".git" / "old.jsonl", [record(9)])
    assert len(list(read(SourceConfig("examples", place), 0))) == 3


def test_numbers_that_would_cut_from_the_other_end_are_refused(
    base: PreprocessConfig, tmp_path: Path
) -> None:
    path = jsonl(tmp_path / "all.jsonl", [record(number) for number in range(3)])
    with pytest.raises(KitError, match="samples -1"):
        SourceConfig("examples", path, samples=-1)
    with pytest.raises(KitError, match="seed -1"):
        list(read(SourceConfig("examples", path, samples=1), -1))
    with pytest.raises(KitError, match="seq_len -3"):
        preprocess(replace(base, seq_len=-3))


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


def test_one_configuration_is_read_as_it_lies_there(tmp_path: Path) -> None:
    """The README says which files a configuration has; the other's are not there, and nothing is
    converted."""
    folder = tmp_path / "fetched"
    (folder / "solutions").mkdir(parents=True)
    readme = {
        "configs": [
            {"config_name": name, "data_files": [{"split": "train", "path": f"{name}/train-*"}]}
            for name in ("other", "solutions")
        ]
    }
    (folder / "README.md").write_text(f"---\n{yaml.safe_dump(readme)}---\n# rows\n")
    for part in range(2):
        rows = [record(10 * part + number, prompt="p") for number in range(10)]
        path = folder / "solutions" / f"train-0000{part}-of-00002.parquet"
        pq.write_table(pa.Table.from_pylist(rows), path, row_group_size=4)
    source = SourceConfig("codeforces", folder, subset="solutions", samples=7)
    found = list(read(source, 0))
    assert len(found) == 7
    # The number of a row is its place in all files, whichever row group it lies in.
    for item in found:
        number = int(item.id.partition("#")[2])
        assert item.messages[0]["content"] == f"ask {number}"
    assert not list(tmp_path.rglob("*.arrow"))
    with pytest.raises(KitError, match="cannot be read as a data set"):
        list(read(replace(source, subset="nobody"), 0))


def test_the_data_set_keeps_its_tokenizer_with_the_template_it_was_made_with(
    base: PreprocessConfig, tmp_path: Path
) -> None:
    from harness.models.chat import ChatEncoder, read_template

    plain = preprocess(base)
    kept = base.out / "tokenizer"
    assert ChatEncoder.load(kept).template_sha256 == plain["template_sha256"]
    # Another template, as the teacher's folder has it: without what the tokenizer's own begins with.
    teacher = tmp_path / "teacher"
    teacher.mkdir()
    other = "{{ 'Q: ' }}" + read_template(base.tokenizer)
    (teacher / "tokenizer_config.json").write_text(json.dumps({"chat_template": other}))
    made = preprocess(replace(base, out=tmp_path / "other", chat_template=teacher))
    assert made["template_sha256"] != plain["template_sha256"]
    encoder = ChatEncoder.load(tmp_path / "other" / "tokenizer")
    assert encoder.template_sha256 == made["template_sha256"] and encoder.tokenizer.chat_template == other
    assert made["tokenizer_sha256"] == plain["tokenizer_sha256"]
    # Again from the folder that was kept: the same data set.
    again = preprocess(replace(base, out=tmp_path / "again", tokenizer=tmp_path / "other" / "tokenizer"))
    assert again["content_digest"] == made["content_digest"]
    with pytest.raises(KitError, match="no chat template"):
        preprocess(replace(base, out=tmp_path / "none", chat_template=tmp_path))


def test_without_its_configuration_a_tokenizer_folder_is_another_tokenizer(
    base: PreprocessConfig, tmp_path: Path
) -> None:
    """OLMo-2's folders name GPT2Tokenizer; transformers looks at config.json before it believes that."""
    from transformers import AutoTokenizer

    folder = tmp_path / "olmo"
    folder.mkdir()
    for path in base.tokenizer.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    settings["tokenizer_class"] = "GPT2Tokenizer"
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    (folder / "config.json").write_text(json.dumps({"model_type": "olmo2"}))
    text = "12 + 34 = 46"
    expected = AutoTokenizer.from_pretrained(base.tokenizer, local_files_only=True)(text)["input_ids"]
    assert AutoTokenizer.from_pretrained(folder, local_files_only=True)(text)["input_ids"] == expected
    made = preprocess(replace(base, tokenizer=folder, out=tmp_path / "made"))
    assert (tmp_path / "made/tokenizer/config.json").exists() and made["examples"]["train"]


def test_conversations_dropped_in_numbers_stop_the_stage_and_say_why(
    base: PreprocessConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A template that shows several turns backwards, and 95 of 100 conversations with two of them."""
    records = []
    for number in range(100):
        one = record(number)
        records.append(one if number < 5 else {**one, "messages": one["messages"] * 2})
    shown = "{{ '<|' + m['role'] + '|>' + m['content'] }}{% if m['role'] == 'assistant' and loop.last %}"
    shown += "{{ eos_token }}{% endif %}{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
    template, strips = tmp_path / "backwards.jinja", tmp_path / "last.jinja"
    order = "(messages | reverse if messages | length > 2 else messages)"
    template.write_text("{% for m in " + order + " %}" + shown)
    strips.write_text("{% for m in messages %}" + shown)
    source = SourceConfig("examples", path=jsonl(tmp_path / "talk.jsonl", records))
    config = replace(base, sources=[source], chat_template=template, out=tmp_path / "backwards")
    with pytest.raises(KitError, match="95 of 100 conversations cannot be used: 95 turns_not_separable"):
        preprocess(config)
    assert "95 of 100 conversations dropped (95 turns_not_separable)" in capsys.readouterr().err
    assert preprocess(replace(config, max_dropped=0.95))["dropped"] == {"turns_not_separable": 95}
    meta = preprocess(replace(base, sources=[source], chat_template=strips, out=tmp_path / "strips"))
    assert sum(meta["examples"].values()) == 100 and meta["last_answer_only"] == 95 and not meta["dropped"]
    assert "of 95 the last answer alone is a label" in capsys.readouterr().err
