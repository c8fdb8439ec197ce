"""Figures of cells, the frontier and the documents, from made-up energies with known answers."""

from __future__ import annotations

import csv
import io
import json
import sys
import xml.etree.ElementTree as ET
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from harness.accounting import Interval
from harness.errors import KitError
from harness.experiments.comparison import remarks
from harness.experiments.documents import write_documents
from harness.experiments.frontier import frontier
from harness.experiments.grid import Cell, cells_of, main_cells, target
from harness.experiments.profile import load_profile
from harness.experiments.results import Basis, CellResult, Results
from harness.experiments.summary import summary
from harness.experiments.tables import cell_record, sweep_rows, table3_rows

ESTIMATE = Basis({"gpu": ("absent",), "cpu": ("codecarbon_process",), "dram": ("codecarbon_process",)})
MEASURED = Basis({"gpu": ("counter_tick",), "cpu": ("rapl",), "dram": ("rapl",)})
STUDENT_J = {"1b": 100.0, "7b": 200.0, "13b": 400.0}


def result(
    cell: Cell,
    *,
    quality: float | None = 0.5,
    stderr: float = 0.0,
    rel: float = 0.0,
    basis: Basis = ESTIMATE,
) -> CellResult:
    saving = 0.0 if cell.regime == "sft" else 20.0
    teacher = {"sft": 0.0, "kd": 60.0, "synthetic_sft": 90.0}[cell.regime]
    energies = {"preprocess": 10.0, "teacher": teacher, "student_train": STUDENT_J[cell.size] - saving}
    energies["evaluate"] = 5.0
    return CellResult(
        cell=cell,
        run_id="run-" + cell.name,
        parts={k: Interval(v, v * (1 - rel), v * (1 + rel)) for k, v in energies.items()},
        failed=None,
        unattributed=Interval.exact(1.0),
        students=3,
        trained=1000,
        reference=2000,
        quality=quality,
        quality_stderr=stderr,
        quality_note="" if quality is not None else "no score of the teacher",
        scores={"pocket": 0.4},
        heldout_loss=1.5,
        training={"step": 10},
        basis=basis,
    )


def results(profile: str = "pocket", **options: Any) -> Results:
    cells = [result(cell, **options) for cell in main_cells()]
    uncharged = {"teacher-train": Interval.exact(1000.0)}
    return Results(load_profile(profile), cells, {"pocket": 0.8}, 1.0, uncharged, "run-shared")


def find(made: Results, regime: str, size: str) -> CellResult:
    found = made.cell(regime, size)
    assert found is not None
    return found


def test_totals_charge_the_teacher_in_full_and_share_it_when_amortized() -> None:
    kd = find(results(), "kd", "1b")
    assert kd.total == Interval.exact(10 + 60 + 80 + 5)
    assert kd.amortized is not None and kd.amortized.best == pytest.approx(10 + 20 + 80 + 5)
    assert kd.per_reference_token is not None and kd.per_reference_token.best == 155 / 2000
    assert kd.per_trained_token is not None and kd.per_trained_token.best == 80 / 1000


def test_energy_relative_to_sft_is_resolved_where_the_scale_is_common(tmp_path: Path) -> None:
    """KD takes 155 J and SFT 115 J of an estimate that is nothing to twice itself, for both."""
    cells = []
    for cell in (result(cell, rel=1.0) for cell in main_cells() if cell.size == "1b"):
        scaled = {}
        for part, energy in cell.parts.items():
            best = energy.best if energy is not None else 0.0
            key = ("estimate cpu here", f"program {part} here")
            scaled[part] = {key: Interval(best, best * 0.99, best * 1.01)}
        cells.append(replace(cell, scaled=scaled))
    made = Results(load_profile("pocket"), cells, {"pocket": 0.8}, 1.0)
    times = made.relative(find(made, "kd", "1b"))
    assert times is not None and times.best == pytest.approx(155 / 115)
    # The teacher's 60 J come on top, at 0.8 times and the student's 100 J at 1.2 times, or the other way.
    assert 1 < times.low < times.best < times.high < 2
    assert made.relative(find(made, "sft", "1b")) is None
    even = made.break_even(find(made, "kd", "1b"))
    assert even is not None and even.resolved and even.ratio == pytest.approx(3.0)
    # 60 x 0.8 / (1.2 x (101 - 79.2)) and 60 x 1.01 x 1.2 / (0.8 x (99 - 80.8)).
    assert (even.low, even.high) == pytest.approx((59.4 * 0.8 / 26.16, 60.6 * 1.2 / 14.56))
    record = cell_record(made, find(made, "kd", "1b"))
    assert record["energy_relative_to_sft"] == pytest.approx(155 / 115)
    text = write_documents(made, "table2", target("table2"), tmp_path)["table2.md"].read_text()
    assert f"1.35 ({times.low:.2f} to {times.high:.2f})" in text and "2.41" in text
    assert any("Logit KD 1B takes 1.35" in line and "published: 2.41" in line for line in summary(made))
    apart = results(rel=1.0)
    vague = apart.relative(find(apart, "kd", "1b"))
    assert vague is not None and vague.low < 1 < vague.high


