"""What the two stages import before they work: nothing heavy, so --help and a wrong flag answer at once."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

CODE = """
import sys
import harness.evaluation.evaluate, harness.distill.teacher_generate
heavy = {"torch", "transformers", "datasets", "lm_eval", "vllm"} & set(sys.modules)
assert not heavy, heavy
"""


def test_the_programs_start_light() -> None:
    subprocess.run([sys.executable, "-c", CODE], check=True, cwd=Path(__file__).resolve().parents[2])
