"""How a stage tells the meter what it did: one JSON object a line, appended to the file named in KIT_EVENTS.

Any language can do this. Without the variable (the script run by hand) nothing is written.
"""

from __future__ import annotations

import json
import os
from pathlib import Path


def emit(**fields: int | float | str) -> None:
    """Append one event, for example `emit(tokens_processed=1024)`; counts of a stage are added up."""
    path = os.environ.get("KIT_EVENTS")
    if path:
        with Path(path).open("a", encoding="utf-8") as file:
            file.write(json.dumps(fields) + "\n")
