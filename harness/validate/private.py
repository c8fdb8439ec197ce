"""Level 1, clause 7: text that names people, machines or secrets, and names that do not show."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

from harness.bundle.commit import MANIFEST
from harness.bundle.privacy import scrub_anywhere
from harness.text import MAX_SHOWN, is_visible
from harness.validate.context import Context
from harness.validate.findings import Hit
from harness.validate.registry import rule

FREE_TEXT = ("detail",)
"""Columns that hold no name but JSON."""
TABLES = ("stages", "events", "artifacts", "evals")


class _Text(NamedTuple):
    file: str
    where: str
    text: str
    named: bool


def _texts(ctx: Context) -> Iterator[_Text]:
    """Every text of the manifest but its file list, and every different one of the small tables."""
    for key, value in ctx.manifest.items():
        if key != "files":
            yield from _inside(value, key, named=key != "pipeline")
    for name in TABLES:
        files = [facts for facts in ctx.files if facts.table.table == name]
        if not files or not all(facts.usable for facts in files):
            continue  # another rule says so
        spec = ctx.protocol.tables[name]
        columns = [c.name for c in spec.columns if c.type == "string" and c.enum is None]
        rows: list[dict[str, Any]] = getattr(ctx, name)
        for column in columns:
            for text in dict.fromkeys(row[column] for row in rows):
                if text is not None:
                    yield _Text(files[0].path, column, text, column not in FREE_TEXT)


def _inside(value: Any, where: str, *, named: bool) -> Iterator[_Text]:
    if isinstance(value, str):
        yield _Text(MANIFEST, where, value, named)
    elif isinstance(value, list):
        for number, item in enumerate(value):
            yield from _inside(item, f"{where}[{number}]", named=named)
    elif isinstance(value, dict):
        for key, item in value.items():
            yield _Text(MANIFEST, where, key, named)
            yield from _inside(item, f"{where}.{key}", named=named)


@rule("E114")
def names_show(ctx: Context) -> Iterator[Hit]:
    """Names hold nothing but characters that show, and not many of them."""
    for found in () if ctx.problem else _texts(ctx):
        if found.named and len(found.text) > MAX_SHOWN:
            observed = f"{found.where[:80]} of {len(found.text)} characters"
            yield Hit(found.file, observed, f"at most {MAX_SHOWN}")
        elif found.named and not is_visible(found.text):
            yield Hit(found.file, f"{found.where[:80]} = {found.text!r}", "characters that show")


@rule("W115")
def nothing_private(ctx: Context) -> Iterator[Hit]:
    """No text holds a path, an address, a job id or a secret that can be told by its form."""
    for found in () if ctx.problem else _texts(ctx):
        clean = scrub_anywhere(found.text)
        if clean != found.text:
            # What was found is not said again: a report may be public where the bundle is not.
            marks = sorted({word for word in _MARKS if clean.count(word) > found.text.count(word)})
            yield Hit(
                found.file, f"{found.where[:80]}: {', '.join(marks) or 'private text'}", "none of these"
            )


_MARKS = ("<secret>", "<path>", "<email>", "<ip>", "<mac>", "<gpu>", "<job>")
