"""Figures: the data behind the marks have known answers, and the files are what a paper can take."""

from __future__ import annotations

import csv
import json
import re
import struct
import sys
import xml.etree.ElementTree as ET
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner

from harness.accounting import Interval
from harness.accounting.shared_scales import alone
from harness.cli.figures import cmd
from harness.errors import KitError
from harness.experiments.paper import published_entries
from harness.report.drawing import WIDTHS_IN, draw, outlined
from harness.report.figures import figures
from harness.report.latex import main_table, methods
from harness.report.model import build
from harness.report.study import Entry, entries, place
from tests.report.pages import STUDY, hostile_run, study


@pytest.fixture(scope="module")
def known(tmp_path_factory: pytest.TempPathFactory) -> list[Entry]:
    return entries([build(folder) for folder in study(tmp_path_factory.mktemp("study"))])


def made_of(known: list[Entry]) -> dict:
    made, _ = figures(known)
    return {figure.name: figure for figure in made}


def test_standings_and_break_even_of_a_study(known: list[Entry]) -> None:
    made = made_of(known)
    states = {row["name"]: row["standing"] for row in made["pareto"].rows}
    # By energy: sft-1b, then the distilled 1B, sft-7b, the distilled 7B; Q .62 .70 .55 .90 .88 .905.
    assert states == {
        "sft-1b": "frontier",
        "kd-1b": "frontier",
        "synthetic_sft-1b": "dominated",
        "sft-7b": "frontier",
        "kd-7b": "tie",
        "synthetic_sft-7b": "frontier",
    }
    even = {row["name"]: row for row in made["amortization"].rows}
    # Teacher 20 s x 600 W; students of 100 s differ by 50 and 70 W.
    assert even["kd-1b"]["break_even"] == pytest.approx(12_000 / 5_000, rel=1e-3)
    assert even["kd-7b"]["break_even"] == pytest.approx(12_000 / 7_000, rel=1e-3)
    assert even["kd-7b"]["break_even_low"] < even["kd-7b"]["break_even"] < even["kd-7b"]["break_even_high"]
    shares: dict[str, float] = {}
    for row in made["breakdown-share"].rows:
        shares[row["name"]] = shares.get(row["name"], 0.0) + row["share"]
    assert set(shares) == set(STUDY) and all(share == pytest.approx(1.0) for share in shares.values())
    for row in made["serving"].rows:
        assert row["tokens"] * row["saved_j_per_token"] == pytest.approx(
            next(e.extra.best for e in known if e.name == row["name"] and e.extra)
        )


def test_the_plane_has_logarithmic_energy_or_linear(known: list[Entry]) -> None:
    for log in (True, False):
        plane = next(figure for figure in figures(known, log=log)[0] if figure.name == "pareto")
        scales = [layer["encoding"]["x"]["scale"] for layer in plane.panels[0].layers]
        assert {scale["type"] for scale in scales if "type" in scale} == {"log" if log else "linear"}


def test_published_values_stand_apart(known: list[Entry]) -> None:
    made = made_of([*known, *published_entries()])
    (ours, theirs) = made["pareto"].panels
    assert "simulated" in ours.title and "arXiv" in theirs.title
    rows = [row for row in made["pareto"].rows if "arXiv" in row["group"]]
    best = {row["name"] for row in rows if row["standing"] == "frontier"}
    assert best == {"sft-1b", "kd-1b", "sft-7b", "sft-13b"}
    even = {row["name"]: row["break_even"] for row in made["amortization"].rows if "arXiv" in row["group"]}
    assert even == {
        "kd-1b": pytest.approx(10.0),
        "kd-13b": pytest.approx(3.548, abs=1e-3),
        "synthetic-sft-1b": pytest.approx(11.158, abs=1e-3),
        "synthetic-sft-13b": pytest.approx(2.356, abs=1e-3),
    }
    each = {row["name"]: row["j_per_token"] for row in made["size"].rows if "arXiv" in row["group"]}
    assert each["sft-7b"] == pytest.approx(2.34) and each["kd-13b"] == pytest.approx(5.10)
    table = main_table(published_entries())
    assert r"Logit KD & 1B & \num{16.90} & \num{2.03} & \num{0.70} & \num{10.00} \\" in table


def test_a_sweep_has_its_own_frontier(known: list[Entry]) -> None:
    base = next(entry for entry in known if entry.name == "kd-1b")
    grid = [
        replace(
            base,
            name=f"T{t}",
            setting={"temperature": t, "alpha": 0.5},
            energy=alone(Interval.exact(joules)),
            quality=Interval.exact(q),
        )
        for t, joules, q in ((1.0, 100.0, 0.5), (2.0, 120.0, 0.6), (4.0, 130.0, 0.4))
    ]
    made, missing = figures(grid)
    (sweep,) = [figure for figure in made if figure.name == "sweep-kd-grid"]
    assert [(row["temperature"], row["standing"]) for row in sweep.rows] == [
        (1.0, "frontier"),
        (2.0, "frontier"),
        (4.0, "dominated"),
    ]
    assert "prompts" in missing["sweep-prompts"]
    assert [p.state for p in place(grid)] == ["frontier", "frontier", "dominated"]


