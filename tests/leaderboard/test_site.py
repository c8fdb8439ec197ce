"""The static site: the same bytes for the same submissions, nothing of a stranger outside of data."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from harness.errors import KitError
from harness.leaderboard.check import check
from harness.leaderboard.site import build
from tests.leaderboard.runs import edit_entry, ids, reported

HOSTILE = "</script><img src=x onerror=hit=1>\u2028"


def tree(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def data_of(path: Path) -> Any:
    text = path.read_text(encoding="utf-8")
    assert text.startswith("window.KIT_") and text.endswith(";\n")
    return json.loads(text[text.index("=") + 1 : -2])


def test_the_same_submissions_give_the_same_bytes_and_only_changes_are_written(
    board: Path, one: Path, tmp_path: Path
) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    assert build(check([board]), first) == len(tree(first))
    build(check([board], cache=False), second)
    assert tree(first) == tree(second)
    assert build(check([board]), first) == 0
    edit_entry(one, lambda value: value.update(title="another title"))
    assert build(check([board]), first) == 5, "the row and four forms of the index; a badge has no title"
    shutil.rmtree(one)
    build(check([board]), first)
    assert [p.parent.name for p in (first / "rows").rglob("*.js")] == ["zeta"]


def test_index_csv_json_parquet_and_scripts_agree(board: Path, tmp_path: Path) -> None:
    reported(board, 1)
    done = check([board])
    site = tmp_path / "site"
    build(done, site)
    index = json.loads((site / "index.json").read_bytes())
    assert data_of(site / "index.js") == index
    rows = {row["key"]: row for row in index["rows"]}
    assert rows.keys() == {row["key"] for row in done.rows}
    with (site / "index.csv").open(encoding="utf-8", newline="") as file:
        listed = list(csv.DictReader(file))
    table = pq.read_table(site / "index.parquet").to_pylist()
    for line, stored in zip(listed, table, strict=True):
        row = rows[line["key"]]
        assert float(line["energy_j"]) == stored["energy_j"] == row["energy"][0]
        assert line["rank"] == ("" if row["rank"] is None else str(row["rank"]))
    reported_row = rows["table/row-001"]
    assert reported_row["level"] == "reported" and reported_row["rank"] is None
    assert "reported: submit the log of a run: kit submit RUN" in reported_row["unranked"]
    for key in rows:
        assert data_of(site / f"rows/{key}.js")["row"]["key"] == key
    assert b"re-derived, rank 1 of 2" in (site / f"badges/{done.rows[0]['key']}.svg").read_bytes()


def test_texts_of_strangers_are_data_and_never_markup(board: Path, one: Path, tmp_path: Path) -> None:
    edit_entry(one, lambda value: value.update(title=HOSTILE.rstrip("\u2028"), conflict="=cmd|' /C calc'!A0"))
    edit_entry(one, lambda value: value.update(student="=1+1"))
    site = tmp_path / "site"
    build(check([board]), site)
    for name, data in tree(site).items():
        if name.endswith((".js", ".html", ".svg")) and not name.startswith("assets/"):
            assert b"onerror=hit" not in data or b"<img" not in data, name
            assert data.lower().count(b"</script") == (data.count(b"<script") if name.endswith("html") else 0)
    row = data_of(site / f"rows/{one.parent.name}/{one.name}.js")["row"]
    assert row["title"] == HOSTILE.rstrip("\u2028")
    assert "'=1+1" in (site / "index.csv").read_text(encoding="utf-8")


def test_refused_rows_are_not_shown_and_foreign_folders_not_touched(
    board: Path, one: Path, tmp_path: Path
) -> None:
    (one / "setup.py").write_text("raise SystemExit(1)")
    site = tmp_path / "site"
    done = check([board])
    build(done, site)
    assert done.errors and [r["lab"] for r in json.loads((site / "index.json").read_bytes())["rows"]] == [
        "zeta"
    ]
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "thesis.tex").write_text("mine")
    with pytest.raises(KitError, match="holds no site"):
        build(done, tmp_path / "home")
    assert (tmp_path / "home" / "thesis.tex").read_text() == "mine"


def test_a_copy_in_another_place_hides_no_row(board: Path, one: Path, tmp_path: Path) -> None:
    for lab in ("aaa", "zzz"):
        shutil.copytree(one, board / lab / one.name)
    done = check([board])
    assert {e.key.split("/")[0]: ids(e) for e in done.asked if ids(e)} == {"aaa": {"E502"}, "zzz": {"E502"}}
    build(done, tmp_path / "site")
    rows = json.loads((tmp_path / "site" / "index.json").read_bytes())["rows"]
    assert [row["lab"] for row in rows] == ["acme", "zeta"]
    assert "KIT_ROW" in (tmp_path / "site" / "rows" / "acme" / f"{one.name}.js").read_text()


def test_who_shares_an_artifact_is_named(board: Path, one: Path, tmp_path: Path) -> None:
    rows = check([board]).rows
    assert rows[0]["shares"] == [rows[1]["key"]], "both read the same corpus"


def test_fifty_submissions_in_one_go(board: Path, one: Path, tmp_path: Path) -> None:
    """Two measured, 45 reported and three that nobody may see: each is judged, and the rest is shown."""
    for number in range(45):
        reported(board, number)
    hostile = [reported(board, number, lab="hostile") for number in range(3)]
    (hostile[0] / "setup.py").write_text("raise SystemExit(1)")
    edit_entry(hostile[1], lambda value: value["stated"].update(co2e_kg=1e6))
    (hostile[2] / "submission.json").write_text("[" * 10_000)
    done, site = check([board]), tmp_path / "site"
    refused = {e.key: {f.id for f in e.findings if f.severity == "error"} for e in done.asked if e.errors}
    assert refused == {
        "hostile/row-000": {"E502"},
        "hostile/row-001": {"E512"},
        "hostile/row-002": {"E501"},
    }
    assert len(done.asked) == 50 and done.errors == 3
    build(done, site)
    rows = json.loads((site / "index.json").read_bytes())["rows"]
    assert len(rows) == 47 and [row["lab"] for row in rows if row["rank"] is not None] == ["acme", "zeta"]
    edit_entry(one, lambda value: value.update(title="another title"))
    assert build(check([board]), site) == 5, "one row and four forms of the index"
