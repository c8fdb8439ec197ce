"""Keeps pandas out of commands that have no use for it."""

from __future__ import annotations

import sys
from importlib.abc import MetaPathFinder


class _NoPandas(MetaPathFinder):
    """Finds no pandas, so that `import pandas` fails as if it were not installed."""

    def find_spec(self, name: str, path: object, target: object = None) -> None:
        if name == "pandas":
            raise ModuleNotFoundError("left out by kit", name=name)


def without_pandas() -> None:
    """Let pyarrow believe that pandas is not installed; for a process that hands it no data frames.

    At its first conversion of a list or an array, pyarrow looks whether pandas is there and imports it, a
    third of the CPU time of `kit validate` on a small bundle. It looks once; whoever imports pandas later
    gets it.
    """
    if "pandas" in sys.modules:
        return
    import pyarrow as pa

    finder = _NoPandas()
    sys.meta_path.insert(0, finder)
    try:
        pa.array([0])
    finally:
        sys.meta_path.remove(finder)
