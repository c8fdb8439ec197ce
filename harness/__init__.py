"""Energy accounting for LLM distillation pipelines.

`from harness import Meter` measures stages inside a Python program; the command `kit` does the rest.
Importing this package must stay cheap: it loads nothing until a name is asked for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

__version__ = "1.0.0"
__all__ = ["Meter", "__version__"]

if TYPE_CHECKING:
    from harness.api import Meter


def __getattr__(name: str) -> object:
    if name == "Meter":
        from harness.api import Meter

        return Meter
    raise AttributeError(f"module 'harness' has no attribute {name!r}")
