"""An oracle for the conformance vectors: exact arithmetic and closed forms, nothing of the kit.

    build.py      families, flags, clauses, how a file is written
    waves.py      power samples with known integrals
    counters.py   energy counters of GPUs and RAPL zones
    runs.py       stages, boundaries, sessions, clocks
    energies.py   totals, tokens, units, facility, lineage
    decisions.py  N*, T*, Q, frontier
    encodings.py  canonical JSON, digests, keys, versions, migrations
    published.py  the paper's table

Every expected value is worked out here from the protocol's words, in fractions.Fraction where it is a number.
That the kit agrees is the test, so neither side may import the other.
"""
