"""A run directory of the authors' harness to fill, and its import."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.interop.reference.importer import import_reference
from tests.interop.reference_checks import Make
from tests.interop.reference_logs import HarnessRun


@pytest.fixture
def run(tmp_path: Path) -> HarnessRun:
    return HarnessRun(tmp_path / "logs")


@pytest.fixture
def load(run: HarnessRun, tmp_path: Path) -> Make:
    return lambda **options: import_reference(run.root, tmp_path / "bundle", **options)
