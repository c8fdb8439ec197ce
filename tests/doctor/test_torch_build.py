"""Which driver an installed torch needs."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.doctor import torch_build
from harness.doctor.torch_build import too_old, torch_cuda
from tests.doctor.conftest import Examine, find
from tests.lab import Const, LabConfig, LabDevice
from tests.lab.fixtures import lab_dir  # noqa: F401


@pytest.mark.parametrize(
    ("driver", "cuda", "least"),
    [
        ("570.124.06", "13.0", 580),
        ("580.65.06", "13.0", None),
        ("550.54.15", "12.8", None),
        ("520.61.05", "12.4", 525),
        (None, "13.0", None),
        ("570.1", "", None),
        ("570.1", None, None),
        ("570.1", "99.0", None),
    ],
)
def test_the_driver_that_a_cuda_version_needs(
    driver: str | None, cuda: str | None, least: int | None
) -> None:
    assert too_old(driver, cuda) == least


@pytest.mark.parametrize(
    ("text", "cuda"),
    [
        ("__version__ = '2.13.0+cu130'\ncuda: Optional[str] = '13.0'\nhip = None\n", "13.0"),
        ("__version__ = '2.13.0+cpu'\ncuda: Optional[str] = None\n", ""),
    ],
)
def test_cuda_is_read_from_the_build_without_importing_it(
    text: str, cuda: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "torch").mkdir()
    (tmp_path / "torch/__init__.py").write_text("raise ImportError\n")
    (tmp_path / "torch/version.py").write_text(text)
    found = type("Spec", (), {"origin": str(tmp_path / "torch/__init__.py")})()
    monkeypatch.setattr(torch_build.util, "find_spec", lambda name: found)
    assert torch_cuda() == cuda


def test_the_doctor_warns_of_a_driver_that_torch_cannot_use(
    examine: Examine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("harness.doctor.gpu_checks.torch_cuda", lambda: "13.0")
    verdicts = {
        driver: find(examine(LabConfig((LabDevice((Const(300.0),)),), driver=driver)), "nvml").status
        for driver in ("550.54.15", "580.65.06")
    }
    assert verdicts == {"550.54.15": "warn", "580.65.06": "ok"}
