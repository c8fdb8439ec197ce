"""YAML with a memory: every key and value knows its file, line and column.

ruamel.yaml reads the text as YAML 1.2 does: `no`, `on` and `NO` (Norway's grid) are text, `1e-4` is a number.
What two programs might read differently is refused: unquoted dates, NaN, duplicate keys, tags.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml import nodes as ruamel
from ruamel.yaml.error import MarkedYAMLError
from ruamel.yaml.reader import ReaderError

from harness.audit.problems import Place
from harness.audit.text_file import read_text
from harness.errors import KitError

MAX_DEPTH = 40
MAX_NODES = 50_000
"""Values of a file, those of an anchor counted as often as it is used."""

_INT = re.compile(r"[-+]?(?:0|[1-9](?:_?[0-9])*)\Z")
_FLOAT = re.compile(r"[-+]?(?:\.[0-9]+|(?:0|[1-9][0-9]*)(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?\Z")
_NOT_FINITE = re.compile(r"(?:[-+]?\.inf|\.nan)\Z", re.IGNORECASE)
_DATE = re.compile(r"[0-9]{4}-[0-9]{1,2}-[0-9]{1,2}(?:[Tt \t].*)?\Z")
_NULLS = {"", "~", "null", "Null", "NULL"}
_BOOLS = {"true": True, "True": True, "TRUE": True, "false": False, "False": False, "FALSE": False}
_TAG = re.compile(r"(?:&[^\s,\[\]{}]+\s+)?(!(?!!str\s)\S*)")
_EXAMPLE = "start from an example: docs/pipeline_file.md, for a profile docs/own_models.md"
_TEXT = "tag:yaml.org,2002:str"

_HINTS = (
    ("'\\t'", "spaces; YAML does not allow tabs in indentation", "replace the tab by spaces"),
    ("another document", "one document a file", "remove the '---' line"),
    ("undefined alias", "an anchor '&name' above it", "define the anchor first, or quote the text"),
    (
        "mapping values are not allowed",
        "one 'key: value' a line",
        "put the whole value in quotes where it holds ': ' (a command: below 'command: |'), or check the "
        "indentation above",
    ),
    ("cannot start any token", "a value that begins with a letter, a digit or a quote", "quote the value"),
    ("block end", "the same indentation for neighbours", "line this up with the lines above"),
    ("block mapping", "the same indentation for neighbours", "line this up with the lines above"),
    ("", "valid YAML", "check quotes, brackets, the ':' after the key and the indentation"),
)
"""Words of the parser's message, what it expected, and what to do."""


class WrittenInt(int):
    """An integer that still knows how it was written (`text`)."""

    text: str


class WrittenFloat(float):
    """A float that still knows how it was written: `1e-4` goes into a command as `1e-4`."""

    text: str


@dataclass(frozen=True, slots=True)
class Node:
    """One YAML value and where it stood.

    Args:
        value: None, bool, int, float, str, a tuple of nodes, or a dict from key to node.
        mark: Where the value begins.
        key_mark: Where its key begins, if it is a value of a mapping.
        text: A scalar as written, without quotes.
        raw: A scalar's source text, quotes and all, to find a column inside it.
    """

    value: Any
    mark: Place
    key_mark: Place | None = None
    text: str = ""
    raw: str = ""

    def get(self, key: str) -> Node | None:
        """The value of `key`, or None where this is no mapping or has no such key."""
        return self.value.get(key) if isinstance(self.value, dict) else None

    def having(self, **values: Node | None) -> Node:
        """This mapping with keys replaced, or removed where the value is None."""
        merged = {**self.value, **values}
        return replace(self, value={key: node for key, node in merged.items() if node is not None})

    def mark_inside(self, position: int) -> Place:
        """Where a position in the source of a scalar stands; the scalar's own place for a negative one."""
        if position < 0:
            return self.mark
        newline = self.raw.rfind("\n", 0, position)
        if newline < 0:
            return Place(self.mark.file, self.mark.line, self.mark.column + position)
        return Place(self.mark.file, self.mark.line + self.raw.count("\n", 0, position), position - newline)


