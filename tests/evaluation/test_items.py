"""Items: one canonical form whatever the file, found by id, refused where they are others."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from harness.distill.pocket_tasks import extract_answer, split_of
from harness.errors import KitError
from harness.evaluation.items import ENVIRONMENT, digest_of, folder_of, load, read_items, select
from harness.evaluation.pocket_items import KINDS, make_items
from harness.evaluation.suites import Data

IFEVAL = [
    {"key": 1, "prompt": "No\u2028commas.", "instruction_id_list": ["punctuation:no_comma"], "kwargs": [{}]},
    {
        "key": 7,
        "prompt": "Long.",
        "instruction_id_list": ["length_constraints:number_words", "keywords:frequency"],
        "kwargs": [{"relation": "at least", "num_words": 300}, {"keyword": "sea", "frequency": 2}],
    },
]
MMLU = [
    {"subject": subject, "question": f"{subject} {n}?", "choices": list("wxyz"), "answer": n % 4}
    for subject in ("anatomy", "virology")
    for n in range(3)
]


def jsonl(path: Path, rows: list[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")


def parquet(path: Path, rows: list[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows), path)


def test_parquet_of_the_hub_and_local_lines_give_one_digest(tmp_path: Path) -> None:
    local, hub = tmp_path / "local", tmp_path / "hub"
    jsonl(local / "ifeval/input_data.jsonl", IFEVAL)
    # The hub has every argument in every row, numbers as floats.
    names = ("relation", "num_words", "keyword", "frequency", "language")
    rows = [
        {
            **row,
            "kwargs": [
                {n: float(k[n]) if isinstance(k.get(n), int) else k.get(n) for n in names}
                for k in row["kwargs"]
            ],
        }
        for row in IFEVAL
    ]
    parquet(hub / "ifeval/data/train-00000-of-00001.parquet", rows)
    jsonl(local / "mmlu/mmlu_test.jsonl", MMLU)
    parquet(hub / "mmlu/all/test-00000-of-00002.parquet", MMLU[:2])
    parquet(hub / "mmlu/all/test-00001-of-00002.parquet", MMLU[2:])
    for source, split in (("ifeval", "train"), ("mmlu", "test")):
        ours, theirs = read_items(source, split, local), read_items(source, split, hub)
        assert [item.id for item in ours] == [item.id for item in theirs]
        assert digest_of(ours) == digest_of(theirs)
    assert [item.id for item in read_items("mmlu", "test", local)][2:4] == ["anatomy/2", "virology/0"]
    assert len(read_items("ifeval", "train", local)) == 2  # a line separator within a prompt ends no line


def test_a_digest_changes_with_content_and_order(tmp_path: Path) -> None:
    jsonl(tmp_path / "mmlu/mmlu_test.jsonl", MMLU)
    items = read_items("mmlu", "test", tmp_path)
    assert digest_of(items) != digest_of(items[::-1]) != digest_of(items[1:])
    assert [item.id for item in select(items, ["virology/1", "anatomy/0"], "x")] == [
        "virology/1",
        "anatomy/0",
    ]
    with pytest.raises(KitError, match="has no item 'virology/9'"):
        select(items, ["virology/9"], "x")


def test_what_is_missing_or_odd_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(ENVIRONMENT, raising=False)
    with pytest.raises(KitError, match="no folder of benchmarks"):
        folder_of(None)
    monkeypatch.setenv(ENVIRONMENT, str(tmp_path))
    assert folder_of(None) == tmp_path
    with pytest.raises(KitError, match="has no test split of gsm8k"):
        read_items("gsm8k", "test", tmp_path)
    with pytest.raises(KitError, match=r"has no dev split of gsm8k[\s\S]*split test or train"):
        read_items("gsm8k", "dev", tmp_path)
    jsonl(tmp_path / "gsm8k/test.jsonl", [{"question": "?"}])
    with pytest.raises(KitError, match="holds no items of gsm8k"):
        read_items("gsm8k", "test", tmp_path)
    with pytest.raises(KitError, match="no pocket items"):
        make_items("chess", 1, 0)


@pytest.mark.parametrize("kind", KINDS)
def test_pocket_items_are_of_the_eval_split_and_repeat(kind: str) -> None:
    items = make_items(kind, 40, 0)
    assert digest_of(items[:7]) == digest_of(make_items(kind, 7, 0)) != digest_of(make_items(kind, 7, 1))
    assert len({item.id for item in items}) == 40
    for item in items:
        content = item.content
        asked = [content.get("question") or content.get("prompt") or content.get("instruction")]
        asked = [turn["user"] for turn in content.get("history", ())] or asked
        assert {split_of(question) for question in asked} == {"eval"}
    assert load(Data(source="pocket", split=kind, n_items=3, seed=0), None, kind)[2].id == items[2].id


def test_pocket_choices_hold_one_right_answer() -> None:
    for item in make_items("choices", 60, 0):
        choices, right = item.content["choices"], item.content["answer"]
        assert len(set(choices)) == 4
        answers = [extract_answer(choice) for choice in choices]
        assert answers.count(answers[right]) == 1
