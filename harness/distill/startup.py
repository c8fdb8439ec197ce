"""What a stage's first seconds go into, and how to spend fewer of them."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def light_transformers() -> Iterator[None]:
    """Import transformers in this block without scikit-learn, SciPy and pandas behind it.

    transformers imports scikit-learn wherever it is installed (lm-eval needs it), for one curve of assisted
    generation that nobody here draws: a third of the import's time. It asks once, so what it finds in this
    block stays; scikit-learn itself can be imported as ever afterwards.
    """
    if "sklearn" in sys.modules:
        yield
        return
    sys.modules["sklearn"] = None  # type: ignore[assignment]
    try:
        import transformers.generation.candidate_generator  # noqa: F401

        yield
    finally:
        if sys.modules.get("sklearn", False) is None:
            del sys.modules["sklearn"]
