"""Text that came from a file, on its way out: it is shown, never obeyed.

A bundle may be a stranger's. Whatever it names goes through `shown` where text and markup meet, on its way to
a terminal, a document or a program, and arrives as the characters that it is made of.
"""

from __future__ import annotations

import csv
import html
import io
import json
import re
import shutil
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any, Literal

Form = Literal["terminal", "markdown", "csv", "html", "latex", "annotation", "property"]
"""terminal: rich's Text or plain lines (never rich markup). annotation and property: message and value of a
GitHub workflow command."""

MAX_SHOWN = 400
"""Characters of one name or reason that are shown; a schema rule holds names of a bundle below this."""

MAX_LINE = 4000
"""Characters of a sentence that names several things."""

_BELOW: Any = {
    "initial_indent": "    ",
    "subsequent_indent": "    ",
    "break_long_words": False,
    "break_on_hyphens": False,
}

_SPACES = "\u00a0\u202f"
"""Spaces that do no harm: figures have them."""

# Characters that count as printable and show nothing: fillers, variation selectors, blank patterns.
_INVISIBLE = re.compile(
    "[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u2800\u3164\ufe00-\ufe0f\uffa0\U000e0100-\U000e01ef]"
)
_LATEX = str.maketrans(
    {char: f"\\{char}" for char in "&%$#_{}"}
    | {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
    | {"<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}", '"': r"\textquotedbl{}"}
)
_MARKDOWN = re.compile(r"([\\`*_<>\[\]|#~$&!])")
_MARKDOWN_START = re.compile(r"^([-+=:]|\d+(?=[.)]))")
# GitHub turns these into links and mentions after Markdown is done; a comment in between parts them.
_MARKDOWN_LINK = re.compile(r"(?<=www)(?=\.)|(?<=:)(?=//)|(?<=@)", re.I)
_FORMULA = re.compile(r"\s*[=+\-@\uff1d\uff0b\uff0d\uff20]")


def shown(text: object, form: Form = "terminal", *, limit: int | None = MAX_SHOWN) -> str:
    """Text from a file, for one kind of output. One line, whatever it holds.

    Control, bidirectional, zero-width and other invisible characters become escapes such as `\\x1b` and
    `\\u202e`; then comes what the output itself would take for markup, a formula or a command.

    Args:
        text: What to show; anything but text by its `str`.
        form: Where it goes.
        limit: Most characters before it is cut, which then shows; None for no limit.
    """
    clean = _visible(str(text), limit)
    if form == "markdown":
        clean = _MARKDOWN.sub(r"\\\1", " ".join(clean.split()))
        clean = _MARKDOWN_START.sub(lambda m: f"{m[0]}\\" if m[0].isdigit() else f"\\{m[0]}", clean)
        return _MARKDOWN_LINK.sub("<!-- -->", clean)
    if form == "csv":
        return f"'{clean}" if _FORMULA.match(clean) else clean
    if form == "html":
        return html.escape(clean)
    if form == "latex":
        return clean.translate(_LATEX)
    if form == "annotation":
        return clean.replace("%", "%25")
    if form == "property":
        return clean.replace("%", "%25").replace(":", "%3A").replace(",", "%2C")
    return clean


def lines_shown(text: str) -> str:
    """The lines of a message for a terminal, each as `shown`."""
    return "\n".join(shown(line, limit=MAX_LINE) for line in text.split("\n"))


def terminal_width() -> int:
    """Columns of the terminal; a file or a pipe is as wide as need be."""
    return shutil.get_terminal_size((10_000, 50)).columns


def aligned(rows: Sequence[Sequence[str]], width: int) -> list[str]:
    """Lines of a table. Where it is wider than a terminal, what follows a row's first cell goes below it.

    Args:
        rows: cells, the head first.
        width: columns of the terminal.
    """
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    if sum(widths) + 2 * (len(widths) - 1) <= width:
        return ["  ".join(map(str.ljust, row, widths)).rstrip() for row in rows]
    lines = []
    for first, *rest in rows:
        lines.append(first)
        room = ""
        for cell in filter(None, rest):
            if room and len(room) + 2 + len(cell) > width:
                lines.append(room)
                room = ""
            room += f"  {cell}" if room else f"    {cell}"
            if len(room) > width:  # words of a long cell, on lines of their own
                *whole, room = textwrap.wrap(room.strip(), max(width, 20), **_BELOW)
                lines += whole
        lines += [room] if room else []
    return lines


def csv_text(
    rows: Sequence[Mapping[str, Any]], columns: Sequence[str] = (), *, limit: int | None = MAX_SHOWN
) -> str:
    """Rows as CSV: empty is unknown, a list is words, no text is a formula.

    Args:
        rows: Their columns are those of all, after `columns`.
        columns: Names that come first, whether a row has them or not.
        limit: As of `shown`.
    """
    out = io.StringIO()
    columns = list(dict.fromkeys([*columns, *(name for row in rows for name in row)]))
    writer = csv.DictWriter(out, columns, lineterminator="\n", restval="")
    writer.writeheader()
    for row in rows:
        values = {k: " ".join(map(str, v)) if isinstance(v, list) else v for k, v in row.items()}
        writer.writerow(
            {k: shown(v, "csv", limit=limit) if isinstance(v, str) else v for k, v in values.items()}
        )
    return out.getvalue()


def _visible(text: str, limit: int | None) -> str:
    if limit is not None and len(text) > limit:
        return f"{_visible(text[:limit], None)}... ({len(text) - limit} more characters)"
    if is_visible(text):
        return text
    return "".join(c if c in _SPACES or is_visible(c) else _escape(c) for c in text)


def is_visible(text: str) -> bool:
    """Whether every character of a text shows: the rule for names in a bundle."""
    return text.isprintable() and not _INVISIBLE.search(text)


def _escape(char: str) -> str:
    escape = char.encode("unicode_escape", "backslashreplace").decode()
    code = ord(char)
    if escape != char:
        return escape
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def as_name(text: str) -> str:
    """Text as a name that a log may hold (7): every character shows, and there are at most MAX_SHOWN."""
    name = _visible(text[:MAX_SHOWN], None)
    return name if len(text) <= MAX_SHOWN and len(name) <= MAX_SHOWN else f"{name[: MAX_SHOWN - 3]}..."


def json_shown(document: str) -> str:
    """JSON text in which every character shows: invisible ones, in strings only, as `\\uXXXX`."""
    if document.isascii() and "\x7f" not in document:
        return document
    return "".join(c if c in "\n" + _SPACES or is_visible(c) else _json_escape(c) for c in document)


def _json_escape(char: str) -> str:
    return "\\u007f" if char == "\x7f" else json.dumps(char)[1:-1]