def plain(node: Node, *, written: bool = True) -> Any:
    """The value without places: dicts, lists, strings, and numbers.

    Args:
        node: The value.
        written: Numbers remember how they were written; else they are no more than numbers.
    """
    value = node.value
    if isinstance(value, dict):
        return {key: plain(child, written=written) for key, child in value.items()}
    if isinstance(value, tuple):
        return [plain(child, written=written) for child in value]
    if not written or isinstance(value, bool) or not isinstance(value, int | float):
        return value
    number = WrittenInt(value) if isinstance(value, int) else WrittenFloat(value)
    number.text = node.text
    return number


def load(path: Path, shown: str | None = None) -> Node:
    """Read one YAML file whose top level is a mapping.

    Raises:
        KitError: The file is missing, unreadable, too large, not UTF-8, not YAML, or not a mapping.
    """
    name = shown or str(path)
    text = read_text(path, name)
    node = parse(text, name)
    if not isinstance(node.value, dict):
        found = f"a list of {len(node.value)}" if isinstance(node.value, tuple) else repr(node.text[:60])
        expected = "'key: value' lines such as 'name: ...' and 'stages: ...'"
        raise _refusal(node.mark, f"the top level is {found}, not a mapping", expected, _EXAMPLE)
    return node


def parse(text: str, file: str) -> Node:
    """Parse one YAML document; `file` is its name in messages.

    Raises:
        KitError: Not YAML, more than one document, or one of the refusals in the module's docstring.
    """
    text = text.removeprefix("\ufeff")
    reader = YAML(typ="safe", pure=True)
    reader.composer.warn_double_anchors = False
    try:
        root = reader.compose(text)
    except MarkedYAMLError as error:
        raise _syntax(error, text, file) from None
    except ReaderError as error:
        before = text[: error.position]
        mark = Place(file, before.count("\n") + 1, len(before) - before.rfind("\n"))
        character = f"the character U+{ord(text[error.position]):04X}"
        raise _refusal(mark, f"{character} cannot stand in YAML", "printable text", "delete it") from None
    except RecursionError:
        raise _too_deep(Place(file, 1, 1)) from None
    except (ValueError, OverflowError) as error:
        # An impossible escape such as "\UFFFFFFFF".
        fix = "check the escapes in quoted text"
        raise _refusal(Place(file, 1, 1), f"not YAML: {error}", "valid YAML", fix) from None
    if root is None:
        expected = "at least 'protocol', 'name', 'method' and 'stages'"
        raise _refusal(Place(file, 1, 1), "the file is empty", expected, _EXAMPLE)
    return _Reader(text, file).node(root, 0)


def number_or_text(text: str) -> int | float | str:
    """The finite number (of at most 18 characters if whole) that the text is in YAML 1.2, or the text."""
    if _INT.match(text) and len(text) <= 18:
        return int(text.replace("_", ""))
    if _FLOAT.match(text) and not _INT.match(text):
        number = float(text)
        return number if math.isfinite(number) else text
    return text


