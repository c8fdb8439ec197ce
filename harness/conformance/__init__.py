"""The protocol's conformance vectors, run against this kit or against any other implementation.

    vectors.py     reads protocol/<version>/vectors/*.json
    operations.py  operation -> this kit's own code, through readings, figures and documents
    runner.py      runs vectors, compares answers
    external.py    another implementation behind a pipe

No formula belongs here, and no expected value: tests/oracle makes those and imports nothing of the kit.
"""

from __future__ import annotations

from harness.conformance.operations import OPERATIONS, Answer, Implementation
from harness.conformance.runner import Outcome, run_vector, run_vectors
from harness.conformance.vectors import load_vectors, vector_files

__all__ = [
    "OPERATIONS",
    "Answer",
    "Implementation",
    "Outcome",
    "load_vectors",
    "run_vector",
    "run_vectors",
    "vector_files",
]
