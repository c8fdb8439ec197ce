"""What every test may rely on: no library tries a network, and no setting of the caller's shell leaks in.

Test modules import torch and its like at their top; where those are not installed, the module is skipped and
the summary says why.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Generator

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


_FIRST = (
    "tests/meter/test_kill.py",
    "tests/conformance/test_implementations.py",
    "tests/accounting/test_coverage.py",
    "tests/audit/test_runner_killed.py",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest files first, then those of few tests, which run programs and wait for them.

    So no long file is left to one worker when the others have ended. Within a file the order stays.
    """
    files = [item.nodeid.partition("::")[0] for item in items]
    counts = Counter(files)
    order = {file: (file not in _FIRST, counts[file], file) for file in counts}
    items.sort(key=lambda item: order[item.nodeid.partition("::")[0]])


_EXTRAS = (
    "accelerate|datasets|httpx2|huggingface_hub|jinja2|lm_eval|safetensors|tokenizers|torch|transformers|trl"
)


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(
    collector: pytest.Collector,
) -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    """A module that wants a package of the train or eval extra is skipped where it is missing, not broken."""
    report = yield
    if report.failed and (missing := re.search(rf"No module named '({_EXTRAS})['.]", str(report.longrepr))):
        report.outcome = "skipped"
        report.longrepr = (str(collector.path), 0, f"Skipped: {missing[1]} is not installed: make setup-test")
    return report
