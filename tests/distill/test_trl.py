"""TRL's SFTTrainer and ours on the same batches of pocket data: the same loss at every step."""

from __future__ import annotations

import argparse
import importlib.util
from pathlib import Path

import pytest

pytest.importorskip(
    "trl", reason="TRL is not installed: the comparison runs where it is (scripts/bench_trl.py)"
)


@pytest.mark.slow
def test_trl_and_ours_have_the_same_losses(tmp_path):
    path = Path(__file__).resolve().parents[2] / "scripts" / "bench_trl.py"
    spec = importlib.util.spec_from_file_location("bench_trl", path)
    bench = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(bench)
    options = argparse.Namespace(examples=24, epochs=1, batch=4, seq_len=256, student="pocket-1b", threads=1)
    bench.prepare(tmp_path, options)
    trl = bench.measure("trl", tmp_path, options)
    ours = bench.measure("ours", tmp_path, options)
    assert len(trl["losses"]) == len(ours["losses"]) == 6 and trl["tokens"] == ours["tokens"]
    assert ours["losses"] == pytest.approx(trl["losses"], abs=2e-5)
    assert ours["validation"] == pytest.approx(trl["validation"], abs=2e-5)
    assert ours["losses"][-1] < ours["losses"][0]
