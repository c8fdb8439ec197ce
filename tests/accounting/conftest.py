"""The lab, for tests that meter a run."""

from tests.lab.fixtures import lab_dir

__all__ = ["lab_dir"]
