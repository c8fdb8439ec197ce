"""The protocol's conformance vectors, run against this kit or against any other implementation.

    vectors.py     reads protocol/<version>/vectors/*.json
    operations.py  operation -> this kit's own code, through readings, figures and documents
    runner.py      runs vectors, compares answers
    external.py    another implementation behind a pipe

No formula belongs here, and no expected value: tests/oracle makes those and imports nothing of the kit.
"""

from __future__ import annotations

from harness.conformance.operations import OPERATIONS as OPERATIONS
from harness.conformance.operations import Answer as Answer
from harness.conformance.runner import Outcome as Outcome
from harness.conformance.runner import run_vector as run_vector
from harness.conformance.runner import run_vectors as run_vectors
from harness.conformance.vectors import load_vectors as load_vectors
from harness.conformance.vectors import vector_files as vector_files
