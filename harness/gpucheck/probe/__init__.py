"""Measures the instruments themselves: refresh, lag, scope of the counter, idle power, cost of a read.

`record` reads, `grid`, `lag` and `scope` are pure estimators over what was read, `run` puts them
together.
"""
