"""The first rows: the published table as it stands, pocket runs that are never ranked, one imported trace."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from harness.leaderboard.check import Checked, check

ROOT = Path(__file__).resolve().parents[2]
BOARD = ROOT / "artifacts" / "submissions"


@pytest.fixture(scope="module")
def seeds(tmp_path_factory: pytest.TempPathFactory) -> Checked:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KIT_CACHE", str(tmp_path_factory.mktemp("cache")))
        return check([BOARD])


def test_they_are_accepted_and_none_is_ranked(seeds: Checked) -> None:
    assert [f.message for entry in seeds.asked for f in entry.findings if f.severity == "error"] == []
    levels = {row["lab"]: {r["level"] for r in seeds.rows if r["lab"] == row["lab"]} for row in seeds.rows}
    assert levels == {
        "published-paper": {"reported"}, "kit-pocket": {"re-derived"}, "talkingjupiter": {"imported"},
    }  # fmt: skip
    assert all(row["unranked"] and "rank" not in row for row in seeds.rows)
    pocket = [row for row in seeds.rows if row["lab"] == "kit-pocket"]
    assert all(any("estimated" in reason for reason in row["unranked"]) for row in pocket)
    assert len({row["class"] for row in seeds.rows if row["q"]}) == 2, "published and pocket rows never meet"


def test_published_rows_are_the_published_table(seeds: Checked) -> None:
    with (ROOT / "artifacts" / "paper" / "main_table.csv").open(encoding="utf-8") as file:
        table = {f"{r['pipeline']}-{r['size']}".replace("_", "-"): r for r in csv.DictReader(file)}
    rows = {row["id"]: row for row in seeds.rows if row["lab"] == "published-paper"}
    assert rows.keys() == {name for name, row in table.items() if row["energy_kwh"]}
    for name, row in rows.items():
        assert row["energy"][0] == pytest.approx(float(table[name]["energy_kwh"]) * 3.6e6)
        assert (row["q"] is None) == (table[name]["quality"] == "")
        assert "arXiv 2605.13981" in row["source"]


def test_the_imported_row_says_what_is_wrong_with_its_trace(seeds: Checked) -> None:
    (row,) = (row for row in seeds.rows if row["lab"] == "talkingjupiter")
    assert row["q"] is None and "1,000 times too large" in row["doubts"][0]
    assert 0.05 < row["energy"][0] / 3.6e6 < 1.0, "four cards for ten minutes"
