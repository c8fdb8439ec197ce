"""Submissions side by side: what one says of another's readings, artifacts, teacher and questions."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from harness.bundle import Bundle, canonical_json
from harness.leaderboard.check import check
from harness.leaderboard.examined import Examined
from tests.leaderboard.runs import accepted, edit_entry, ids, only, ranked_run, submitted
from tests.validate.tamper import edit_manifest, edit_rows


def test_a_copied_trace_and_a_cheaper_artifact_in_two_submissions(
    board: Path, one: Path, tmp_path: Path
) -> None:
    """What two submissions say of one artifact, one card and one teacher is compared, from the cache too."""
    corpus = "sha256:" + "ab" * 32

    def add(path: Path, lab: str) -> Path:
        shutil.copytree(submitted(path, tmp_path / lab, lab).parent, board / lab)
        return next((board / lab).iterdir())

    def found(entries: list[Examined]) -> dict[str, set[str]]:
        return {entry.key.split("/")[0]: ids(entry) for entry in entries}

    def makes(rows: list[dict[str, Any]]) -> None:
        rows[0] |= {
            "role": "produced",
            "origin_run_id": None,
            "origin_energy_j": None,
            "stage_uid": cache_uid,
        }

    def produced(rows: list[dict[str, Any]]) -> None:
        for row in rows:
            row["consumes"] = []
            row["produces"] = [corpus] if row["stage_uid"] == cache_uid else []

    maker = ranked_run(tmp_path / "maker", 5)
    stages = Bundle.open(maker).table("stages").to_pylist()
    cache_uid = next(row["stage_uid"] for row in stages if row["name"] == "cache")
    edit_rows(maker, "artifacts", makes)
    edit_rows(maker, "stages", produced)
    edit_rows(maker, "events", lambda rows: [r for r in rows if r["kind"] != "x-artifact_origin"])
    before = accepted(board, "nobody")
    folder = add(maker, "maker")
    # acme and zeta charge 12 kJ for a corpus whose only maker took 20 kJ and more.
    for _ in range(2):
        done = check([board], before=before)
        assert found(done.asked) == {"maker": set(), "acme": {"E229"}, "zeta": {"E229"}}, "disputed rows show"
    assert found(check([folder]).asked) == {"maker": set(), "acme": {"E229"}, "zeta": {"E229"}}
    shutil.rmtree(folder)
    assert found(check([board]).asked) == {"acme": set(), "zeta": set()}

    # The same readings once more, and a teacher that knows one answer less: the newcomer is charged.
    def items(rows: list[dict[str, Any]]) -> None:
        next(r for r in rows if r["subject"] == "teacher" and r["score"] == 1).update(score=0.0)
        values[:] = [r["score"] for r in rows if r["subject"] == "teacher"]

    def scores(rows: list[dict[str, Any]]) -> None:
        teacher = next(row for row in rows if row["subject"] == "teacher")
        teacher |= {"score": mean(values), "stderr": stdev(values) / len(values) ** 0.5}

    values: list[float] = []
    copied = ranked_run(tmp_path / "copied", 1)
    edit_rows(copied, "eval_items", items)
    edit_rows(copied, "evals", scores)
    add(copied, "copied")
    assert found(check([board], before=before).asked) == {"copied": {"E506", "E325", "E251"}}


def test_other_questions_under_the_name_of_one_suite(board: Path, tmp_path: Path) -> None:
    def items(rows: list[dict[str, Any]]) -> None:
        for row in rows:
            row["item_sha256"] = hashlib.sha256(f"easy {row['item']}".encode()).hexdigest()
        hashes[:] = [row["item_sha256"] for row in rows if row["subject"] == "student"]

    def scores(rows: list[dict[str, Any]]) -> None:
        for row in rows:
            row["items_sha256"] = hashlib.sha256(canonical_json(hashes)).hexdigest()

    hashes: list[str] = []
    easy = ranked_run(tmp_path / "easy", 7)
    edit_rows(easy, "eval_items", items)
    edit_rows(easy, "evals", scores)
    folder = submitted(easy, tmp_path / "easy-lab", "easy")
    assert ids(only(folder)) == set(), "by itself nothing says so"
    shutil.copytree(folder.parent, board / "easy")
    done = check([board])
    found = {entry.key.split("/")[0]: ids(entry) for entry in done.asked}
    assert found == {"acme": set(), "zeta": set(), "easy": {"E252"}}, "the later one is charged"


def test_another_denominator_is_another_class(board: Path, one: Path) -> None:
    """J per declared token falls with the declared count, so nobody is ranked beside another count."""
    fewer = check([board]).rows[0]

    def declare(rows: list[dict[str, Any]]) -> None:
        for row in rows:
            row["token_denominator"] = 300_000_000

    edit_manifest(one / "bundle", lambda m: m.update(reference_tokens=300_000_000))
    edit_rows(one / "bundle", "stages", declare)
    edit_entry(one, lambda value: None, relist=True)
    done = check([board])
    assert [ids(entry) for entry in done.asked] == [set(), set()]
    assert done.rows[0]["class"] != fewer["class"] == done.rows[1]["class"]
    assert [(row["rank"], row["of"]) for row in done.rows] == [(1, 1), (1, 1)]
