"""Loads numpy and pyarrow without what a short command has no use for."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType, SimpleNamespace

_THREADS = "OPENBLAS_NUM_THREADS"
_UNUSED = ("pandas", "dateutil", "cloudpickle", "pyarrow._s3fs", "pyarrow._gcsfs", "pyarrow._azurefs")


class _Parameter:
    POSITIONAL_ONLY = VAR_POSITIONAL = POSITIONAL_OR_KEYWORD = KEYWORD_ONLY = None

    def __init__(self, *args: object, **options: object) -> None:
        """Keeps nothing."""


_StandIns = dict[str, dict[str, object]]
_SSL: _StandIns = {"ssl": {"get_default_verify_paths": lambda: SimpleNamespace(cafile=None, capath=None)}}
_NO_DOCUMENTATION: _StandIns = {
    "pyarrow.vendored.docscrape": {"NumpyDocString": lambda text: {"Parameters": []}},
    "textwrap": {"dedent": lambda text: text},
    "inspect": {
        "Parameter": _Parameter,
        "Signature": lambda parameters: None,
        "signature": lambda options_class: SimpleNamespace(parameters={}),
    },
}


class _NoExtras:
    """Finds none of pyarrow's optional packages, so that it does without, as where they are not installed."""

    def find_spec(self, name: str, path: object, target: object = None) -> None:
        if name in _UNUSED:
            raise ModuleNotFoundError("left out by kit", name=name)


def light_pyarrow() -> None:
    """Load numpy without its threads, pyarrow without its optional packages, remote files and docstrings.

    Together they are half of the CPU time of `kit validate` on a small bundle. OpenBLAS starts a thread for
    each core when it is loaded; these commands multiply no matrices. At its first conversion of a list,
    pyarrow looks for pandas and imports it. It looks once; whoever imports pandas later gets it.
    pyarrow.compute parses the documentation of every option of its 286 functions when it is imported, and
    writes them documentation and signatures; pyarrow.parquet loads file systems of clouds, and ssl to find
    their certificates.
    """
    if "numpy" in sys.modules or "pyarrow" in sys.modules:
        return
    if _THREADS not in os.environ:
        os.environ[_THREADS] = "1"
        import numpy  # noqa: F401

        del os.environ[_THREADS]  # a command that is metered has its own
    finder = _NoExtras()
    sys.meta_path.insert(0, finder)
    try:
        with _standing_in(_SSL if "ssl" not in sys.modules else {}):
            import pyarrow as pa
            import pyarrow._compute
            import pyarrow.parquet
        with _standing_in(_NO_DOCUMENTATION):
            import pyarrow.compute
        pa.array([0])
    finally:
        sys.meta_path.remove(finder)


@contextmanager
def _standing_in(modules: _StandIns) -> Iterator[None]:
    """Whoever imports these meanwhile gets the stand-ins, for good; everyone else gets the modules."""
    before = {name: sys.modules.get(name) for name in modules}
    for name, members in modules.items():
        sys.modules[name] = ModuleType(name)
        vars(sys.modules[name]).update(members)
    try:
        yield
    finally:
        for name, module in before.items():
            if module is None:
                del sys.modules[name]
            else:
                sys.modules[name] = module
