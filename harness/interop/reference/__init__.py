"""Importer for log folders of the authors' harness (`kit import reference`).

`discover` finds the files, `read_*` parse them, `attempts` decides which records and samples belong to one
run of one stage, `doubts` says what cannot be believed, `tables` and `manifest` write it down. Formats: the
reference harness has no schema version, so every layout it ever wrote is recognised by content.
"""
