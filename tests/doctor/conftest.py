"""A doctor's patient: this process's environment made into a machine of the lab's."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from harness.doctor import observe
from harness.doctor.checks import Check
from harness.doctor.diagnose import Diagnosis, diagnose
from harness.doctor.observe import EstimatorFacts
from tests.lab import LabConfig
from tests.lab.fixtures import lab_dir  # noqa: F401

ESTIMATE = EstimatorFacts("3.3.2", "Some CPU", 65.0)
Examine = Callable[..., Diagnosis]


@pytest.fixture
def examine(
    lab_dir: Path,  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Examine:
    """`examine(config, required=..., **env) -> Diagnosis`, on the lab's NVML, or on none for None.

    The inventory runs in a child, so the environment set here reaches the loader as it does in life.
    CodeCarbon's start of two seconds is left out; one test of its own has it.
    """
    empty = tmp_path / "empty"
    empty.mkdir()
    monkeypatch.setenv("KIT_POWERCAP_ROOT", str(empty))
    monkeypatch.setattr(observe, "_try_estimator", lambda: ESTIMATE)
    monkeypatch.setattr(observe, "_scheduling", lambda: "fifo")
    monkeypatch.setattr(observe, "_container", lambda: None)
    monkeypatch.setattr(observe, "_virtual", lambda: False)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.delenv("CUDA_DEVICE_ORDER", raising=False)

    def run(config: LabConfig | None, required: tuple[str, ...] = (), **env: str) -> Diagnosis:
        additions = {"LD_LIBRARY_PATH": str(empty)} if config is None else config.env(lab_dir)
        for name, value in {**additions, **env}.items():
            monkeypatch.setenv(name, value)
        return diagnose(str(tmp_path), required)

    return run


def find(diagnosis: Diagnosis, check_id: str, device: int | None = None) -> Check:
    """The one check of that id (and device)."""
    (check,) = [c for c in diagnosis.checks if c.id == check_id and (device is None or c.device == device)]
    return check
