"""The paper's experiments as data, and `kit reproduce`, which runs them under the meter.

    data/          grid.yaml (cells and sweeps), targets.yaml (tables), profiles/ (settings)
    paper.py       the published values
    grid.py        cells of the grid and of the sweeps
    profile.py     settings of a profile
    teacher.py     whether the pocket teacher is the kept one
    pipelines.py   cells and profile -> pipeline files
    estimate.py    time and energy before the start
    machine.py     which profile fits this machine
    lineage.py     which run paid for an artifact
    reproduce.py   runs what is missing
    results.py     bundles -> figures of a cell
    frontier.py    energy against quality
    comparison.py  what may stand beside the published values
    tables.py      figures of cells beside the published ones
    documents.py   those as the files of OUT/tables

No energy is read from a stage's own logs: every joule comes from a bundle through `harness.accounting`.
Models run in processes of their own; torch is never imported here.
"""
