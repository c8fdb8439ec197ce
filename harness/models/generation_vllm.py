"""Generation with vLLM, where there is a GPU and vLLM is installed.

Every request carries its own seed. That makes a request's random numbers its own, not the arithmetic of the
batch it happens to run in: vLLM does not promise equal outputs for equal seeds at another load, so the flags
below are recorded with the result. Nothing of vLLM is imported before the engine is made.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from harness.errors import KitError
from harness.models.generation import (
    Generation,
    Prompt,
    TokenSampling,
    TokenWork,
    as_generation,
    end_tokens,
)


@dataclass(frozen=True)
class VllmOptions:
    """Flags of the vLLM engine; all are recorded."""

    gpu_memory_utilization: float = field(default=0.9, metadata={"help": "share of the card's memory"})
    max_num_seqs: int = field(default=256, metadata={"help": "most requests decoded at once"})
    max_model_len: int | None = field(
        default=None, metadata={"help": "most tokens of prompt and answer; null: the model's own"}
    )
    tensor_parallel_size: int = field(default=1, metadata={"help": "cards the model is split over"})
    enforce_eager: bool = field(default=False, metadata={"help": "no CUDA graphs: slower, starts faster"})
    enable_prefix_caching: bool = field(default=True, metadata={"help": "keep what prompts have in common"})


def available() -> bool:
    """Whether vLLM is installed and torch sees a GPU."""
    import torch

    return importlib.util.find_spec("vllm") is not None and torch.cuda.is_available()


def engine_arguments(directory: Path, dtype: str, seed: int, options: VllmOptions) -> dict[str, Any]:
    """Arguments of `vllm.LLM` for a model folder."""
    given = {name: value for name, value in asdict(options).items() if value is not None}
    return {
        **given,
        "model": str(directory),
        "tokenizer": str(directory),
        "dtype": dtype,
        "seed": seed,
        # Otherwise the model folder's own sampling settings would override ours.
        "generation_config": "vllm",
        "disable_log_stats": True,
    }


def sampling_arguments(prompt: Prompt, sampling: TokenSampling, ends: Sequence[int]) -> dict[str, Any]:
    """Arguments of `vllm.SamplingParams` for one prompt."""
    return {
        "n": 1,
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "max_tokens": sampling.max_new_tokens,
        "seed": prompt.seed,
        "stop_token_ids": list(ends),
        "detokenize": False,
        "skip_special_tokens": False,
    }


class VllmGenerator:
    """Generates with an engine of vLLM.

    Args:
        engine: A `vllm.LLM`.
        make_sampling: `vllm.SamplingParams`.
        tokenizer: The model's tokenizer.
        generation_config: The model's; for its end tokens.
        flags: What to record.
    """

    def __init__(
        self,
        engine: Any,
        make_sampling: Any,
        tokenizer: Any,
        generation_config: Any,
        flags: Mapping[str, Any],
    ) -> None:
        self.work = TokenWork()
        self._engine = engine
        self._make_sampling = make_sampling
        self._tokenizer = tokenizer
        self._ends = end_tokens(tokenizer, generation_config)
        self._flags = dict(flags)

    @classmethod
    def load(
        cls, directory: Path, *, dtype: str, seed: int, options: VllmOptions, tokenizer: Any
    ) -> VllmGenerator:
        """Start an engine with a model folder.

        Raises:
            KitError: vLLM is not installed or does not start.
        """
        os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
        try:
            vllm: Any = importlib.import_module("vllm")
        except ImportError:
            raise KitError(
                "vllm is not installed", expected="the extra `generate`", fix="--engine transformers"
            ) from None
        from transformers import GenerationConfig

        arguments = engine_arguments(directory, dtype, seed, options)
        try:
            engine = vllm.LLM(**arguments)
        except (OSError, ValueError, RuntimeError) as error:
            raise KitError(
                f"vLLM does not start: {' '.join(str(error).split())[:300]}", where=str(directory)
            ) from None
        named = {name: value for name, value in arguments.items() if name not in ("model", "tokenizer")}
        flags = {"engine": "vllm", "vllm": vllm.__version__, **named}
        for name in ("VLLM_BATCH_INVARIANT", "VLLM_ATTENTION_BACKEND", "VLLM_ENABLE_V1_MULTIPROCESSING"):
            flags[name] = os.environ.get(name)
        try:
            settings = GenerationConfig.from_pretrained(directory, local_files_only=True)
        except OSError:
            settings = None
        return cls(engine, vllm.SamplingParams, tokenizer, settings, flags)

    def generate(self, prompts: Sequence[Prompt], sampling: TokenSampling) -> list[Generation]:
        """Answer every prompt, in the order given."""
        requests = [{"prompt_token_ids": list(prompt.token_ids)} for prompt in prompts]
        settings = [
            self._make_sampling(**sampling_arguments(prompt, sampling, self._ends)) for prompt in prompts
        ]
        outputs = self._engine.generate(requests, settings, use_tqdm=False)
        result = []
        for prompt, output in zip(prompts, outputs, strict=True):
            answer = output.outputs[0]
            generation = as_generation(self._tokenizer, list(answer.token_ids), self._ends)
            if answer.finish_reason != generation.finish_reason:
                last = generation.token_ids[-1:]
                raise KitError(
                    f"vLLM ended {prompt.id} with {answer.finish_reason!r} on token {last}",
                    expected=f"an end token ({self._ends}) after stop, another after length",
                    exit_code=1,
                )
            result.append(generation)
            cached = getattr(output, "num_cached_tokens", None) or 0
            processed = len(prompt.token_ids) - cached + max(0, generation.n_tokens - 1)
            # No padding: rows of a step are laid end to end.
            self.work.add(TokenWork(processed, processed, generation.n_tokens))
        return result

    def describe(self) -> dict[str, Any]:
        """Engine, version and flags."""
        return dict(self._flags)
