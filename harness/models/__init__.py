"""A causal model as the kit uses it: shapes, chat templates, data set rows, forward, losses, generation.

No stage and no file of a run here: those are `harness.distill`'s and `harness.evaluation`'s. This package
imports nothing by itself; `shapes`, `dataset` and `chat` need no torch.
"""
