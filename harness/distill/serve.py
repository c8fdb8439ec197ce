"""Stage serve: a finished model answers a workload of the protocol, for J per served token (4.7).

    python -m harness.distill.serve --model DIR --dataset DIR --workload serve-1 --out DIR

    OUT/config.json   the resolved configuration
    OUT/serving.json  the workload, the digest of its prompts, engine and counts; says that the stage is whole

Loading and a first batch, which is not counted, are in the stage; what follows is its part `steady`, with the
generated tokens. J per served token = energy of that part / its generated tokens.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from harness.distill.arguments import run_stage, write_config
from harness.distill.generation_prompts import QuestionReader, select
from harness.distill.parts import part
from harness.distill.reporting import ProgressLine, report_event
from harness.errors import KitError
from harness.files import write_json
from harness.models.chat import ChatEncoder
from harness.models.dataset import TokenDataset
from harness.models.devices import chosen_device, use_threads
from harness.models.generation import Generator, Prompt, TokenSampling
from harness.models.shapes import positions_of
from harness.models.vocabulary import check_vocabulary
from harness.spec import load_protocol
from harness.spec.model import ServingWorkload

STEADY = "steady"
"""Name of the part that J per served token is of."""


@dataclass(frozen=True)
class ServeConfig:
    """Let a model answer a workload of the protocol."""

    model: Path = field(metadata={"help": "model folder"})
    dataset: Path = field(
        metadata={"help": "data set folder as preprocess writes it; its validation split is asked"}
    )
    workload: str = field(metadata={"help": "a serving workload of the protocol, such as serve-1"})
    out: Path = field(metadata={"help": "output folder"})
    tokenizer: Path | None = field(
        default=None, metadata={"help": "folder with the tokenizer and chat template; null: the model's"}
    )
    dtype: Literal["float32", "bfloat16"] = field(
        default="bfloat16", metadata={"help": "type of weights and activations"}
    )
    device: str = field(default="auto", metadata={"help": "cpu, cuda, or auto: cuda where there is one"})
    threads: int | None = field(default=None, metadata={"help": "CPU threads; torch's choice by default"})


def run(config: ServeConfig) -> dict[str, Any]:
    """Run the stage; returns what `serving.json` holds.

    Raises:
        KitError: Model, data and workload do not fit each other.
    """

    workload = load_protocol().workload(config.workload)
    encoder = ChatEncoder.load(config.tokenizer or config.model)
    check_vocabulary(config.model, config.dataset)
    use_threads(config.threads)
    prompts = _prompts(config, workload, encoder)
    generator = _load(config, workload, encoder.tokenizer)
    write_config(config, config.out)
    sampling = TokenSampling(workload.output_tokens, temperature=0, ignore_end=True)
    batches = [prompts[at : at + workload.batch] for at in range(0, len(prompts), workload.batch)]
    list(generator.answers(batches[0], sampling))
    progress = ProgressLine("serve", workload.rounds * len(prompts), unit="answers")
    before = generator.work.generated
    with part(STEADY, "serve", generator.work):
        for _ in range(workload.rounds):
            for batch in batches:
                answers = list(generator.answers(batch, sampling))
                progress.advance(len(answers), tokens=sum(answer.n_tokens for _, answer in answers))
    progress.close()
    generated = generator.work.generated - before
    expected = workload.rounds * workload.prompts * workload.output_tokens
    if generated != expected:
        raise KitError(
            f"the engine generated {generated} tokens", where="serve", expected=str(expected), exit_code=1
        )
    found = {
        "workload": asdict(workload),
        "prompts_sha256": prompts_digest(prompts),
        "engine": generator.describe(),
        "generated_tokens": generated,
    }
    write_json(config.out / "serving.json", found)
    report_event("serving", **found)
    return found


def prompts_digest(prompts: list[Prompt]) -> str:
    """Names the prompts: equal for equal token ids in equal order."""
    return hashlib.sha256(json.dumps([prompt.token_ids for prompt in prompts]).encode()).hexdigest()


def _prompts(config: ServeConfig, workload: ServingWorkload, encoder: ChatEncoder) -> list[Prompt]:
    """The workload's prompts: held-out questions, the same for every model of one data set."""
    room = positions_of(config.model)
    longest = None if room is None else room - workload.output_tokens
    dataset = TokenDataset.open(config.dataset, "validation")
    questions, _ = select(dataset, QuestionReader(encoder), workload.prompts, seed=0, longest=longest)
    return [Prompt(question.id, question.token_ids, 0) for question in questions]


def _load(config: ServeConfig, workload: ServingWorkload, tokenizer: Any) -> Generator:
    if workload.engine == "vllm":
        from harness.models.generation_vllm import VllmGenerator, VllmOptions

        # A round after the first would find all its prompts in the cache.
        options = VllmOptions(enable_prefix_caching=False)
        return VllmGenerator.load(
            config.model, dtype=config.dtype, seed=0, options=options, tokenizer=tokenizer
        )
    from harness.models.generation_transformers import TransformersGenerator

    return TransformersGenerator.load(
        config.model,
        dtype=config.dtype,
        device=chosen_device(config.device),
        batch_size=workload.batch,
        tokenizer=tokenizer,
    )


def main() -> int:
    """The stage's command line."""
    return run_stage(ServeConfig, run)


if __name__ == "__main__":
    raise SystemExit(main())
