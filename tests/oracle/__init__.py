"""A second implementation of the protocol, exact, and the vectors that it makes.

    faults.py                       mistakes by name, which it makes on request
    power, counters, runs           what is measured
    energies, worth, documents      what is reported and written
    reference.py                    operation -> function, answers
    family.py, cases/               inputs, a function for each family
    make.py                         `python -m tests.oracle.make [--check]` writes the vectors
    __main__.py                     `kit conformance --cmd "python -m tests.oracle --fault NAME"`

Numbers are fractions.Fraction; only standard library, nothing of the kit. That the kit agrees is the test, so
neither side may import the other.
"""
