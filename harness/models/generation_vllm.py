"""Generation with vLLM, where there is a GPU and vLLM is installed.

Every request carries its own seed. That makes a request's random numbers its own, not the arithmetic of the
batch it happens to run in: vLLM does not promise equal outputs for equal seeds at another load, so the flags
below are recorded with the result. Nothing of vLLM is imported before the engine is made.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
from collections.abc import Iterator, Mapping, Sequence
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
    version: str | None = field(
        default=None, metadata={"help": "the only version that may run; null: the one installed"}
    )


def available() -> bool:
    """Whether vLLM is installed and torch sees a GPU."""
    import torch

    return importlib.util.find_spec("vllm") is not None and torch.cuda.is_available()


def engine_arguments(
    directory: Path, tokenizer: str, dtype: str, seed: int, options: VllmOptions
) -> dict[str, Any]:
    """Arguments of `vllm.LLM` for a model folder and a tokenizer folder."""
    given = {
        name: value for name, value in asdict(options).items() if value is not None and name != "version"
    }
    return {
        **given,
        "model": str(directory),
        "tokenizer": tokenizer,
        "dtype": dtype,
        "seed": seed,
        # Otherwise the model folder's own sampling settings would override ours.
        "generation_config": "vllm",
        # Its statistics count preemptions.
        "disable_log_stats": False,
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
        "ignore_eos": sampling.ignore_end,
        "detokenize": False,
        "skip_special_tokens": False,
    }


class VllmGenerator:
    """Generates with an engine of vLLM, which has all prompts in one queue: it never drains before the end.

    Where its cache of keys and values is full it drops a request's and computes them again later. How many
    tokens that were it does not tell, only how often: `recomputed` bounds them, `work` leaves them out.

    Args:
        engine: A `vllm.LLM`.
        make_sampling: `vllm.SamplingParams`.
        tokenizer: The model's tokenizer.
        generation_config: The model's; for its end tokens.
        flags: What to record.
    """

    one_queue = True

    def __init__(
        self,
        engine: Any,
        make_sampling: Any,
        tokenizer: Any,
        generation_config: Any,
        flags: Mapping[str, Any],
    ) -> None:
        self.work = TokenWork()
        self._longest = 0
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

        if options.version is not None and vllm.__version__ != options.version:
            raise KitError(
                f"vllm {vllm.__version__} is installed",
                expected=f"vllm {options.version}: the engine decides the energy of a token",
                fix=f"pip install vllm=={options.version}, or another --vllm.version",
            )
        arguments = engine_arguments(directory, str(tokenizer.name_or_path), dtype, seed, options)
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

    def answers(
        self, prompts: Sequence[Prompt], sampling: TokenSampling
    ) -> Iterator[tuple[Prompt, Generation]]:
        """Answer every prompt; those that end first come first."""
        core = self._engine.llm_engine
        ends = () if sampling.ignore_end else self._ends
        for number, prompt in enumerate(prompts):
            settings = self._make_sampling(**sampling_arguments(prompt, sampling, ends))
            core.add_request(str(number), {"prompt_token_ids": list(prompt.token_ids)}, settings)
        while core.has_unfinished_requests():
            for output in core.step():
                if output.finished:
                    prompt = prompts[int(output.request_id)]
                    yield prompt, self._answer(prompt, output, ends)

    def _answer(self, prompt: Prompt, output: Any, ends: tuple[int, ...]) -> Generation:
        answer = output.outputs[0]
        generation = as_generation(self._tokenizer, list(answer.token_ids), ends)
        if answer.finish_reason != generation.finish_reason:
            last = generation.token_ids[-1:]
            raise KitError(
                f"vLLM ended {prompt.id} with {answer.finish_reason!r} on token {last}",
                expected=f"an end token ({ends}) after stop, another after length",
                exit_code=1,
            )
        cached = getattr(output, "num_cached_tokens", None) or 0
        processed = len(prompt.token_ids) - cached + max(0, generation.n_tokens - 1)
        # No padding: rows of a step are laid end to end.
        self.work.add(TokenWork(processed, processed, generation.n_tokens))
        self._longest = max(self._longest, len(prompt.token_ids) + generation.n_tokens)
        return generation

    def recomputed(self) -> dict[str, int | None]:
        """Requests that were dropped from the cache, and the most tokens that were computed again for
        them."""
        counts = [
            metric.value for metric in self._engine.get_metrics() if metric.name == "vllm:num_preemptions"
        ]
        preempted = int(sum(counts)) if counts else None
        return {
            "preemptions": preempted,
            "recomputed_tokens_at_most": None if preempted is None else preempted * self._longest,
        }

    def describe(self) -> dict[str, Any]:
        """Engine, version and flags."""
        return dict(self._flags)
