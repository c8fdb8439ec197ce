"""A stage's process starts sooner without what transformers would import and no stage uses."""

from __future__ import annotations

from importlib.util import find_spec


def skip_unused_imports() -> None:
    """Keep transformers from importing scikit-learn, with pandas and SciPy behind it.

    It wants them for assisted generation and a loss of object detection, and they are a sixth of a small
    stage's CPU time. Who does use them, as lm-eval does, imports them without asking transformers. For
    programs, not for libraries: it holds for the rest of the process.
    """
    if find_spec("transformers") is None:
        return
    from transformers import utils

    utils.is_sklearn_available = lambda: False
    utils.is_scipy_available = lambda: False
