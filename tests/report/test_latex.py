"""LaTeX that `kit figures` writes goes through TeX with the packages that it names."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from harness.experiments.paper import published_entries
from harness.report.cite import citations
from harness.report.figures import figures
from harness.report.latex import PREAMBLE, beside_table, main_table, methods, stage_table
from harness.report.model import Options, build
from harness.report.study import entries
from harness.spec.factors import region_factors
from tests.report.pages import hostile_run, study
from tests.validate.tamper import edit_manifest

HOSTILE = r"a_b & 50% #1 $x^2$ {~} \end{tabular} \input{/etc/passwd}"


def texts(folder: Path) -> list[str]:
    """Everything that the command writes, of a study and of a log whose every name is markup."""
    runs = [*study(folder / "study"), hostile_run(folder / "hostile", HOSTILE)]
    reports = [build(run, Options(region="FRA")) for run in runs]
    known = entries(reports) + published_entries()
    captions = [figure.caption for figure in figures(known)[0]]
    stages = [stage_table(report) for report in reports[-2:]]
    return [main_table(known), beside_table(reports), *stages, *map(methods, reports[-2:]), *captions]


def test_what_stands_beside_the_energy(tmp_path: Path) -> None:
    run = study(tmp_path / "study")[0]
    placed = beside_table([build(run, Options(region="ember-fra-2023"))])
    report = build(run)
    (row,) = [line for line in placed.splitlines() if line.startswith("sft-1b")]
    factor = region_factors("ember-fra-2023")[0]
    grams = report.totals.it.best / 3.6e6 * factor.g_co2e_per_kwh
    assert float(re.findall(r"\\num\{([\d.]+)\}", row)[2]) == pytest.approx(grams, rel=0.02)
    assert "France 2023" in placed and "CO2e" not in beside_table([report])


def test_every_row_has_the_columns_that_its_table_declares(tmp_path: Path) -> None:
    for table in (text for text in texts(tmp_path) if r"\begin{tabular}" in text):
        [declared] = re.findall(r"\\begin\{tabular\}\{([lr]+)\}", table)
        rows = re.findall(r"^(?!\\multicolumn)(.*) \\\\$", table, flags=re.M)
        assert rows and {len(re.split(r"(?<!\\)&", row)) for row in rows} == {len(declared)}
        assert r"\input" not in table


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="no TeX here (Debian: texlive-science)")
def test_tex_takes_it(tmp_path: Path) -> None:
    packages = PREAMBLE.removeprefix("% ")
    parts = texts(tmp_path)
    body = "\n\n".join(parts)
    document = rf"\documentclass{{article}}{packages}\begin{{document}}{body}\end{{document}}"
    (tmp_path / "all.tex").write_text(document, encoding="utf-8")
    command = ["pdflatex", "-halt-on-error", "-interaction=nonstopmode", "-no-shell-escape", "all.tex"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, errors="replace")
    assert done.returncode == 0, done.stdout[-2000:]
    assert "Missing character" not in (tmp_path / "all.log").read_text(encoding="utf-8", errors="replace")


def test_the_id_of_a_run_cannot_leave_its_comment(tmp_path: Path) -> None:
    run = hostile_run(tmp_path / "run", HOSTILE)
    edit_manifest(run, lambda manifest: manifest.update(run_id="x\n\\input{/etc/passwd}"))
    comment, _, text = methods(build(run)).partition("\n")
    assert comment.startswith("% run x") and r"\input" in comment and r"\input" not in text
    assert r"\input" not in citations(build(run))
