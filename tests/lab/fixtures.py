"""Pytest fixtures: `from tests.lab.fixtures import lab_dir, nvml_child  # noqa: F401`."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from .build import build_fake_nvml
from .config import LabConfig

ROOT = Path(__file__).resolve().parents[2]
RunInLab = Callable[..., str]


@pytest.fixture(scope="session")
def lab_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory that holds the fake libnvidia-ml.so.1, built once a session."""
    directory = tmp_path_factory.mktemp("lab")
    build_fake_nvml(directory)
    return directory


def lab_environ(*additions: Mapping[str, str]) -> dict[str, str]:
    """This process's environment with the checkout importable and `additions` on top."""
    environ = {**os.environ, "PYTHONPATH": str(ROOT)}
    environ.pop("CUDA_VISIBLE_DEVICES", None)
    for addition in additions:
        environ.update(addition)
    return environ


@pytest.fixture
def nvml_child(lab_dir: Path) -> RunInLab:
    """Runs Python code before the fake NVML: `nvml_child(config, code, *args, env={}) -> stdout`.

    The code finds pynvml initialised, as `nvml`, and `handles`, the handle of each device.
    """

    def run(
        config: LabConfig, code: str, *args: str, env: Mapping[str, str] | None = None, timeout: float = 300
    ) -> str:
        prelude = "import sys, time, json\nimport pynvml as nvml\nnvml.nvmlInit()\n"
        prelude += (
            "handles = [nvml.nvmlDeviceGetHandleByIndex(i) for i in range(nvml.nvmlDeviceGetCount())]\n"
        )
        done = subprocess.run(
            [sys.executable, "-c", prelude + code, *args],
            env=lab_environ(config.env(lab_dir), env or {}),
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run
