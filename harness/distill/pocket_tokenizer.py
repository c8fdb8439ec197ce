"""The pocket profile's tokenizer: a byte-level BPE trained on the spot on the pocket tasks.

It has what OLMo-2's has, so that every stage treats both alike: byte-level pieces (nothing is unknown), one
token that begins a conversation and ends a turn, a pad token apart, and the same chat template. Digits stand
alone and the role tags are single tokens, which a small model needs and a large one does not.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from harness.distill.pocket_tasks import FAMILIES, examples

# Rows of the models' embeddings; the tokenizer may need fewer, as OLMo-2's does (100,278 of 100,352).
VOCABULARY = 512
END, PAD = "<|endoftext|>", "<|pad|>"
TAGS = ("<|system|>", "<|user|>", "<|assistant|>")

# OLMo-2's, to the letter.
CHAT_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}{% if message['role'] == 'system' %}"
    "{{ '<|system|>\n' + message['content'] + '\n' }}{% elif message['role'] == 'user' %}"
    "{{ '<|user|>\n' + message['content'] + '\n' }}{% elif message['role'] == 'assistant' %}"
    "{% if not loop.last %}{{ '<|assistant|>\n'  + message['content'] + eos_token + '\n' }}"
    "{% else %}{{ '<|assistant|>\n'  + message['content'] + eos_token }}{% endif %}{% endif %}"
    "{% if loop.last and add_generation_prompt %}{{ '<|assistant|>\n' }}{% endif %}{% endfor %}"
)


def train_tokenizer(*, seed: int = 0, examples_per_family: int = 2000) -> PreTrainedTokenizerFast:
    """Train the tokenizer; the same arguments give the same tokenizer, byte for byte.

    Args:
        seed: Seed of the pocket tasks it is trained on.
        examples_per_family: How many training examples of each family it sees.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=[END, PAD, *TAGS],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_texts(seed, examples_per_family), trainer)
    wrapped: Any = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=END,
        eos_token=END,
        unk_token=END,
        pad_token=PAD,
        padding_side="left",
        model_max_length=1024,
    )
    wrapped.chat_template = CHAT_TEMPLATE
    return wrapped


def save_tokenizer(out: Path, *, seed: int = 0, examples_per_family: int = 2000) -> None:
    """Train the tokenizer and save it where `AutoTokenizer.from_pretrained(out)` finds it offline."""
    train_tokenizer(seed=seed, examples_per_family=examples_per_family).save_pretrained(str(out))


def _texts(seed: int, count: int) -> Iterator[str]:
    for family in FAMILIES:
        for example in examples(family, "train", count, seed):
            for message in example["messages"]:
                yield message["content"]
