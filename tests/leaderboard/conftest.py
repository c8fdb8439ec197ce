"""Two rankable runs, made once, and the submissions of them."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.leaderboard.runs import ranked_run, submitted


@pytest.fixture(scope="session")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    root = tmp_path_factory.mktemp("runs")
    return [ranked_run(root / str(seed), seed) for seed in (1, 2)]


@pytest.fixture(scope="session")
def packed(runs: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("packed")
    submitted(runs[0], root, "acme")
    submitted(runs[1], root, "zeta")
    return root


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def board(packed: Path, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of both submissions, to spoil; results are cached by content for all tests."""
    monkeypatch.setenv("KIT_CACHE", str(cache))
    shutil.copytree(packed / "submissions", tmp_path / "submissions")
    return tmp_path / "submissions"


@pytest.fixture
def one(board: Path) -> Path:
    """The submission of acme."""
    return next((board / "acme").iterdir())
