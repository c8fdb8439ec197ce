"""The load program: its orders, its answers, and both of its backends (torch played by a stand-in)."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from harness.errors import KitError
from harness.gpucheck.loader import Load, start_torch
from tests.doctor.stand_in import write_torch


@pytest.fixture(autouse=True)
def _torch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_torch(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))


@pytest.mark.parametrize("backend", ["torch", "numpy"])
def test_work_takes_the_time_it_was_told(backend: str) -> None:
    with Load(sys.executable, backend) as load:
        assert load.name.startswith(backend)
        load.open()
        shapes: dict[str, dict[str, float]] = {"square": {"high_s": 0.05, "low_s": 0.05}}
        for kind in ("matmul", "memory", "square"):
            done = load.work(kind, 0.2, **shapes.get(kind, {}))
            assert done["end_us"] - done["start_us"] >= 195_000 and done["pieces"] > 0
        rest = load.work("idle", 0.1)
        assert rest["pieces"] == 0 and rest["end_us"] - rest["start_us"] >= 100_000


def test_torch_is_found_in_another_interpreter() -> None:
    with start_torch(sys.executable) as load:
        assert load.name == "torch 0.0-stand-in"


def test_why_there_is_no_load(tmp_path: Path) -> None:
    write_torch(tmp_path, available=False)
    with pytest.raises(KitError, match="torch sees no CUDA device"):
        start_torch()
    with pytest.raises(KitError, match="cannot be started"):
        Load(str(tmp_path / "no-python"), "torch")
    (tmp_path / "torch.py").write_text("raise ImportError('broken wheel')\n")
    with pytest.raises(KitError, match="broken wheel"):
        Load(sys.executable, "torch")
    (tmp_path / "torch.py").write_text("raise SystemExit('no device left')\n")
    with pytest.raises(KitError, match="ended early: no device left"):
        Load(sys.executable, "torch")
    (tmp_path / "torch.py").write_text("raise ValueError('built for another numpy')\n")
    with pytest.raises(KitError, match="built for another numpy"):
        Load(sys.executable, "torch")


def test_no_work_is_made_up_without_tensors() -> None:
    with Load(sys.executable, "torch") as load:
        load.open()
        load.release()
        with pytest.raises(KitError, match="no tensors"):
            load.work("matmul", 0.01)


def test_an_error_of_the_device_is_passed_on(tmp_path: Path) -> None:
    write_torch(tmp_path, broken=True)
    with Load(sys.executable, "torch") as load, pytest.raises(KitError, match=r"out of memory$"):
        load.open()
