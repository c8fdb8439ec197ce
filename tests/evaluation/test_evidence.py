"""The recorded evidence: of the pinned suite, and what the page says of it."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest

from harness.evaluation.suites import suite_named

ROOT = Path(__file__).resolve().parents[2]
RECORD = json.loads((ROOT / "artifacts" / "evidence" / "smollm2.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def script() -> Any:
    spec = importlib.util.spec_from_file_location("evidence_script", ROOT / "scripts/evidence.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_record_is_of_the_pinned_suite_and_its_items() -> None:
    suite = suite_named("distill-5-mini")
    assert RECORD["suite"] == suite.id
    pinned = {benchmark.name: benchmark.data.items_sha256 for benchmark in suite.benchmarks}
    for model in RECORD["models"].values():
        for row in model["benchmarks"]:
            assert row["items_sha256"] == pinned[row["name"]]


def test_the_page_says_what_the_record_says(script: Any) -> None:
    """Otherwise make evidence, or let `--table` say on the page that the scores are of earlier code."""
    page = script.PAGE.read_text(encoding="utf-8")
    assert page.partition(script.BEGIN)[2].partition(script.END)[0] == script.table(RECORD)


def test_what_is_missing_and_what_falls_short_is_said(script: Any) -> None:
    row = {"name": "gsm8k", "metric": "exact_match", "filter": "none", "unit": "fraction", "stderr": None}
    row |= {"score": 0.25, "n_items": 16, "n_scored": 16, "first_preferred": None, "void": None}
    record = {"models": {"one": {"benchmarks": [row]}, "pruned": {"benchmarks": []}}, "judge": None}
    record |= {"caveat": "a poor judge", "judge_check": None, "quality": None, "speed": None}
    record |= {"code_sha256": script.code_digest()}
    text = script.table(record)
    assert "| gsm8k | exact_match | 0.25, 16 items | not measured |" in text
    assert "Nothing is judged yet." in text and "no Q yet" in text and "speed" in text
    assert script.table({**record, "code_sha256": ""}) == script.STALE + text
    slow = {"items": 8, "kit_s": 10.0, "lm_eval_s": 12.0, "kit_cpu_s": 9.0, "lm_eval_cpu_s": 18.0}
    slow |= {"times_as_fast": 1.2, "same_verdicts": False}
    quality = {"q": None, "reason": "mmlu of the teacher is not above chance"}
    text = script.table({**record, "speed": {"gsm8k": slow}, "quality": quality, "judge": "it@1"})
    assert "1.20 times as fast as lm-eval's own model, 0.30 short of what it is meant to be" in text
    assert "by CPU seconds 2.00 times" in text and "NOT equal" in text
    assert "a poor judge" in text and f"none, {quality['reason']}." in text
