"""The tables of factors follow from the pinned files, and the script refuses any other."""

from __future__ import annotations

import csv
import importlib.util
import json
import shutil
import zipfile
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FACTORS = ROOT / "protocol" / "1.0" / "factors"


def load_script():
    spec = importlib.util.spec_from_file_location("make_factors", ROOT / "scripts" / "make_factors.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


make_factors = load_script()
PINS = make_factors.files_from_wheels.__globals__["PINS"]


def installed(name):
    """The folder that holds an installed package; its files are compared by hash with the pinned ones."""
    pin = next(pin for pin in PINS if pin.name == name)
    try:
        found = distribution(name)
    except PackageNotFoundError:
        pytest.skip(f"{name} is not installed: make setup-dev")
    if found.version != pin.version:
        pytest.skip(f"{name} {found.version} is installed, the tables are derived from {pin.version}")
    return Path(found.locate_file(""))


@pytest.fixture(scope="module")
def codecarbon():
    return installed("codecarbon")


@pytest.fixture(scope="module")
def carbontracker():
    # The package itself is never imported.
    return installed("carbontracker")


@pytest.fixture(scope="module")
def files(codecarbon, carbontracker):
    return make_factors.files_from_folders([codecarbon, carbontracker])


def committed(name):
    with (FACTORS / name).open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def grid():
    return {row["factor_id"]: row for row in committed("grid.csv")}


def test_the_committed_tables_are_those_the_script_derives(files):
    made = make_factors.tables(files)
    assert {path.name for path in FACTORS.glob("*.csv")} == set(made)
    for name, text in made.items():
        assert (FACTORS / name).read_text(encoding="utf-8") == text, f"run scripts/make_factors.py: {name}"


def test_check_tells_a_changed_table_by_its_exit_code(codecarbon, carbontracker, tmp_path, capsys):
    copy = shutil.copytree(FACTORS, tmp_path / "factors")
    call = ["--unpacked", str(codecarbon), str(carbontracker), "--check", "--out", str(copy)]
    assert make_factors.main(call) == 0
    grid_file = copy / "grid.csv"
    text = grid_file.read_text()
    grid_file.write_text(
        text.replace("ember-fra-2024,FRA,France,2024,44.179", "ember-fra-2024,FRA,France,2024,4.4")
    )
    capsys.readouterr()
    assert make_factors.main(call) == 1
    assert "1 rows differ: ember-fra-2024" in capsys.readouterr().out
    assert "44.179" not in grid_file.read_text()
    assert make_factors.main([a for a in call if a != "--check"]) == 0
    assert grid_file.read_text() == text


def test_a_file_with_another_hash_is_refused(codecarbon, carbontracker, tmp_path, capsys):
    table = tmp_path / "unpacked" / make_factors.INTENSITIES
    table.parent.mkdir(parents=True)
    original = (carbontracker / make_factors.INTENSITIES).read_text()
    table.write_text(original.replace("FRA,44.17", "FRA,4.417"))
    folders = [str(tmp_path / "unpacked"), str(codecarbon)]
    assert make_factors.main(["--unpacked", *folders, "--out", str(tmp_path)]) == 2
    assert "pinned is de5a4e99" in capsys.readouterr().err
    assert not list(tmp_path.glob("*.csv"))


def test_a_wheel_with_another_hash_is_refused(tmp_path, capsys):
    assert make_factors.main(["--wheels", str(tmp_path), "--out", str(tmp_path)]) == 2
    assert "no codecarbon-3.3.2-py3-none-any.whl" in capsys.readouterr().err
    for pin in PINS:
        with zipfile.ZipFile(tmp_path / pin.wheel, "w") as archive:
            archive.writestr("nothing.txt", "")
    assert make_factors.main(["--wheels", str(tmp_path), "--out", str(tmp_path)]) == 2
    assert "pinned is 05b31dea" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("factor", "lb_per_mwh", "g_per_kwh"),
    [
        # Worked out on paper with 1 lb = 453.59237 g.
        ("egrid-us-ca-2023", 394.769, 179.064),
        ("egrid-us-wy-2023", 1833.263, 831.554),
        ("egrid-us-vt-2023", 52.239, 23.695),
        ("egrid-us-tx-2023", 771.179, 349.801),
        ("egrid-usa-2023", 770.884, 349.667),
    ],
)
def test_states_are_converted_from_pounds_a_megawatt_hour(files, factor, lb_per_mwh, g_per_kwh):
    row = grid()[factor]
    assert float(row["value"]) == g_per_kwh
    assert (row["unit"], row["scope"], row["gas"]) == ("g/kWh", "direct", "CO2e")
    table = json.loads(files[make_factors.STATES])
    code = row["region"].removeprefix("US-").replace("USA", "usa")
    assert [r["emissions"] for r in table.values() if r.get("regionCode") == code] == [lb_per_mwh]


