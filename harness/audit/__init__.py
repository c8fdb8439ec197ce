"""From a pipeline file to stages run one after another under the meter.

`yaml_source` (with `text_file`) reads YAML and remembers where every value stood; `pipeline` (with `fields`)
is the typed model of the file; `expand` (with `matrix` and `variables`) makes concrete stages of sweeps and
`${...}`; `plan` (with `checks` and `portable`) hands over what to run; `problems` words every complaint.
Running belongs to `runner`: `remaining` says what a resumed run has left; an `attempt` at a stage is a
`process` between two boundaries, whose `reports` are taken; `live_run` is what the progress line shows;
`forks` (with `fork_server`) starts many short stages from one process; `own_stages` are the runner's own:
idle waits, and that start. Measuring, storing and computing belong to other packages.
"""
