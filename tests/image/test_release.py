"""The release workflow's own steps, run as the runner does, with a stand-in for docker."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml
from ruamel.yaml import YAML

from harness import __version__
from tests.lab.fixtures import ROOT

WORKFLOW = yaml.safe_load((ROOT / ".github/workflows/release.yml").read_text(encoding="utf-8"))
STEPS = {step["name"]: step["run"] for step in WORKFLOW["jobs"]["publish"]["steps"] if "name" in step}
DOCKER = """#!/bin/sh
echo "docker $*" >>"$CALLS"
case "$1" in
  login) echo "token: $(cat)" >>"$CALLS" ;;
  image) echo "$PUSHED" ;;
esac
"""
GIT = ["git", "-c", "user.name=Test", "-c", "user.email=test@example.org"]


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """What the steps read of a checkout, committed, and docker's stand-in beside it."""
    tree = tmp_path / "tree"
    (tree / "scripts").mkdir(parents=True)
    for name in ("README.md", "CITATION.cff", "pyproject.toml", "scripts/release_digest.py"):
        shutil.copy(ROOT / name, tree / name)
    for words in (["init", "-q"], ["add", "-A"], ["commit", "-qm", "A release"]):
        subprocess.run([*GIT, *words], cwd=tree, check=True)
    (tree / "dist").mkdir()
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "docker").write_text(DOCKER)
    (tmp_path / "bin" / "docker").chmod(0o755)
    return tree


def run(step: str, tree: Path, pushed: str = "", tag: str = f"v{__version__}") -> int:
    """A step's exit code."""
    told = {"PATH": f"{tree.parent / 'bin'}:{os.environ['PATH']}", "CALLS": str(tree.parent / "calls")}
    told |= {"REGISTRY": "registry.example/lab", "REGISTRY_USER": "ada", "REGISTRY_TOKEN": "s3cret"}
    told |= {"GITHUB_REF_NAME": tag, "GITHUB_STEP_SUMMARY": str(tree.parent / "summary.md"), "PUSHED": pushed}
    command = ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", STEPS[step]]
    return subprocess.run(command, cwd=tree, env=os.environ | told, check=False).returncode


def test_the_tag_is_that_of_the_package(checkout: Path) -> None:
    assert run("the tag is the version of the package", checkout) == 0
    assert run("the tag is the version of the package", checkout, tag="v9.9.9") != 0


def test_the_image_is_pushed_and_its_digest_goes_into_readme_and_citation(checkout: Path) -> None:
    pushed = f"registry.example/lab/kit@sha256:{'0a' * 32}"
    assert run("push the image and say its digest", checkout, pushed) == 0
    calls = (checkout.parent / "calls").read_text().splitlines()
    assert calls[:2] == ["docker login --username ada --password-stdin registry.example", "token: s3cret"]
    assert f"docker push registry.example/lab/kit:v{__version__}" in calls
    assert (checkout.parent / "summary.md").read_text() == f"docker pull {pushed}\n"
    assert (checkout / "dist/image-digest.txt").read_text() == f"{pushed}\n"
    # The patch is the change, on a checkout as it was.
    subprocess.run([*GIT, "checkout", "-q", "--", "."], cwd=checkout, check=True)
    subprocess.run([*GIT, "apply", "dist/image-digest.patch"], cwd=checkout, check=True)
    before, readme = (ROOT / "README.md").read_text(), (checkout / "README.md").read_text()
    assert f"`docker pull {pushed}`" in readme and len(readme.splitlines()) == len(before.splitlines())
    # Strict: a key that stands twice is an error.
    citation = YAML(typ="safe").load(checkout / "CITATION.cff")
    assert citation["identifiers"] == [
        {"type": "other", "value": pushed, "description": "The container image"}
    ]
    assert citation["version"] == __version__
    # The next release replaces it.
    assert run("push the image and say its digest", checkout, pushed.replace("0a", "1b")) == 0
    text = (checkout / "README.md").read_text() + (checkout / "CITATION.cff").read_text()
    assert "0a" * 32 not in text and text.count("1b" * 32) == 2


@pytest.mark.parametrize("pushed", ["", "registry.example/lab/kit:v1.0.0", "kit@sha256:12"])
def test_what_is_no_digest_is_written_nowhere(checkout: Path, pushed: str) -> None:
    assert run("push the image and say its digest", checkout, pushed) != 0
    changed = subprocess.run(
        [*GIT, "status", "--porcelain", "-uno"], cwd=checkout, check=True, capture_output=True
    )
    assert changed.stdout == b"" and not (checkout.parent / "summary.md").exists()
