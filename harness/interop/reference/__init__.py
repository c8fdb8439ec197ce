"""Importer for log folders of the authors' harness (`kit import reference`).

`discover` finds the files; `read_json` and `power_log` parse them; `attempts` and `copies` decide which
records, samples and CodeCarbon rows belong to one run of one stage; `identity` names it, `doubts` says what
cannot be believed, and `importer` puts them together. The harness has no schema version, so every layout it
ever wrote is recognised by content.
"""
