"""Which CUDA the installed torch was built for, and which driver that needs; torch is not imported."""

from __future__ import annotations

import re
from importlib import util
from pathlib import Path

LEAST_DRIVER = {11: 450, 12: 525, 13: 580}
"""CUDA's major version to the oldest driver branch that runs it (CUDA release notes, minor version
compatibility)."""


def torch_cuda() -> str | None:
    """CUDA version of the installed torch, as "13.0"; "" for a build without CUDA, None without torch."""
    spec = util.find_spec("torch")
    if spec is None or spec.origin is None:
        return None
    try:
        text = (Path(spec.origin).parent / "version.py").read_text(encoding="utf-8")
    except OSError:
        return None
    found = re.search(r"^cuda\b[^=]*=\s*['\"]([\d.]+)['\"]", text, re.MULTILINE)
    return found[1] if found else ""


def too_old(driver: str | None, cuda: str | None) -> int | None:
    """The driver branch that a CUDA version needs, where the driver at hand is older; else None."""
    if not driver or not cuda:
        return None
    least = LEAST_DRIVER.get(int(cuda.partition(".")[0]))
    branch = re.match(r"\d+", driver)
    return least if least and branch and int(branch[0]) < least else None
