"""Looking factors up: codes, names, years, ids, and what an error offers instead."""

from __future__ import annotations

import csv
import io
import json
import re
from datetime import UTC, datetime

import pytest

from harness.cli.main import main
from harness.errors import KitError
from harness.report.model import Options, build
from harness.spec.factors import (
    attribution,
    factor_of_year,
    find_pue,
    find_region,
    grid_factors,
    region_factors,
    regions,
    same_series,
)
from tests.accounting.synthetic import make_run


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("FRA", "FRA"),
        ("fr", "FRA"),
        (" France ", "FRA"),
        ("us-ca", "US-CA"),
        ("California", "US-CA"),
        ("CA", "CAN"),
        ("ca_qc", "CA-QC"),
        ("Québec", "CA-QC"),
        ("UK", "GBR"),
        ("Türkiye", "TUR"),
        ("turkiye", "TUR"),
        ("cote d'ivoire", "CIV"),
        ("Washington DC", "US-DC"),
        ("washington", "US-WA"),
        ("NA", "NAM"),
        ("GEO", "GEO"),
    ],
)
def test_a_region_answers_to_its_codes_and_names(text, code):
    assert find_region(text).region == code


@pytest.mark.parametrize(
    ("text", "offered"),
    [
        ("Germny", "DEU (Germany)"),
        ("QC", "CA-QC (Quebec, Canada)"),
        ("Korea", "KOR (South Korea)"),
        ("Georgia", "GEO (Georgia) or US-GA (Georgia, United States)"),
        ("", "kit factors"),
        ("atlantis", "kit factors"),
        ("world", "kit factors"),
    ],
)
def test_an_unknown_region_is_an_error_that_offers_the_nearest(text, offered):
    with pytest.raises(KitError) as caught:
        find_region(text, "--region")
    assert offered in str(caught.value)
    assert str(caught.value).startswith("--region: ")
    assert caught.value.exit_code == 2


def test_no_two_regions_share_a_code_and_every_factor_has_a_region():
    codes = [c for r in regions().values() for c in (r.region, r.alpha2) if c]
    assert len(set(codes)) == len(codes)
    assert all(
        r.parent in ("", "USA", "CAN") and ("-" in r.region) == bool(r.parent) for r in regions().values()
    )
    for factor in grid_factors():
        assert factor.name == regions()[factor.region].name
        assert find_region(factor.region).region == factor.region


def test_the_newest_year_comes_first_and_lifecycle_before_direct():
    usa = region_factors("USA")
    assert [f.factor_id for f in usa] == ["ember-usa-2024", "ember-usa-2023", "egrid-usa-2023"]
    assert [f.year for f in same_series(usa)] == [2024, 2023]
    assert next(f.factor_id for f in factor_of_year("USA", 2023)) == "ember-usa-2023"
    for code in {f.region for f in grid_factors()}:
        first, *others = region_factors(code)
        assert all(first.year >= other.year for other in others)


def test_an_id_is_taken_exactly():
    assert region_factors("EGRID-USA-2023")[0].factor_id == "egrid-usa-2023"
    assert region_factors("ember-fra-2023")[0].value == 56.039


def test_a_year_that_is_not_there_names_those_that_are():
    with pytest.raises(KitError) as caught:
        factor_of_year("FRA", 2019)
    assert "2023, 2024" in str(caught.value)
    assert "--year 2023" in str(caught.value)


def test_credit_names_who_where_and_licence():
    assert attribution(region_factors("FRA")[0]) == (
        "Ember and Energy Institute through Our World in Data, "
        "https://ourworldindata.org/grapher/carbon-intensity-electricity, "
        "CC BY 4.0 (https://creativecommons.org/licenses/by/4.0/); as published, rounded to 0.001"
    )


def test_pue_by_id_or_by_series():
    assert find_pue("uptime-2023").value == 1.58
    assert find_pue("AWS").year == 2025
    with pytest.raises(KitError, match="no PUE 'gogle-2024'") as caught:
        find_pue("gogle-2024")
    assert "google-2024" in str(caught.value)


def run(capsys, *args):
    code = main(["factors", *args])
    out = capsys.readouterr()
    return code, out.out, out.err


def test_command_shows_one_region(capsys):
    code, out, _ = run(capsys, "FRA", "--year", "2024")
    assert code == 0
    for part in (
        "France (FRA) 2024: 44.18 g CO2e/kWh",
        "ember-fra-2024",
        "CC BY 4.0",
        "-21.2% from 2023 to 2024",
    ):
        assert part in out
    assert "https://ourworldindata.org/grapher/carbon-intensity-electricity" in out
    _, out, _ = run(capsys, "FRA", "--year", "2023")
    assert "2023: 56.04" in out
    assert "-21.2% from 2023 to 2024" in out
    _, out, _ = run(capsys, "South", "Africa")
    assert "ember-zaf-2024" in out
    _, out, _ = run(capsys, "US-CA")
    assert "direct: emissions at the plants only" in out
    assert "kit factors USA" in out


def test_command_lists_regions_and_pue(capsys):
    _, out, _ = run(capsys)
    lines = out.split("\n\n")[0].splitlines()
    assert len(lines) == 1 + len({f.region for f in grid_factors()})
    assert lines[0].split()[:3] == ["region", "name", "year"]
    assert "CC BY 4.0" in out.split("\n\n")[1]
    _, out, _ = run(capsys, "pue")
    assert "uptime-2025" in out
    assert "survey" in out


