"""What stages are forked from has one thread, however many their own arithmetic is given."""

from __future__ import annotations

import os
import subprocess
import sys

# Without torch, whose import takes seconds and leaves no thread: numpy and pyarrow would.
CODE = """
import os, sys
sys.modules["torch"] = None
try:
    import harness.evaluation.preload
except ImportError:
    import numpy, pyarrow.parquet
    print(len(os.listdir("/proc/self/task")))
"""


def test_it_leaves_no_thread_behind() -> None:
    names = ("OPENBLAS_NUM_THREADS", "JE_ARROW_MALLOC_CONF")
    own = {name: value for name, value in os.environ.items() if name not in names}
    own |= {"OMP_NUM_THREADS": "2"}
    told = subprocess.run([sys.executable, "-c", CODE], env=own, capture_output=True, check=True, text=True)
    assert told.stdout.strip() == "1"
