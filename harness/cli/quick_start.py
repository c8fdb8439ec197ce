"""Loads numpy and pyarrow without what a short command has no use for."""

from __future__ import annotations

import os
import sys
from importlib.abc import MetaPathFinder
from types import ModuleType, SimpleNamespace

_THREADS = "OPENBLAS_NUM_THREADS"
_UNUSED = ("pandas", "dateutil", "cloudpickle", "pyarrow._s3fs", "pyarrow._gcsfs", "pyarrow._azurefs")
_STAND_INS: dict[str, dict[str, object]] = {
    "pyarrow.vendored.docscrape": {"NumpyDocString": lambda text: {"Parameters": []}},
    "ssl": {"get_default_verify_paths": lambda: SimpleNamespace(cafile=None, capath=None)},
}


class _NoExtras(MetaPathFinder):
    """Finds none of pyarrow's optional packages, so that it does without, as where they are not installed."""

    def find_spec(self, name: str, path: object, target: object = None) -> None:
        if name in _UNUSED:
            raise ModuleNotFoundError("left out by kit", name=name)


def light_pyarrow() -> None:
    """Load numpy without its threads, pyarrow without its optional packages, remote files and docstrings.

    Together they are half of the CPU time of `kit validate` on a small bundle. OpenBLAS starts a thread for
    each core when it is loaded; these commands multiply no matrices. At its first conversion of a list,
    pyarrow looks for pandas and imports it. It looks once; whoever imports pandas later gets it.
    pyarrow.compute parses the documentation of every option of its 286 functions when it is imported;
    pyarrow.parquet loads file systems of clouds, and ssl to find their certificates.
    """
    if "numpy" in sys.modules or "pyarrow" in sys.modules:
        return
    if _THREADS not in os.environ:
        os.environ[_THREADS] = "1"
        import numpy  # noqa: F401

        del os.environ[_THREADS]  # a command that is metered has its own
    finder = _NoExtras()
    absent = {name: members for name, members in _STAND_INS.items() if name not in sys.modules}
    sys.meta_path.insert(0, finder)
    for name, members in absent.items():
        sys.modules[name] = ModuleType(name)
        vars(sys.modules[name]).update(members)
    try:
        import pyarrow as pa
        import pyarrow.compute
        import pyarrow.parquet

        pa.array([0])
    finally:
        sys.meta_path.remove(finder)
        for name in absent:
            del sys.modules[name]