def test_marks_are_told_apart(known: list[Entry]) -> None:
    made = made_of([*known, *published_entries()])
    (bars, _) = made["breakdown"].panels
    order = ["Baseline SFT 1B", "Baseline SFT 7B", "Logit KD 1B", "Logit KD 7B"]
    assert bars.layers[0]["encoding"]["y"]["sort"][:4] == order
    # Each N* has a row of its own below every line, with the size of its student beside it.
    layers = made["amortization"].panels[1].layers
    strip = next(layer["data"]["values"] for layer in layers if layer["mark"]["type"] == "point")
    lowest = min(row["relative"] for row in layers[1]["data"]["values"])
    heights = [row["relative"] for row in strip]
    assert len(set(heights)) == len(strip) == 4 and max(heights) < lowest
    labels = [
        row["size"] for layer in layers if layer["mark"]["type"] == "text" for row in layer["data"]["values"]
    ]
    assert sorted(labels) == ["13B", "13B", "1B", "1B"]


def test_what_serving_took_is_drawn_where_it_was_measured(known: list[Entry]) -> None:
    assert "not measured here" in made_of(known)["serving"].caption
    served = [replace(entry, served=Interval(0.2, 0.1, 0.4)) for entry in known]
    figure = made_of([*served, *published_entries()])["serving"]
    measured = [row for row in figure.rows if row["what"] == "measured"]
    assert {row["name"] for row in measured} == set(STUDY)
    assert measured[0]["j_per_served_token_high"] == 0.4 and "arXiv" not in str(measured)
    assert [panel.title for panel in figure.panels].count(known[0].group) == 2 and len(figure.panels) == 3


def test_files_of_a_figure(known: list[Entry], tmp_path: Path) -> None:
    pytest.importorskip("vl_convert")
    pytest.importorskip("fontTools")
    figure = made_of(known)["pareto"]
    draw(figure, tmp_path)
    with (tmp_path / "pareto.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert [float(row["energy_j"]) for row in rows] == [row["energy_j"] for row in figure.rows]
    for name, inches in WIDTHS_IN.items():
        spec = json.loads((tmp_path / f"pareto-{name}.vl.json").read_text())
        drawn = [layer["data"]["values"] for layer in spec["layer"] if layer["mark"]["type"] == "point"]
        assert [row["q"] for row in drawn[0]] == [row["q"] for row in figure.rows]
        svg = (tmp_path / f"pareto-{name}.svg").read_text()
        root = ET.fromstring(svg)
        assert abs(float(root.get("width", 0)) - 72 * inches) < 1.5
        assert "<text" not in svg and "font-family" not in svg and "relative quality Q" in svg
        pdf = (tmp_path / f"pareto-{name}.pdf").read_bytes()
        assert b"FontFile" in pdf and b"Type3" not in pdf and b"OpenSans" in pdf
        png = (tmp_path / f"pareto-{name}.png").read_bytes()
        assert abs(struct.unpack(">I", png[16:20])[0] / 300 - inches) < 0.05


def test_text_of_a_figure_becomes_shapes_at_its_place() -> None:
    pytest.importorskip("fontTools")
    text = '<text text-anchor="end" transform="translate(9,5)" font-size="8px" fill="#000">A &amp; B</text>'
    made = outlined(f'<svg>{text}<text opacity="0">hidden</text></svg>')
    assert "<text" not in made and "hidden" not in made and 'aria-label="A &amp; B"' in made
    shift = re.search(r"translate\((-?[\d.]+),", made.partition("<path")[2])
    # A, blank, ampersand, blank and B of Open Sans are 1296 + 532 + 1495 + 532 + 1327 of 2048 units wide.
    assert shift is not None and float(shift[1]) == pytest.approx(-8 * 5182 / 2048, rel=0.02)


def test_without_the_plot_extra_the_error_names_it(
    known: list[Entry], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from harness.report import drawing

    drawing.require_plots.cache_clear()
    monkeypatch.setitem(sys.modules, "vl_convert", None)
    with pytest.raises(KitError, match="vl_convert") as caught:
        draw(made_of(known)["size"] if "size" in made_of(known) else made_of(known)["pareto"], tmp_path)
    assert "make setup-train" in str(caught.value.fix) and "[plot]" in str(caught.value.fix)


def test_the_command_says_what_it_could_not_draw(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tests.accounting.synthetic import make_run

    monkeypatch.setattr("harness.report.drawing.draw", lambda figure, out: [])
    folder = make_run(rapl=True).write(tmp_path / "run")
    result = CliRunner().invoke(cmd, [str(folder), "--out", str(tmp_path / "figures")])
    assert result.exit_code == 0, result.output
    assert "pareto: not drawn: no run has both an energy and a Q" in result.output
    table = (tmp_path / "figures/stages-synthetic.tex").read_text()
    assert r"\toprule" in table and r"\unit{\joule}" in table and table.count(r"\\") == 6
    text = (tmp_path / "figures/methods.tex").read_text()
    assert text == methods(build(folder))
    for words in ("version 1.0.0", r"\qty{0.5}{\second}", "2 $\\times$ Lab GPU", r"\qty{5}{\percent}"):
        assert words in text


def test_texts_of_a_log_are_no_formulas_in_a_figures_data(tmp_path: Path) -> None:
    run = hostile_run(tmp_path / "kd-1b", "=cmd 1b")
    figure = made_of(entries([build(run)]))["breakdown"]
    draw(figure, tmp_path)
    rows = list(csv.DictReader((tmp_path / "breakdown.csv").read_text(encoding="utf-8").splitlines()))
    assert {row["name"] for row in rows} == {"'=cmd 1b"} and all(float(row["energy_j"]) > 0 for row in rows)
