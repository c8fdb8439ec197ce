"""`kit compare` and `kit runs`: ratios, repeats, what forbids a comparison, and the list of runs."""

from __future__ import annotations

import json
import statistics
from pathlib import Path

import pytest
from click.testing import CliRunner

from harness.cli.main import cli
from harness.errors import KitError
from harness.report.model import build
from harness.report.side_by_side import rows, side_by_side
from tests.report.test_comparison import direct, distilled_and_direct


def named(folder, name):
    """The run under another name."""
    path = folder / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest["name"] = name
    path.write_text(json.dumps(manifest))
    return folder


def test_the_first_run_is_what_the_others_are_compared_with(tmp_path):
    kd, sft = distilled_and_direct(tmp_path, (520, 630))
    first, second = side_by_side([build(sft), build(kd)])
    # 180 s on one device with 80 W of idle around: 63 + 6.4 kJ and 22 + 52 + 2.4 kJ.
    assert first.times is None and first.gpu_hours == pytest.approx(100 / 3600)
    assert second.energy.best / first.energy.best == pytest.approx(second.times.best)
    assert second.times.low < second.times.best < second.times.high
    assert second.times.high - second.times.low < 0.01  # one device: its gain cancels
    assert second.gpu_hours == pytest.approx(150 / 3600)


def test_repeats_are_one_column_with_mean_and_spread(tmp_path):
    watts = (500, 520, 570)
    folders = [
        named(direct(tmp_path, f"r{seed}", watts=w), f"sft-7b-seed{seed}" if seed else "sft-7b")
        for seed, w in enumerate(watts)
    ]
    [side] = side_by_side([build(folder) for folder in folders])
    alone = [build(folder).totals.it.best for folder in folders]
    assert side.name == "sft-7b" and len(side.reports) == 3 and side.times is None
    assert side.energy.best == pytest.approx(statistics.fmean(alone))
    assert side.spread == pytest.approx(statistics.stdev(alone))
    # Student's t with two degrees of freedom.
    assert side.energy.high - side.energy.best == pytest.approx(4.303 * side.spread / 3**0.5)
    assert dict(rows([side]))["repeats"] == ["3"]


def test_what_may_not_be_compared_is_named_and_has_no_ratio(tmp_path):
    one, other = direct(tmp_path, "a"), direct(tmp_path, "b", tokens=5000)
    found = CliRunner().invoke(cli, ["compare", str(one), str(other), "--json"])
    sides = json.loads(found.output)
    assert sides[1]["energy_over_first"] is None
    assert sides[1]["differences"] == ["trained tokens are 1000 here and 5000 there"]
    shown = CliRunner().invoke(cli, ["compare", str(one), str(other)]).stdout
    assert "does not compare with" in shown and "5000 there" in " ".join(shown.split())
    same = json.loads(CliRunner().invoke(cli, ["compare", str(one), str(one), "--json"]).output)
    assert len(same) == 1  # one run twice is no repeat


def test_columns_of_one_name_are_told_apart_by_their_paths(tmp_path):
    for folder in ("old", "new"):
        (tmp_path / folder).mkdir()
    runs = [
        named(direct(tmp_path / "old", "sft"), "sft"),
        named(direct(tmp_path / "new", "sft", tokens=5000), "sft"),
        named(direct(tmp_path / "new", "kd", tokens=7000), "kd"),
    ]
    words = ["compare", *map(str, runs), "--json"]
    names = [side["name"] for side in json.loads(CliRunner().invoke(cli, words).output)]
    assert names == ["sft (old/sft)", "sft (new/sft)", "kd"]


def test_runs_of_one_name_are_repeats_but_for_an_edited_pipeline(tmp_path):
    """What a log tells of its pipeline decides; digests have a key of each run's own and tell nothing."""

    def columns(*pipelines):
        folders = []
        for number, pipeline in enumerate(pipelines):
            folder = named(direct(tmp_path, f"r{len(list(tmp_path.iterdir()))}", watts=500 + number), "sft")
            path = folder / "manifest.json"
            path.write_text(json.dumps(json.loads(path.read_text()) | {"pipeline": pipeline}))
            folders.append(str(folder))
        sides = json.loads(CliRunner().invoke(cli, ["compare", *folders, "--json"]).output)
        return [len(side["run_ids"]) for side in sides]

    def stage(digest, *words):
        command = ["python", f"hmac-sha256:{digest * 64}", *words]
        return {"stages": [{"command": command, "fingerprint": digest * 64}]}

    assert columns(None, None) == [2]
    assert columns(stage("a"), stage("b"), stage("c")) == [3]
    assert columns(stage("a", "--alpha", "0.5"), stage("a", "--alpha", "0.7")) == [1, 1]


