"""YAML with a memory: every key and value knows its file, line and column.

The text is parsed by PyYAML's SafeLoader and read as YAML 1.2 does: `no`, `on` and `NO` (Norway's grid) are
text, `1e-4` is a number. What two programs might read differently is refused: unquoted dates, NaN, duplicate
keys, tags.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from harness.audit.problems import Mark, guess
from harness.audit.text_file import read_text
from harness.errors import KitError

MAX_DEPTH = 40
MAX_NODES = 50_000
MAX_ALIASES = 200

_INT = re.compile(r"[-+]?(?:0|[1-9](?:_?[0-9])*)\Z")
_FLOAT = re.compile(r"[-+]?(?:\.[0-9]+|(?:0|[1-9][0-9]*)(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?\Z")
_NOT_FINITE = re.compile(r"(?:[-+]?\.inf|\.nan)\Z", re.IGNORECASE)
_DATE = re.compile(r"[0-9]{4}-[0-9]{1,2}-[0-9]{1,2}(?:[Tt \t].*)?\Z")
_NULLS = {"", "~", "null", "Null", "NULL"}
_BOOLS = {"true": True, "True": True, "TRUE": True, "false": False, "False": False, "FALSE": False}


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
        size: Nodes in the tree below, itself included, aliases counted as often as they are used.
    """

    value: Any
    mark: Mark
    key_mark: Mark | None = None
    text: str = ""
    raw: str = ""
    size: int = 1

    def get(self, key: str) -> Node | None:
        """The value of `key`, or None where this is no mapping or has no such key."""
        return self.value.get(key) if isinstance(self.value, dict) else None

    def having(self, **values: Node | None) -> Node:
        """This mapping with keys replaced, or removed where the value is None."""
        merged = {**self.value, **values}
        return replace(self, value={key: node for key, node in merged.items() if node is not None})

    def mark_inside(self, occurrence: int, needle: str = "${") -> Mark:
        """Where the n-th `needle` of a scalar stands; the scalar's own place if it cannot be found."""
        position = -1
        for _ in range(occurrence + 1):
            position = self.raw.find(needle, position + 1)
            if position < 0:
                return self.mark
        newline = self.raw.rfind("\n", 0, position)
        if newline < 0:
            return Mark(self.mark.file, self.mark.line, self.mark.column + position)
        return Mark(self.mark.file, self.mark.line + self.raw.count("\n", 0, position), position - newline)


def plain(node: Node) -> Any:
    """The value without places: dicts, lists, strings, and numbers that remember how they were written."""
    value = node.value
    if isinstance(value, dict):
        return {key: plain(child) for key, child in value.items()}
    if isinstance(value, tuple):
        return [plain(child) for child in value]
    if isinstance(value, bool) or not isinstance(value, int | float):
        return value
    number = WrittenInt(value) if isinstance(value, int) else WrittenFloat(value)
    number.text = node.text
    return number


def load(path: Path, shown: str | None = None) -> Node:
    """Read one YAML file whose top level is a mapping.

    Args:
        path: The file.
        shown: Its name in messages; the path as given if omitted.

    Raises:
        KitError: The file is missing, unreadable, too large, not UTF-8, not YAML, or not a mapping.
    """
    name = shown or str(path)
    text = read_text(path, name)
    node = parse(text, name)
    if not isinstance(node.value, dict):
        found = f"a list of {len(node.value)}" if isinstance(node.value, tuple) else repr(node.text[:60])
        raise KitError(
            f"the top level is {found}, not a mapping",
            where=str(node.mark),
            expected="'key: value' lines: 'protocol: ...', 'name: ...', 'method: ...', 'stages: ...'",
            fix="start from the example in docs/pipeline_file.md",
        )
    return node


def parse(text: str, file: str) -> Node:
    """Parse one YAML document; `file` is its name in messages.

    Raises:
        KitError: Not YAML, more than one document, or one of the refusals in the module's docstring.
    """
    return _Composer(text.removeprefix("\ufeff"), file).document()


def number_or_text(text: str) -> int | float | str:
    """The finite number (of at most 18 characters if whole) that the text is in YAML 1.2, or the text."""
    if _INT.match(text) and len(text) <= 18:
        return int(text.replace("_", ""))
    if _FLOAT.match(text) and not _INT.match(text):
        number = float(text)
        return number if math.isfinite(number) else text
    return text


