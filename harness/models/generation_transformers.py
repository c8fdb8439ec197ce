"""Generation with transformers: a sampling loop of our own over a key-value cache.

Why not `model.generate`: its sampling draws for the whole batch from one generator, so that an answer depends
on its neighbours; it feeds finished rows to the end; and it counts nothing. Here every row has its own random
numbers, finished rows leave the batch, and padding is on the left, masked, with positions that start at each
prompt's first token.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from harness.errors import KitError
from harness.models.forward import windows_of
from harness.models.generation import (
    Generation,
    Prompt,
    TokenSampling,
    TokenWork,
    as_generation,
    end_tokens,
    uniforms,
)
from harness.models.loading import load_causal_model

# Moving the cache costs about a step of the model; a step's cost falls with the rows only when they are many.
_LEAVE_AT = 0.25


class TransformersGenerator:
    """Generates with a model of transformers in memory.

    Args:
        model: A causal language model on its device, in eval mode; attention "sdpa" or "eager".
        tokenizer: Its tokenizer.
        batch_size: Most prompts a batch; by default as many as fit, or 128 where nobody can tell.
        rows_that_fit: Says of model, tokens of a prompt and of an answer how many rows the memory holds.
    """

    one_queue = False

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        *,
        batch_size: int | None = None,
        rows_that_fit: Callable[[Any, int, int], int] | None = None,
    ) -> None:
        if batch_size is not None and batch_size < 1:
            raise KitError(f"batch_size {batch_size}", expected="at least 1")
        self.work = TokenWork()
        self._rows_that_fit = rows_that_fit
        self._model = model.eval()
        self._tokenizer = tokenizer
        self._batch_size = batch_size
        self._ends = end_tokens(tokenizer, getattr(model, "generation_config", None))

    @classmethod
    def load(
        cls,
        directory: Path,
        *,
        dtype: str,
        device: str,
        batch_size: int | None,
        tokenizer: Any,
        rows_that_fit: Callable[[Any, int, int], int] | None = None,
    ) -> TransformersGenerator:
        """Load a model folder onto a device.

        Raises:
            KitError: transformers cannot load it.
        """
        model = load_causal_model(directory, dtype=dtype, device=device)
        return cls(model, tokenizer, batch_size=batch_size, rows_that_fit=rows_that_fit)

    @property
    def longest(self) -> int | None:
        """Positions the model has; None when it does not say."""
        value = getattr(self._model.config, "max_position_embeddings", None)
        return None if value is None else int(value)

    def generate(self, prompts: Sequence[Prompt], sampling: TokenSampling) -> list[Generation]:
        """Answer every prompt, in the order given; batches are made of prompts of like length.

        Where the memory does not hold a batch, half of it is tried.

        Raises:
            KitError: Not even one prompt fits.
        """
        order = sorted(range(len(prompts)), key=lambda i: (-len(prompts[i].token_ids), i))
        result: dict[int, Generation] = {}
        start, most = 0, self._batch_size
        while start < len(order):
            longest = len(prompts[order[start]].token_ids)
            size = most or 128
            if self._rows_that_fit is not None:
                fits = self._rows_that_fit(self._model, longest, sampling.max_new_tokens)
                size = min(most or fits, fits)
            chosen = order[start : start + size]
            rows = [prompts[i].token_ids for i in chosen]
            ends = () if sampling.ignore_end else self._ends
            points = None
            if sampling.temperature > 0:
                drawn = [uniforms(prompts[i].seed, sampling.max_new_tokens) for i in chosen]
                points = torch.from_numpy(np.stack(drawn))
            try:
                answers, work = decode(self._model, rows, sampling, ends=ends, points=points)
            except torch.OutOfMemoryError:
                if len(chosen) == 1:
                    raise KitError(
                        f"no memory for one prompt of {longest} tokens and {sampling.max_new_tokens} new",
                        where="generate",
                        fix="a card with more memory, or fewer --max_new_tokens",
                        exit_code=1,
                    ) from None
                most = len(chosen) // 2
                print(
                    f"generate: out of memory with {len(chosen)} prompts; {most} are tried",
                    flush=True,
                )
                torch.cuda.empty_cache()
                continue
            start += len(chosen)
            self.work.add(work)
            for i, answer in zip(chosen, answers, strict=True):
                result[i] = as_generation(self._tokenizer, answer, ends)
        return [result[i] for i in range(len(prompts))]

    def answers(
        self, prompts: Sequence[Prompt], sampling: TokenSampling
    ) -> Iterator[tuple[Prompt, Generation]]:
        """Every prompt with its answer, when all of them are there."""
        yield from zip(prompts, self.generate(prompts, sampling), strict=True)

    def describe(self) -> dict[str, Any]:
        """Engine, versions and flags."""
        import transformers

        device = self._model.device
        return {
            "engine": "transformers",
            "transformers": transformers.__version__,
            "torch": torch.__version__,
            "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
            "threads": None if device.type == "cuda" else torch.get_num_threads(),
            "dtype": str(self._model.dtype).removeprefix("torch."),
            "attention": self._model.config._attn_implementation,
            "batch_size": self._batch_size,
        }


@torch.inference_mode()
def decode(
    model: Any,
    prompts: Sequence[Sequence[int]],
    sampling: TokenSampling,
    *,
    ends: Sequence[int],
    points: torch.Tensor | None = None,
    stop: Callable[[Sequence[int]], bool] | None = None,
) -> tuple[list[list[int]], TokenWork]:
    """Continue one batch of prompts.

    Args:
        model: A causal language model in eval mode.
        prompts: Token ids, at least one each.
        sampling: Greedy where its temperature is 0.
        ends: Ids that end an answer.
        points: float64 [prompts, max_new_tokens] in [0, 1): one random number a row and step; not needed for
            greedy.
        stop: Says of an answer so far whether it ends here.

    Returns:
        Each prompt's sampled tokens, the end token included and nothing after it, and what was done.
    """
    if not all(prompts):
        raise KitError("a prompt without tokens", where="generate")
    device = model.device
    count, cap = len(prompts), sampling.max_new_tokens
    width = max(len(prompt) for prompt in prompts)
    ids = torch.zeros(count, width, dtype=torch.int64)
    # Which places of the cache hold a real token, for every row and every step to come.
    seen = torch.ones(count, width + cap, dtype=torch.bool)
    for row, prompt in enumerate(prompts):
        ids[row, width - len(prompt) :] = torch.tensor(prompt)
        seen[row, : width - len(prompt)] = False
    lengths = torch.tensor([len(prompt) for prompt in prompts], device=device)
    ids, seen = ids.to(device), seen.to(device)
    points = None if points is None else points.to(device)
    end_ids = torch.tensor(list(ends), device=device)

    from transformers import DynamicCache

    # Where layers have windows of their own transformers makes the mask, from which places are real.
    windowed = bool(windows_of(model))
    # Grown by one place a step; rows that have ended leave it.
    cache = DynamicCache(config=model.config)
    places = (seen[:, :width].cumsum(dim=1) - 1).clamp(min=0)
    mask = None
    if int(lengths.min()) < width:
        mask = seen[:, :width] if windowed else _prefill_mask(seen[:, :width])
    work = TokenWork(processed=sum(len(prompt) for prompt in prompts), positions=count * width)
    answers: list[list[int]] = [[] for _ in range(count)]
    alive = torch.arange(count, device=device)
    open_rows = torch.ones(count, dtype=torch.bool, device=device)
    for step in range(cap):
        logits = model(
            input_ids=ids,
            attention_mask=mask,
            position_ids=places,
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        ).logits[:, -1]
        chosen = pick(logits, sampling, None if points is None else points[alive, step])
        for row, token in zip(alive[open_rows].tolist(), chosen[open_rows].tolist(), strict=True):
            answers[row].append(token)
        open_rows &= ~torch.isin(chosen, end_ids)
        if stop is not None:
            said = [not stop(answers[row]) for row in alive.tolist()]
            open_rows &= torch.tensor(said, device=device)
        remaining = int(open_rows.sum())
        if not remaining or step + 1 == cap:
            break
        if remaining <= (1 - _LEAVE_AT) * len(alive):
            keep = open_rows.nonzero().squeeze(1)
            cache.batch_select_indices(keep)
            alive, chosen, seen, lengths = alive[keep], chosen[keep], seen[keep], lengths[keep]
            open_rows = open_rows[keep]
        ids = chosen[:, None]
        places = (lengths + step)[:, None]
        mask = seen[:, : width + step + 1]
        mask = mask if windowed else mask[:, None, None]
        work.processed += remaining
        work.positions += len(alive)
    work.generated = sum(len(answer) for answer in answers)
    return answers, work


def pick(logits: torch.Tensor, sampling: TokenSampling, points: torch.Tensor | None) -> torch.Tensor:
    """The next token of each row.

    The nucleus is cut by its least probability, and inversion runs over the tokens in the order of their ids:
    so a last-bit difference in the logits moves a bound by as much, where the order by probability could swap
    two tokens.

    Args:
        logits: [R, V].
        sampling: Temperature and nucleus.
        points: float64 [R] in [0, 1); not needed for greedy.

    Returns:
        int64 [R].
    """
    if sampling.temperature == 0:
        return logits.argmax(dim=1)
    assert points is not None
    if logits.dtype != torch.float64:
        logits = logits.float()
    chances = torch.softmax(logits / sampling.temperature, dim=1)
    if sampling.top_p < 1:
        falling = _falling(chances)
        before = falling.double().cumsum(dim=1) - falling
        size = (before < sampling.top_p).sum(dim=1, keepdim=True)
        least = falling.gather(1, size - 1)
        chances = chances.where(chances >= least, 0.0)
    mass = chances.double().cumsum(dim=1)
    whole = mass[:, -1:].contiguous()
    found = torch.searchsorted(mass, points[:, None] * whole, right=True)
    # Where the product rounds up to the whole: the last token that has any mass.
    last = torch.searchsorted(mass, whole)
    return torch.minimum(found, last).squeeze(1)


def _falling(chances: torch.Tensor) -> torch.Tensor:
    """Rows sorted, largest first. On a CPU by numpy: its vector sort is 25 times faster than torch's."""
    if chances.device.type == "cpu":
        return torch.from_numpy(np.sort(chances.numpy(), axis=1)[:, ::-1].copy())
    return chances.sort(dim=1, descending=True).values


def _prefill_mask(real: torch.Tensor) -> torch.Tensor:
    """Causal, without padding: bool [R, 1, S, S]. Padding sees itself, so that no softmax is empty."""
    width = real.shape[1]
    causal = torch.ones(width, width, dtype=torch.bool, device=real.device).tril()
    itself = torch.eye(width, dtype=torch.bool, device=real.device)
    return ((causal & real[:, None, :]) | itself)[:, None]
