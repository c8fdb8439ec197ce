"""Importer for log folders of the authors' harness (`kit import reference`).

`discover` finds the files, `read_json` and `read_power_log` parse them; `attempts`, `power_runs` and `copies`
decide which records, samples and CodeCarbon rows belong to one run of one stage; `identity` names it and
`record_doubts` and `sample_doubts` say what cannot be believed; `importer` puts them together. The harness
has no schema version, so every layout it ever wrote is recognised by content.
"""
