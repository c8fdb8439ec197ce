"""What the README and the pages behind it tell a newcomer to type exists."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from harness.audit.plan import load_plan
from harness.cli.main import COMMANDS, GROUPS

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text()
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])
MAKEFILE = (ROOT / "Makefile").read_text()
TARGETS = set(re.findall(r"^([a-z][a-z0-9-]*):", MAKEFILE, flags=re.MULTILINE))


def code(page: str) -> str:
    """Blocks and words in a page that are set as code."""
    blocks = re.findall(r"^ *```\w*\n(.*?)^ *```", page, flags=re.MULTILINE | re.DOTALL)
    indented = re.findall(r"^    (\S.*)$", page, flags=re.MULTILINE)
    return "\n".join(blocks + indented + re.findall(r"`([^`\n]+)`", page))


def test_the_readme_takes_two_minutes() -> None:
    assert len(README.splitlines()) <= 110
    assert {"make audit-example", "make demo"} <= set(re.findall(r"^make [a-z-]+", code(README), flags=re.M))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_what_a_page_tells_to_type_exists(page: Path) -> None:
    text = code(page.read_text())
    assert set(re.findall(r"\bmake ([a-z][a-z0-9-]*)", text)) <= TARGETS
    assert set(re.findall(r"\bkit ([a-z]+)\b", text)) <= set(COMMANDS)


def test_the_page_of_commands_lists_every_one_under_its_purpose() -> None:
    text = (ROOT / "docs" / "commands.md").read_text()
    tables = re.findall(r"^\| (.+) \| \|\n\|---\|---\|\n((?:\|.*\n)+)", text, flags=re.MULTILINE)
    listed = {title: re.findall(r"^\| `kit (\w+)", body, flags=re.MULTILINE) for title, body in tables}
    assert listed == {title: list(group) for title, group in GROUPS.items()}


def test_pipeline_file_in_the_readme_is_valid(tmp_path: Path) -> None:
    [text] = re.findall(r"^```yaml\n(.*?)^```", README, flags=re.MULTILINE | re.DOTALL)
    assert len(text.splitlines()) <= 15
    (tmp_path / "my_pipeline.yaml").write_text(text)
    plan = load_plan(tmp_path / "my_pipeline.yaml", run_dir=tmp_path / "run")
    assert plan.stages[1].producers == {"0": ("cache",)}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_files_a_page_points_to_exist(page: Path) -> None:
    links = re.findall(r"\]\((?!https?:|#)([^)#]+)", page.read_text())
    assert [link for link in links if not (page.parent / link).exists()] == []


def test_pictures_are_those_that_a_command_makes() -> None:
    folder = ROOT / "docs" / "pictures"
    program = "from make_pictures import PICTURES; print(*PICTURES)"
    made = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT / "scripts", capture_output=True, text=True
    )
    assert sorted(path.name for path in folder.iterdir()) == sorted(made.stdout.split()) != []
    assert sum(path.stat().st_size for path in folder.iterdir()) < 600_000
    linked = {link for page in PAGES for link in re.findall(r"pictures/([\w.]+)", page.read_text())}
    assert linked == set(made.stdout.split())


def test_help_is_the_default_and_lists_the_targets() -> None:
    out = subprocess.run(["make"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert {"demo", "test", "lint", "lock", "clean", "help", "gpu-check"} <= set(
        re.findall(r"^  make ([a-z-]+)", out, re.M)
    )


@pytest.mark.parametrize("target", sorted(TARGETS - {"help"}))
def test_every_target_is_explained(target: str) -> None:
    assert re.search(rf"^{target}:.*## \S", MAKEFILE, flags=re.MULTILINE)
