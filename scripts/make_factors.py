"""Write protocol/1.0/factors/*.csv from the tables inside two pinned wheels and a few cited figures.

    python scripts/make_factors.py                    # downloads the wheels, checks their hashes, writes
    python scripts/make_factors.py --wheels DIR       # takes the wheels from DIR
    python scripts/make_factors.py --unpacked A B     # takes the files from folders, each checked by its hash
    python scripts/make_factors.py --check            # writes nothing; 1 if the committed files differ

A file whose hash is not the pinned one is refused. Where both wheels give a country's same year the later
edition of the data is taken (carbontracker 2.4.7's); crosscheck.csv keeps both values. What is left out, and
why, is in protocol/1.0/factors/README.md and docs/decisions/0006-factors.md.
"""

from __future__ import annotations

import argparse
import ast
import csv
import io
import json
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parent))

from factor_tables import ALIASES, CANADA, CITED_PUE, FUELS, FUELS_SOURCE, MIX_KEYS, NO_ALPHA2_IN_WHEEL
from factor_wheels import (
    CONSTANTS,
    GLOBAL,
    INTENSITIES,
    MIX,
    PIN_OF,
    RETRIEVED,
    STATES,
    Refused,
    download,
    files_from_folders,
    files_from_wheels,
)

OUT = Path(__file__).resolve().parent.parent / "protocol" / "1.0" / "factors"

LB_PER_MWH_TO_G_PER_KWH = 453.59237 / 1000
"""International pound, exactly 453.59237 g."""

GRID_COLUMNS = (
    *("factor_id", "region", "name", "year", "value", "unit", "gas", "scope", "basis", "method"),
    *("source", "source_url", "licence", "retrieved", "wheel", "wheel_sha256", "file", "file_sha256"),
)
PUE_COLUMNS = (
    *("factor_id", "name", "year", "value", "unit", "category", "source", "source_url", "licence"),
    *("retrieved", "wheel", "wheel_sha256", "file", "file_sha256"),
)

EMBER = {
    "scope": "lifecycle",
    "method": "as published, rounded to 0.001",
    "source": "Ember and Energy Institute through Our World in Data",
    "source_url": "https://ourworldindata.org/grapher/carbon-intensity-electricity",
    "licence": "CC BY 4.0",
}
CITED = "figure cited, no licence stated"
CROSS_COLUMNS = ("region", "year", "codecarbon_g_co2e_per_kwh", "carbontracker_g_co2e_per_kwh", "difference")

Row = dict[str, object]
Files = Mapping[str, bytes]


class Country(NamedTuple):
    """One value of one table."""

    name: str
    year: int
    value: float


def countries_of_codecarbon(files: Files) -> dict[str, Country]:
    """Alpha-3 code -> value of the table in codecarbon."""
    table = json.loads(files[GLOBAL])
    return {
        code: Country(row["country_name"], row["year"], row["carbon_intensity"])
        for code, row in table.items()
    }


def countries_of_carbontracker(files: Files) -> dict[str, tuple[str, Country]]:
    """Alpha-3 code -> (alpha-2 code, value) of the table in carbontracker."""
    rows = csv.DictReader(io.StringIO(files[INTENSITIES].decode()))
    column = "Carbon intensity of electricity (gCO2eq/kWh)"
    return {
        row["Code"]: (row["alpha-2"], Country(row["Entity"], int(row["Year"]), float(row[column])))
        for row in rows
    }


def _row(series: str, region: str, name: str, year: int, value: float, path: str, **more: str) -> Row:
    row: Row = {"factor_id": f"{series}-{region.lower()}-{year}", "region": region, "name": name}
    row |= {"year": year, "value": value, "unit": "g/kWh", "gas": "CO2e", "basis": "production"}
    return row | more | _origin(path)


def _origin(path: str) -> Row:
    pin = PIN_OF[path]
    return {
        "retrieved": RETRIEVED,
        "wheel": f"{pin.name} {pin.version}",
        "wheel_sha256": pin.sha256,
        "file": path,
        "file_sha256": pin.files[path],
    }


def country_rows(files: Files) -> Iterator[Row]:
    """Countries, one row for each year; of two values for one year that of the later edition.

    A value of 0 is not a lifecycle intensity but a rounded nothing (Central African Republic): left out.
    """
    older, newer = countries_of_codecarbon(files), countries_of_carbontracker(files)
    for code in sorted(older.keys() | newer.keys()):
        found = {older[code].year: (older[code], GLOBAL)} if code in older else {}
        if code in newer:
            found[newer[code][1].year] = (newer[code][1], INTENSITIES)
        for year, (country, path) in sorted(found.items()):
            if country.value > 0:
                yield _row("ember", code, country.name, year, round(country.value, 3), path, **EMBER)


