"""Conversations to tokens through the tokenizer's own chat template, with the assistant's tokens as labels.

Every assistant turn is a label, its end token included, and nothing else is. Where a turn begins and ends the
template itself says: what it renders before the turn (with the generation prompt) and through the turn are
prefixes of the whole, or it marks the turn with `{% generation %}`. No tag is searched for.

A template that renders a turn differently once others follow (it strips the reasoning of earlier turns, or
ends only the last one) has no such prefixes. Of such a conversation the last answer alone is a label, below
the history as the template shows it: just what a model is given when it is to speak.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from harness.errors import KitError

Message = Mapping[str, str]

TEMPLATE_FILE = "chat_template.jinja"
TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    TEMPLATE_FILE,
    "generation_config.json",
)
"""What goes along with a model's weights. A folder without weights also needs config.json: transformers
chooses the tokenizer's class by it."""

_GENERATION = re.compile(r"\{%-?\s*generation\s*-?%\}")


@dataclass(frozen=True)
class Encoded:
    """A conversation as tokens.

    Attributes:
        input_ids: int32 [n].
        label_mask: bool [n].
        last_only: Of several answers the last alone is a label.
    """

    input_ids: npt.NDArray[np.int32]
    label_mask: npt.NDArray[np.bool_]
    last_only: bool = False


@dataclass(frozen=True)
class Dropped:
    """Why a conversation cannot be used: a reason that is counted."""

    reason: str


PLAIN = "plain"
"""Name of a template for models that have none: role tags in plain text, the end token after an answer."""
_PLAIN_TEMPLATE = (
    "{% for message in messages %}{{ '<|' + message['role'] + '|>\\n' + message['content'] }}"
    "{% if message['role'] == 'assistant' %}{{ eos_token }}{% endif %}{{ '\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>\\n' }}{% endif %}"
)


def read_template(place: Path) -> str:
    """The chat template of a tokenizer or model folder, of a file that holds nothing else, or PLAIN.

    Raises:
        KitError: There is none.
    """
    if str(place) == PLAIN:
        return _PLAIN_TEMPLATE
    try:
        if place.is_file():
            return place.read_text(encoding="utf-8")
        if (place / TEMPLATE_FILE).is_file():
            return (place / TEMPLATE_FILE).read_text(encoding="utf-8")
        template = json.loads((place / "tokenizer_config.json").read_text(encoding="utf-8"))["chat_template"]
        if isinstance(template, str):
            return template
        said = "tokenizer_config.json names several"
    except FileNotFoundError:
        said = "no tokenizer_config.json"
    except (OSError, ValueError, KeyError, TypeError) as error:
        said = f"{type(error).__name__}: {error}"
    raise KitError(
        f"no chat template there ({said})",
        where=str(place),
        expected=f"{TEMPLATE_FILE}, or one chat_template in tokenizer_config.json",
    )


