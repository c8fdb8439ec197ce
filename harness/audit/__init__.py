"""From a pipeline file to stages run one after another under the meter.

`yaml_source` (with `text_file`) reads YAML and remembers where every value stood; `pipeline` (with `fields`)
is the typed model of the file; `expand` (with `matrix` and `variables`) turns includes, profiles, sweeps and
`${...}` into concrete stages; `plan` (with `checks` and `portable`) hands over what is to be run; `problems`
words every complaint. Running belongs to `runner`; measuring, storing and computing to other packages.
"""
