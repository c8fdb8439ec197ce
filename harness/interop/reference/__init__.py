"""Importer for log folders of the authors' harness (`kit import reference`).

`discover` finds the files and `read_*` parse them; `attempts` and `plan` decide which records and samples
belong to one run of one stage; `judge` and `figures` say what cannot be believed; `tables` and `manifest`
write it down. The reference harness has no schema version, so every layout it ever wrote is recognised by
content.
"""
