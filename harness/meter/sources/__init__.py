"""Power sources: one file each, named as in the protocol's table of sources.

`base` holds the interface. No source knows another one, the sampler or the protocol; who is asked first is
the protocol's business (`harness.meter.choice`).
"""
