"""A protocol root with a version that does not exist yet, made of data alone, and the kit run under it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

from harness.spec import protocol_root

QUANTIZE = '  - {name: quantize, clause: "2.1", doc: "Weights made smaller.", inside: "All of it."%s}\n'
RULE = """
  - {id: W398, name: fan-stopped, level: 3, severity: warning, clause: "5.2",
     title: a fan stands still, why: "A hot card slows down.", fix: "look at the fan"}
"""


def with_kind(text: str, properties: str = "") -> str:
    """protocol.yaml with a stage kind `quantize`."""
    before = '  - {name: sweep, clause: "2.1"'
    assert before in text
    return text.replace(before, QUANTIZE % (properties and f", {properties}") + before)


def next_version(root: Path) -> Path:
    """Protocols 1.0 and 1.1: one more column in two tables, one more rule, one more stage kind."""
    shutil.copytree(protocol_root() / "1.0", root / "1.0")
    shutil.copytree(root / "1.0", root / "1.1")
    new = root / "1.1"
    for path in [*(new / "tables").glob("*.yaml"), new / "manifest.yaml"]:
        path.write_text(path.read_text().replace("/1.0", "/1.1"))
    for table, name in (("power", "fan_rpm"), ("stages", "rack_row")):
        path = new / "tables" / f"{table}.yaml"
        clause = "5.2.99" if table == "power" else "5.1.99"
        column = f'name: {name}, type: int32, nullable: true, field_id: 99, clause: "{clause}", doc: "New."'
        path.write_text(f"{path.read_text().rstrip()}\n  - {{{column}}}\n")
    protocol = new / "protocol.yaml"
    protocol.write_text(with_kind(protocol.read_text()).replace('version: "1.0.0"', 'version: "1.1.0"'))
    rules = new / "rules.yaml"
    rules.write_text(rules.read_text().rstrip("\n") + RULE)
    return root


def kit(root: Path | None, *arguments: object, code: int = 0, folder: Path | None = None) -> str:
    """What `kit` prints, stdout and stderr together, under a protocol root."""
    env = {name: value for name, value in os.environ.items() if not name.startswith("KIT_")}
    env |= {"PYTHONPATH": str(Path(__file__).parents[2]), "COLUMNS": "110"}
    if root is not None:
        env["KIT_PROTOCOL_ROOT"] = str(root)
    words = [sys.executable, "-m", "harness.cli.main", *map(str, arguments)]
    done = subprocess.run(
        words, capture_output=True, text=True, timeout=120, check=False, env=env, cwd=folder
    )
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout + done.stderr
