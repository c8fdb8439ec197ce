"""What a trained model is worth: suites of benchmarks, its answers, a judge, scores.

`suites` reads what is asked and how, `items` the questions; `evaluate` and `judging` are the two stages.
`loadable` looks at model folders before they run. `lm_eval_tasks`, `pairwise` and `dialogues` ask and score
benchmarks. Q against the teacher's scores is `harness.accounting.quality`, two students item by item
`harness.accounting.item_scores`. No training and no metering here. This package imports nothing by itself,
and `suites` never imports torch.
"""
