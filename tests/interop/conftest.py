"""A run directory of the authors' harness to fill, and its import."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from harness.interop.reference.importer import import_reference
from harness.interop.write import ImportResult
from tests.interop.reference_checks import Make, assert_valid
from tests.interop.reference_logs import HarnessRun


@pytest.fixture
def run(tmp_path: Path) -> HarnessRun:
    return HarnessRun(tmp_path / "logs")


@pytest.fixture
def load(run: HarnessRun, tmp_path: Path) -> Make:
    """Imports the run; every bundle that any test makes is validated."""

    def import_and_validate(**options: Any) -> ImportResult:
        result = import_reference(run.root, tmp_path / "bundle", **options)
        assert_valid(result)
        return result

    return import_and_validate