def test_an_unknown_part_leaves_no_total() -> None:
    kd = find(results(), "kd", "1b")
    parts = {**kd.parts, "evaluate": None}
    unknown = CellResult(**{**vars(kd), "parts": parts})
    assert unknown.total is None and unknown.amortized is None and unknown.per_reference_token is None
    assert cell_record(results(), unknown)["energy_j"] is None


def test_break_even_and_its_doubt() -> None:
    exact, wide = results(), results(rel=0.5)
    even = exact.break_even(find(exact, "kd", "1b"))
    assert even is not None and (even.ratio, even.whole) == (3.0, 3)
    vague = wide.break_even(find(wide, "kd", "1b"))
    assert vague is not None and vague.ratio == 3.0 and vague.high == float("inf")
    assert exact.break_even(find(exact, "sft", "1b")) is None


def test_frontier_tells_domination_from_a_tie() -> None:
    made = {p.name: p for p in frontier(results().cells)}
    # All have Q 0.5, so only the cheapest is on the frontier.
    assert [name for name, p in made.items() if p.on_frontier] == ["sft-1b"]
    assert "sft-1b" in made["kd-1b"].dominated_by and not made["kd-1b"].ties
    blurred = {p.name: p for p in frontier(results(rel=0.5).cells)}
    assert blurred["kd-1b"].ties == ("sft-1b",) and not blurred["kd-1b"].dominated_by
    unsure = {p.name: p for p in frontier(results(stderr=0.1).cells)}
    assert unsure["kd-1b"].ties == ("sft-1b",) and not unsure["kd-1b"].dominated_by
    assert unsure["kd-1b"].quality_low == pytest.approx(0.5 - 0.196, abs=1e-4)
    better = [result(c, quality=0.9 if c.regime == "kd" and c.size == "1b" else 0.5) for c in main_cells()]
    assert [p.name for p in frontier(better) if p.on_frontier] == ["sft-1b", "kd-1b"]


def test_documents_say_how_sensitive_the_break_even_is_and_what_ties(tmp_path: Path) -> None:
    text = write_documents(results(stderr=0.1), "all", target("all"), tmp_path)["table2.md"].read_text()
    assert "## How sensitive N* is" in text and "± 3 % on both students" in text
    # The published 1B row: 10.0 alone, 7.6 to 14.6 when both students are known to 3 %.
    assert "10.0 (7.61 to 14.6)" in text
    # Here 60 / (100 - 80) = 3, and 60 / (103 - 77.6) to 60 / (97 - 82.4) with 3 % on both.
    assert "3.00 (2.36 to 4.11)" in text
    assert "On the frontier of energy and Q: sft-1b." in text
    assert "kd-1b and sft-1b" in text and "0.50 ± 0.20" in text


def test_pocket_is_never_comparable_and_says_so_everywhere(tmp_path: Path) -> None:
    made = results()
    assert {r.verdict for c in made.cells for r in remarks(made, c)} == {"not comparable"}
    files = write_documents(made, "all", target("all"), tmp_path)
    for name in ("table2.md", "table3.md", "sweeps.md"):
        text = files[name].read_text()
        assert "**Pocket figures say nothing about OLMo-2" in text
        assert "J, pocket" in text and "kWh, pocket" not in text
    assert "POCKET" in files["frontier.svg"].read_text()
    for name in ("table2.csv", "table3.csv", "sweeps.csv"):
        rows = list(csv.DictReader(io.StringIO(files[name].read_text())))
        assert rows and {row["profile"] for row in rows} == {"pocket"}


def test_paper_cells_are_compared_with_care_or_not_at_all() -> None:
    made = results("paper", basis=MEASURED)
    verdicts = {
        (c.cell.regime, c.cell.size, r.quantity): r.verdict for c in made.cells for r in remarks(made, c)
    }
    assert verdicts["kd", "1b", "energy"] == "with care"
    assert verdicts["kd", "7b", "energy"] == "not comparable"
    assert verdicts["synthetic_sft", "1b", "energy_per_token"] == "not comparable"
    assert verdicts["kd", "1b", "quality"] == "not comparable"  # not the five benchmarks
    absent = results("paper")
    assert {r.verdict for c in absent.cells for r in remarks(absent, c)} == {"not comparable"}


def test_published_values_stand_in_columns_of_their_own(tmp_path: Path) -> None:
    files = write_documents(results(), "table2", target("table2"), tmp_path)
    rows = {(r["regime"], r["size"]): r for r in csv.DictReader(io.StringIO(files["table2.csv"].read_text()))}
    assert rows["kd", "13b"]["published_energy_kwh"] == "42.5"
    assert rows["kd", "7b"]["published_energy_kwh"] == ""
    assert float(rows["kd", "13b"]["energy_j"]) == 10 + 60 + 380 + 5
    assert rows["kd", "13b"]["teacher_paid_by_run_id"] == "run-shared"
    found = json.loads(files["table2.json"].read_text())
    assert found["profile"] == "pocket" and len(found["cells"]) == 9
    assert found["not_charged"]["teacher-train"]["energy_j"] == 1000.0