class _Reader:
    """The parser's tree as nodes, within limits of depth and size: an alias repeats its anchor's tree."""

    def __init__(self, text: str, file: str) -> None:
        self._text = text
        self._file = file
        self._nodes = 0

    def node(self, found: Any, depth: int) -> Node:
        mark = _mark(found.start_mark, self._file)
        self._nodes += 1
        if depth > MAX_DEPTH:
            raise _too_deep(mark)
        if self._nodes > MAX_NODES:
            message = "the file grows too large when its aliases are filled in"
            fix = "use 'vars' or 'matrix' instead of nested aliases"
            raise _refusal(mark, message, f"at most {MAX_NODES} values", fix)
        if tag := _TAG.match(self._text, found.start_mark.index):
            message = f"the tag {tag[1][:60]!r} is not used here"
            raise _refusal(mark, message, "plain YAML without '!' tags", "remove the tag")
        if isinstance(found, ruamel.SequenceNode):
            return Node(tuple(self.node(item, depth + 1) for item in found.value), mark)
        if isinstance(found, ruamel.MappingNode):
            return self._mapping(found, mark, depth)
        return self._scalar(found, mark)

    def _mapping(self, found: Any, mark: Place, depth: int) -> Node:
        own: dict[str, Node] = {}
        merged: dict[str, Node] = {}
        for found_key, found_value in found.value:
            key, value = self.node(found_key, depth + 1), self.node(found_value, depth + 1)
            if isinstance(key.value, tuple | dict) or key.value is None:
                fix = "check for a stray '?', '[' or '{'"
                raise _refusal(key.mark, "this key is no text", "a name before the ':'", fix)
            if found_key.tag == "tag:yaml.org,2002:merge":
                for source in value.value if isinstance(value.value, tuple) else (value,):
                    if not isinstance(source.value, dict):
                        message, expected = "'<<' merges mappings only", "'<<: *anchor' of a mapping"
                        raise _refusal(value.mark, message, expected, "remove the '<<'")
                    merged = {**source.value, **merged}
                continue
            if key.text in own:
                first = own[key.text].key_mark or mark
                message = f"the key {key.text[:60]!r} stands here a second time (first at line {first.line})"
                raise _refusal(key.mark, message, "every key once", "remove or rename one of the two")
            if value.value is None and not value.text:
                # The parser finds out at the next line that there is none: it belongs behind the ':'.
                end = _mark(found_key.end_mark, self._file)
                value = replace(value, mark=replace(end, column=end.column + 1))
            own[key.text] = replace(value, key_mark=key.mark)
        return Node({**merged, **own}, mark)

    def _scalar(self, found: Any, mark: Place) -> Node:
        text: str = found.value
        bad = next((char for char in text if char == "\0" or "\ud800" <= char <= "\udfff"), None)
        if bad is not None:
            expected = "text without NUL and lone surrogates"
            raise _refusal(mark, f"the text holds U+{ord(bad):04X}", expected, "remove the escape")
        is_plain = found.style is None and found.tag != _TEXT
        raw = self._text[found.start_mark.index : found.end_mark.index]
        return Node(_resolve(text, mark) if is_plain else text, mark, text=text, raw=raw)


def _resolve(text: str, mark: Place) -> object:
    """What a scalar without quotes stands for."""
    if text in _NULLS:
        return None
    if text in _BOOLS:
        return _BOOLS[text]
    value = number_or_text(text)
    if not isinstance(value, str):
        return value
    if _INT.match(text):
        found, expected, fix = "is too large a number", "at most 18 characters", "quote it if it is a name"
    elif _NOT_FINITE.match(text) or _FLOAT.match(text):
        found, expected, fix = (
            "is not a finite number",
            "a finite number",
            "leave the field out if it is unknown",
        )
    elif _DATE.match(text):
        found, expected, fix = "is an unquoted date", "text or a number", f'write "{text[:40]}" in quotes'
    else:
        return value
    raise _refusal(mark, f"{text[:40]} {found}", expected, fix)


def _mark(mark: Any, file: str) -> Place:
    return Place(file, mark.line + 1, mark.column + 1)


def _refusal(mark: Place, message: str, expected: str, fix: str) -> KitError:
    return KitError(message, where=str(mark), expected=expected, fix=fix)


def _too_deep(mark: Place) -> KitError:
    fix = "look for a stray '[' or '{', or an alias inside its own anchor"
    return _refusal(mark, "nested too deeply", f"at most {MAX_DEPTH} levels", fix)


def _syntax(error: MarkedYAMLError, text: str, file: str) -> KitError:
    place, begun = error.problem_mark or error.context_mark, error.context_mark
    mark = _mark(place, file) if place else Place(file, 1, 1)
    lines = text.splitlines()
    line = lines[mark.line - 1] if mark.line <= len(lines) else ""
    problem = (error.problem or error.context or "not YAML").removeprefix("but ")
    if "${" in line and ("[" in line or "{" in line.replace("${", "")):
        expected = 'quotes around text with ${...} inside [ ] or { }, as in ["${run_dir}/out"]'
        fix = "quote it, or write the list with one '- item' a line"
    else:
        expected, fix = next((expected, fix) for words, expected, fix in _HINTS if words in problem)
    since = f" ({error.context}, line {begun.line + 1})" if error.context and begun else ""
    found = f" in {line.strip()[:60]!r}" if line.strip() else ""
    return _refusal(mark, f"not YAML: {problem}{found}{since}", expected, fix)