def test_two_runs_against_each_other_fit_a_narrow_terminal(tmp_path, monkeypatch):
    monkeypatch.setenv("COLUMNS", "60")
    kd, sft = distilled_and_direct(tmp_path, (520, 630))
    told = CliRunner().invoke(cli, ["breakeven", str(kd), str(sft)])
    assert told.exit_code == 0, told.output
    assert max(map(len, told.output.splitlines())) <= 60
    assert "better in energy" in " ".join(told.output.split())
    cells = dict(rows(side_by_side([build(kd)])))
    assert cells["J/token"][0].endswith(" J per trained")


def test_a_single_run_is_no_comparison(tmp_path):
    found = CliRunner().invoke(cli, ["compare", str(direct(tmp_path, "a"))])
    assert found.exit_code == 2 and "at least two runs" in found.output


def test_the_list_names_every_run_and_what_to_do_with_one_that_is_not_sealed(tmp_path):
    direct(tmp_path, "done")
    (tmp_path / "killed" / "journal").mkdir(parents=True)
    (tmp_path / "source" / "journal").mkdir(parents=True)
    (tmp_path / "source" / "journal" / "__init__.py").touch()
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "manifest.json").write_text("{")
    found = CliRunner().invoke(cli, ["runs", str(tmp_path), "--json"])
    by_name = {row["run"]: row for row in json.loads(found.output)}
    assert by_name["done"]["state"] == "complete" and by_name["done"]["energy_j"]["best"] > 0
    assert by_name["killed"]["state"] == "not sealed" and "kit recover" in by_name["killed"]["note"]
    assert by_name["broken"]["state"] == "unreadable"
    text = CliRunner(env={"COLUMNS": "400"}).invoke(cli, ["runs", str(tmp_path)]).output
    assert len(text.splitlines()) == 4
    (tmp_path / "empty").mkdir()
    assert CliRunner().invoke(cli, ["runs", str(tmp_path / "empty")]).exit_code == 1


@pytest.mark.parametrize(
    ("command", "place"),
    [
        ("report . --html page.html", "--html"),
        ("report . --html sub/../page.html", "--html"),
        ("figures . --out .", "--out"),
        ("figures . --out figures", "--out"),
        ("submit . --lab example-lab --dry-run", "--report"),
        ("submit . --lab example-lab --dry-run --report ../r --into .", "--into"),
    ],
)
def test_nothing_is_written_into_a_sealed_run(tmp_path, monkeypatch, command, place):
    run = direct(tmp_path, "a")
    before = sorted(path.name for path in run.iterdir())
    monkeypatch.chdir(run)
    found = CliRunner().invoke(cli, command.split())
    assert isinstance(found.exception, KitError), found.output
    assert "lies in the run" in str(found.exception) and str(found.exception).startswith(place)
    assert sorted(path.name for path in run.iterdir()) == before


def test_a_page_may_lie_beside_the_bundle_or_in_a_folder_of_ones_own(tmp_path):
    run = direct(tmp_path, "a")
    (run / "work").mkdir()
    for page in (run / "work" / "page.html", tmp_path / "page.html"):
        assert CliRunner().invoke(cli, ["report", str(run), "--html", str(page)]).exit_code == 0


def test_joules_a_token_are_of_the_energy_above_them() -> None:
    """A run whose teacher another one paid: both hold it, or what is cheap by one is dear by the other."""
    runs = Path(__file__).parents[2] / "artifacts" / "runs" / "pocket" / "runs"
    for side in side_by_side([build(runs / name) for name in ("sft-1b", "kd-1b")]):
        report = side.reports[0]
        assert report.inherited is not None and side.energy is not None and side.per_token is not None
        name, each = side.per_token
        assert name == "reference"
        assert each.best * report.token_counts[name] == pytest.approx(side.energy.best)
        assert side.energy.best == pytest.approx(report.totals.it.best + report.inherited.best)
