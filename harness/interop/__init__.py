"""Importers and exporters: other tools' logs in, other tools' formats out.

Each importer is a package of pure readers (files -> frozen records) and one conversion (records -> bundle).
Nothing here measures, and nothing here is trusted more than the file it came from: every doubt becomes a
flag and an event.
"""
