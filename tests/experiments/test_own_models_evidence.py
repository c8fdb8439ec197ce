"""The run on a real small model: its parts on a tiny one; whether page, record and code belong together."""

from __future__ import annotations

import importlib.util
import json
import re
import sys
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from harness.experiments.profile import load_profile

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def script() -> Any:
    sys.path.insert(0, str(ROOT / "scripts"))  # it imports evidence.py beside it
    spec = importlib.util.spec_from_file_location("own_models_script", ROOT / "scripts/own_models.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_page_record_and_code_are_of_one_another(script: Any) -> None:
    """Otherwise make evidence, or let `--table` say on the page that the figures are of earlier code."""
    page = script.PAGE.read_text(encoding="utf-8")
    shown = page.partition(script.BEGIN)[2].partition(script.END)[0]
    if not script.OUT.exists():
        assert shown == "It has not been run yet.\n"
        return
    record = json.loads(script.OUT.read_text(encoding="utf-8"))
    assert shown == script.table(record)


def test_the_page_shows_what_a_cache_holds_of_a_real_teacher(script: Any) -> None:
    """`python scripts/kept_mass.py` measures it, `--table` says that the figures are of earlier code."""
    import kept_mass

    page = kept_mass.PAGE.read_text(encoding="utf-8")
    record = kept_mass.OUT.read_text(encoding="utf-8")
    assert page.partition(kept_mass.BEGIN)[2].partition(kept_mass.END)[0] == kept_mass.table(record)
    (digest,) = re.findall(r"[0-9a-f]{64}", record)
    assert kept_mass.table(record.replace(digest, "0" * 64)).startswith(kept_mass.STALE)


def test_its_work_is_that_of_all_stages(script: Any) -> None:
    runs = ROOT / "artifacts" / "runs" / "pocket" / "runs"
    rows = pq.read_table(runs / "sft-1b" / "stages.parquet").to_pylist()
    (train,) = [row for row in rows if row["name"] == "student_train"]
    assert script.cpu_of(script.stages(runs / "sft-1b", "student_train")) == train["process_cpu_s"] > 0
    work = script.work_of(runs)
    assert train["process_cpu_s"] < work["cpu_s"] < 2 * work["seconds"]
    assert script.cpu_of([{"process_cpu_s": 1.0}, {"process_cpu_s": None}]) is None


def test_the_table_gives_no_verdict_where_only_chance_speaks(script: Any) -> None:
    cell = {"size": "64m", "energy_j": 10.0, "energy_j_low": 5.0, "energy_j_high": 20.0, "heldout_loss": 2.0}
    cell |= {"student_positions": 1000, "student_steps": 20, "losses": [[10, 3.0], [20, 2.0]]}
    cell |= {"untrained_loss": 9.25}
    cell |= {"student_cpu_s": None, "cpu_energy_methods": "codecarbon_process"}
    none = {"break_even_reuses": None, "break_even_reuses_whole": None, "break_even_low": None}
    none |= {"break_even_case": None, "break_even_high": None, "break_even_withheld": None}
    pays = {"break_even_case": "finite", "break_even_reuses": 2.5, "break_even_reuses_whole": 3}
    pays |= {"break_even_low": 1.0, "break_even_high": None, "break_even_withheld": None}
    record = {
        "cells": [
            {**cell, **none, "regime": "sft"},
            {**cell, **pays, "regime": "kd", "break_even_withheld": "equal work"},
            {**cell, **pays, "regime": "synthetic_sft"},
        ],
        "run_spread": {"relative": 0.1},
        "work": {"seconds": 2000.0, "cpu_s": 1500.0},
        "machine": {"cores": 2},
        "teacher_heldout_loss": 1.5,
        "conversations": 400,
        "answers": 100,
        "positions": 60_000,
        "code_sha256": script.evidence.code_digest(script.CODE),
    }
    text = script.table(record)
    sft, kd, synthetic = text.splitlines()[3:6]
    assert script.table({**record, "code_sha256": ""}) == script.evidence.STALE + text
    assert (
        "J (estimated)" in text and "1,500 CPU seconds in 2000 s" in text and "10.0 % in the joules" in text
    )
    assert "9.2, 3.000, 2.000 | unknown | 10 ± 10 | - |" in sft
    assert "(step 10)" in text
    assert "no verdict" in kd and "2.50, not resolved (1.00 to never)" in synthetic


def test_the_student_keeps_every_third_layer_and_runs(script: Any) -> None:
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    config = transformers.LlamaConfig(
        vocab_size=32, hidden_size=16, intermediate_size=32, num_hidden_layers=9, num_attention_heads=2
    )
    model = transformers.LlamaForCausalLM(config)
    layers = list(model.model.layers)
    script.evidence.keep_layers(model, range(0, 9, 3))
    assert list(model.model.layers) == layers[::3] and model.config.num_hidden_layers == 3
    assert model.generate(
        torch.tensor([[1, 2]]), max_new_tokens=2, min_new_tokens=2, do_sample=False
    ).shape == (1, 4)


def test_the_profile_is_the_examples_with_its_budget(
    script: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(script, "WORK", tmp_path)
    rows = [{"question": f"{n} and {n}?", "answer": str(2 * n)} for n in range(5)]
    (tmp_path / "gsm8k").mkdir()
    text = "".join(json.dumps(row) + "\n" for row in rows)
    (tmp_path / "gsm8k/train.jsonl").write_text(text, encoding="utf-8")
    script.make_chats(tmp_path, 3)
    lines = (tmp_path / "chats.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line)["messages"][1]["content"] for line in lines] == ["0", "2", "4"]
    profile = load_profile(script.write_profile(5000, 7))
    assert profile.own and profile.budget is not None and profile.budget.positions == 5000
    assert profile.own_grid.defaults.prompts == 7 and set(profile.students) == {"64m"}
    example = load_profile(script.PROFILE)
    assert example.settings("student_train") == profile.settings("student_train")
    assert profile.settings("preprocess")["sources"][0]["path"] == str(tmp_path / "chats.jsonl")
