"""docs/submitting.md from an empty folder with a real remote; the steps of the workflow as a shell does."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from tests.leaderboard.runs import edit_entry

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "submitting.md"
WORKFLOW = ROOT / ".github" / "workflows" / "submission.yml"


def environment(folder: Path, **more: str) -> dict[str, str]:
    who = {f"GIT_{role}_{name}": "Test" for role in ("AUTHOR", "COMMITTER") for name in ("NAME", "EMAIL")}
    own = {"HOME": str(folder), "KIT_CACHE": str(folder / "cache"), "GIT_CONFIG_NOSYSTEM": "1"}
    return {**os.environ, **who, **own, **more}


def shell(script: str, folder: Path, **more: str) -> subprocess.CompletedProcess[str]:
    # As GitHub runs a step.
    command = ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", script]
    return subprocess.run(
        command, cwd=folder, env=environment(folder, **more), capture_output=True, text=True
    )


def remote(folder: Path) -> Path:
    """A bare repository with a leaderboard without rows."""
    seed = folder / "seed" / "artifacts" / "submissions"
    seed.mkdir(parents=True)
    (seed / "README.md").write_text("Submissions.\n")
    script = """
    git -C seed init --quiet -b main && git -C seed add . && git -C seed commit --quiet -m "Begin"
    git clone --quiet --bare seed board.git
    """
    done = shell(script, folder)
    assert done.returncode == 0, done.stderr
    return folder / "board.git"


def test_the_page_works_from_an_empty_folder(tmp_path: Path) -> None:
    board = remote(tmp_path)
    work = tmp_path / "work"
    work.mkdir()
    blocks = re.findall(r"```sh\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.S)
    assert len(blocks) == 6
    said = []
    for block in blocks:
        script = "\n".join(line.removeprefix("   ") for line in block.splitlines())
        done = shell(script, work, BOARD=str(board))
        assert done.returncode == 0, f"{script}\n{done.stdout}{done.stderr}"
        said.append(done.stdout)
    assert "dry run" in said[1] and "C402" in said[1]
    assert "git -C board/artifacts add submissions/example-lab/" in said[2]
    assert "accepted" in said[4] and "W518" not in said[4]
    (row,) = json.loads((work / "site" / "index.json").read_bytes())["rows"]
    assert row["lab"] == "example-lab" and row["student"] == "my-1b" and row["rank"] is None
    assert (work / "site" / "rows" / f"{row['key']}.js").is_file()


def steps() -> dict[str, str]:
    workflow = yaml.safe_load(WORKFLOW.read_text(encoding="utf-8"))
    assert workflow["permissions"] == {}
    (job,) = workflow["jobs"].values()
    assert job["permissions"] == {"contents": "read"}, "the token may read and nothing else"
    assert "secrets" not in WORKFLOW.read_text(encoding="utf-8").replace("no secrets", "")
    assert "pull_request_target" not in (workflow.get("on") or workflow[True])
    assert all(re.search(r"@[0-9a-f]{40}$", step["uses"]) for step in job["steps"] if "uses" in step)
    return {step["name"]: step["run"] for step in job["steps"] if "run" in step}


@pytest.mark.parametrize("good", [True, False])
def test_the_workflow_says_what_is_wrong_and_where(
    good: bool, board: Path, one: Path, tmp_path: Path
) -> None:
    work = tmp_path / "work"
    shutil.copytree(board, work / "base" / "artifacts" / "submissions", ignore=shutil.ignore_patterns("zeta"))
    shutil.copytree(board, work / "proposed" / "artifacts" / "submissions")
    if not good:
        theirs = next((work / "proposed/artifacts/submissions/zeta").iterdir())
        edit_entry(theirs, lambda value: value["stated"].update(co2e_kg=1000.0))
        (theirs / "conftest.py").write_text("raise SystemExit('this was run')")
    summary = work / "summary.md"
    cache = os.environ["KIT_CACHE"]
    done = shell(steps()["check"], work, GITHUB_STEP_SUMMARY=str(summary), KIT_CACHE=cache)
    assert done.returncode == (0 if good else 1), done.stderr
    assert "this was run" not in done.stdout + done.stderr
    table = summary.read_text(encoding="utf-8")
    assert "zeta/" in table and "#### acme/" not in table, "an accepted row is a neighbour, not under check"
    errors = [line for line in done.stdout.splitlines() if line.startswith("::error ")]
    if good:
        assert errors == []
        done = shell(steps()["the site builds"], work, KIT_CACHE=cache)
        assert done.returncode == 0 and (work / "site" / "index.html").is_file()
    else:
        assert any("conftest.py" in line and "E502" in line for line in errors)