def test_a_table_of_states_in_another_unit_is_refused(files):
    table = json.loads(files[make_factors.STATES])
    table["_unit"]["emissions"] = "kg/MWh"
    with pytest.raises(make_factors.Refused, match="expected eGRID2023 STC2ERTA in lbs/MWh"):
        list(make_factors.state_rows({**files, make_factors.STATES: json.dumps(table).encode()}))


@pytest.mark.parametrize(
    ("factor", "by_hand"),
    [
        # 0.2 gas x 486 + 0.3 oil x 840 + 0.7 biomass x 52 + 0.01 solar x 43 + 6.7 wind x 13 + 92.1 hydro x 21
        ("cer-ca-qc-2023", 2407.23 / 100.01),
        # 73.5 x 486 + 0.02 x 840 + 2 x 52 + 8 coal x 1001 + 3.2 x 43 + 11.3 x 13 + 1.8 x 21
        ("cer-ca-ab-2023", 44172.1 / 99.82),
        # 99.8 oil x 840 + 0.2 solar x 43
        ("cer-ca-nu-2023", 838.406),
    ],
)
def test_provinces_are_the_mix_times_the_fuels(factor, by_hand):
    row = grid()[factor]
    assert float(row["value"]) == pytest.approx(by_hand, abs=0.05)
    assert row["method"].startswith("derived")


def test_a_mix_with_an_unknown_fuel_is_refused_and_not_counted_as_zero():
    with pytest.raises(make_factors.Refused, match="other"):
        make_factors.mix_intensity({"hydro": 99.0, "other": 1.0}, {"hydro": 21.0})
    assert (
        make_factors.mix_intensity({"hydro": 1.0, "coal": 3.0, "other": 0.0}, {"hydro": 0.0, "coal": 8.0})
        == 6.0
    )


def test_shares_that_do_not_add_up_are_refused(files):
    mixes = json.loads(files[make_factors.MIX])
    mixes["quebec"]["hydro"] = 9.21
    with pytest.raises(make_factors.Refused, match="quebec"):
        list(make_factors.province_rows({**files, make_factors.MIX: json.dumps(mixes).encode()}))


def test_every_row_says_what_it_is_and_where_it_is_from():
    rows = committed("grid.csv")
    assert len({row["factor_id"] for row in rows}) == len(rows)
    for row in rows:
        assert all(row.values()), row
        assert row["licence"] in (
            "CC BY 4.0",
            "US government work, public domain",
            "Open Government Licence - Canada",
        )
        assert row["scope"] in ("lifecycle", "direct")
        assert len(row["wheel_sha256"]) == len(row["file_sha256"]) == 64
        assert row["source_url"].startswith("https://")
    for row in committed("pue.csv"):
        assert row["category"] in ("measured", "provider", "survey", "assumed")
        assert 1 < float(row["value"]) < 2
        assert all(row[k] for k in ("year", "unit", "source", "source_url", "licence", "retrieved")), row
    for name in ("grid.csv", "pue.csv", "fuels.csv"):
        text = (FACTORS / name).read_text().lower()
        assert not any(word in text for word in ("odbl", "electricitymaps", "electricity maps", "iea.org"))


def test_values_are_plausible_so_that_a_wrong_unit_shows():
    values = {i: float(row["value"]) for i, row in grid().items()}
    assert all(0 < value < 1500 for value in values.values())
    states = [value for i, value in values.items() if i.startswith("egrid-us-")]
    mean = values["egrid-usa-2023"]
    assert len(states) == 51
    assert min(states) < mean < max(states)
    assert 0.7 < sum(states) / len(states) / mean < 1.4
    # Two publishers, one country and year: pounds taken for kilograms, or the reverse, is a factor of 2.2.
    assert 0.8 < mean / values["ember-usa-2023"] < 1.0
    provinces = [value for i, value in values.items() if i.startswith("cer-")]
    assert len(provinces) == 13
    assert min(provinces) < values["ember-can-2023"] < max(provinces)


def test_published_values_arrive_unchanged():
    rows = grid()
    # As in Our World in Data's table of these years.
    for factor, value in {
        "deu-2023": 380.95,
        "deu-2024": 344.14,
        "fra-2024": 44.18,
        "chn-2024": 559.55,
    }.items():
        assert float(rows[f"ember-{factor}"]["value"]) == pytest.approx(value, abs=0.01)
    assert rows["ember-nam-2022"]["wheel"] == "codecarbon 3.3.2"
    assert not any(row["region"] == "CAF" for row in rows.values())


def test_of_two_editions_the_later_is_used_and_both_are_kept():
    cross = {row["region"]: row for row in committed("crosscheck.csv")}
    assert len(cross) == 38
    falkland = cross["FLK"]
    assert (falkland["codecarbon_g_co2e_per_kwh"], falkland["carbontracker_g_co2e_per_kwh"]) == (
        "500.0",
        "1000.0",
    )
    assert float(falkland["difference"]) == 1.0
    rows = grid()
    for region, row in cross.items():
        kept = rows.get(f"ember-{region.lower()}-{row['year']}")
        assert kept is None or float(kept["value"]) == float(row["carbontracker_g_co2e_per_kwh"])
