"""What a stage's first seconds go into, and how to spend fewer of them."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

_UNNEEDED = ("sklearn", "scipy")


@contextmanager
def light_transformers() -> Iterator[None]:
    """Import transformers in this block without scikit-learn, SciPy and pandas behind it.

    transformers imports them wherever they are installed (lm-eval needs them), for a curve of assisted
    generation and a loss of object detection: a third of its import. It asks once, so what it finds in this
    block stays; the two can be imported as ever afterwards.
    """
    hidden = [name for name in _UNNEEDED if name not in sys.modules]
    for name in hidden:
        sys.modules[name] = None  # type: ignore[assignment]
    try:
        import transformers.generation.candidate_generator
        import transformers.modeling_utils  # noqa: F401

        yield
    finally:
        for name in hidden:
            if sys.modules.get(name, False) is None:
                del sys.modules[name]
