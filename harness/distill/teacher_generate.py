"""Stage teacher_generate: the teacher answers the training prompts; what passes the filters is a data set.

    python -m harness.distill.teacher_generate --teacher DIR --dataset DIR --out DIR

    OUT/config.json         the resolved configuration
    OUT/synthetic.parquet   every answer, kept or dropped and why
    OUT/examples.jsonl      those kept, as a source for preprocess
    OUT/meta.json           recipe, counts and digests; its presence says that the set is whole
    OUT/journal.jsonl       while running: finished prompts

Run again after a kill it answers what is not in the journal, in the same batches, and gives the same bytes on
the same machine; run again when whole it does nothing.

Counting: *generated* are the tokens sampled, end tokens included; *processed* the real tokens through the
model, prompts included; *positions* the same with padding and rows that had ended. Nothing is trained.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from harness.distill.arguments import run_stage, write_config
from harness.distill.filters import AnswerFilter, FilterConfig
from harness.distill.generation_journal import Answered, Journal
from harness.distill.generation_prompts import Question, QuestionReader, select
from harness.distill.reporting import ProgressLine, report_event, report_tokens
from harness.distill.synthetic_set import find_finished, publish
from harness.errors import KitError
from harness.models.chat import ChatEncoder
from harness.models.dataset import TokenDataset
from harness.models.devices import chosen_device, use_threads
from harness.models.generation import Generator, Prompt, TokenSampling, TokenWork, prompt_seed
from harness.models.generation_vllm import VllmOptions
from harness.models.shapes import positions_of
from harness.models.vocabulary import check_vocabulary

FORMAT = "synthetic/1"


@dataclass(frozen=True)
class TeacherGenerateConfig:
    """Let the teacher answer the prompts of a data set, and keep the good answers as training examples."""

    teacher: Path = field(metadata={"help": "model folder of the teacher"})
    dataset: Path = field(
        metadata={"help": "data set folder as preprocess writes it; its train split is asked"}
    )
    out: Path = field(metadata={"help": "output folder; a run that was killed goes on there"})
    tokenizer: Path | None = field(
        default=None,
        metadata={"help": "folder with the tokenizer and chat template; null: those of the teacher's folder"},
    )
    prompts: int | None = field(
        default=7000, metadata={"help": "how many prompts; fewer are the first of more; null: all"}
    )
    max_new_tokens: int = field(default=1024, metadata={"help": "most tokens of an answer"})
    temperature: float = field(default=0.7, metadata={"help": "0: the likeliest token, no sampling"})
    top_p: float = field(default=0.9, metadata={"help": "mass of the nucleus; 1: everything"})
    seed: int = field(default=0, metadata={"help": "decides which prompts, and each prompt's random numbers"})
    filters: FilterConfig = field(
        default_factory=FilterConfig, metadata={"help": "what is asked of an answer, see filters"}
    )
    engine: Literal["auto", "transformers", "vllm"] = field(
        default="auto", metadata={"help": "auto: vllm where it is installed beside a GPU"}
    )
    batch_size: int | None = field(
        default=None,
        metadata={"help": "transformers: most prompts a batch; null: what the free memory holds"},
    )
    journal_every: int = field(
        default=256,
        metadata={
            "help": "transformers: prompts between two lines of the journal, what a kill can cost; vllm has "
            "all prompts in one queue and writes them down as they end"
        },
    )
    vllm: VllmOptions = field(default_factory=VllmOptions, metadata={"help": "flags of the vLLM engine"})
    teacher_revision: str | None = field(
        default=None,
        metadata={"help": "commit of the teacher's weights; names them instead of a digest of every byte"},
    )
    dtype: Literal["float32", "bfloat16"] = field(
        default="bfloat16", metadata={"help": "type of weights and activations; sampling is in float32"}
    )
    device: str = field(default="auto", metadata={"help": "cpu, cuda, or auto: cuda where there is one"})
    threads: int | None = field(default=None, metadata={"help": "CPU threads; torch's choice by default"})

    @property
    def sampling(self) -> TokenSampling:
        """How to sample."""
        return TokenSampling(self.max_new_tokens, self.temperature, self.top_p)


def run(config: TeacherGenerateConfig) -> dict[str, Any]:
    """Run the stage; returns what `meta.json` holds.

    Raises:
        KitError: Teacher, data and settings do not fit each other or the folder; what is finished stays.
    """

    from harness.distill.teacher_logits_model import teacher_identity

    if config.journal_every < 1 or (config.prompts is not None and config.prompts < 1):
        raise KitError("journal_every, prompts", expected="at least 1")
    sampling = config.sampling
    dataset = TokenDataset.open(config.dataset, "train")
    encoder = ChatEncoder.load(config.tokenizer or config.teacher)
    _check_tokenizer(encoder, dataset)
    identity = teacher_identity(config.teacher, config.teacher_revision)
    check_vocabulary(config.teacher, config.dataset, rows=identity.vocab_size)
    if len(encoder.tokenizer) > identity.vocab_size:
        raise KitError(
            f"a tokenizer of {len(encoder.tokenizer)} tokens for a teacher of {identity.vocab_size}",
            where=str(config.tokenizer or config.teacher),
            expected="the teacher's own vocabulary",
        )
    device = chosen_device(config.device)
    recipe: dict[str, Any] = {
        "format": FORMAT,
        "teacher": identity.describe(config.dtype),
        "data": {
            "content_digest": dataset.meta["content_digest"],
            "tokenizer_sha256": encoder.tokenizer_sha256,
            "template_sha256": encoder.template_sha256,
        },
        "prompts": config.prompts,
        "sampling": {name: getattr(sampling, name) for name in ("max_new_tokens", "temperature", "top_p")},
        "seed": config.seed,
        "journal_every": config.journal_every,
        "engine": _engine(config.engine),
    }
    filters = asdict(config.filters)
    finished = find_finished(config.out, {**recipe, "filters": filters})
    if finished is not None:
        # A kill may have come between the last file and this.
        (config.out / "journal.jsonl").unlink(missing_ok=True)
        report_event("reused", content_digest=finished["content_digest"])
        return finished
    use_threads(config.threads)
    room = positions_of(config.teacher)
    if recipe["engine"] == "vllm" and config.vllm.max_model_len is not None:
        room = min(room or config.vllm.max_model_len, config.vllm.max_model_len)
    longest = None if room is None else room - sampling.max_new_tokens
    reader = QuestionReader(encoder)
    questions, passed_over = select(dataset, reader, config.prompts, seed=config.seed, longest=longest)
    generator = _load(config, recipe["engine"], device, encoder.tokenizer)
    made_with = generator.describe()
    write_config(config, config.out)
    # A smaller batch after a lack of memory goes on with what is there.
    decides = {name: value for name, value in made_with.items() if name != "batch_size"}
    journal = Journal(config.out / "journal.jsonl", {**recipe, "made_with": decides})
    _answer(config, generator, questions, journal)
    recomputed = getattr(generator, "recomputed", None)
    if recomputed is not None:
        made_with = {**made_with, **recomputed()}
    meta = publish(
        config.out,
        [(question, journal.done[question.id]) for question in questions],
        AnswerFilter(config.filters, reader.specials),
        seed=config.seed,
        recipe={**recipe, "filters": filters, "made_with": made_with, "passed_over": passed_over},
    )
    journal.remove()
    report_event(
        "synthetic",
        content_digest=meta["content_digest"],
        answers=meta["answers"],
        kept=meta["kept"],
        dropped=meta["dropped"],
        passed_over=meta["passed_over"],
        generated_tokens=meta["generated_tokens"],
        kept_tokens=meta["kept_tokens"],
    )
    return meta


def _answer(
    config: TeacherGenerateConfig, generator: Generator, questions: Sequence[Question], journal: Journal
) -> None:
    """Answer what the journal lacks; a line of it holds prompts whole or not at all."""
    sampling = config.sampling
    # Like lengths beside each other, longest first: too little memory shows at once.
    ordered = sorted(questions, key=lambda question: (-len(question.token_ids), question.id))
    progress = ProgressLine("teacher_generate", len(ordered), unit="prompts", done=len(journal.done))
    # An engine whose answers do not depend on their batch takes what is left; the other one whole chunks,
    # the same ones again after a kill.
    size = len(ordered) if generator.one_queue else config.journal_every
    for start in range(0, len(ordered), size):
        chunk = ordered[start : start + size]
        if generator.one_queue:
            chunk = [question for question in chunk if question.id not in journal.done]
        if all(question.id in journal.done for question in chunk):
            continue
        before = TokenWork()
        before.add(generator.work)
        prompts = [
            Prompt(question.id, question.token_ids, prompt_seed(config.seed, question.id))
            for question in chunk
        ]
        waiting: list[Answered] = []
        for prompt, answer in generator.answers(prompts, sampling):
            waiting.append(Answered(prompt.id, answer.token_ids, answer.text, answer.finish_reason))
            if generator.one_queue and len(waiting) == config.journal_every:
                _keep(journal, waiting, generator, before, sampling.max_new_tokens, progress)
                waiting = []
        if waiting:
            _keep(journal, waiting, generator, before, sampling.max_new_tokens, progress)
    progress.close()


def _keep(
    journal: Journal,
    answers: list[Answered],
    generator: Generator,
    before: TokenWork,
    cap: int,
    progress: ProgressLine,
) -> None:
    """Write answers down and report what they took since the last time."""
    work = generator.work
    generated = work.generated - before.generated
    _check_counts(answers, generated, cap)
    journal.append(answers)
    processed, positions = work.processed - before.processed, work.positions - before.positions
    report_tokens(processed=processed, positions=positions, generated=generated)
    before.add(TokenWork(processed, positions, generated))
    progress.advance(len(answers), tokens=generated)


def _check_counts(answers: Sequence[Answered], generated: int, cap: int) -> None:
    """What was counted is what was sampled, and never more than was allowed."""
    total = sum(len(answer.token_ids) for answer in answers)
    most = max(len(answer.token_ids) for answer in answers)
    if total != generated or most > cap:
        raise KitError(
            f"the engine gave {len(answers)} answers of {total} tokens, the longest of {most}, and counted "
            f"{generated}",
            where="teacher_generate",
            expected=f"answers of at most {cap} tokens each, every one counted",
            exit_code=1,
        )


def _check_tokenizer(encoder: ChatEncoder, dataset: TokenDataset) -> None:
    for name in ("tokenizer_sha256", "template_sha256"):
        made_with = dataset.meta.get(name)
        if made_with != getattr(encoder, name):
            raise KitError(
                f"the data set was made with another {name.removesuffix('_sha256')}: {made_with}",
                where=dataset.directory.name,
                expected=f"the teacher's, {getattr(encoder, name)}",
                fix="preprocess with the teacher's tokenizer",
            )


def _engine(name: str) -> str:
    if name != "auto":
        return name
    from harness.models.generation_vllm import available

    return "vllm" if available() else "transformers"


def _load(config: TeacherGenerateConfig, engine: str, device: str, tokenizer: Any) -> Generator:
    if engine == "vllm":
        from harness.models.generation_vllm import VllmGenerator

        return VllmGenerator.load(
            config.teacher, dtype=config.dtype, seed=config.seed, options=config.vllm, tokenizer=tokenizer
        )
    from harness.distill.free_memory import rows_that_fit
    from harness.models.generation_transformers import TransformersGenerator

    return TransformersGenerator.load(
        config.teacher,
        dtype=config.dtype,
        device=device,
        batch_size=config.batch_size,
        tokenizer=tokenizer,
        rows_that_fit=rows_that_fit if device.startswith("cuda") else None,
    )


def main() -> int:
    """The stage's command line."""
    return run_stage(TeacherGenerateConfig, run)


if __name__ == "__main__":
    raise SystemExit(main())
