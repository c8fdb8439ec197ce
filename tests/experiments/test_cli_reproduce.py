"""`kit reproduce` up to the moment it would start: the profile, the estimate, the refusals."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path

import pytest

from harness.cli.main import main
from harness.doctor import inventory
from harness.doctor.inventory import GpuFacts
from harness.experiments.fitting_profile import choose_profile, pin_card


def machine_with(monkeypatch: pytest.MonkeyPatch, *gpus: GpuFacts) -> None:
    class Found:
        selected = tuple(gpu for gpu in gpus if gpu.selected)

    monkeypatch.setattr(inventory, "take_inventory", lambda: Found())


@pytest.mark.parametrize(
    ("mib", "profile"),
    # As NVML shows them: A100 40 GB, A100 80 GB, H100 80 GB, H200.
    [(40_960, "pocket"), (81_920, "paper"), (81_559, "paper"), (143_771, "paper")],
)
def test_auto_looks_at_the_memory_of_the_card(
    monkeypatch: pytest.MonkeyPatch, mib: int, profile: str
) -> None:
    machine_with(monkeypatch, GpuFacts(0, model="a card", mem_mib=mib))
    choice = choose_profile()
    assert choice.profile == profile
    assert "a card" in choice.why and "80 GB" in choice.why


def test_auto_ignores_cards_it_may_not_use(monkeypatch: pytest.MonkeyPatch) -> None:
    hidden = GpuFacts(0, mem_mib=81_559, selected=False)
    broken = GpuFacts(1, mem_mib=81_559, error="GPU is lost")
    machine_with(monkeypatch, hidden, broken)
    assert choose_profile().profile == "pocket"
    machine_with(monkeypatch)
    assert "no GPU" in choose_profile().why


def test_dry_run_says_what_and_how_long_and_leaves_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    machine_with(monkeypatch)
    out = tmp_path / "out"
    assert main(["reproduce", "table2", "--dry-run", "--out", str(out)]) == 0
    told = capsys.readouterr()
    assert "profile pocket (auto: no GPU" in told.err and "estimate: about" in told.err
    lines = told.out.splitlines()
    assert len(lines) == 11 and lines[0].startswith("shared: models, teacher-kept, preprocess")
    assert lines[-1] == "sft-1b-again1: student_train"
    assert "The teacher was not trained here" in told.err and "estimated" in told.err
    assert "kd-13b: student_train, evaluate, judge" in lines
    assert not out.exists()
    assert main(["reproduce", "table2", "--dry-run", "--train-teacher", "--out", str(out)]) == 0
    told = capsys.readouterr()
    assert told.out.startswith("shared: models, teacher-data, teacher-train, preprocess")
    assert "The teacher is trained here" in told.err


@pytest.mark.parametrize("more", [["--dry-run"], ["--yes"]])
def test_without_torch_nothing_is_planned(
    more: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    machine_with(monkeypatch)
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "torch" else find(name))
    out = tmp_path / "out"
    assert main(["reproduce", "table2", "--out", str(out), *more]) == 2
    told = capsys.readouterr()
    assert "torch is not installed" in told.err and "[train]" in told.err
    assert not told.out and not out.exists()


def test_the_paper_needs_its_assets_before_anything_starts(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a GPU preflight refuses with everything at once; with one the assets are missing."""
    monkeypatch.setenv("KIT_CACHE", str(tmp_path / "cache"))
    out = tmp_path / "out"
    words = ["reproduce", "table2", "--profile", "paper", "--yes", "--out", str(out)]
    assert main(words) == 1
    told = capsys.readouterr()
    assert "no GPU" in told.out and "kit fetch table2" in told.out and "nothing was started" in told.err
    monkeypatch.setattr("harness.cli.reproduce._preflight", lambda *_: None)
    assert main(words) == 2
    assert "kit fetch table2" in capsys.readouterr().err
    assert not out.exists()


def test_hours_are_asked_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    slow = tmp_path / "slow.yaml"
    slow.write_text(
        "base: pocket\nsummary: slow\nestimate: {watts: 20, seconds: {preprocess: 9000}, "
        "student_seconds: {1b: 1, 7b: 1, 13b: 1}}\n"
    )
    out = tmp_path / "out"
    assert main(["reproduce", "table2", "--profile", str(slow), "--out", str(out)]) == 2
    assert "--yes" in capsys.readouterr().err
    assert not out.exists()


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        (["table9"], "table9"),
        (["table2", "--profile", "poket"], "pocket"),
        (["table2", "--profile", "pocket", "--size", "2b"], "2b"),
    ],
)
def test_wrong_words_are_refused(
    words: list[str], hint: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["reproduce", *words, "--out", str(tmp_path / "out")]) == 2
    assert hint in capsys.readouterr().err


def test_one_of_several_cards_is_shown_to_stages_and_meter(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1,2")
    small = GpuFacts(0, model="L4", mem_mib=23_034, uuid="GPU-11111111...")
    large = GpuFacts(1, model="H100", mem_mib=81_559, uuid="GPU-22222222...")
    lost = GpuFacts(2, model="H200", mem_mib=143_771, uuid="GPU-33333333...", error="GPU is lost")
    machine_with(monkeypatch, small)
    assert pin_card() is None
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "0,1,2"
    machine_with(monkeypatch, small, large, lost)
    assert "GPU 1 (H100)" in str(pin_card())
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "GPU-22222222"
