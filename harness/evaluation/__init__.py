"""What a trained model is worth: suites of benchmarks and their scores.

`suites` is the registry: a suite names its benchmarks, a benchmark the adapter that scores it
(`lm_eval_tasks` so far). Q against the teacher's scores is `harness.accounting.quality`. No training and no
metering here; the program is stage `harness.evaluation.evaluate`. This package imports nothing by itself, and
`suites` never imports torch.
"""
