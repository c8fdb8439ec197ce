"""REUSE.toml, CITATION.cff and .zenodo.json say the same and name no file that is not there."""

from __future__ import annotations

import json
import re
import subprocess
import tomllib
from fnmatch import fnmatchcase

import pytest
import yaml

from harness import __version__
from tests.lab.fixtures import ROOT

ENTRIES = tomllib.loads((ROOT / "REUSE.toml").read_text(encoding="utf-8"))["annotations"]
OWN = "Apache-2.0"


def tracked() -> list[str]:
    done = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip("no git checkout: the files of the project cannot be told from others")
    return done.stdout.splitlines()


def matches(path: str, entry: dict[str, object]) -> bool:
    patterns = entry["path"]
    patterns = [patterns] if isinstance(patterns, str) else patterns
    assert isinstance(patterns, list)
    # As REUSE has it: * stays within a folder, ** does not.
    return any(fnmatchcase(path, p) and ("**" in p or path.count("/") == p.count("/")) for p in patterns)


def licence_of(path: str) -> str:
    return str([entry for entry in ENTRIES if matches(path, entry)][-1]["SPDX-License-Identifier"])


def test_every_tracked_file_has_a_licence_and_what_is_of_others_is_not_ours() -> None:
    by_licence: dict[str, list[str]] = {}
    for path in tracked():
        by_licence.setdefault(licence_of(path), []).append(path)
    assert len(by_licence) == 5
    data = [path for path in by_licence[OWN] if path.endswith((".csv", ".parquet"))]
    assert [p for p in data if not p.startswith(("tests/", "artifacts/runs/"))] == []
    bundled = [path for path in tracked() if path.startswith("harness/") and path.endswith(".js")]
    assert bundled
    for path in bundled:
        assert licence_of(path) == f"{OWN} AND MIT"
        assert "Leon Sorokin" in (ROOT / path).read_text(encoding="utf-8")[:200]


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: str(entry["path"]))
def test_every_pattern_matches_a_file(entry: dict[str, object]) -> None:
    assert any(matches(path, entry) for path in tracked())


def test_every_licence_has_its_text_and_every_text_is_used() -> None:
    names = {name for entry in ENTRIES for name in re.split(r" AND ", str(entry["SPDX-License-Identifier"]))}
    assert names == {path.stem for path in (ROOT / "LICENSES").iterdir()}
    assert (ROOT / "LICENSES/Apache-2.0.txt").read_bytes() == (ROOT / "LICENSE").read_bytes()


def test_citation_and_archive_name_this_version_and_no_doi_that_is_not() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    archive = json.loads((ROOT / ".zenodo.json").read_text(encoding="utf-8"))
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert citation["version"] == archive["version"] == project["version"] == __version__
    assert citation["license"] == archive["license"] == project["license"] == OWN
    assert citation["title"] == archive["title"]
    if "doi" in citation:
        assert re.fullmatch(r"10\.\d{4,9}/\S+", citation["doi"]) and "date-released" in citation
