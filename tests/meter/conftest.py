"""What all tests of the meter share: the lab's fake libnvidia-ml, built once."""

from __future__ import annotations

from tests.lab.fixtures import lab_dir, nvml_child

__all__ = ["lab_dir", "nvml_child"]
