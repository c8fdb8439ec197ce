"""The generator script as a module."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest


@pytest.fixture(scope="session")
def large() -> ModuleType:
    path = Path(__file__).parents[2] / "scripts" / "make_large_bundle.py"
    spec = importlib.util.spec_from_file_location("make_large_bundle", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module
