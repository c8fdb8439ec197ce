"""What every test may rely on: no library tries a network, and no setting of the caller's shell leaks in."""

from __future__ import annotations

import os

import pytest

# Before any test imports numpy or a Hugging Face library; `make test` sets the same.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests run inside `kit run` or with KIT_DEBUG set behave as anywhere else."""
    for name in [name for name in os.environ if name.startswith(("KIT_", "_KIT_"))]:
        monkeypatch.delenv(name)
