"""docs/architecture.md names packages, files and arrows that exist."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PAGE = (ROOT / "docs" / "architecture.md").read_text()
PACKAGE = ROOT / "harness"


def named_layers() -> list[set[str]]:
    """The table of packages, top down; each row is one layer."""
    [table] = re.findall(r"^\| Package \|.*\n\|---\|---\|\n((?:\|.*\n)+)", PAGE, flags=re.MULTILINE)
    return [set(re.findall(r"`(\w+)`", line.split("|")[1])) for line in table.splitlines()]


def test_the_packages_are_listed_in_the_order_that_lint_checks() -> None:
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    [layers] = [contract["layers"] for contract in contracts if contract["name"] == "layers"]
    assert named_layers() == [set(layer.split(" | ")) for layer in layers]


def test_every_package_has_a_line() -> None:
    found = {
        path.stem for path in PACKAGE.iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()
    }
    assert set().union(*named_layers()) == found - {"__init__"}


def test_every_file_that_the_page_names_exists() -> None:
    named = set(re.findall(r"\b(?:harness|tests|protocol|scripts)/[\w./]*\w", PAGE))
    assert len(named) > 10
    assert [name for name in sorted(named) if not (ROOT / name).exists()] == []
    links = re.findall(r"\]\((?!https?:|#)([^)#]+)", PAGE)
    assert [link for link in links if not (ROOT / "docs" / link).exists()] == []


def test_the_tree_names_every_folder_of_the_checkout() -> None:
    [tree] = re.findall(r"^## The tree\n\n```\n(.*?)^```", PAGE, flags=re.MULTILINE | re.DOTALL)
    named = set(re.findall(r"^(\w+)/", tree, flags=re.MULTILINE))
    assert [name for name in sorted(named) if not (ROOT / name).is_dir()] == []
    assert named >= {"protocol", "harness", "tests", "scripts", "examples", "artifacts", "docs"}


def test_drawings_fit_a_page() -> None:
    drawings = re.findall(r"^```\n(.*?)^```", PAGE, flags=re.MULTILINE | re.DOTALL)
    assert len(drawings) == 3
    for drawing in drawings:
        assert drawing.isascii()
        assert max(map(len, drawing.splitlines())) <= 100
        assert len(drawing.splitlines()) <= 60
