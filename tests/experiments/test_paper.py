"""The published stage energies through our own accounting: totals, denominator, rounding, N*."""

from __future__ import annotations

import csv

import pytest

from harness.accounting.rounding import J_PER_KWH
from harness.experiments.paper import (
    REFERENCE_TOKENS,
    paper_root,
    published,
    published_break_even,
)

WITH_STAGES = [(regime, size) for regime in ("sft", "kd", "synthetic_sft") for size in ("1b", "13b")]
WITH_JOULES_PER_TOKEN = [key for key, row in published().items() if row.energy_j_per_token is not None]


def test_the_grid_is_whole_and_its_holes_are_holes() -> None:
    table = published()
    assert set(table) == {(r, s) for r in ("sft", "kd", "synthetic_sft") for s in ("1b", "7b", "13b")}
    for regime in ("kd", "synthetic_sft"):
        row = table[regime, "7b"]
        assert (row.energy_kwh, row.energy_j_per_token, row.quality) == (None, None, None)
        assert row.total is None and row.per_token is None
    assert table["synthetic_sft", "1b"].energy_j_per_token is None


def test_every_cell_names_its_source() -> None:
    words = {"notes", "notes-zh", "sum of stage_table.csv", "not available"}
    for name in ("main_table.csv", "stage_table.csv", "break_even.csv"):
        with (paper_root() / name).open(newline="") as stream:
            for row in csv.DictReader(stream):
                for column, value in row.items():
                    if column.endswith("source"):
                        assert value in words
                        cell = row.get(column.removesuffix("_source").replace("energy", "energy_kwh"))
                        if cell is not None:
                            assert (value == "not available") == (cell == "")


@pytest.mark.parametrize("key", WITH_STAGES)
def test_stages_add_up_to_the_printed_total(key: tuple[str, str]) -> None:
    row = published()[key]
    assert row.total is not None and row.energy_kwh is not None
    assert round(row.total.best / J_PER_KWH, 9) == row.energy_kwh


@pytest.mark.parametrize("key", WITH_JOULES_PER_TOKEN)
def test_joules_per_token_are_the_total_over_30_million_tokens(key: tuple[str, str]) -> None:
    row = published()[key]
    assert row.per_token is not None and row.energy_kwh is not None and row.energy_j_per_token is not None
    assert f"{row.per_token.best:.2f}" == f"{row.energy_j_per_token:.2f}"
    implied = row.energy_kwh * J_PER_KWH / row.energy_j_per_token
    # What two decimals of J/token allow around the declared count.
    assert implied == pytest.approx(REFERENCE_TOKENS, rel=0.005 / row.energy_j_per_token)


@pytest.mark.parametrize(
    ("regime", "size", "ratio", "whole"),
    [
        ("kd", "1b", 10.0, 10),
        ("kd", "13b", 3.55, 4),
        ("synthetic_sft", "1b", 11.16, 12),
        ("synthetic_sft", "13b", 2.36, 3),
    ],
)
def test_break_even(regime: str, size: str, ratio: float, whole: int) -> None:
    found = published_break_even(regime, size)
    assert found is not None and found.ratio is not None
    assert round(found.ratio, 2) == ratio
    assert found.whole == whole


def test_break_even_is_ill_conditioned() -> None:
    found = published_break_even("kd", "1b", student_rel=0.03)
    assert found is not None
    # Both students 3 % off the unhappy way: 11 / (6.489 - 5.044) to 11 / (6.111 - 5.356).
    assert found.low == pytest.approx(11 / (6.30 * 1.03 - 5.20 * 0.97))
    assert found.high == pytest.approx(11 / (6.30 * 0.97 - 5.20 * 1.03))
    assert round(found.low, 1) == 7.6 and round(found.high, 1) == 14.6


def test_no_break_even_where_stages_are_not_published() -> None:
    assert published_break_even("kd", "7b") is None
    assert published_break_even("sft", "1b") is None


@pytest.mark.parametrize(("size", "kd", "synthetic"), [("1b", 2.41, 2.38), ("13b", 1.23, 1.18)])
def test_the_headline_factor_holds_at_1b_only(size: str, kd: float, synthetic: float) -> None:
    table = published()
    for regime, factor in (("kd", kd), ("synthetic_sft", synthetic)):
        cell, baseline = table[regime, size].total, table["sft", size].total
        assert cell is not None and baseline is not None
        assert round(cell.best / baseline.best, 2) == factor
