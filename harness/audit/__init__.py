"""From a pipeline file to stages run one after another under the meter.

`yaml_source` reads YAML and remembers where every value stood; `pipeline` (with `fields`) is the typed model
of the file; `expand` (with `matrix` and `variables`) turns includes, profiles, sweeps and `${...}` into
concrete stages; `plan` (with `checks`) hands over what is to be run; `problems` words every complaint.
Running belongs to `runner`; measuring, storing and computing belong to `meter`, `bundle` and `accounting`.
"""
