"""Which questions the teacher is asked: the first user turns of a data set's training examples.

A question is the tokens of an example before its first label, so it is exactly what a student will see and
what the teacher's cache was made with. Its text is read back from the tokens through the chat template and
accepted only if it encodes to the same tokens again. Held-out examples are never asked.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections import Counter
from dataclasses import dataclass
from typing import Any

import numpy as np

from harness.errors import KitError
from harness.models.chat import ChatEncoder
from harness.models.dataset import Example, TokenDataset

# Private-use characters: in no template, and never trimmed as white space is.
_SYSTEM, _USER = "\ue000s\ue001", "\ue000u\ue001"


@dataclass(frozen=True)
class Question:
    """One question.

    Attributes:
        id: Of the example it comes from.
        task: Of that example.
        messages: A user turn, after a system turn where there is one.
        token_ids: Up to where the assistant is to speak.
        answer: What a checker compares with; None where the example has none or goes on after its first
            answer.
    """

    id: str
    task: str
    messages: list[dict[str, str]]
    token_ids: tuple[int, ...]
    answer: str | None


class QuestionReader:
    """Reads questions back from tokens.

    Args:
        encoder: With the tokenizer and template that the data set was made with.

    Attributes:
        specials: Texts of the tokenizer's special tokens.
    """

    def __init__(self, encoder: ChatEncoder) -> None:
        from jinja2 import TemplateError

        self._encoder = encoder
        self._tokenizer = encoder.tokenizer
        added = [token.content for token in self._tokenizer.added_tokens_decoder.values() if token.special]
        self.specials = tuple(dict.fromkeys([*self._tokenizer.all_special_tokens, *added]))
        self._shapes: list[tuple[tuple[str, ...], re.Pattern[str]]] = []
        for contents in ({"user": _USER}, {"system": _SYSTEM, "user": _USER}):
            messages = [{"role": role, "content": text} for role, text in contents.items()]
            try:
                text: Any = self._tokenizer.apply_chat_template(
                    messages, tokenize=False, add_generation_prompt=True
                )
            except TemplateError:
                continue
            pattern = re.escape(text)
            for mark in contents.values():
                pattern = pattern.replace(re.escape(mark), "(.*?)", 1)
            self._shapes.append((tuple(contents), re.compile(pattern, re.DOTALL)))

    def read(self, example: Example) -> Question | str:
        """The question of an example, or why it has none that can be asked."""
        first = int(np.argmax(example.label_mask))
        token_ids = tuple(int(token) for token in example.input_ids[:first])
        text = self._tokenizer.decode(
            token_ids, skip_special_tokens=False, clean_up_tokenization_spaces=False
        )
        for roles, pattern in self._shapes:
            match = pattern.fullmatch(text)
            if match is None or any(special in part for part in match.groups() for special in self.specials):
                continue
            messages = [
                {"role": role, "content": part} for role, part in zip(roles, match.groups(), strict=True)
            ]
            if tuple(self._encoder.prompt(messages)) == token_ids:
                turns = int(np.count_nonzero(np.diff(example.label_mask.astype(np.int8)) == 1))
                answer = example.answer if turns == 1 else None
                return Question(example.id, example.task, messages, token_ids, answer)
        return "prompt_not_recoverable"


def select(
    dataset: TokenDataset, reader: QuestionReader, count: int | None, *, seed: int, longest: int | None
) -> tuple[list[Question], dict[str, int]]:
    """Draw questions without repetition.

    Examples are gone through in an order that depends on the seed and their ids alone, so that fewer
    questions are the beginning of more.

    Args:
        dataset: The training split.
        reader: See there.
        count: How many; None for all.
        seed: Decides the order.
        longest: Most tokens of a question; None for any.

    Returns:
        The questions in the order drawn, and of the examples passed over how many for which reason.

    Raises:
        KitError: There are fewer than `count`.
    """
    order = sorted(range(len(dataset)), key=lambda index: _draw(seed, dataset.example(index).id))
    found: list[Question] = []
    asked: set[str] = set()
    dropped: Counter[str] = Counter()
    for index in order:
        if count is not None and len(found) == count:
            break
        question = reader.read(dataset.example(index))
        if isinstance(question, str):
            dropped[question] += 1
            continue
        if longest is not None and len(question.token_ids) > longest:
            dropped["prompt_too_long"] += 1
            continue
        name = "\n".join(f"{message['role']} {message['content']}" for message in question.messages)
        if (normal := normalised(name)) in asked:
            dropped["duplicate_prompt"] += 1
            continue
        asked.add(normal)
        found.append(question)
    if not found or (count is not None and len(found) < count):
        raise KitError(
            f"{len(found)} questions of {len(dataset)} examples; passed over: {dict(dropped)}",
            where=f"{dataset.directory.name}/{dataset.split}",
            expected=f"{count or 'at least one'}",
            fix=None if count is None else f"--prompts {len(found)}, or a larger data set",
        )
    return found, dict(sorted(dropped.items()))


def normalised(text: str) -> str:
    """Text up to what no reader sees: Unicode form and white space. Case is kept: it may be the question."""
    return " ".join(unicodedata.normalize("NFKC", text).split())


def _draw(seed: int, name: str) -> bytes:
    return hashlib.sha256(f"{seed}\n{name}".encode()).digest()
