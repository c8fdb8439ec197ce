"""What a stage imports before it works: nothing heavy for --help, and transformers without its hangers-on."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

CODE = """
import sys
import harness.distill.evaluate, harness.distill.teacher_generate
heavy = {"torch", "transformers", "datasets", "lm_eval", "vllm"} & set(sys.modules)
assert not heavy, heavy
from harness.distill.startup import light_transformers
with light_transformers():
    from transformers import AutoModelForCausalLM
assert not {"sklearn", "scipy"} & set(sys.modules)
import scipy, sklearn
with light_transformers():
    assert sys.modules["scipy"] is scipy and sys.modules["sklearn"] is sklearn
assert sys.modules["scipy"] is scipy
"""


def test_transformers_comes_alone_and_nothing_stays_hidden() -> None:
    subprocess.run([sys.executable, "-c", CODE], check=True, cwd=Path(__file__).resolve().parents[2])
