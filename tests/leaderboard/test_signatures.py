"""Who signed and reviewed a submission, and who an unnamed laboratory proves to be."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from harness.leaderboard.signing import sign
from tests.leaderboard.runs import edit_entry, ids, kit, only, reported


def test_signatures_and_reviews(board: Path, one: Path, tmp_path: Path) -> None:
    def key(name: str) -> Path:
        path = tmp_path / name
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(path)], check=True)
        return path

    lab, maintainer = key("lab"), key("maintainer")
    words = [f"{who} {path.with_suffix('.pub').read_text()}" for who, path in (("acme", lab),)]
    words.append(f"maintainer:kim {maintainer.with_suffix('.pub').read_text()}")
    (board / "allowed_signers").write_text("".join(words))
    sign(one / "submission.json", lab)
    entry = only(one)
    assert ids(entry) == set() and entry.row is not None and entry.row["signed"] is True
    edit_entry(one, lambda value: value.update(title="changed after signing"))
    assert ids(only(one)) == {"E510"}
    sign(one / "submission.json", maintainer)
    assert ids(only(one)) == {"E510"}, "a key of somebody else"

    # Raw samples elsewhere: not ranked until a maintainer has re-derived the row from them.
    power = (one / "bundle" / "power.parquet").rename(tmp_path / "fetched.parquet")

    def away(value: dict[str, Any]) -> None:
        listed = next(f for f in value["files"] if f["path"] == "bundle/power.parquet")
        listed["url"] = "https://example.org/power.parquet"

    edit_entry(one, away)
    sign(one / "submission.json", lab)
    row = only(one).row
    assert row is not None and row["level"] == "self-measured" and "rank" not in row
    arguments = ["leaderboard", "check", str(one), "--raw", str(power), "--record", "kim"]
    assert kit(*arguments, "--sign", str(maintainer)) == 0
    row = only(one).row
    assert row is not None and row["level"] == "re-derived" and row["reviewed"] == "kim" and row["rank"] == 1
    review = json.loads((one / "review.json").read_bytes())
    (one / "review.json").write_text(json.dumps({**review, "by": "lee"}))
    assert ids(only(one)) == {"E510"}
    power.write_bytes(power.read_bytes() + b" ")
    assert kit(*arguments, "--sign", str(maintainer)) == 2


def test_an_unnamed_laboratory_can_say_later_who_it_is(runs: list[Path], tmp_path: Path) -> None:
    arguments = ["submit", str(runs[0]), "--lab", "acme", "--embargo", "--into", str(tmp_path)]
    assert kit(*arguments, "--report", str(tmp_path / "report")) == 0
    (folder,) = (tmp_path / "submissions").glob("anon-*/*")
    assert "acme" not in (folder / "submission.json").read_text()
    shutil.copy(tmp_path / "report" / "embargo.json", folder / "reveal.json")
    row = only(folder).row
    assert row is not None and row["revealed"] == "acme"
    secret = json.loads((folder / "reveal.json").read_bytes())
    (folder / "reveal.json").write_text(json.dumps({**secret, "lab": "zeta"}))
    assert ids(only(folder)) == {"E510"}


def test_a_secret_that_proves_a_name_is_never_written_over(runs: list[Path], tmp_path: Path) -> None:
    arguments = ["submit", "--embargo", "--dry-run", "--report", str(tmp_path), "--compare", str(tmp_path)]
    assert kit(*arguments, str(runs[0]), "--lab", "acme") == 0
    secret = (tmp_path / "embargo.json").read_bytes()
    assert kit(*arguments, str(runs[1]), "--lab", "acme") == 0
    assert kit(*arguments, str(runs[1]), "--lab", "zeta") == 2
    assert (tmp_path / "embargo.json").read_bytes() == secret


@pytest.mark.parametrize("by", ["kim", "\ud800", "a\0b"])
@pytest.mark.parametrize("errors", ["0", "1e999", "NaN", '"0"'])
def test_a_review_that_nobody_signed_is_refused_whatever_it_holds(by: str, errors: str, board: Path) -> None:
    (board / "allowed_signers").write_text("")
    folder = reported(board, 1)
    said = {"level": "re-derived", "submission_sha256": "", "unranked": [], "class": "", "class_text": ""}
    text = json.dumps({**said, "by": by, "errors": None}).replace("null", errors)
    (folder / "review.json").write_text(text)
    assert ids(only(folder)) == {"E510"}


def test_a_salt_that_is_no_text_proves_nothing(board: Path) -> None:
    folder = reported(board, 1, lab="anon-00000000", commitment="0" * 64)
    (folder / "reveal.json").write_text(r'{"lab": "acme", "salt": "\ud800"}')
    assert ids(only(folder)) == {"E510"}
