"""Inputs of the vectors: a module a subject, a function a family.

A new family joins FAMILIES. Where a boundary lies inside one cell of refreshes: placement.py, by the rule of
`tests.oracle.placing`; of samples: counters.py.
"""

from __future__ import annotations

from tests.oracle.cases import (
    boundaries,
    counters,
    documents,
    energies,
    intervals,
    placement,
    power,
    published,
    rapl,
    runs,
    scales,
    worth,
)
from tests.oracle.family import Family

FAMILIES = (
    *(power.integration, power.edges, power.gaps, power.nulls, power.waveforms, power.clocks),
    *(counters.counter, placement.placement, rapl.rapl, rapl.estimate),
    intervals.intervals,
    *(boundaries.boundaries, runs.nesting, runs.unattributed, runs.sessions, runs.snapshots, runs.methods),
    *(energies.totals, energies.tokens, energies.units, energies.facility, energies.lineage, energies.idle),
    *(
        worth.amortization,
        worth.reuses,
        worth.serving,
        scales.shared_scales,
        worth.quality,
        worth.items,
        worth.pairs,
        worth.pareto,
        worth.scores,
    ),
    *(published.published, documents.canonical, documents.digest, documents.keys, documents.versions),
)


def families() -> list[Family]:
    """Every family, in the order of the protocol."""
    return [family() for family in FAMILIES]
