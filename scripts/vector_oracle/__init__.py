"""An oracle for the conformance vectors: exact arithmetic and closed forms, nothing of the kit.

    build.py                          families, flags, how a file is written
    curve.py, run.py                  power between readings; counters at boundaries
    power, gaps, waveforms, counters, rapl, runs, methods   what is measured
    energies, reader, decisions, quality, scores, published     what is reported
    canonical, digests, versions                        what is written

Every expected value is worked out here from the protocol's words, in fractions.Fraction where it is a number.
That the kit agrees is the test, so neither side may import the other.
"""
