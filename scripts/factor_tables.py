"""The hand-kept part of the factors: figures cited one by one, and codes that the wheels lack.

Figures only, no text of the sources. make_factors.py turns them into tables. `as reported by` in a source
means that the figure was not read in the original; docs/decisions/0006-factors.md says where it was.
"""

from __future__ import annotations

from typing import NamedTuple

FUELS_SOURCE = (
    "NREL 2021, median lifecycle emissions of electricity generation (NREL/FS-6A50-80580, table 1)",
    "https://docs.nlr.gov/docs/fy21osti/80580.pdf",
    2021,
    "figures cited; US national laboratory",
)
"""Source, address, year, licence. One source for all fuels, so that all have one scope; the table inside
codecarbon mixes direct factors for fossil fuels with lifecycle factors for the rest."""

FUELS = {
    "biomass": 52,
    "coal": 1001,
    "gas": 486,
    "geothermal": 37,
    "hydro": 21,
    "nuclear": 13,
    "ocean": 8,
    "oil": 840,
    "solar": 43,
    "wind": 13,
}
"""Fuel -> g CO2e/kWh."""

MIX_KEYS = {
    "biomass": "biomass",
    "coal": "coal",
    "hydro": "hydro",
    "naturalGas": "gas",
    "nuclear": "nuclear",
    "other": "other",
    "petroleum": "oil",
    "solar": "solar",
    "tidal": "ocean",
    "wind": "wind",
}
"""Name of a fuel in codecarbon's mix -> name here. `other` has no factor; a share of it is refused."""

CANADA = {
    "alberta": "CA-AB",
    "british columbia": "CA-BC",
    "manitoba": "CA-MB",
    "new brunswick": "CA-NB",
    "newfoundland and labrador": "CA-NL",
    "northwest territories": "CA-NT",
    "nova scotia": "CA-NS",
    "nunavut": "CA-NU",
    "ontario": "CA-ON",
    "prince edward island": "CA-PE",
    "quebec": "CA-QC",
    "saskatchewan": "CA-SK",
    "yukon": "CA-YT",
}
"""Name in codecarbon -> ISO 3166-2."""

NO_ALPHA2_IN_WHEEL = {"NAM": "NA"}
"""Namibia is in codecarbon only: its code NA reads as `not available` to some tools."""

ALIASES = {
    "ARE": ("UAE", "Emirates"),
    "CA-NL": ("Newfoundland",),
    "CA-PE": ("PEI",),
    "CIV": ("Ivory Coast",),
    "COD": ("DR Congo", "Congo-Kinshasa"),
    "COG": ("Congo-Brazzaville",),
    "CPV": ("Cabo Verde",),
    "CZE": ("Czech Republic",),
    "DEU": ("Deutschland",),
    "GBR": ("UK", "Great Britain", "Britain"),
    "GRC": ("EL",),
    "KOR": ("Republic of Korea",),
    "MMR": ("Burma",),
    "NLD": ("Holland", "The Netherlands"),
    "RUS": ("Russian Federation",),
    "SWZ": ("Swaziland",),
    "TLS": ("Timor-Leste",),
    "TUR": ("Türkiye",),
    "US-DC": ("Washington DC", "Washington, D.C."),
    "USA": ("United States of America",),
    "VNM": ("Viet Nam",),
}
"""Region -> names people use that neither wheel has."""


class CitedPue(NamedTuple):
    """One PUE figure: `series` and `year` make its id; `source` is who states it, `url` where it was read."""

    series: str
    name: str
    year: int
    value: float
    category: str
    source: str
    url: str


_UPTIME = "data centres worldwide, survey mean"
_AMAZON_PAGE = "https://sustainability.aboutamazon.com/environment/the-cloud/asdi"
_DCD = "https://www.datacenterdynamics.com/en/news/aws-global-data-centers-achieved-pue-of-115-in-2023/"
_GOOGLE = "https://blog.google/outreach-initiatives/sustainability/2024-environmental-report"
_COMPUTER_WEEKLY = (
    "https://www.briefly.co/anchor/DevOps/story/"
    "ai-energy-and-the-new-rules-of-cloud-sustainability-competition--computer-weekly"
)
_META = (
    "https://africa.hyperscalers.news/news/"
    "metas-data-center-electricity-usage-surges-34-in-2023-to-15-million-mwh"
)

CITED_PUE = (
    CitedPue(
        "uptime",
        _UPTIME,
        2024,
        1.56,
        "survey",
        "Uptime Institute global data center survey, as reported by The World Ranking",
        "https://www.theworldranking.com/statistics/770/"
        "average-data-center-annual-power-usage-effectiveness-pue-worldwide-2007-2024/",
    ),
    CitedPue(
        "uptime",
        _UPTIME,
        2025,
        1.54,
        "survey",
        "Uptime Institute global data center survey, as reported by The Free Sheet",
        "https://thefreesheet.com/2026/01/19/data-centre-efficiency-flatlines-for-sixth-year-as-ai-power-demands-soar",
    ),
    CitedPue(
        "aws",
        "Amazon Web Services, global",
        2023,
        1.15,
        "provider",
        "Amazon, as reported by Data Center Dynamics",
        _DCD,
    ),
    CitedPue("aws", "Amazon Web Services, global", 2024, 1.15, "provider", "Amazon", _AMAZON_PAGE),
    CitedPue("aws", "Amazon Web Services, global", 2025, 1.14, "provider", "Amazon", _AMAZON_PAGE),
    CitedPue(
        "google", "Google, fleet mean", 2023, 1.10, "provider", "Google environmental report 2024", _GOOGLE
    ),
    CitedPue(
        "google",
        "Google, fleet mean",
        2024,
        1.09,
        "provider",
        "Google (arXiv 2508.15734), as reported by others",
        "https://arxiv.org/abs/2508.15734",
    ),
    CitedPue(
        "meta",
        "Meta, owned data centres",
        2023,
        1.08,
        "provider",
        "Meta sustainability report 2024, as reported by Hyperscalers News",
        _META,
    ),
    CitedPue(
        "microsoft",
        "Microsoft, owned data centres, fiscal year",
        2025,
        1.17,
        "provider",
        "Microsoft, as reported by Computer Weekly",
        _COMPUTER_WEEKLY,
    ),
)