def test_stage_shares_add_up() -> None:
    rows = table3_rows(results())
    for regime in ("sft", "kd", "synthetic_sft"):
        mine = [row for row in rows if row["regime"] == regime and row["size"] == "1b"]
        assert sum(row["share"] for row in mine) == pytest.approx(1.0)
        assert sum(row["published_share"] for row in mine) == pytest.approx(1.0)
    assert not [row for row in rows if row["regime"] == "sft" and row["stage"].startswith("teacher")]


def test_sweeps_report_mean_and_spread() -> None:
    cells = [result(c, quality=0.4 + 0.1 * c.seed) for c in cells_of(target("sweeps"))]
    rows = sweep_rows(Results(load_profile("pocket"), cells, {}, None))
    by_setting = {(row["sweep"], row["setting"]): row for row in rows}
    row = by_setting["kd-alpha", "alpha=0.3"]
    assert row["runs"] == 3
    assert row["quality_mean"] == pytest.approx(0.5) and row["quality_std"] == pytest.approx(0.1)
    assert row["energy_j_std"] == 0.0
    assert len(by_setting) == 3 + 3 + 3 + 2


def test_the_figure_is_a_picture_with_every_cell(tmp_path: Path) -> None:
    made = results(rel=0.3)
    files = write_documents(made, "table2", target("table2"), tmp_path)
    root = ET.fromstring(files["frontier.svg"].read_text())
    labels = [e.get("aria-label") or "" for e in root.iter("{http://www.w3.org/2000/svg}path")]
    assert sum("Q 0.500" in label for label in labels) == 9
    bars = [e.get("aria-label") or "" for e in root.iter("{http://www.w3.org/2000/svg}line")]
    assert sum(label.startswith("low: ") for label in bars) == 9
    assert sum("q_low: " in label for label in bars) == 9
    spec = json.loads(files["frontier.vl.json"].read_text())
    rows = {row["words"].partition(":")[0]: row for row in spec["data"]["values"]}
    points = frontier(made.cells)
    assert len(rows) == len(points) == 9
    for point in points:
        row = rows[point.name]
        assert (row["energy"], row["low"], row["high"], row["on_frontier"]) == (
            point.energy_j,
            point.energy_j_low,
            point.energy_j_high,
            point.on_frontier,
        )


def test_without_the_plot_extra_the_tables_are_there_and_the_error_names_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "altair", None)
    with pytest.raises(KitError, match="altair") as caught:
        write_documents(results(), "table2", target("table2"), tmp_path)
    assert "[plot]" in str(caught.value.fix)
    assert {path.name for path in tmp_path.iterdir()} == {"table2.md", "table2.csv", "table2.json"}


def test_the_summary_fits_a_terminal_and_says_what_the_table_says() -> None:
    lines = summary(results(rel=0.5))
    table = lines[: lines.index("")]
    assert max(map(len, table)) <= 80 and len(table) == 3 + 9
    rows = {line[:20].split("  ")[0] + line[15:21].strip(): line for line in table[3:]}
    # Total 10 + 60 + 180 + 5 J; the paper's 16.90 kWh, 0.70 and 10.0 for the 1B student by KD.
    assert rows["Logit KD7B"].split()[:4] == ["Logit", "KD", "7B", "260"]
    assert rows["Logit KD1B"].split()[-4:] == ["16.90", "2.4", "0.70", "10.0"]
    # Half as much or twice: whether a teacher of 60 J ever pays for itself is open.
    assert " open " in rows["Logit KD1B"] and any(line.startswith("N* open") for line in lines)
    assert any("say nothing about OLMo-2" in line for line in lines)
    assert lines[-1].startswith("Cell by cell") and "27 not comparable" in lines[-1]
    # Under a head that says how they were got and keeps its distance also above narrow columns.
    exact = summary(results(basis=MEASURED))
    for made, words in ((lines, "estimated"), (summary(results()), "estimated"), (exact, "measured")):
        head, columns = made[:2]
        assert f" pocket, {words} here  " in head and head.index("published") == columns.index("E kWh")
    # Known exactly, it is 60 / 20 reuses.
    sharp = next(line for line in summary(results()) if line.startswith("Logit KD       1B"))
    assert sharp.split()[-5] == "3.00"


def test_stages_that_were_not_forked_are_named_among_the_deviations(tmp_path: Path) -> None:
    made = results()
    for not_forked in ((), ("shared preprocess", "kd-1b evaluate")):
        files = write_documents(replace(made, not_forked=not_forked), "table2", target("table2"), tmp_path)
        text = files["table2.md"].read_text()
        deviations = json.loads(files["table2.json"].read_text())["deviations"]
        assert ("shared preprocess, kd-1b evaluate" in text) == bool(not_forked)
        assert len(deviations) == len(made.profile.deviations) + bool(not_forked)
