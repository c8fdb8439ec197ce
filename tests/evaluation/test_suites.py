"""Suites: named by their content, refused as drafts and when edited, pinned from local files."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from harness.cli.main import main
from harness.errors import KitError
from harness.evaluation.items import digest_of, load, read_items
from harness.evaluation.lock_suites import lock
from harness.evaluation.suites import read_suite, suite_file, suite_named, suites_folder
from tests.evaluation.said import BENCHMARKS, NO_DATA

ROOT = Path(__file__).resolve().parents[2]
POCKET = "distill-5-pocket"


@pytest.fixture
def folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A copy of the protocol's suites, to be changed."""
    root = tmp_path / "protocol"
    shutil.copytree(ROOT / "protocol", root)
    monkeypatch.setenv("KIT_PROTOCOL_ROOT", str(root))
    return root / "1.0" / "suites"


def edited(path: Path, change: Any) -> None:
    document = yaml.safe_load(path.read_text())
    change(document)
    path.write_text(yaml.safe_dump(document))


def test_every_suite_is_named_after_its_content_or_is_a_draft() -> None:
    names = {path.stem.partition("@")[0] for path in suites_folder().glob("*.yaml")}
    assert names >= {"distill-5", "distill-5-mini", "distill-5-pocket", "held-out"}
    for path in suites_folder().glob("*.yaml"):
        suite = read_suite(path)
        assert path.stem == (suite.suite if suite.unpinned else suite.id)
        assert suite.digest.startswith(suite.id.partition("@")[2])
    with pytest.raises(KitError, match=r"is a draft: weights of the judge") as refused:
        suite_named("distill-5")
    assert "kit lock suites distill-5" in str(refused.value)


def test_the_five_and_their_settings_are_the_papers() -> None:
    five = ["alpaca_eval", "ifeval", "mt_bench_101", "gsm8k", "mmlu"]
    for name in ("distill-5", "distill-5-mini"):
        suite = read_suite(suite_file(name))
        found = {benchmark.name: benchmark for benchmark in suite.benchmarks}
        assert list(found) == five
        shots = {b.name: b.shots.count for b in suite.benchmarks if b.shots is not None}
        assert shots == {"gsm8k": 5, "mmlu": 5}
        assert found["gsm8k"].filter == "strict-match" and found["mmlu"].floor == 0.25
        assert all(b.data.n_items and b.data.items_sha256 for b in suite.benchmarks)
    counts = [b.data.n_items for b in read_suite(suite_file("distill-5")).benchmarks]
    assert counts == [805, 540, 1388, 1319, 14042]
    counts = [b.data.n_items for b in read_suite(suite_file("distill-5-mini")).benchmarks]
    assert counts == [16, 16, 13, 16, 171]


@pytest.mark.skipif(not BENCHMARKS.is_dir(), reason=NO_DATA)
@pytest.mark.slow
def test_the_pins_are_those_of_the_published_items() -> None:
    for name in ("distill-5", "distill-5-mini"):
        for benchmark in read_suite(suite_file(name)).benchmarks:
            parts = [benchmark.data, *([] if benchmark.shots is None else [benchmark.shots.data])]
            for data in parts:
                assert len(load(data, BENCHMARKS, name)) == data.n_items


def test_a_suite_edited_by_one_item_is_another_one(folder: Path) -> None:
    path = suite_file(POCKET)
    before = suite_named(POCKET)

    def one_item_less(document: dict[str, Any]) -> None:
        document["benchmarks"][0]["data"]["n_items"] -= 1

    edited(path, one_item_less)
    with pytest.raises(KitError, match="was edited: its content is"):
        suite_named(POCKET)
    changes, target = lock(POCKET, data=None, write=True)
    after = suite_named(POCKET)
    assert after.id != before.id and target.stem == after.id and not path.exists()
    assert f"+++ {target.name}" in changes and "-  " not in changes.splitlines()[0]
    items = load(after.benchmarks[0].data, None, "arithmetic")
    assert digest_of(items) == after.benchmarks[0].data.items_sha256 and len(items) == 59
    with pytest.raises(KitError, match="no evaluation suite"):
        suite_named(before.id)
    # The words about a suite are no part of it.
    edited(target, lambda document: document.update(doc="in other words"))
    assert suite_named(POCKET).id == after.id


