"""The recipes of CONTRIBUTING.md work as written: each is carried out on a copy of the tree.

A step of a recipe is a sentence that says what to do with a file, and the block of code behind it. Blocks of
`sh` are run.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from textwrap import dedent
from typing import NamedTuple

import pytest

ROOT = Path(__file__).resolve().parent.parent
PAGE = (ROOT / "CONTRIBUTING.md").read_text()
RECIPES = ("Add a rule", "Add a stage kind", "Add a power source", "Add a benchmark")
BLOCK = re.compile(r"^( *)```(\w+)\n(.*?)^\1```", flags=re.MULTILINE | re.DOTALL)


class Step(NamedTuple):
    """One block of a recipe and the sentence before it."""

    sentence: str
    language: str
    code: str


def steps(recipe: str) -> list[Step]:
    section = PAGE.split(f"\n## {recipe}\n")[1].split("\n## ")[0]
    found, end = [], 0
    for block in BLOCK.finditer(section):
        before = section[end : block.start()].strip().splitlines()
        found.append(Step(before[-1].strip() if before else "", block[2], dedent(block[3])))
        end = block.end()
    return found


def carry_out(step: Step, tree: Path) -> None:
    """Do what a step says, in a copy of the tree."""
    if step.language == "sh":
        _run(step.code, tree)
    elif named := re.fullmatch(r"Append to `(\S+)`:", step.sentence):
        path = tree / named[1]
        gap = "\n\n" if step.language == "python" else ""
        path.write_text(path.read_text() + gap + _indented(step))
    elif named := re.fullmatch(r"Create `(\S+)`:", step.sentence):
        path = tree / named[1]
        assert not path.exists(), f"{named[1]} is there already"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(step.code)
    elif named := re.fullmatch(r"Add to `(\S+)` above the line `(\S+)`:", step.sentence):
        path = tree / named[1]
        before, line, after = path.read_text().partition(f"\n{named[2]}")
        assert line, f"{named[1]} has no line {named[2]}"
        path.write_text(f"{before}\n{_indented(step).rstrip()}{line}{after}")
    else:
        pytest.fail(f"not a step that can be carried out: {step.sentence!r}")


def _indented(step: Step) -> str:
    """List entries of our YAML stand two columns in."""
    if step.language != "yaml":
        return step.code
    return "".join(f"  {line}" for line in step.code.splitlines(keepends=True))


def _run(code: str, tree: Path) -> None:
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", code],
        cwd=tree,
        env=os.environ
        | {
            # The copy's packages come before those of the environment, in `kit` too.
            "PYTHONPATH": str(tree),
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "PYTEST_ADDOPTS": "-p no:cacheprovider",
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, f"{code}\n{done.stdout}\n{done.stderr}"


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    return copy_of_tree(tmp_path / "kit")


def copy_of_tree(copy: Path) -> Path:
    """What a recipe may touch or need."""
    copy.mkdir()
    ignored = shutil.ignore_patterns("__pycache__", "*.pyc")
    for name in ("harness", "protocol", "scripts", "tests", "artifacts", "docs"):
        shutil.copytree(ROOT / name, copy / name, ignore=ignored)
    for name in ("PROTOCOL.md", "pyproject.toml", "README.md"):
        shutil.copy(ROOT / name, copy / name)
    return copy


@pytest.mark.parametrize("recipe", RECIPES)
def test_the_recipe_works_as_written(recipe: str, tree: Path) -> None:
    if recipe == "Add a benchmark":
        pytest.importorskip("lm_eval", reason="a benchmark is scored by lm-eval, which is not installed")
        pytest.importorskip("if_verifiable", reason="its grader, if-verifiable, is not installed")
    found = steps(recipe)
    assert found and found[-1].language == "sh", "a recipe ends with something that shows that it worked"
    for step in found:
        carry_out(step, tree)


def test_every_recipe_is_carried_out() -> None:
    assert tuple(re.findall(r"^## (Add an? .+)$", PAGE, flags=re.MULTILINE)) == RECIPES


def test_a_recipe_that_leaves_a_step_out_fails(tree: Path) -> None:
    """Else the test above would pass on a recipe whose commands look at nothing."""
    [words, _, test, commands] = steps("Add a rule")
    for step in (words, test):
        carry_out(step, tree)
    with pytest.raises(AssertionError, match="W390 did not fire"):
        carry_out(commands, tree)
