"""The meter: power sources, the sampler process and clocks.

`sampler` runs as a process of its own and imports nothing heavier than the standard library and pynvml;
`client` starts it and asks it for stage boundaries; `harness.api.Meter` is what a Python program uses. No
torch, numpy or pyarrow here.
"""
