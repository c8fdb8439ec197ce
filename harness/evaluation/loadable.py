"""Whether the stages would take a model folder: all that they refuse at loading, without its weights."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.errors import KitError
from harness.evaluation.judge import weight_files
from harness.evaluation.suites import JudgeSpec
from harness.models.generation import TokenWork

if TYPE_CHECKING:
    from harness.models.chat import ChatEncoder


def check_model(folder: Path, dtype: str) -> ChatEncoder:
    """The tokenizer of a model that stage evaluate would load.

    Args:
        folder: Of the model.
        dtype: Type of weights and activations.

    Raises:
        KitError: It would not; says what is missing or wrong.
    """
    from harness.distill.teacher_logits_model import teacher_identity

    encoder, _ = _load_without_weights(folder, dtype)
    try:
        encoder.prompt([{"role": "user", "content": "?"}])
    except Exception as error:  # a template is a program of whoever wrote the model
        raise KitError(
            f"its chat template fails: {' '.join(str(error).split())[:300]}", where=str(folder)
        ) from None
    # Under a name for the weights it reads none of them.
    teacher_identity(folder, "unread")
    return encoder


def check_judge(folder: Path, spec: JudgeSpec) -> None:
    """Refuse a judge that stage judge would refuse.

    Whether it is the suite's own takes reading all of its weights: only the stage knows.

    Args:
        folder: Of the judge.
        spec: Of the suite.

    Raises:
        KitError: It would be refused; says why.
    """
    from harness.evaluation.judge import Judge
    from harness.evaluation.judging import check_template

    check_template(spec)
    encoder, model = _load_without_weights(folder, spec.dtype)
    Judge(spec.model_copy(update={"weights_sha256": None}), model, encoder, "")


def check_endpoint(url: str, name: str, spec: JudgeSpec) -> None:
    """Refuse a suite whose judging nobody elsewhere can do; the endpoint is not asked.

    Raises:
        KitError: The suite's judge is not asked in words, or its prompts are not the suite's.
    """
    from harness.evaluation.api_judge import api_judge
    from harness.evaluation.judging import check_template, prompts_digest

    check_template(spec)
    api_judge(spec, url, name, prompts_digest(), TokenWork(), None)


def _load_without_weights(folder: Path, dtype: str) -> tuple[ChatEncoder, Any]:
    """Tokenizer and `CountedModel` on torch's device `meta`, which holds shapes and no numbers."""
    from harness.evaluation.lm_eval_model import CountedModel
    from harness.models.chat import ChatEncoder
    from harness.models.loading import load_causal_model, loading

    weight_files(folder)
    with loading(folder):
        encoder = ChatEncoder.load(folder)
    model = load_causal_model(folder, dtype=dtype, device="meta")
    return encoder, CountedModel(model, encoder.tokenizer, batch_size=1, work=TokenWork())
