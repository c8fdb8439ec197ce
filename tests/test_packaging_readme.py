"""What the README tells a newcomer to type exists."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from harness.audit.plan import load_plan
from harness.cli.main import COMMANDS

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text()
MAKEFILE = (ROOT / "Makefile").read_text()
TARGETS = set(re.findall(r"^([a-z][a-z0-9-]*):", MAKEFILE, flags=re.MULTILINE))
CODE = "\n".join(
    re.findall(r"^```\w*\n(.*?)^```", README, flags=re.MULTILINE | re.DOTALL)
    + re.findall(r"`([^`\n]+)`", README)
)


def test_make_targets_in_the_readme_exist() -> None:
    named = set(re.findall(r"\bmake ([a-z][a-z0-9-]*)", CODE))
    assert {"demo", "test"} <= named <= TARGETS


def test_kit_commands_in_the_readme_exist() -> None:
    named = set(re.findall(r"\bkit ([a-z]+)\b", CODE))
    assert named == set(COMMANDS), "the README names every command, and no other"


def test_pipeline_file_in_the_readme_is_valid(tmp_path: Path) -> None:
    [text] = re.findall(r"^```yaml\n(.*?)^```", README, flags=re.MULTILINE | re.DOTALL)
    assert len(text.splitlines()) <= 15
    (tmp_path / "my_pipeline.yaml").write_text(text)
    plan = load_plan(tmp_path / "my_pipeline.yaml", run_dir=tmp_path / "run")
    assert plan.stages[1].producers == {"0": ("cache",)}


def test_files_the_readme_points_to_exist() -> None:
    links = re.findall(r"\]\((?!https?:|#)([^)#]+)", README)
    assert [link for link in links if not (ROOT / link).exists()] == []


def test_help_is_the_default_and_lists_the_targets() -> None:
    out = subprocess.run(["make"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert {"demo", "test", "lint", "lock", "clean", "help", "gpu-check"} <= set(
        re.findall(r"^  make ([a-z-]+)", out, re.M)
    )


@pytest.mark.parametrize("target", sorted(TARGETS - {"help"}))
def test_every_target_is_explained(target: str) -> None:
    assert re.search(rf"^{target}:.*## \S", MAKEFILE, flags=re.MULTILINE)
