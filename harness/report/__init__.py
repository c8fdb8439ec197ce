"""What a bundle says, for people and programs: a terminal table, JSON, Markdown, CSV, LaTeX, a page, figures.

    model.py      a bundle, recomputed from its raw rows, as one object; every figure of a report is in it
    comparison.py a run against direct training; side_by_side.py several runs in columns
    lineage.py    what a run cost by what it was for; serving.py joules per served token; scores.py Q
    words.py      flags and doubts in sentences
    terminal.py   table with a bar per stage
    formats.py    JSON, Markdown, CSV
    traces.py     power over time, thinned out for drawing
    page.py       one page of a run or several; its code is built from web/ into assets/
    study.py      runs and published cells side by side, as figures and LaTeX tables take them
    figures/      what each figure holds; drawing.py makes files of them
    latex.py      tables and the paragraph on the method; cite.py BibTeX
    palette.py    one hue a meaning
    factor_text.py  grid and PUE factors on their own, for `kit factors`

Numbers come from the raw rows; what the bundle states about itself is compared with them, never trusted. PUE,
grid intensity and reuse are choices of the reader and enter here, not in the log.
"""