def write_tokenizer(source: Path, target: Path, template: str | None = None) -> None:
    """Copy a tokenizer's files, with another chat template where one is given.

    Args:
        source: Tokenizer or model folder.
        target: Folder to fill; made if missing.
        template: Takes the place of the tokenizer's own.

    Raises:
        KitError: There is no such folder.
    """
    if not source.is_dir():
        raise KitError("no tokenizer there", where=str(source), expected="a tokenizer or model folder")
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True)
    for name in (*TOKENIZER_FILES, "config.json"):
        if (source / name).is_file():
            (target / name).write_bytes((source / name).read_bytes())
    if template is None:
        return
    (target / TEMPLATE_FILE).write_text(template, encoding="utf-8")
    settings = target / "tokenizer_config.json"
    if settings.exists():
        fields = json.loads(settings.read_text(encoding="utf-8"))
        fields.pop("chat_template", None)
        settings.write_text(json.dumps(fields, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


class ChatEncoder:
    """Encodes conversations with one tokenizer.

    Args:
        tokenizer: A fast tokenizer with a chat template.

    Attributes:
        tokenizer_sha256: Names the vocabulary, the merges and the special tokens.
        template_sha256: Names the chat template.

    Raises:
        KitError: The tokenizer has no chat template or gives no character offsets.
    """

    def __init__(self, tokenizer: Any) -> None:
        if not getattr(tokenizer, "is_fast", False):
            raise KitError("the tokenizer gives no character offsets", expected="one with a tokenizer.json")
        if not isinstance(tokenizer.chat_template, str):
            raise KitError(
                "the tokenizer has no chat template",
                where=str(tokenizer.name_or_path),
                expected="chat_template in tokenizer_config.json, or chat_template.jinja",
                fix="preprocess with chat_template: FILE, or plain for a base model, and give the data set's "
                "tokenizer folder to the stages after it",
            )
        self.tokenizer = tokenizer
        self.tokenizer_sha256 = _tokenizer_digest(tokenizer)
        self.template_sha256 = hashlib.sha256(tokenizer.chat_template.encode()).hexdigest()
        added = (token.content for token in tokenizer.added_tokens_decoder.values() if token.special)
        self._specials = tuple(dict.fromkeys([*tokenizer.all_special_tokens, *added]))
        self._marked = bool(_GENERATION.search(tokenizer.chat_template))

    @classmethod
    def load(cls, directory: Path | str) -> ChatEncoder:
        """The encoder of a tokenizer or model folder, without a network.

        Raises:
            KitError: There is no such tokenizer.
        """
        expected = "a folder with tokenizer.json and tokenizer_config.json"
        if not Path(directory).is_dir():
            raise KitError("no tokenizer there", where=str(directory), expected=expected)
        from transformers import AutoTokenizer

        try:
            tokenizer = AutoTokenizer.from_pretrained(str(directory), local_files_only=True)
        except (OSError, ValueError) as error:
            said = " ".join(str(error).split())[:200]
            raise KitError(
                f"no tokenizer that can be read ({said})", where=str(directory), expected=expected
            ) from None
        return cls(tokenizer)

    def prompt(self, messages: Sequence[Message]) -> list[int]:
        """Tokens of a conversation up to where the assistant is to speak."""
        text = self._render(messages, generation=True)
        return [int(token) for token in self._backend.encode(text, add_special_tokens=False).ids]

    def encode(self, conversations: Sequence[Sequence[Message]]) -> list[Encoded | Dropped]:
        """Encode conversations.

        Returns:
            For each, its tokens and labels, or why there are none: "empty", "no_assistant_turn",
            "assistant_speaks_first", "special_token_in_content", "refused_by_template" or
            "turns_not_separable" (the template does not render the last answer below its prompt).
        """
        texts: list[str] = []
        spans: list[tuple[list[tuple[int, int]], bool]] = []
        result: list[Encoded | Dropped | None] = []
        for messages in conversations:
            rendered = self._locate(messages)
            if isinstance(rendered, Dropped):
                result.append(rendered)
                continue
            texts.append(rendered[0])
            spans.append(rendered[1:])
            result.append(None)
        encodings = iter(self._backend.encode_batch(texts, add_special_tokens=False))
        where = iter(spans)
        return [_labelled(next(encodings), *next(where)) if item is None else item for item in result]

    @property
    def _backend(self) -> Any:
        return self.tokenizer.backend_tokenizer

    def _render(self, messages: Sequence[Message], *, generation: bool = False) -> str:
        text = self.tokenizer.apply_chat_template(
            list(messages), tokenize=False, add_generation_prompt=generation
        )
        assert isinstance(text, str)
        return text

    def _locate(self, messages: Sequence[Message]) -> tuple[str, list[tuple[int, int]], bool] | Dropped:
        """The rendered text, the character spans of the turns that are labels, and whether those are the last
        one of several."""
        from jinja2 import TemplateError

        speakers = [message["role"] for message in messages]
        if not messages:
            return Dropped("empty")
        if "assistant" not in speakers:
            return Dropped("no_assistant_turn")
        if next(speaker for speaker in speakers if speaker != "system") == "assistant":
            return Dropped("assistant_speaks_first")
        if any(special in message["content"] for message in messages for special in self._specials):
            return Dropped("special_token_in_content")
        answers = [number for number, speaker in enumerate(speakers) if speaker == "assistant"]
        last_only = False
        try:
            spans = self._marked_spans(messages) if self._marked else self._prefix_spans(messages, answers)
            if spans is None and len(answers) > 1:
                last_only = True
                spans = self._prefix_spans(messages[: answers[-1] + 1], answers[-1:])
        except TemplateError:
            return Dropped("refused_by_template")
        if spans is None:
            return Dropped("turns_not_separable")
        text, turns = spans
        return text, [self._to_end_of_turn(text, start, end) for start, end in turns], last_only

    def _prefix_spans(
        self, messages: Sequence[Message], answers: Sequence[int]
    ) -> tuple[str, list[tuple[int, int]]] | None:
        text = self._render(messages)
        spans = []
        for number in answers:
            before = self._render(messages[:number], generation=True)
            last = number == len(messages) - 1
            through = text if last else self._render(messages[: number + 1])
            if not (through.startswith(before) and text.startswith(through)):
                return None
            spans.append((len(before), len(through)))
        return text, spans

    def _marked_spans(self, messages: Sequence[Message]) -> tuple[str, list[tuple[int, int]]] | None:
        from transformers.utils.chat_template_utils import render_jinja_template

        rendered: Any = render_jinja_template(
            conversations=[list(messages)],
            chat_template=self.tokenizer.chat_template,
            return_assistant_tokens_mask=True,
            **self.tokenizer.special_tokens_map,
        )
        texts, spans = rendered
        return texts[0], [(int(start), int(end)) for start, end in spans[0]]

    def _to_end_of_turn(self, text: str, start: int, end: int) -> tuple[int, int]:
        """A turn ends with its end token: without what follows it, and with it where the span stops short."""
        said = text[start:end].rstrip()
        if said.endswith(self._specials):
            return start, start + len(said)
        closing = self.tokenizer.eos_token
        return (start, end + len(closing)) if closing and text.startswith(closing, end) else (start, end)


def _labelled(encoding: Any, spans: list[tuple[int, int]], last_only: bool) -> Encoded:
    """Tokens that lie wholly in a span are labels. One that began before it has a piece of the prompt, which
    a model is given before it speaks.
    """
    ids = np.array(encoding.ids, dtype=np.int32)
    offsets = np.fromiter(chain.from_iterable(encoding.offsets), dtype=np.int64, count=2 * len(ids))
    starts, ends = offsets[0::2], offsets[1::2]
    mask = np.zeros(len(ids), dtype=np.bool_)
    for start, end in spans:
        mask |= (starts >= start) & (ends > start) & (ends <= end)
    mask[:1] = False
    return Encoded(ids, mask, last_only)


def _tokenizer_digest(tokenizer: Any) -> str:
    described = json.loads(tokenizer.backend_tokenizer.to_str())
    # Set by the last call that padded or cut, not by the tokenizer's maker.
    described.pop("padding", None)
    described.pop("truncation", None)
    named = {"tokenizer": described, "special": dict(sorted(tokenizer.special_tokens_map.items()))}
    return hashlib.sha256(json.dumps(named, sort_keys=True, ensure_ascii=False).encode()).hexdigest()
