"""Decisions from measured, published or planned figures: which student to build, and what to change first.

    choices.py    a student with what it costs and how good it is, from a reproduction or the published tables
    advise.py     which of them a budget and a number of reuses allow, and which beat which
    rules.py      the paper's design rules, each said with numbers or "the data cannot decide"
    breakeven.py  N* and T* from figures typed in, and which of them moves the result most

No figure is formed here that accounting does not define: shared scales cancel, and a tie stays a tie.
"""
