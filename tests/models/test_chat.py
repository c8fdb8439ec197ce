"""Labels: every assistant turn with its end token, nothing else, whatever the template and the words."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from harness.errors import KitError
from harness.models.chat import PLAIN, ChatEncoder, Dropped, Encoded, read_template
from tests.distill.pocket_fixtures import tokenizer

CHATML = (
    "{% for message in messages %}{{ '<|user|>' + message['role'] + '\n' + message['content'] "
    "+ '<|endoftext|>\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|user|>assistant\n' }}{% endif %}"
)
MARKED = (
    "{% for message in messages %}{% if message['role'] == 'assistant' %}{{ '<|assistant|>' }}"
    "{% generation %}{{ message['content'] if loop.last else 'short' }}{% endgeneration %}"
    "{{ eos_token }}{% else %}{{ '<|user|>' + message['content'] }}{% endif %}{% endfor %}"
)
CHATML_LIKE = (
    "{{% for message in messages %}}{{{{ '<|' + message['role'] + '|>\n' }}}}{said}"
    "{{% if message['role'] == 'assistant' %}}{end}{{% else %}}{{{{ '\n' }}}}{{% endif %}}{{% endfor %}}"
    "{{% if add_generation_prompt %}}{{{{ '<|assistant|>\n' }}}}{{% endif %}}"
)
BACKWARDS = "{% for m in messages | reverse %}{{ '<|' + m['role'] + '|>' + m['content'] }}{% endfor %}"
ENDS_LAST = CHATML_LIKE.format(end="{{ eos_token if loop.last else '\n' }}", said="{{ message['content'] }}")
STRIPS_THOUGHT = CHATML_LIKE.format(
    end="{{ eos_token }}",
    said="{{ message['content'] if loop.last else message['content'].split('</think>')[-1] }}",
)
STRICT = (
    "{% for message in messages %}{% if message['role'] == 'tool' %}{{ raise_exception('no tools') }}"
    "{% endif %}x{% endfor %}"
)


def encoder(template: str | None = None) -> ChatEncoder:
    chosen: Any = tokenizer()
    if template is not None:
        chosen = copy.deepcopy(chosen)
        chosen.chat_template = template
    return ChatEncoder(chosen)


def chat(*contents: str, system: str | None = None) -> list[dict[str, str]]:
    roles = ("user", "assistant")
    messages = [{"role": roles[i % 2], "content": content} for i, content in enumerate(contents)]
    return ([{"role": "system", "content": system}] if system is not None else []) + messages


def label_runs(encoded: Encoded | Dropped) -> list[str]:
    """The text of every unbroken run of labels, the end token closing a run."""
    assert isinstance(encoded, Encoded)
    runs: list[list[int]] = [[]]
    for token, label in zip(encoded.input_ids.tolist(), encoded.label_mask.tolist(), strict=True):
        if label:
            runs[-1].append(token)
        elif runs[-1]:
            runs.append([])
    return [tokenizer().decode(run) for run in runs if run]


PIECES = st.sampled_from(
    ["a", " ", "\n", "<|", "|>", "assistant", "<|user", "é", "漢", "🙂", "Answer: ", "7"]
)
ANY = st.characters(codec="utf-8", exclude_categories=("Cs",))
TEXT = st.lists(PIECES | ANY, max_size=12).map("".join)
CHATS = st.tuples(
    st.lists(st.tuples(TEXT, TEXT), min_size=1, max_size=4), st.one_of(st.none(), TEXT), st.booleans()
)


@settings(max_examples=150, deadline=None)
@given(CHATS)
def test_every_assistant_turn_and_nothing_else_is_a_label(
    drawn: tuple[list[tuple[str, str]], str | None, bool],
) -> None:
    turns, system, question_open = drawn
    texts = [text for turn in turns for text in turn] + [system or ""]
    assume(not any(tag in text for tag in ("<|user|>", "<|assistant|>") for text in texts))
    messages = chat(*(text for turn in turns for text in turn), system=system)
    if question_open:
        messages.append({"role": "user", "content": "and then?"})
    for template in (None, CHATML):
        (encoded,) = encoder(template).encode([messages])
        assert label_runs(encoded) == [answer + "<|endoftext|>" for _, answer in turns]
        assert isinstance(encoded, Encoded)
        chosen = encoder(template).tokenizer
        assert chosen.decode(encoded.input_ids) == chosen.apply_chat_template(messages, tokenize=False)


def test_the_pocket_template_is_one_token_a_tag() -> None:
    (encoded,) = encoder().encode([chat("Count the words: oak urn", "2")])
    assert isinstance(encoded, Encoded)
    pieces = tokenizer().convert_ids_to_tokens(encoded.input_ids)
    assert pieces[:2] == ["<|endoftext|>", "<|user|>"] and pieces[-4:] == [
        "<|assistant|>",
        "Ċ",
        "2",
        "<|endoftext|>",
    ]
    assert encoded.label_mask.tolist() == [False] * (len(pieces) - 2) + [True, True]
    assert encoder().prompt(chat("Count the words: oak urn")) == encoded.input_ids[:-2].tolist()


def test_a_template_that_marks_its_turns_is_believed() -> None:
    (encoded,) = encoder(MARKED).encode([chat("q", "first", "r", "second")])
    assert label_runs(encoded) == ["short<|endoftext|>", "second<|endoftext|>"]


def test_what_cannot_be_used_has_a_reason() -> None:
    def reason(messages: list[dict[str, str]], template: str | None = None) -> str:
        (result,) = encoder(template).encode([messages])
        assert isinstance(result, Dropped)
        return result.reason

    assert reason([]) == "empty"
    assert reason(chat("only a question")) == "no_assistant_turn"
    assert reason([{"role": "assistant", "content": "hello"}]) == "assistant_speaks_first"
    assert reason(chat("q", "I say <|assistant|> aloud")) == "special_token_in_content"
    assert reason(chat("<|endoftext|>", "a")) == "special_token_in_content"
    assert reason(chat("a", "b", "c", "d"), BACKWARDS) == "turns_not_separable"
    assert reason([*chat("a", "b"), {"role": "tool", "content": "c"}], STRICT) == "refused_by_template"
    assert reason([*chat("a", "b"), {"role": "assistant", "content": "c"}]) == "turns_not_separable"


EVERY = CHATML_LIKE.format(end="{{ eos_token }}", said="{{ message['content'] }}")
KINDS = {
    "an end to every turn": (EVERY, "", "7 "),
    "trims what is said": (EVERY.replace("message['content']", "message['content'] | trim"), "", "7"),
    "begins with an end token": ("{{ eos_token }}" + EVERY, "", "7 "),
    "prompts without a line break": (EVERY.replace("'<|assistant|>\n'", "'<|assistant|>'"), "\n", "7 "),
}


@pytest.mark.parametrize("kind", KINDS)
def test_kinds_of_templates_label_every_answer(kind: str) -> None:
    template, before, said = KINDS[kind]
    for turns in (1, 2):
        (encoded,) = encoder(template).encode([chat(*["What?", "<think>3+4</think>7 "] * turns)])
        assert label_runs(encoded) == [f"{before}<think>3+4</think>{said}<|endoftext|>"] * turns
        assert isinstance(encoded, Encoded) and not encoded.last_only


@pytest.mark.parametrize("template", [ENDS_LAST, STRIPS_THOUGHT])
def test_where_turns_cannot_be_told_apart_the_last_answer_is_the_label(template: str) -> None:
    thought = "<think>3+4</think>7"
    for turns, open_end in ((1, False), (2, False), (2, True)):
        messages = chat(*["What?", thought] * turns) + ([{"role": "user", "content": "x"}] * open_end)
        (encoded,) = encoder(template).encode([messages])
        assert label_runs(encoded) == [thought + "<|endoftext|>"]
        assert isinstance(encoded, Encoded) and encoded.last_only == (turns > 1)
        first = int(np.argmax(encoded.label_mask))
        asked = messages[: 2 * turns - 1]
        # What comes before the label is the prompt that a model is given there.
        assert encoded.input_ids[:first].tolist() == encoder(template).prompt(asked)


def test_a_base_model_is_given_the_plain_template() -> None:
    template = read_template(Path(PLAIN))
    (encoded,) = encoder(template).encode([chat("q", "a", "r", "b")])
    assert label_runs(encoded) == ["a<|endoftext|>", "b<|endoftext|>"]


def test_a_batch_keeps_its_order_around_what_is_dropped() -> None:
    conversations = [chat("a", "one"), [], chat("b", "two"), chat("c")]
    together = encoder().encode(conversations)
    for conversation, found in zip(conversations, together, strict=True):
        (alone,) = encoder().encode([conversation])
        if isinstance(alone, Dropped):
            assert found == alone
        else:
            assert isinstance(found, Encoded) and np.array_equal(found.input_ids, alone.input_ids)


def test_a_token_across_the_border_of_a_turn_is_no_label() -> None:
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {piece: number for number, piece in enumerate([*alphabet, "ĊĊ"])}
    raw = Tokenizer(models.BPE(vocab=vocabulary, merges=[("Ċ", "Ċ")]))
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    raw.decoder = decoders.ByteLevel()
    wrapped = PreTrainedTokenizerFast(tokenizer_object=raw, eos_token="<|endoftext|>")
    wrapped.chat_template = (
        "{% for m in messages %}{{ m['role'][0] + '\n' + m['content'] + eos_token }}{% endfor %}"
        "{% if add_generation_prompt %}{{ 'a\n' }}{% endif %}"
    )
    (encoded,) = ChatEncoder(wrapped).encode([chat("q", "\nx")])
    assert isinstance(encoded, Encoded)
    pieces = wrapped.convert_ids_to_tokens(encoded.input_ids)
    assert pieces[-3:] == ["ĊĊ", "x", "<|endoftext|>"]
    assert encoded.label_mask[-3:].tolist() == [False, True, True]


def test_the_digest_of_a_tokenizer_sees_its_use_of_padding_no_more_than_its_path() -> None:
    used = copy.deepcopy(tokenizer())
    used(["a", "b c"], padding=True, truncation=True, max_length=4)
    assert ChatEncoder(used).tokenizer_sha256 == encoder().tokenizer_sha256
    used.add_special_tokens({"eos_token": "<|pad|>"})
    assert ChatEncoder(used).tokenizer_sha256 != encoder().tokenizer_sha256
    assert encoder(CHATML).template_sha256 != encoder().template_sha256


def test_a_tokenizer_without_a_template_is_refused() -> None:
    bare = copy.deepcopy(tokenizer())
    bare.chat_template = None
    with pytest.raises(KitError, match="no chat template"):
        ChatEncoder(bare)
    with pytest.raises(KitError, match="no tokenizer there"):
        ChatEncoder.load("/nonexistent-folder")