def test_two_suites_of_one_name_need_the_digest(folder: Path) -> None:
    path = suite_file(POCKET)
    other = path.with_name(f"{POCKET}@000000000000.yaml")
    shutil.copy(path, other)
    with pytest.raises(KitError, match="2 suites are named"):
        suite_named(POCKET)
    assert suite_named(path.stem).suite == POCKET


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"suite": "theirs"}, "calls itself 'theirs'"),
        ({"benchmarks": []}, "benchmarks"),
        ({"judge": None}, "no judge"),
        ({"bench": 1}, "bench"),
        ({"dtype": "int4"}, "dtype"),
        ({"batch_size": 0}, "batch_size"),
    ],
)
def test_a_suite_that_cannot_be_meant_is_refused(folder: Path, change: dict[str, Any], words: str) -> None:
    edited(suite_file(POCKET), lambda document: document.update(change))
    with pytest.raises(KitError, match=words):
        suite_named(POCKET)


def test_a_benchmark_twice_is_refused(folder: Path) -> None:
    edited(suite_file(POCKET), lambda document: document["benchmarks"].append(document["benchmarks"][0]))
    with pytest.raises(KitError, match="names pocket_arithmetic twice"):
        suite_named(POCKET)


def test_pinning_from_local_files(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = tmp_path / "data"
    (data / "gsm8k").mkdir(parents=True)
    for split, count in (("test", 3), ("train", 6)):
        rows = [{"question": f"{split} {n}?", "answer": f"so\n#### {n}"} for n in range(count)]
        (data / "gsm8k" / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    draft = {
        "suite": "mine",
        "doc": "one benchmark",
        "dtype": "float32",
        "batch_size": 2,
        "benchmarks": [
            {
                "name": "gsm8k",
                "adapter": "lm-eval",
                "task": "gsm8k/gsm8k.yaml",
                "metric": "exact_match",
                "data": {"source": "gsm8k", "split": "test", "ids": ["2", "0"]},
                "shots": {"count": 5, "sampler": "first_n", "data": {"source": "gsm8k", "split": "train"}},
            }
        ],
    }
    (folder / "mine.yaml").write_text(yaml.safe_dump(draft))
    with pytest.raises(KitError, match="items of gsm8k, shots of gsm8k not pinned"):
        suite_named("mine")
    assert main(["lock", "suites", "mine", "--data", str(data), "--write"]) == 0
    assert "written: pinned" in capsys.readouterr().err
    suite = suite_named("mine")
    (benchmark,) = suite.benchmarks
    assert (benchmark.task_version, benchmark.harness_version) == ("3.0", "0.4.13")
    assert [item.id for item in load(benchmark.data, data, "gsm8k")] == ["2", "0"]
    assert main(["lock", "suites", "mine", "--data", str(data)]) == 0
    assert "nothing has changed, pinned" in capsys.readouterr().out
    # Another item under the same id is found out.
    text = (data / "gsm8k" / "test.jsonl").read_text()
    (data / "gsm8k" / "test.jsonl").write_text(text.replace("test 2?", "test two?"))
    with pytest.raises(KitError, match="holds other items of gsm8k"):
        load(benchmark.data, data, "gsm8k")
    assert main(["lock", "suites", "mine", "--data", str(tmp_path)]) == 2
    assert "no" in capsys.readouterr().err and len(read_items("gsm8k", "train", data)) == 6


def test_the_registry_and_q_need_no_torch() -> None:
    code = (
        "import sys, harness.evaluation.suites;"
        "assert not {'torch', 'transformers', 'lm_eval', 'numpy'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)
