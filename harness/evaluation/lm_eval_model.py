"""lm-eval's own Hugging Face model around a model in memory, generating and counting with our loop.

`HFLM` cuts prompts, stop strings and answers as it always does; only the innermost call, which continues a
padded batch, is ours. `model.generate` would feed finished rows to the batch's end, decode every row at every
step to look for stop strings, and say nothing about how many tokens it sampled.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from lm_eval.models.huggingface import HFLM

from harness.errors import KitError
from harness.models.generation import TokenSampling, TokenWork, end_tokens
from harness.models.generation_transformers import decode


class CountedModel(HFLM):  # type: ignore[misc]  # untyped
    """A model in memory as lm-eval's LM, for generative tasks.

    Args:
        model: A causal language model in eval mode on its device.
        tokenizer: Its tokenizer, with a pad token.
        batch_size: Prompts a batch.
        work: What is done is added here.
    """

    def __init__(self, model: Any, tokenizer: Any, *, batch_size: int, work: TokenWork) -> None:
        super().__init__(pretrained=model, tokenizer=tokenizer, batch_size=batch_size)
        self._work = work
        self._ends = end_tokens(tokenizer, getattr(model, "generation_config", None))

    def generate_until(self, requests: Any, disable_tqdm: bool = True) -> list[str]:
        """Answer requests, without a progress bar beside ours."""
        answers = super().generate_until(requests, disable_tqdm=True)
        return [str(answer) for answer in answers]

    def loglikelihood(self, requests: Any, disable_tqdm: bool = True) -> Any:
        """Refused: its tokens would go uncounted."""
        raise KitError("counts the tokens of generative tasks only", where="CountedModel")

    loglikelihood_rolling = loglikelihood

    def _model_generate(
        self, context: torch.Tensor, max_length: int, stop: list[str], **settings: Any
    ) -> torch.Tensor:
        """Continue a left-padded batch [B, S] to at most max_length positions, greedily."""
        if settings.get("do_sample") or settings.get("temperature"):
            asked = {name: value for name, value in settings.items() if name != "attention_mask"}
            raise KitError(f"asks for sampling: {asked}", where="lm-eval task", expected="greedy answers")
        real = settings["attention_mask"].bool()
        prompts = [row[kept].tolist() for row, kept in zip(context.cpu(), real.cpu(), strict=True)]
        room = max_length - context.shape[1]
        answers, work = decode(
            self.model,
            prompts,
            TokenSampling(room, temperature=0),
            ends=self._ends,
            stop=self._stop_rule(stop),
        )
        self._work.add(work)
        width = max(len(answer) for answer in answers)
        pad = self.tokenizer.pad_token_id
        rows = torch.tensor([answer + [pad] * (width - len(answer)) for answer in answers])
        return torch.cat([context, rows.to(context.device)], dim=1)

    def _stop_rule(self, stop: Sequence[str]) -> Callable[[Sequence[int]], bool] | None:
        """Whether an answer's tail holds one of the stop strings; end tokens need no such look."""
        ends = {self.tokenizer.decode([token], skip_special_tokens=False) for token in self._ends}
        texts = [text for text in stop if text and text not in ends]
        if not texts:
            return None
        # A stop string may be said in other tokens than those it encodes to: look a little further back.
        reach = 2 + max(len(self.tokenizer.encode(text, add_special_tokens=False)) for text in texts)
        return lambda said: any(text in self.tokenizer.decode(said[-reach:]) for text in texts)
