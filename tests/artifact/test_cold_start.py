"""The cold start's clock and scales, with stand-ins for what takes minutes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.lab.fixtures import ROOT

sys.path.insert(0, str(ROOT / "scripts"))
import claims_pages
import cold_start


def test_a_target_is_charged_what_it_left_and_a_failed_one_ends_it(tmp_path: Path) -> None:
    (tmp_path / "before").write_bytes(bytes(5_000_000))

    def run(*words: str) -> subprocess.CompletedProcess[str]:
        (tmp_path / words[1]).write_bytes(b"x" * 2_000_000)
        return subprocess.CompletedProcess(words, int(words[1] == "broken"))

    timed = cold_start.timed(run, tmp_path, "demo")
    assert (timed["target"], timed["megabytes"]) == ("demo", 2)
    with pytest.raises(SystemExit, match="make broken ended with 1"):
        cold_start.timed(run, tmp_path, "broken")


def test_what_is_kept_is_what_the_pages_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cold_start, "COLD_START", tmp_path / "cold.json")
    monkeypatch.setattr(claims_pages, "COLD_START", tmp_path / "cold.json")
    monkeypatch.setattr(cold_start, "ROOT", tmp_path)
    monkeypatch.setattr(cold_start, "TARGETS", ("one", "two"))
    git = ["git", "-c", "user.name=Test", "-c", "user.email=test@example.org"]
    (tmp_path / "Makefile").write_text("one two:\n\t@echo $@ >$@; test -z '$(SECRET)'\n")
    for words in (["init", "-q"], ["add", "Makefile"], ["commit", "-qm", "Two targets"]):
        subprocess.run([*git, *words], cwd=tmp_path, check=True)
    monkeypatch.setattr(sys, "argv", ["cold_start.py", "--record"])
    # Of the environment only what finds the package index is kept.
    monkeypatch.setenv("SECRET", "1")
    assert cold_start.main() == 0
    head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=tmp_path, capture_output=True, text=True)
    record = json.loads((tmp_path / "cold.json").read_text())
    assert record["commit"] == head.stdout.strip()
    assert [row["target"] for row in record["targets"]] == ["one", "two"]
    assert "| `make two` | 0.0 | 0 |" in claims_pages.cold_start_table()
    assert record["where"] in claims_pages.cold_start_table()
