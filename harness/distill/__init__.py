"""The paper's five stages as programs, and what they share.

`python -m harness.distill.<stage>` runs one stage: preprocess, teacher_logits, teacher_generate,
student_train, evaluate. Each takes a typed configuration (`arguments`), writes it as `config.json` beside
what it makes, can be killed and run again, and reports its token counts (`reporting`). `losses`, `adafactor`,
`schedule` and `early_stop` are pure; `trainer` is the one loop of all three regimes. No metering here: the
audit measures a stage from outside. This package imports nothing by itself; torch is imported by the modules
that compute.
"""
