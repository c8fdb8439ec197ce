"""Grid intensity and PUE with year, source and licence; nothing is assumed that was not asked for.

Rows come from protocol/<version>/factors, which scripts/make_factors.py writes. Only the reader of a log uses
them: joules in a bundle are IT joules.
"""

from __future__ import annotations

import csv
import unicodedata
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

from harness.errors import KitError
from harness.spec.load import version_folder

SCOPES = {
    "lifecycle": "all emissions over the life of plants and fuels",
    "direct": "emissions at the plants only, nothing upstream",
}
"""Value of column `scope` -> what it means."""

CATEGORIES = {
    "measured": "metered in the building",
    "provider": "stated by the provider",
    "survey": "says nothing of one building",
    "assumed": "assumed",
}
"""Value of column `category` of a PUE -> what it is worth."""

_LICENCE_URLS = {
    "CC BY 4.0": "https://creativecommons.org/licenses/by/4.0/",
    "Open Government Licence - Canada": "https://open.canada.ca/en/open-government-licence-canada",
}


@dataclass(frozen=True)
class GridFactor:
    """Electricity of a region in one year, grams CO2e per kWh.

    Attributes:
        factor_id: series, region and year, e.g. `ember-fra-2024`.
        region: ISO 3166-1 alpha-3 code of a country, or ISO 3166-2 code of a state or province.
        scope: `lifecycle` or `direct`, see `SCOPES`.
        basis: `production`: what the region generated, imports left out.
        method: how the value follows from the source's.
        retrieved: day on which the source was read, ISO 8601.
        wheel: package the value was taken from.
    """

    factor_id: str
    region: str
    name: str
    year: int
    value: float
    unit: str
    gas: str
    scope: str
    basis: str
    method: str
    source: str
    source_url: str
    licence: str
    retrieved: str
    wheel: str
    wheel_sha256: str
    file: str
    file_sha256: str

    @property
    def g_co2e_per_kwh(self) -> float:
        """The value, by its unit's name."""
        return self.value

    @property
    def series(self) -> str:
        """Who publishes it: `ember`, `egrid`, `cer`. Years compare within one series only."""
        return self.factor_id.split("-", 1)[0]


@dataclass(frozen=True)
class Pue:
    """Facility energy over IT energy of a provider or a survey in one year.

    Attributes:
        category: one of `CATEGORIES`.
        wheel: package the value was taken from; empty where a page was cited.
    """

    factor_id: str
    name: str
    year: int
    value: float
    unit: str
    category: str
    source: str
    source_url: str
    licence: str
    retrieved: str
    wheel: str
    wheel_sha256: str
    file: str
    file_sha256: str


@dataclass(frozen=True)
class Region:
    """A place with its codes and names; `parent` is the country of a state or province."""

    region: str
    alpha2: str
    name: str
    parent: str
    aliases: str

    @property
    def words(self) -> tuple[str, ...]:
        """Everything it answers to."""
        return tuple(filter(None, (self.region, self.alpha2, self.name, *self.aliases.split("; "))))


T = TypeVar("T")


def _typed(row: Mapping[str, str]) -> dict[str, Any]:
    return {**row, "year": int(row["year"]), "value": float(row["value"])}


@cache
def _read(
    path: Path, model: type[T], typed: Callable[[Mapping[str, str]], dict[str, Any]] = _typed
) -> tuple[T, ...]:
    try:
        with path.open(encoding="utf-8", newline="") as file:
            return tuple(model(**typed(row)) for row in csv.DictReader(file))
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise KitError(
            f"not a table of factors: {error}", where=str(path), fix="reinstall the package"
        ) from None


@cache
def _by_code(path: Path) -> Mapping[str, Region]:
    return {region.region: region for region in _read(path, Region, dict)}


def grid_factors() -> tuple[GridFactor, ...]:
    """All rows of grid.csv, countries before states, oldest first within a region.

    Raises:
        KitError: the file is missing or a row is not as it should be.
    """
    return _read(version_folder() / "factors" / "grid.csv", GridFactor)


def pue_factors() -> tuple[Pue, ...]:
    """All rows of pue.csv.

    Raises:
        KitError: the file is missing or a row is not as it should be.
    """
    return _read(version_folder() / "factors" / "pue.csv", Pue)


def regions() -> Mapping[str, Region]:
    """Code -> region; some have no factor.

    Raises:
        KitError: the file is missing or a row is not as it should be.
    """
    return _by_code(version_folder() / "factors" / "regions.csv")