def test_command_speaks_json_and_csv(capsys):
    _, out, _ = run(capsys, "CA-QC", "--format", "json")
    (row,) = json.loads(out)
    assert (row["factor_id"], row["value"], row["unit"], row["gas"]) == (
        "cer-ca-qc-2023",
        24.1,
        "g/kWh",
        "CO2e",
    )
    assert "Open Government Licence" in row["attribution"]
    _, out, _ = run(capsys, "USA", "--format", "csv")
    assert next(r["factor_id"] for r in csv.DictReader(io.StringIO(out))) == "ember-usa-2024"
    _, out, _ = run(capsys, "--format", "csv")
    assert len(list(csv.DictReader(io.StringIO(out)))) == len(grid_factors())
    _, out, _ = run(capsys, "--year", "2009", "--format", "json")
    assert {row["year"] for row in json.loads(out)} == {2009}
    _, out, _ = run(capsys, "pue", "--format", "json")
    assert all(row["category"] for row in json.loads(out))


@pytest.mark.parametrize(
    "args", [("Germny",), ("FRA", "--year", "1999"), ("--year", "1999"), ("pue", "--year", "1999"), ("CAF",)]
)
def test_command_fails_with_a_next_step_and_no_traceback(capsys, args):
    code, out, err = run(capsys, *args)
    assert code == 2
    assert out == ""
    assert "expected:" in err
    assert "Traceback" not in err


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return make_run(rapl=True).write(tmp_path_factory.mktemp("factors") / "run")


def report(capsys, folder, *args):
    code = main(["report", str(folder), *args])
    out = capsys.readouterr()
    return code, " ".join(out.out.split()), out.err


def test_report_credits_the_data_and_shows_the_other_year(capsys, folder):
    code, out, _ = report(capsys, folder, "--region", "France", "--pue", "uptime-2023")
    assert code == 0
    assert "France 2024: 44.2 g/kWh lifecycle, ember-fra-2024" in out
    assert "with 2023's 56.0 g/kWh" in out
    assert "(+27%)" in out
    assert "CC BY 4.0 (https://creativecommons.org/licenses/by/4.0/)" in out
    assert "PUE 1.58 (data centres worldwide, survey mean, 2023; says nothing of one building)" in out


def test_report_takes_states_and_says_that_they_are_direct(capsys, folder):
    _, out, _ = report(capsys, folder, "--region", "US-CA", "--pue", "1")
    assert "California 2023: 179 g/kWh direct, egrid-us-ca-2023" in out
    assert "Its scope is direct: emissions at the plants only" in out
    assert "PUE 1 (assumed: not applied)" in out


def test_report_takes_one_exact_factor(capsys, folder):
    code = main(["report", str(folder), "--region", "ember-fra-2023", "--pue", "aws", "--format", "json"])
    data = json.loads(capsys.readouterr().out)
    assert code == 0
    assert [c["factor_id"] for c in data["carbon"]] == ["ember-fra-2023", "ember-fra-2024"]
    joules = data["totals"]["it_energy_j"]
    assert data["carbon"][0]["co2e_kg"] == pytest.approx(joules * 1.14 / 3.6e6 * 56.039 / 1000)
    assert (data["facility"]["pue_factor_id"], data["facility"]["pue_category"]) == ("aws-2025", "provider")
    assert data["carbon"][0]["scope"] == "lifecycle"


@pytest.mark.parametrize("pue", ["0.9", "11", "nan", "inf", "gogle-2024"])
def test_report_refuses_a_pue_that_is_none(capsys, folder, pue):
    code, out, err = report(capsys, folder, "--pue", pue)
    assert (code, out) == (2, "")
    assert "--pue" in err


def test_only_one_series_is_shown_beside_each_other(folder):
    assert [c.factor.factor_id for c in build(folder, Options(region="USA")).carbon] == [
        "ember-usa-2024",
        "ember-usa-2023",
    ]


def test_report_names_the_factors_the_run_was_started_with(capsys, tmp_path):
    made = make_run()
    made.manifest["factors"] = {"region": "NO", "pue": 1.2}
    folder = made.write(tmp_path / "run")
    _, out, _ = report(capsys, folder)
    assert "--region NOR --pue 1.2 applies them" in out
    _, out, _ = report(capsys, folder, "--region", "NO", "--pue", "1.1")
    assert "applies them" not in out
    made.manifest["factors"] = {"region": "Moon", "pue": None}
    _, out, _ = report(capsys, made.write(tmp_path / "other"))
    assert "applies them" not in out


def test_report_says_when_the_factor_is_of_another_year(capsys, folder):
    year = datetime.fromtimestamp(build(folder).lines[-1].row["t_end_us"] / 1e6, UTC).year
    _, out, _ = report(capsys, folder, "--region", "FRA")
    assert (f"The run is of {year}, the grid intensity of 2024" in out) == (year != 2024)


def test_co2e_has_no_more_digits_than_the_grid_intensity(capsys, folder):
    _, out, _ = report(capsys, folder, "--region", "FRA", "--pue", "1.2")
    grams = re.findall(r"(\d+\.\d+) g \(|g/kWh (\d+\.\d+) g", out)
    assert len(grams) == 2
    for figure in filter(None, (x for pair in grams for x in pair)):
        assert len(figure.replace(".", "").lstrip("0")) <= 3
