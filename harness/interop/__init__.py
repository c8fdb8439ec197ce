"""Importers and exporters: other tools' logs in, other tools' formats out.

An importer reads files of one format (`log_files`), turns them into stages (`imported`) and hands those to
`write`, which derives, writes and seals the bundle. Shared on the way: intervals for totals that nobody can
recompute (`bounds`), rows of CodeCarbon's emissions.csv (`codecarbon`).
Nothing here measures, and nothing here is trusted more than the file it came from: every doubt becomes a
flag and an event.
"""
