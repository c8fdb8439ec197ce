"""What a trained model is worth: suites of benchmarks, their scores, and Q against the teacher's.

`suites` is the registry: a suite names its benchmarks, a benchmark the adapter that scores it
(`lm_eval_tasks` so far). `quality` is pure. No training and no metering here; the program is stage
`harness.distill.evaluate`. This package imports nothing by itself, and `suites` and `quality` never import
torch.
"""
