"""What a bundle says, for people and programs: a terminal table, JSON, Markdown, CSV.

    model.py      a bundle, recomputed from its raw rows, as one object; every figure of a report is in it
    words.py      flags and doubts in sentences
    terminal.py   table with a bar per stage
    formats.py    JSON, Markdown, CSV
    factor_text.py  grid and PUE factors on their own, for `kit factors`

Numbers come from the raw rows; what the bundle states about itself is compared with them, never trusted. PUE,
grid intensity and reuse are choices of the reader and enter here, not in the log.
"""
