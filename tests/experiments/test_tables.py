"""Figures of cells, the frontier and the documents, from made-up energies with known answers."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from harness.accounting import Interval
from harness.accounting.run_spread import RunSpread
from harness.experiments.comparison import remarks
from harness.experiments.documents import frontier_words, write_documents
from harness.experiments.frontier import frontier
from harness.experiments.grid import Cell, cells_of, main_cells, target
from harness.experiments.profile import load_profile
from harness.experiments.results import Basis, CellResult, Results
from harness.experiments.summary import summary
from harness.experiments.tables import cell_record, sweep_rows, table3_rows
from harness.spec.factors import region_factors

ESTIMATE = Basis({"gpu": ("absent",), "cpu": ("codecarbon_process",), "dram": ("codecarbon_process",)})
MEASURED = Basis({"gpu": ("counter_step",), "cpu": ("rapl",), "dram": ("rapl",)})
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
    energies |= {"evaluate": 3.0, "judge": 1.0, "unattributed": 1.0}
    return CellResult(
        cell=cell,
        run_id="run-" + cell.name,
        parts={k: Interval(v, v * (1 - rel), v * (1 + rel)) for k, v in energies.items()},
        failed=None,
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
    assert "Every other cell is tied with one of them" in text and "0.50 ± 0.20" in text
    some = frontier_words(results(rel=0.5).cells)[1]
    assert "allow no order: kd-1b and sft-1b; synthetic-sft-1b and sft-1b;" in some and "kd-13b" not in some


def test_pocket_is_never_comparable_and_says_so_everywhere(tmp_path: Path) -> None:
    made = results()
    assert {r.verdict for c in made.cells for r in remarks(made, c)} == {"not comparable"}
    files = write_documents(made, "all", target("all"), tmp_path)
    for name in ("table2.md", "table3.md", "sweeps.md"):
        text = files[name].read_text()
        assert "**Pocket figures say nothing about OLMo-2" in text
        assert "J, pocket" in text and "kWh, pocket" not in text
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


def test_what_stands_beside_the_energy(tmp_path: Path) -> None:
    plain = write_documents(results(), "table2", target("table2"), tmp_path / "plain")
    assert "name a grid with --region" in plain["table2.md"].read_text()
    assert next(csv.DictReader(io.StringIO(plain["table2.csv"].read_text())))["co2e_kg"] == ""
    made = replace(results(), grid=region_factors("ember-fra-2023")[0])
    cells = [replace(c, gpu_hours=1.5, peak_gpu_mib=4096, basis=MEASURED) for c in made.cells]
    made = replace(made, cells=cells)
    files = write_documents(made, "table2", target("table2"), tmp_path / "placed")
    row = next(csv.DictReader(io.StringIO(files["table2.csv"].read_text())))
    assert row["co2e_factor_id"] == "ember-fra-2023"
    grams = float(row["energy_j"]) / 3.6e6 * made.grid.g_co2e_per_kwh
    assert float(row["co2e_kg"]) == pytest.approx(grams / 1e3)
    section = files["table2.md"].read_text().partition("## Beside the energy")[2]
    assert "g CO2e, France 2023" in section and "ember-fra-2023" in section
    assert {"1.5", "-", "4,096"} <= {cell.strip() for cell in section.split("|")}


def test_stage_shares_add_up() -> None:
    rows = table3_rows(results())
    for regime in ("sft", "kd", "synthetic_sft"):
        mine = [row for row in rows if row["regime"] == regime and row["size"] == "1b"]
        assert sum(row["share"] for row in mine) == pytest.approx(1.0)
        # The published table says nothing of a judge, nor of time between stages.
        lacking = ("judge", "unattributed")
        published = [row["published_share"] for row in mine if row["stage"] not in lacking]
        assert sum(published) == pytest.approx(1.0)
        assert [row["published_share"] for row in mine if row["stage"] in lacking] == [None, None]
    assert not [row for row in rows if row["regime"] == "sft" and row["stage"].startswith("teacher")]


def test_sweeps_report_mean_and_spread() -> None:
    cells = [result(c, quality=0.4 + 0.1 * c.seed) for c in cells_of(target("sweeps"))]
    rows = sweep_rows(Results(load_profile("pocket"), cells, {}, None))
    by_setting = {(row["sweep"], row["setting"]): row for row in rows}
    row = by_setting["kd-temperature-alpha", "alpha=0.3, temperature=1"]
    assert row["runs"] == 3
    assert row["quality_mean"] == pytest.approx(0.5) and row["quality_std"] == pytest.approx(0.1)
    assert row["energy_j_std"] == 0.0
    assert len(by_setting) == 9 + 3 + 2


def test_the_summary_fits_a_terminal_and_says_what_the_table_says() -> None:
    lines = summary(results(rel=0.5))
    table = lines[: lines.index("")]
    assert max(map(len, table)) <= 80 and len(table) == 3 + 9
    rows = {line[:13].strip() + line[14:18].strip(): line for line in table[3:]}
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
    sharp = next(line for line in summary(results()) if line.startswith("Logit KD      1B"))
    assert sharp.split()[-5] == "3.00"


def test_tables_of_sweeps_are_left_out_where_no_student_of_theirs_was_asked_for(tmp_path: Path) -> None:
    made = results()
    only = replace(made, cells=[one for one in made.cells if one.cell.size == "7b"])
    files = write_documents(only, "all", target("all"), tmp_path)
    assert {name.partition(".")[0] for name in files} == {"table2", "table3", "stopping"}


def test_stages_that_were_not_forked_are_named_among_the_deviations(tmp_path: Path) -> None:
    made = results()
    for not_forked in ((), ("shared preprocess", "kd-1b evaluate")):
        files = write_documents(replace(made, not_forked=not_forked), "table2", target("table2"), tmp_path)
        text = files["table2.md"].read_text()
        deviations = json.loads(files["table2.json"].read_text())["deviations"]
        assert ("shared preprocess, kd-1b evaluate" in text) == bool(not_forked)
        assert (
            "The teacher was not trained here" in text and "The teacher was not trained here" in deviations[1]
        )
        assert len(deviations) == len(made.profile.deviations) + 1 + bool(not_forked)


def test_repeats_give_a_break_even_in_cpu_seconds(tmp_path: Path) -> None:
    made = results()
    assert "CPU seconds" not in write_documents(made, "all", target("all"), tmp_path)["table2.md"].read_text()
    cells = [
        replace(one, cell=replace(one.cell, seed=seed), cpu_s={"teacher": 60.0, "student_train": used})
        for one in made.cells
        for seed, used in enumerate((100.0, 101.0, 99.0) if one.cell.regime == "sft" else (80.0, 80.5, 79.5))
    ]
    repeated = replace(made, cells=cells)
    even = repeated.break_even_cpu(find(repeated, "kd", "1b"))
    assert even is not None and even.ratio == pytest.approx(3.0) and even.low < 3.0 < even.high
    text = write_documents(repeated, "all", target("all"), tmp_path)["table2.md"].read_text()
    assert "N* in CPU seconds" in text and "3 repeats" in text
    unknown = replace(repeated, cells=[replace(cells[0], cpu_s={}), *cells[1:]])
    assert unknown.break_even_cpu(find(unknown, "kd", cells[0].cell.size)) is None


def test_a_student_is_positions_times_joules_a_position_and_says_how_it_ended(tmp_path: Path) -> None:
    made = results()
    early = {"positions": 900, "eval_positions": 100, "step": 30, "total_steps": 60, "best_step": 20}
    cells = [replace(c, training={**early, "stopped": "early"}) for c in made.cells]
    cells[3] = replace(cells[3], training={**early, "step": 60, "stopped": "horizon"})
    cells[4] = replace(cells[4], training={**early, "step": 60, "stopped": "horizon", "max_steps": 60})
    made = replace(made, cells=cells)
    kd = find(made, "kd", "1b")
    assert kd.positions == 1000 and kd.per_position == Interval.exact(0.08)
    text = write_documents(made, "table2", target("table2"), tmp_path)["table2.md"].read_text()
    assert "stopped early at step 30 of 60" in text and "ran out of epochs at step 60" in text
    assert "ran out of steps at step 60" in text
    assert "Run-to-run spread: not known" in text
    assert any("stopped early at step 30" in line for line in summary(made))
    assert max(map(len, summary(made))) <= 100
    record = cell_record(made, kd)
    assert record["student_positions"] == 1000 and record["student_energy_j_per_position"] == 0.08
    assert find(results(), "kd", "1b").positions is None


def test_equal_work_within_the_run_to_run_spread_gives_no_verdict(tmp_path: Path) -> None:
    """100 J for SFT and 80 J for KD: 22 % apart. Chance alone reaches t x sqrt(2) x the spread."""
    made = results()
    work = {"positions": 900, "eval_positions": 100, "step": 60, "total_steps": 60, "stopped": "horizon"}
    made = replace(made, cells=[replace(c, training=work) for c in made.cells])
    kd = find(made, "kd", "1b")
    assert withheld(made, kd) == "equal work, and run-to-run spread is not known"
    wide = RunSpread("sft-1b", (100.0, 104.0, 96.0), None)
    assert wide.relative == pytest.approx(0.04) and wide.noise == pytest.approx(4.303 * 2**0.5 * 0.04)
    noisy = replace(made, spread=wide)
    reason = "equal work, and the difference is within run-to-run spread"
    assert withheld(noisy, kd) == reason == cell_record(noisy, kd)["break_even_withheld"]
    text = write_documents(noisy, "table2", target("table2"), tmp_path)["table2.md"].read_text()
    kd_lines = [line for line in text.splitlines() if line.startswith("| Logit KD      | 1B")]
    assert [f"no verdict: {reason}" in line for line in kd_lines] == [True, False, False, True]  # sensitivity
    assert f"N* noise: {reason}." in summary(noisy)
    narrow = replace(made, spread=RunSpread("sft-1b", (100.0, 100.5, 99.5), (10.0, 10.1, 9.9)))
    assert withheld(narrow, kd) is None
    fewer = replace(kd, training={**work, "positions": 700})
    assert withheld(noisy, fewer) is None  # it stopped earlier: that is no chance


def withheld(made: Results, result: CellResult) -> str | None:
    even = made.break_even(result)
    assert even is not None
    return even.withheld