class _Composer:
    """Builds nodes from parser events, with limits on depth, size and aliases."""

    def __init__(self, text: str, file: str) -> None:
        self._text = text
        self._file = file
        self._events = yaml.parse(text, Loader=yaml.SafeLoader)
        self._anchors: dict[str, Node] = {}
        self._aliases = 0
        self._nodes = 0
        self._last = Mark(file, 1, 1)

    def document(self) -> Node:
        self._next()
        event = self._next()
        if isinstance(event, yaml.StreamEndEvent):
            raise self._refusal(
                Mark(self._file, 1, 1),
                "the file is empty",
                "at least 'protocol', 'name', 'method' and 'stages'",
                "start from the example in docs/pipeline_file.md",
            )
        node = self._node(self._next(), 0)
        self._next()
        after = self._next()
        if not isinstance(after, yaml.StreamEndEvent):
            raise self._refusal(
                self._mark(after.start_mark),
                "a second document begins",
                "one document a file",
                "remove the '---' line",
            )
        return node

    def _next(self) -> Any:
        try:
            event = next(self._events)
        except yaml.MarkedYAMLError as error:
            raise self._syntax(error) from None
        except yaml.reader.ReaderError as error:
            before = self._text[: error.position]
            mark = Mark(self._file, before.count("\n") + 1, len(before) - before.rfind("\n"))
            code = error.character if isinstance(error.character, int) else ord(error.character[:1] or "\0")
            raise self._refusal(
                mark, f"the character U+{code:04X} cannot stand in YAML", "printable text", "delete it"
            ) from None
        except (ValueError, OverflowError) as error:
            # PyYAML lets these out for impossible escapes such as "\UFFFFFFFF".
            raise self._refusal(
                self._last, f"not YAML near here: {error}", "valid YAML", "check the escapes in quoted text"
            ) from None
        self._last = self._mark(event.start_mark)
        return event

    def _node(self, event: Any, depth: int) -> Node:
        mark = self._mark(event.start_mark)
        if depth > MAX_DEPTH:
            raise self._refusal(
                mark, "nested too deeply", f"at most {MAX_DEPTH} levels", "look for a stray '[' or '{'"
            )
        if isinstance(event, yaml.AliasEvent):
            return self._alias(event, mark)
        self._count(1, mark)
        is_text = isinstance(event, yaml.ScalarEvent) and event.tag == "tag:yaml.org,2002:str"
        if event.tag is not None and not is_text:
            raise self._refusal(
                mark,
                f"the tag {event.tag[:60]!r} is not used here",
                "plain YAML without '!' tags",
                "remove the tag",
            )
        if isinstance(event, yaml.ScalarEvent):
            node = self._scalar(event, mark)
        elif isinstance(event, yaml.SequenceStartEvent):
            node = self._sequence(mark, depth)
        else:
            node = self._mapping(mark, depth)
        if event.anchor is not None:
            self._anchors[event.anchor] = node
        return node

    def _alias(self, event: Any, mark: Mark) -> Node:
        node = self._anchors.get(event.anchor)
        if node is None:
            raise self._refusal(
                mark,
                f"the alias '*{event.anchor}' stands for nothing.{guess(event.anchor, self._anchors, '*{}')}",
                f"an anchor '&{event.anchor}' that ends before this line",
                "define the anchor first, or quote the text if a literal '*' is meant",
            )
        self._aliases += 1
        self._count(node.size, mark)
        if self._aliases > MAX_ALIASES:
            raise self._refusal(
                mark, "too many aliases", f"at most {MAX_ALIASES}", "use 'vars' instead of aliases"
            )
        return replace(node, mark=mark, raw="")

    def _sequence(self, mark: Mark, depth: int) -> Node:
        items: list[Node] = []
        while not isinstance(event := self._next(), yaml.SequenceEndEvent):
            items.append(self._node(event, depth + 1))
        return Node(tuple(items), mark, size=1 + sum(item.size for item in items))

    def _mapping(self, mark: Mark, depth: int) -> Node:
        own: dict[str, Node] = {}
        merged: dict[str, Node] = {}
        while not isinstance(event := self._next(), yaml.MappingEndEvent):
            key_mark = self._mark(event.start_mark)
            key = self._node(event, depth + 1)
            if isinstance(key.value, tuple | dict) or key.value is None:
                raise self._refusal(
                    key_mark,
                    "this key is no text",
                    "a name before the ':'",
                    "check for a stray '?', '[' or '{'",
                )
            value = self._node(self._next(), depth + 1)
            if key.text == "<<" and getattr(event, "style", None) is None:
                for source in value.value if isinstance(value.value, tuple) else (value,):
                    if not isinstance(source.value, dict):
                        raise self._refusal(
                            value.mark,
                            "'<<' merges mappings only",
                            "'<<: *anchor' of a mapping",
                            "remove the '<<'",
                        )
                    merged = {**source.value, **merged}
                continue
            if key.text in own:
                first = own[key.text].key_mark or mark
                raise self._refusal(
                    key_mark,
                    f"the key {key.text[:60]!r} stands here a second time (first at line {first.line})",
                    "every key once",
                    "remove or rename one of the two",
                )
            own[key.text] = replace(value, key_mark=key_mark)
        merged.update(own)
        return Node(merged, mark, size=1 + sum(1 + child.size for child in merged.values()))

    def _scalar(self, event: Any, mark: Mark) -> Node:
        text: str = event.value
        bad = next((char for char in text if char == "\0" or "\ud800" <= char <= "\udfff"), None)
        if bad is not None:
            raise self._refusal(
                mark,
                f"the text holds U+{ord(bad):04X}",
                "text without NUL and lone surrogates",
                "remove the escape",
            )
        value: object = text
        if event.style is None and event.tag is None:
            value = self._resolve(text, mark)
        raw = self._text[event.start_mark.index : event.end_mark.index]
        return Node(value, mark, text=text, raw=raw)

    def _resolve(self, text: str, mark: Mark) -> object:
        if text in _NULLS:
            return None
        if text in _BOOLS:
            return _BOOLS[text]
        value = number_or_text(text)
        if isinstance(value, str) and _INT.match(text):
            raise self._refusal(
                mark,
                f"the number {text[:30]} is too large",
                "at most 18 characters",
                "quote it if it is a name",
            )
        if isinstance(value, str) and (_NOT_FINITE.match(text) or _FLOAT.match(text)):
            raise self._refusal(
                mark,
                f"{text[:30]} is not a finite number",
                "a finite number",
                "leave the field out if it is unknown",
            )
        if _DATE.match(text):
            raise self._refusal(
                mark, f"{text[:40]} is an unquoted date", "text or a number", f'write "{text[:40]}" in quotes'
            )
        return value

    def _count(self, nodes: int, mark: Mark) -> None:
        self._nodes += nodes
        if self._nodes > MAX_NODES:
            raise self._refusal(
                mark,
                "the file grows too large when its aliases are filled in",
                f"at most {MAX_NODES} values",
                "use 'vars' or 'matrix' instead of nested aliases",
            )

    def _mark(self, mark: Any) -> Mark:
        return Mark(self._file, mark.line + 1, mark.column + 1)

    def _refusal(self, mark: Mark, message: str, expected: str, fix: str) -> KitError:
        return KitError(message, where=str(mark), expected=expected, fix=fix)

    def _syntax(self, error: yaml.MarkedYAMLError) -> KitError:
        place = error.problem_mark or error.context_mark
        mark = self._mark(place) if place else self._last
        lines = self._text.splitlines()
        line = lines[mark.line - 1] if mark.line <= len(lines) else ""
        problem = error.problem or "not YAML"
        if "'\\t'" in problem or "\t" in line[: len(line) - len(line.lstrip())]:
            expected, fix = "spaces; YAML does not allow tabs in indentation", "replace the tab by spaces"
        elif "${" in line and ("[" in line or "{" in line.replace("${", "")):
            expected = 'quotes around text with ${...} inside [ ] or { }, as in ["${run_dir}/out"]'
            fix = "quote it, or write the list with one '- item' a line"
        elif "mapping values are not allowed" in problem:
            expected = "one 'key: value' a line"
            fix = "quote a value that contains ': ', or check the indentation above"
        elif "cannot start any token" in problem:
            expected, fix = "a value that begins with a letter, a digit or a quote", "quote the value"
        elif "block end" in problem or "block mapping" in problem:
            expected, fix = "the same indentation for neighbours", "line this up with the lines above"
        else:
            expected, fix = "valid YAML", "check quotes, brackets, the ':' after the key and the indentation"
        begun = error.context_mark
        since = f" ({error.context}, line {begun.line + 1})" if error.context and begun else ""
        found = f" in {line.strip()[:60]!r}" if line.strip() else ""
        return self._refusal(mark, f"not YAML: {problem}{found}{since}", expected, fix)
