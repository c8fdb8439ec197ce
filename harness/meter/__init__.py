"""The meter: power sources, the sampler process, clocks and the journal.

`sampler` runs as a process of its own and imports nothing heavier than the standard library and pynvml;
`client` starts it and asks it for stage boundaries; `api.Meter` is what a Python program uses. No torch,
numpy or pyarrow here (`api` loads the bundle writer only when a run is sealed).
"""