def state_rows(files: Files) -> Iterator[Row]:
    """US states, the District of Columbia and the US mean by eGRID, from lb/MWh to g/kWh.

    Raises:
        Refused: the table does not say that its unit is lb/MWh, or its year.
    """
    table = json.loads(files[STATES])
    unit, source = table.pop("_unit")["emissions"], table.pop("_source")
    if unit != "lbs/MWh" or source["field"] != "STC2ERTA" or source["year"] != 2023:
        raise Refused(f"{STATES}: expected eGRID2023 STC2ERTA in lbs/MWh, found {source} in {unit}")
    more = {
        "scope": "direct",
        "method": "lb/MWh x 453.59237 / 1000",
        "source": "US EPA eGRID2023, annual CO2 equivalent total output emission rate",
        "source_url": source["url"],
        "licence": "US government work, public domain",
    }
    for name, row in table.items():
        code = row["regionCode"]
        region, shown = ("USA", "United States") if code == "usa" else (f"US-{code}", _title(name))
        value = round(row["emissions"] * LB_PER_MWH_TO_G_PER_KWH, 3)
        yield _row("egrid", region, shown, source["year"], value, STATES, **more)


def mix_intensity(mix: Mapping[str, float], factors: Mapping[str, float]) -> float:
    """Intensity of a mix in g/kWh: sum of share x factor over the sum of the shares.

    Args:
        mix: fuel -> share, in any one unit.
        factors: fuel -> g/kWh.

    Raises:
        Refused: a fuel with a share has no factor, or nothing has a share.
    """
    missing = [fuel for fuel, share in mix.items() if share and fuel not in factors]
    whole = sum(mix.values())
    if missing or whole <= 0:
        raise Refused(f"a mix without a factor for {missing} or without shares: {dict(mix)}")
    return sum(share * factors[fuel] for fuel, share in mix.items() if share) / whole


def province_rows(files: Files) -> Iterator[Row]:
    """Canadian provinces and territories: the mix in codecarbon times lifecycle medians a fuel.

    Raises:
        Refused: the shares of a province do not add up to the total stated beside them.
    """
    factors = {fuel: float(value) for fuel, value in FUELS.items()}
    more = {
        "scope": "lifecycle",
        "method": "derived: sum of share of generation x fuels.csv",
        "source": "mix by Canada Energy Regulator (Canada's Energy Future), factors by NREL 2021",
        "source_url": "https://doi.org/10.35002/zjr8-8x75",
        "licence": "Open Government Licence - Canada",
    }
    for name, given in json.loads(files[MIX]).items():
        mix = {MIX_KEYS[key]: share for key, share in given.items() if key != "total"}
        if abs(sum(mix.values()) - given["total"]) > 0.005 or not 99 < given["total"] < 101:
            raise Refused(f"{MIX}: shares of {name} add up to {sum(mix.values())}, not to {given['total']} %")
        value = round(mix_intensity(mix, factors), 1)
        yield _row("cer", CANADA[name], _title(name), 2023, value, MIX, **more)


def _title(name: str) -> str:
    return " ".join(word if word in ("of", "and") else word.capitalize() for word in name.split())


def fuel_rows() -> Iterator[Row]:
    """What the provinces are computed with."""
    source, url, year, licence = FUELS_SOURCE
    for fuel, value in FUELS.items():
        row: Row = {"fuel": fuel, "value": value, "unit": "g/kWh", "gas": "CO2e", "scope": "lifecycle"}
        row |= {"year": year, "source": source, "source_url": url, "licence": licence, "retrieved": RETRIEVED}
        yield row


def pue_rows(files: Files) -> Iterator[Row]:
    """Yearly surveys out of carbontracker, later surveys and providers from cited pages."""
    text = files[CONSTANTS].decode()
    lines = text.splitlines()
    for node in ast.parse(text).body:
        if not (isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name)):
            continue
        name, _, year = node.targets[0].id.partition("_")
        if name == "PUE" and isinstance(node.value, ast.Constant):
            above = (line for line in reversed(lines[: node.lineno - 1]) if line.startswith("# http"))
            row: Row = {"factor_id": f"uptime-{year}", "name": "data centres worldwide, survey mean"}
            row |= {"year": int(year), "value": node.value.value, "unit": "1", "category": "survey"}
            row |= {"source": "Uptime Institute global data center survey", "licence": CITED}
            yield row | {"source_url": next(above)[2:]} | _origin(CONSTANTS)
    for entry in CITED_PUE:
        row = {"factor_id": f"{entry.series}-{entry.year}", "name": entry.name, "year": entry.year}
        row |= {"value": entry.value, "unit": "1", "category": entry.category, "source": entry.source}
        yield row | {"source_url": entry.url, "licence": CITED, "retrieved": RETRIEVED}


