"""Stage 1: conversations to a tokenised data set, written once and named by its content.

    python -m harness.distill.preprocess --config preprocess.yaml --out data/tulu

Sources are read one conversation at a time and written in blocks, so memory does not grow with the data. The
result depends on the sources, the tokenizer, seq_len, the split and the seed, and on nothing else: run again,
even after a kill, it gives the same bytes. What was dropped is counted by its reason.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

from harness.distill.arguments import run_stage, write_config
from harness.distill.reporting import ProgressLine, report_event, report_tokens
from harness.distill.sources import Conversation, SourceConfig, describe, read
from harness.errors import KitError
from harness.models.chat import ChatEncoder, Dropped, read_template, write_tokenizer
from harness.models.dataset import DatasetWriter, Example

TOKENIZER = "tokenizer"
"""Folder in the data set with the tokenizer and chat template it was made with: what every later stage
takes."""


@dataclass(frozen=True)
class PreprocessConfig:
    """Turn conversations into a tokenised data set: chat template, assistant-only labels, seeded split."""

    out: Path = field(metadata={"help": "folder of the data set"})
    tokenizer: Path = field(metadata={"help": "tokenizer or model folder, with its chat template"})
    chat_template: Path | None = field(
        default=None,
        metadata={
            "help": "folder or file whose chat template is used instead of the tokenizer's own, such as "
            "the teacher's, which is then prompted as it was trained; plain: role tags as text, for base "
            "models, which have none"
        },
        kw_only=True,
    )
    sources: list[SourceConfig] = field(metadata={"help": "where the conversations come from"})
    seq_len: int = field(default=1024, metadata={"help": "longest example in tokens; what is beyond is cut"})
    validation_fraction: float = field(
        default=0.01,
        metadata={
            "help": "share of the prompts of `split: auto` sources held out; equal prompts stay together"
        },
    )
    seed: int = field(default=0, metadata={"help": "of the split and of the samples"})
    max_dropped: float = field(
        default=0.5,
        metadata={"help": "share of the conversations that may be dropped before it fails"},
    )
    batch_size: int = field(
        default=256, metadata={"help": "conversations tokenised at a time; the result does not depend on it"}
    )


def preprocess(config: PreprocessConfig) -> dict[str, Any]:
    """Run the stage.

    Returns:
        What `meta.json` holds: digests, counts per split, `dropped` (reason to number), `truncated` (examples
        and label tokens lost), the sources and the seed.

    Raises:
        KitError: A source or the tokenizer cannot be read, or no training example is left.
    """
    if not 0 <= config.validation_fraction < 1:
        raise KitError(f"validation_fraction {config.validation_fraction}", expected="at least 0, below 1")
    if config.seq_len < 1 or config.batch_size < 1:
        raise KitError(f"seq_len {config.seq_len}, batch_size {config.batch_size}", expected="at least 1")
    encoder, recipe = recipe_of(config, config.out / TOKENIZER)
    finished = _finished(config.out, recipe)
    if finished is not None:
        report_event("reused", content_digest=finished["content_digest"])
        return finished
    write_config(config, config.out)
    with DatasetWriter(config.out) as writer:
        tally = _write(config, encoder, writer)
        dropped, read_in_all = tally.dropped.total(), tally.dropped.total() + tally.kept.total()
        said = ", ".join(f"{count} {reason}" for reason, count in tally.dropped.most_common())
        if dropped or tally.last_only:
            print(
                f"preprocess: {dropped} of {read_in_all} conversations dropped"
                + (f" ({said})" if said else "")
                + f"; of {tally.last_only} the last answer alone is a label",
                file=sys.stderr,
            )
        if not tally.kept["train"]:
            raise KitError(
                f"no training example is left; dropped: {dict(tally.dropped)}",
                where=str(config.out),
                exit_code=1,
            )
        if dropped > config.max_dropped * read_in_all:
            raise KitError(
                f"{dropped} of {read_in_all} conversations cannot be used: {said}",
                where=str(config.out),
                expected=f"at most {config.max_dropped:.0%} (max_dropped)",
                fix="look at the reasons; another chat_template, a longer seq_len, or a larger max_dropped",
                exit_code=1,
            )
        meta = writer.publish(
            {
                **recipe,
                "dropped": dict(sorted(tally.dropped.items())),
                "last_answer_only": tally.last_only,
                "truncated": {"examples": tally.cut_examples, "label_tokens": tally.cut_labels},
            }
        )
    report_event(
        "dataset",
        content_digest=meta["content_digest"],
        examples=meta["examples"],
        label_tokens=meta["label_tokens"],
        dropped=meta["dropped"],
        last_answer_only=meta["last_answer_only"],
        truncated=meta["truncated"],
    )
    return meta


def recipe_of(config: PreprocessConfig, tokenizer: Path) -> tuple[ChatEncoder, dict[str, Any]]:
    """What decides a data set's bytes, as its `meta.json` holds it, and the encoder it is made with.

    Args:
        config: The stage.
        tokenizer: Folder that gets tokenizer and template.

    Raises:
        KitError: The tokenizer or a source cannot be read.
    """
    template = None if config.chat_template is None else read_template(config.chat_template)
    write_tokenizer(config.tokenizer, tokenizer, template)
    encoder = ChatEncoder.load(tokenizer)
    return encoder, {
        "tokenizer_sha256": encoder.tokenizer_sha256,
        "template_sha256": encoder.template_sha256,
        "seq_len": config.seq_len,
        "validation_fraction": config.validation_fraction,
        "seed": config.seed,
        "sources": [describe(source, config.seed) for source in config.sources],
    }


class _Tally:
    def __init__(self) -> None:
        self.kept: Counter[str] = Counter()
        self.dropped: Counter[str] = Counter()
        self.cut_examples = 0
        self.cut_labels = 0
        self.last_only = 0


def _write(config: PreprocessConfig, encoder: ChatEncoder, writer: DatasetWriter) -> _Tally:
    tally = _Tally()
    progress = ProgressLine("preprocess", None, unit="conversations")
    taken: set[str] = set()
    for source in config.sources:
        for conversations in _batched(read(source, config.seed), config.batch_size):
            tokens = 0
            encoded = encoder.encode([conversation.messages for conversation in conversations])
            for conversation, item in zip(conversations, encoded, strict=True):
                if isinstance(item, Dropped):
                    tally.dropped[item.reason] += 1
                    continue
                ids, mask = item.input_ids[: config.seq_len], item.label_mask[: config.seq_len]
                tokens += len(ids)
                if not mask.any():
                    tally.dropped["no_label_within_seq_len"] += 1
                    continue
                tally.cut_examples += len(ids) < len(item.input_ids)
                tally.cut_labels += int(item.label_mask[config.seq_len :].sum())
                split = source.split if source.split != "auto" else _split(conversation, config)
                name = _unique(conversation, taken)
                writer.add(split, Example(name, conversation.task, ids, mask, conversation.answer))
                tally.kept[split] += 1
                tally.last_only += item.last_only
            # No model runs here: the tokens are those the tokenizer gave, without padding.
            report_tokens(processed=tokens, positions=tokens)
            progress.advance(len(conversations), tokens=tokens)
    progress.close()
    return tally


def _split(conversation: Conversation, config: PreprocessConfig) -> str:
    """The split by the first question: equal prompts stay together, and more data moves none of them."""
    asked = next(message["content"] for message in conversation.messages if message["role"] != "system")
    drawn = hashlib.sha256(f"{config.seed}\n{asked}".encode()).digest()
    share = int.from_bytes(drawn[:8], "little") / 2**64
    return "validation" if share < config.validation_fraction else "train"


def _unique(conversation: Conversation, taken: set[str]) -> str:
    name, number = conversation.id, 1
    while name in taken:
        number += 1
        name = f"{conversation.id}~{number}"
    taken.add(name)
    return name


def _finished(out: Path, recipe: dict[str, Any]) -> dict[str, Any] | None:
    """What an earlier run left, if it was the same stage and came to its end."""
    try:
        meta = json.loads((out / "meta.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    if not isinstance(meta, dict) or not all(
        (out / f"{split}.arrow").exists() for split in ("train", "validation")
    ):
        return None
    return meta if all(meta.get(key) == value for key, value in recipe.items()) else None


def _batched(items: Iterable[Conversation], size: int) -> Iterator[list[Conversation]]:
    iterator = iter(items)
    while batch := list(islice(iterator, size)):
        yield batch


def main() -> int:
    """Run as a program."""
    return run_stage(PreprocessConfig, preprocess)


if __name__ == "__main__":
    raise SystemExit(main())
