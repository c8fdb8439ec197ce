"""The journal of a run: append-only records, flushed at least once a second, while a run goes on.

`records` writes and reads one file and finds its way again behind a torn line, `reading` reads a run's whole
folder, `scores` and `ulid` what reports and runs are named by. The sampler imports `records`, so it needs the
standard library only. What a journal becomes is `harness.bundle`'s.
"""