def region_rows(files: Files) -> Iterator[Row]:
    """Every region with its other names; Namibia's code NA is missing in carbontracker."""
    older, newer = countries_of_codecarbon(files), countries_of_carbontracker(files)
    for code in sorted(older.keys() | newer.keys()):
        alpha2 = newer[code][0] if code in newer else NO_ALPHA2_IN_WHEEL[code]
        name = newer[code][1].name if code in newer else older[code].name
        yield _region(code, name, alpha2, "")
    for row in [*state_rows(files), *province_rows(files)]:
        region = str(row["region"])
        if "-" in region:
            yield _region(region, str(row["name"]), "", "USA" if region.startswith("US") else "CAN")


def _region(code: str, name: str, alpha2: str, parent: str) -> Row:
    aliases = "; ".join(ALIASES.get(code, ()))
    return {"region": code, "alpha2": alpha2, "name": name, "parent": parent, "aliases": aliases}


def cross_rows(files: Files) -> Iterator[Row]:
    """Countries and years that both wheels have, with both values."""
    older, newer = countries_of_codecarbon(files), countries_of_carbontracker(files)
    for code in sorted(older.keys() & newer.keys()):
        first, second = older[code], newer[code][1]
        if first.year == second.year:
            change = f"{second.value / first.value - 1:+.4f}" if first.value else ""
            row = (code, first.year, first.value, round(second.value, 3), change)
            yield dict(zip(CROSS_COLUMNS, row, strict=True))


def _csv(rows: Iterable[Row], columns: Iterable[str] | None = None) -> str:
    rows = list(rows)
    out = io.StringIO()
    writer = csv.DictWriter(out, list(columns or rows[0]), lineterminator="\n", restval="")
    writer.writeheader()
    writer.writerows(rows)
    return out.getvalue()


def tables(files: Files) -> dict[str, str]:
    """File name -> text of every table."""
    grid = [*country_rows(files), *state_rows(files), *province_rows(files)]
    grid.sort(key=lambda row: (len(str(row["region"])) > 3, row["region"], row["year"], row["factor_id"]))
    pue = sorted(pue_rows(files), key=lambda row: (row["category"], row["factor_id"]))
    return {
        "grid.csv": _csv(grid, GRID_COLUMNS),
        "pue.csv": _csv(pue, PUE_COLUMNS),
        "fuels.csv": _csv(fuel_rows()),
        "regions.csv": _csv(region_rows(files)),
        "crosscheck.csv": _csv(cross_rows(files), CROSS_COLUMNS),
    }


def _difference(committed: str, derived: str) -> str:
    """Which rows differ, by their first column; the rows themselves are too wide to read."""
    before, after = set(committed.splitlines()), set(derived.splitlines())
    rows = sorted({line.split(",", 1)[0] for line in before ^ after})
    return f"{len(rows)} rows differ: {', '.join(rows[:5])}{' ...' if len(rows) > 5 else ''}"


def main(argv: list[str] | None = None) -> int:
    """Write or check the tables; 0 fine, 1 they differ, 2 an input was refused."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    source = parser.add_mutually_exclusive_group()
    source.add_argument("--wheels", type=Path, metavar="DIR", help="folder with the two pinned wheels")
    source.add_argument(
        "--unpacked", type=Path, nargs="+", metavar="DIR", help="folders to find the files in"
    )
    parser.add_argument("--check", action="store_true", help="compare with what is committed, write nothing")
    parser.add_argument("--out", type=Path, default=OUT, help="folder to write to or compare with")
    args = parser.parse_args(argv)
    try:
        with tempfile.TemporaryDirectory() as folder:
            if args.unpacked:
                files = files_from_folders(args.unpacked)
            else:
                if not args.wheels:
                    download(Path(folder))
                files = files_from_wheels(args.wheels or Path(folder))
        made = tables(files)
    except Refused as error:
        print(f"make_factors: {error}", file=sys.stderr)
        return 2
    differ = False
    for name, text in made.items():
        path = args.out / name
        before = path.read_text(encoding="utf-8") if path.is_file() else ""
        if before == text:
            continue
        differ = True
        if args.check:
            print(f"{name}: {_difference(before, text)}")
        else:
            path.write_text(text, encoding="utf-8")
            print(f"wrote {path.name}: {text.count(chr(10)) - 1} rows")
    return 1 if differ and args.check else 0


if __name__ == "__main__":
    sys.exit(main())
