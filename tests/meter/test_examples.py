"""Python blocks of README and docs that use a Meter, run as programs in a folder of their own."""

from __future__ import annotations

import re
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from tests.lab import Const, FakePowercap, Zone
from tests.lab.fixtures import ROOT
from tests.meter.runs import Sealed, environment, kit

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
BLOCKS = [
    pytest.param(block, id=f"{page.name}-{number}")
    for page in PAGES
    for number, block in enumerate(
        re.findall(r"^```python\n(.*?)^```", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    )
    if "meter" in block
]
PRELUDE = """
import time
def train(seconds=0.6):
    until = time.process_time() + seconds
    while time.process_time() < until: pass
scores, digests = [1.0] * 9 + [0.0] * 16, [f"{item:064x}" for item in range(25)]
"""


def program(block: str) -> str:
    """A block with what it takes for granted around it."""
    if "Meter(" in block:
        return PRELUDE + block
    opened = 'from harness import Meter\nwith Meter(out="runs/mine") as meter:\n'
    return PRELUDE + opened + textwrap.indent(block, "    ")


def test_there_are_blocks() -> None:
    assert len(BLOCKS) >= 3


@pytest.mark.parametrize("counter", [True, False], ids=["rapl", "codecarbon"])
@pytest.mark.parametrize("block", BLOCKS)
def test_a_block_measures_what_it_runs(block: str, counter: bool, tmp_path: Path) -> None:
    with FakePowercap(tmp_path / "powercap", [Zone("package-0", (Const(50.0),))]) as cpu:
        root = cpu.env() if counter else {"KIT_POWERCAP_ROOT": str(tmp_path / "none")}
        env = environment(None, tmp_path, root)
        done = subprocess.run(
            [sys.executable, "-c", program(block)],
            env=env,
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
        )
        assert (done.returncode, done.stderr) == (0, "")
        (folder,) = (tmp_path / "runs").iterdir()
        run = Sealed(folder)
        (stage,) = run.stages
        assert stage["status"] == "completed"
        if "energy" in block:
            joules = sum(stage[f"{part}_energy_j"] or 0.0 for part in ("gpu", "cpu", "dram"))
            assert float(done.stdout.split(" J")[0]) == pytest.approx(joules, abs=0.6)
        if counter:
            truth_j = cpu.true_energy_j(0, stage["mono_start_us"], stage["mono_end_us"])
            # The zone is read beside the boundary: 50 ms on a busy machine.
            assert stage["cpu_energy_j"] == pytest.approx(truth_j, abs=2.5 + 0.02 * truth_j)
        else:
            assert stage["cpu_energy_method"] == "codecarbon_process" and stage["dram_energy_j"] > 0
            assert stage["cpu_energy_j"] > 0 or "train()" not in block
        assert "source_absent" not in {event["kind"] for event in run.events()}
        assert ("add_tokens" in block) == (stage["tokens_trained"] == 1_048_576)
        assert len(run.rows("eval_items")) == (25 if "add_eval" in block else 0)
        assert kit("validate", str(folder), env=env).returncode == 0
