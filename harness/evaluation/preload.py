"""Everything the stages import, in one module: who runs many of them imports it once and forks.

Nothing here computes: a thread or a random number drawn before a fork would be shared by all stages.
"""

import importlib
import os

from harness.models.quick_start import skip_unused_imports

MODULES = (
    "torch",
    "datasets",
    "lm_eval.evaluator",
    "lm_eval.tasks",
    "pyarrow.parquet",
    "safetensors.torch",
    # transformers imports a model's code when it is first asked for.
    "transformers.models.olmo2.modeling_olmo2",
    "harness.distill.preprocess",
    "harness.distill.teacher_generate",
    "harness.distill.teacher_logits",
    "harness.distill.trainer",
    "harness.evaluation.judging",
    "harness.evaluation.lm_eval_tasks",
    "harness.evaluation.lm_eval_model",
)

# pyarrow's allocator and numpy's OpenBLAS would start threads when they are imported. torch has its own.
os.environ.setdefault("JE_ARROW_MALLOC_CONF", "background_thread:false")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
skip_unused_imports()
for _name in MODULES:
    importlib.import_module(_name)
# Compiles several hundred patterns when the first model is loaded, whatever the model is.
importlib.import_module("transformers.conversion_mapping").get_checkpoint_conversion_mapping("olmo2")
