"""Digits of a page are those of the terminal."""

from __future__ import annotations

import json
import random
import shutil
import subprocess
from pathlib import Path

import pytest

from harness.accounting.rounding import quantity, significant

CODE = Path(__file__).resolve().parents[2] / "web/src/format.js"


@pytest.mark.skipif(shutil.which("node") is None, reason="Node is not installed")
def test_the_page_rounds_as_the_terminal_does(tmp_path: Path) -> None:
    rng = random.Random(5)
    cases = [(2.15, 0.0, 4.3), (72.5e6, 0.0, 145e6), (1.25e9, 0.0, 2.5e9), (99_999.98, None, None)]
    for _ in range(5_000):
        best = rng.choice((10 ** rng.uniform(-6, 10), round(10 ** rng.uniform(-2, 5), rng.randrange(3))))
        half = best * rng.choice((0.0, 1.0, 10 ** rng.uniform(-6, 1)))
        cases.append((best, best - half, best + half))
    given = tmp_path / "cases.json"
    given.write_text(json.dumps(cases), encoding="utf-8")
    code = f"""
    import {{ readFileSync }} from "node:fs";
    import {{ significant, quantity }} from {json.dumps(CODE.as_uri())};
    const cases = JSON.parse(readFileSync({json.dumps(str(given))}, "utf8"));
    console.log(JSON.stringify(cases.map(([b, l, h]) => [significant(b, l, h), quantity(b, "J", l, h)])));
    """
    run = subprocess.run(
        ["node", "--input-type=module", "-e", code], capture_output=True, text=True, check=True
    )
    ours = [[significant(*case), quantity(case[0], "J", *case[1:])] for case in cases]
    assert json.loads(run.stdout) == ours