def find_region(text: str, where: str = "region") -> Region:
    """The region a person means: alpha-3, alpha-2 or ISO 3166-2 code, or a name, in any case.

    Args:
        text: what was typed.
        where: what an error calls it, e.g. `--region`.

    Raises:
        KitError: nothing answers to it, or two do (Georgia).
    """
    known = regions()
    word = _plain(text)
    codes = [r for r in known.values() if word and word in (_plain(r.region), _plain(r.alpha2))]
    found = codes or [r for r in known.values() if word in map(_plain, r.words)]
    if len(found) == 1:
        return found[0]
    if found:
        which = " or ".join(f"{r.region} ({_place(r)})" for r in found)
        raise KitError(f"{text!r} is more than one region", where=where, expected=which)
    near = _nearest(word, known.values())
    raise KitError(
        f"no region {text!r}",
        where=where,
        expected="ISO 3166-1 code or name of a country (FRA, FR, France), ISO 3166-2 code or name of a US "
        "state or Canadian province (US-CA, Quebec)",
        fix=f"did you mean {near}? `kit factors` lists all" if near else "`kit factors` lists all",
    )


def _place(region: Region) -> str:
    return f"{region.name}, {regions()[region.parent].name}" if region.parent else region.name


def _plain(text: str) -> str:
    """Lower case, without accents, dots and outer blanks."""
    letters = unicodedata.normalize("NFKD", text.strip().casefold().replace("_", "-"))
    return "".join(c for c in letters if not unicodedata.combining(c) and c != ".")


def _nearest(word: str, known: Iterable[Region]) -> str | None:
    """Codes and names close to a mistyped word; a bare QC or TX is a state's code without its country."""
    import difflib

    known = list(known)
    close = [r for r in known if _plain(r.region).endswith(f"-{word}")]
    if not close:
        names: dict[str, list[Region]] = {}
        for r in known:
            for other in r.words:
                names.setdefault(_plain(other), []).append(r)
        close = [r for n in difflib.get_close_matches(word, names, n=3, cutoff=0.7) for r in names[n]]
    return ", ".join(dict.fromkeys(f"{r.region} ({_place(r)})" for r in close)) or None


def region_factors(region: str, where: str = "region") -> tuple[GridFactor, ...]:
    """Every factor of a region: the one to use, others of its series from new to old, then the rest.

    The newest year wins; of two series with that year the one of lifecycle scope.

    Args:
        region: code or name of a region, or the id of one factor, which then comes first.
        where: what an error calls the region.

    Raises:
        KitError: no such region, or none of its values is usable.
    """
    exact = next((f for f in grid_factors() if f.factor_id == region.strip().lower()), None)
    code = exact.region if exact else find_region(region, where).region
    found = [f for f in grid_factors() if f.region == code]
    if not found:
        raise KitError(
            f"no grid factor for {regions()[code].name} ({code})",
            where=where,
            expected="a region whose sources give a value above 0",
            fix="`kit factors` lists all",
        )
    first = exact or max(found, key=lambda f: (f.year, f.scope == "lifecycle"))
    others = sorted((f for f in found if f is not first), key=lambda f: (f.series != first.series, -f.year))
    return first, *others


def same_series(factors: tuple[GridFactor, ...]) -> tuple[GridFactor, ...]:
    """Of `region_factors`, those that differ from the first in the year alone, the first among them."""
    return tuple(f for f in factors if f.series == factors[0].series)


def factor_of_year(region: str, year: int, where: str = "region") -> tuple[GridFactor, ...]:
    """`region_factors` with the factor of one year first.

    Raises:
        KitError: no such region, or no value for that year; the years there are, are named.
    """
    found = region_factors(region, where)
    first = next((f for f in found if f.year == year), None)
    if first is None:
        years = sorted({f.year for f in found})
        raise KitError(
            f"no factor of {year} for {found[0].name} ({found[0].region})",
            where=where,
            expected=f"one of the years {', '.join(map(str, years))}",
            fix=f"--year {min(years, key=lambda y: (abs(y - year), -y))}",
        )
    return region_factors(first.factor_id)


def find_pue(text: str, where: str = "pue") -> Pue:
    """A PUE by its id (`uptime-2023`) or by its series (`google`: the newest year).

    Raises:
        KitError: no such id.
    """
    import difflib

    known = pue_factors()
    word = text.strip().lower()
    found = [p for p in known if word in (p.factor_id, p.factor_id.rsplit("-", 1)[0])]
    if found:
        return max(found, key=lambda p: p.year)
    ids = [p.factor_id for p in known]
    near = difflib.get_close_matches(word, ids, n=1, cutoff=0.5)
    raise KitError(
        f"no PUE {text!r}",
        where=where,
        expected=f"a number of at least 1, or one of {', '.join(ids)}",
        fix=f"did you mean {near[0]}?" if near else "`kit factors pue` lists them",
    )


def attribution(factor: GridFactor | Pue) -> str:
    """Credit as licences such as CC BY 4.0 ask for it: who, where, licence, what was changed."""
    licence = factor.licence
    if licence in _LICENCE_URLS:
        licence += f" ({_LICENCE_URLS[licence]})"
    changed = f"; {factor.method}" if isinstance(factor, GridFactor) else ""
    return f"{factor.source}, {factor.source_url}, {licence}{changed}"
