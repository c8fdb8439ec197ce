"""The page has the report's figures, no text in it is more than text, its arithmetic is the protocol's."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import yaml
from click.testing import CliRunner

from harness.accounting.shared_scales import at
from harness.accounting.stage_scales import from_records, stated
from harness.cli.report import cmd
from harness.conformance import load_vectors, run_vectors
from harness.conformance.external import external
from harness.report.cite import PAPER
from harness.report.comparison import against
from harness.report.model import build
from harness.report.page import ASSETS, embedded, points_for
from harness.report.study import scales_of
from harness.report.traces import thinned
from harness.text import shown
from tests.accounting.synthetic import make_run
from tests.report.pages import STUDY, hostile_run, study

ROOT = Path(__file__).resolve().parents[2]
OFFERED = {
    "facility",
    "amortize",
    "break_even",
    "shared_break_even",
    "serving_break_even",
    "shared_ratio",
    "pareto",
}
HOSTILE = "</script><img src=x onerror='stolen=1'>\u2028<!--<script>"


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return study(tmp_path_factory.mktemp("study"))


def page_of(folders: list[Path], out: Path) -> tuple[str, dict]:
    result = CliRunner().invoke(cmd, [*map(str, folders), "--html", str(out)])
    assert result.exit_code == 0, result.output
    text = out.read_text(encoding="utf-8")
    (payload,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', text, flags=re.S)
    return text, json.loads(payload)


def test_the_page_holds_the_reports_figures(runs: list[Path], tmp_path: Path) -> None:
    text, data = page_of(runs, tmp_path / "set.html")
    assert len(text.encode()) < 1_500_000
    assert not re.search(r"(?:src|href)=.?https?:", text) and "default-src 'none'" in text
    assert [entry["label"] for entry in data["runs"]] == list(STUDY)
    for folder, entry in zip(runs, data["runs"], strict=True):
        report = build(folder)
        energy = entry["energy"]["all"]
        whole = sum(at(from_records(energy[k]), {}).best for k in ("own", "teacher") if energy[k])
        assert whole == pytest.approx(report.totals.it.best, rel=1e-9)
        assert (energy["teacher"] is not None) == entry["taught"]
        assert entry["quality"]["best"] == pytest.approx(STUDY[entry["label"]][2])
        assert entry["report"]["totals"]["it_energy_j"] == report.totals.it.best
    pairs = {data["runs"][pair["run"]]["label"]: pair for pair in reversed(data["pairs"])}
    assert set(pairs) == {name for name, (method, *_) in STUDY.items() if method != "sft"}
    found = against(build(runs[2]), build(runs[0])).even
    formed = pairs["kd-1b"]["boundary"]["all"]
    parts = {name: at(from_records(formed[name]), {}).best for name in ("teacher", "direct", "distilled")}
    assert parts["teacher"] / (parts["direct"] - parts["distilled"]) == pytest.approx(found.ratio)


def test_of_gpus_alone_the_page_has_the_gpus_part(tmp_path: Path) -> None:
    folder = make_run(rapl=True).write(tmp_path / "run")
    _, data = page_of([folder], tmp_path / "run.html")
    report, energy = build(folder), data["runs"][0]["energy"]
    parts = {
        b: sum(at(from_records(energy[b][k]), {}).best for k in ("own", "teacher") if energy[b][k])
        for b in energy
    }
    assert parts["all"] == pytest.approx(report.totals.it.best, rel=1e-9)
    assert parts["gpu"] == pytest.approx(report.totals.gpu.energy_j, rel=1e-9)
    # One interval: that of the run from end to end, narrower than the sum of its stages.
    for boundary, known in (("gpu", report.totals.gpu.interval), ("all", report.totals.it)):
        whole = from_records(energy[boundary]["whole"])
        found, loose = (stated(e, scales_of([whole])) for e in (whole, from_records(energy[boundary]["own"])))
        assert (found.best, found.low, found.high) == pytest.approx((known.best, known.low, known.high))
        assert loose.high - loose.low > found.high - found.low
    traces = data["runs"][0]["traces"]
    assert {trace["part"] for trace in traces} == {"gpu", "cpu", "dram"}
    assert max(v for v in traces[0]["high_dw"] if v is not None) == pytest.approx(6500, rel=0.05)


def test_no_text_of_a_log_leaves_its_element(tmp_path: Path) -> None:
    text, data = page_of([hostile_run(tmp_path / "run", HOSTILE)], tmp_path / "page.html")
    assert "onerror" not in re.sub(r"\\u003cimg[^<]*|&lt;img[^<]*", "", text)
    assert "\u2028" not in text.partition('id="data">')[2].partition("</script>")[0]
    assert data["runs"][0]["report"]["name"] == HOSTILE
    assert json.loads(embedded(HOSTILE)) == HOSTILE
    assert shown("50%_{a}$", "latex") == r"50\%\_\{a\}\$"


def test_the_page_starts_with_what_the_command_was_given(runs: list[Path], tmp_path: Path) -> None:
    out = tmp_path / "page.html"
    options = ["--pue", "1.2", "--region", "ember-fra-2023", "--amortize", "3"]
    result = CliRunner().invoke(cmd, [str(runs[2]), *options, "--html", str(out)])
    assert result.exit_code == 0, result.output
    chosen = json.loads(re.findall(r'id="data">(.*?)</script>', out.read_text(), flags=re.S)[0])["chosen"]
    assert (chosen["pue"], chosen["reuses"], chosen["grid"][0]) == (1.2, 3, "ember-fra-2023")
    both = CliRunner().invoke(cmd, [str(runs[2]), "--against", str(runs[0]), "--html", str(out)])
    assert both.exit_code == 2 and "DIR DIR --html" in both.output


def test_one_run_twice_and_several_without_a_page_are_refused(runs: list[Path], tmp_path: Path) -> None:
    runner = CliRunner()
    assert "--html" in runner.invoke(cmd, [str(runs[0]), str(runs[1])]).output
    twice = runner.invoke(cmd, [str(runs[0]), str(runs[0]), "--html", str(tmp_path / "x.html")])
    assert "given twice" in str(twice.exception)


def test_a_thinned_trace_keeps_extremes_means_and_gaps() -> None:
    t = np.arange(0, 10_000_000, 1000, dtype=np.int64)
    t = t[(t < 4_000_000) | (t >= 6_000_000)]
    watts = 100 + np.sin(np.arange(len(t)) / 7) * 5
    watts[1234], watts[7000] = 900.0, 3.0
    watts[500] = np.nan
    at_, low, mean, high = thinned(t, watts, 100, 1000)
    assert len(at_) <= 101 and np.all(np.diff(at_) > 0)
    assert np.nanmax(high) == 900.0 and np.nanmin(low) == 3.0
    assert np.isnan(mean).sum() == 1 and 4_000_000 <= at_[np.isnan(mean)][0] <= 6_000_000
    assert np.nanmean(mean) == pytest.approx(np.nanmean(watts), rel=0.01)
    same, *_ = thinned(t[:50], watts[:50], 100, 1000)
    assert np.array_equal(same, t[:50])
    assert points_for(1, 10) * 3 * 10 <= 120_000


def test_the_code_is_small_and_the_paper_is_the_one_of_the_citation_file() -> None:
    assert sum(path.stat().st_size for path in ASSETS.iterdir()) < 300_000
    paper = yaml.safe_load((ROOT / "CITATION.cff").read_text())["preferred-citation"]
    plain = PAPER.replace("{", "").replace("}", "")
    assert paper["title"] in plain and str(paper["year"]) in plain
    assert all(author["family-names"] in plain for author in paper["authors"])


@pytest.mark.skipif(shutil.which("node") is None, reason="Node is not installed")
def test_the_pages_arithmetic_passes_its_share_of_the_vectors() -> None:
    vectors = [vector for vector in load_vectors() if vector["op"] in OFFERED]
    outcomes = run_vectors(vectors, external(f"node {ROOT / 'web/conformance.js'}", vectors))
    assert {str(outcome.vector["op"]) for outcome in outcomes} == OFFERED
    assert [outcome.id for outcome in outcomes if not outcome.passed] == []
