"""From a pipeline file to stages run one after another under the meter.

`yaml_source` (with `text_file`) reads YAML and remembers where every value stood; `pipeline` (with `fields`)
is the typed model of the file; `expand` (with `matrix` and `variables`) turns includes, profiles, sweeps and
`${...}` into concrete stages; `plan` (with `checks` and `portable`) hands over what is to be run; `problems`
words every complaint. Running belongs to `runner`: an `attempt` at a stage is a `process` between two
boundaries, whose `reports` are taken and whose energy `so_far` is told; `forks` (with `fork_server` and
`imports`) starts many short stages from one process. Measuring, storing and computing belong to other
packages.
"""
