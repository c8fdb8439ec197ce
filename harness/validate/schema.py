"""Level 1: columns, types, nulls, words, keys and digests are those of the protocol."""

from __future__ import annotations

from collections.abc import Iterator

from harness.bundle.commit import MANIFEST
from harness.validate.context import Context
from harness.validate.findings import Hit
from harness.validate.registry import rule
from harness.validate.scan import ColumnFacts, FileFacts


@rule("E101")
def protocol_known(ctx: Context) -> Iterator[Hit]:
    """The major version is one this kit speaks."""
    if not ctx.problem and ctx.verdict == "refuse":
        version = ctx.manifest.get("protocol_version")
        yield Hit(MANIFEST, f"protocol_version {version!r}", f"{ctx.protocol.major}.x.y")


@rule("W102")
def protocol_minor(ctx: Context) -> Iterator[Hit]:
    """The minor version is not newer than this kit's."""
    if ctx.verdict == "warn":
        yield Hit(MANIFEST, f"protocol {ctx.manifest['protocol_version']}", f"at most {ctx.protocol.version}")


@rule("E103")
def manifest_fields(ctx: Context) -> Iterator[Hit]:
    """The manifest is as manifest.yaml defines it; a newer minor version may have more keys and words."""
    if not ctx.problem:
        for problem in ctx.manifest_problems:
            if ctx.verdict == "warn" and problem.expected.startswith(("no such key", "one of ")):
                continue
            where = problem.path or "the whole file"
            yield Hit(MANIFEST, f"{where}: {problem.observed}", problem.expected)


def _readable(ctx: Context) -> Iterator[FileFacts]:
    return (facts for facts in ctx.files if not facts.missing and not facts.damaged)


def _columns(ctx: Context) -> Iterator[tuple[FileFacts, ColumnFacts]]:
    for facts in ctx.files:
        for column in facts.columns.values():
            yield facts, column


@rule("E104")
def footers(ctx: Context) -> Iterator[Hit]:
    """Footer keys are there and agree with the manifest."""
    for facts in _readable(ctx):
        expected = {
            "protocol_version": ctx.manifest.get("protocol_version"),
            "schema_id": facts.table.schema_id,
            "run_id": ctx.manifest.get("run_id"),
            "logical_sha256": ctx.entries[facts.path].get("logical_sha256"),
        }
        for key in ctx.written.container.footer_keys:
            found = facts.footer.get(key)
            if found is None:
                yield Hit(facts.path, f"no footer key {key}", f"{ctx.written.container.footer_prefix}.{key}")
            elif key == "schema_id" and facts.newer:
                if found.split(".")[0] != facts.table.schema_id.split(".")[0]:
                    yield Hit(facts.path, f"footer {key} = {found[:40]}", facts.table.schema_id)
            elif key in expected and found != expected[key]:
                yield Hit(facts.path, f"footer {key} = {found[:40]}", str(expected[key])[:40])


@rule("E105")
def columns_there(ctx: Context) -> Iterator[Hit]:
    """Every column of the table exists."""
    for facts in _readable(ctx):
        for name in facts.absent:
            yield Hit(facts.path, f"no column {name}", f"{name}: {facts.table.column(name).type}")


@rule("E106")
def column_types(ctx: Context) -> Iterator[Hit]:
    """Every column has its type."""
    for facts, column in _columns(ctx):
        if column.found_type != column.wanted_type:
            yield Hit(facts.path, f"{column.name} is {column.found_type}", column.wanted_type)


@rule("W107")
def no_other_columns(ctx: Context) -> Iterator[Hit]:
    """Columns beyond the protocol's begin with x-; those of a newer minor version are named by W102."""
    for facts in _readable(ctx):
        for name in () if facts.newer else facts.unknown:
            if not name.startswith(ctx.written.extension_prefix):
                yield Hit(facts.path, f"column {name[:60]}", f"columns of {facts.table.schema_id} or x-...")


@rule("E108")
def no_nulls(ctx: Context) -> Iterator[Hit]:
    """Columns that may not be null are not."""
    for facts, column in _columns(ctx):
        if column.nulls:
            observed = f"{column.name} is null in {column.nulls} rows"
            yield Hit(facts.path, observed, "a value", tuple(column.null_rows), count=column.nulls)


@rule("E109")
def words_known(ctx: Context) -> Iterator[Hit]:
    """Words of a listed vocabulary are in it, unless a newer minor version may have listed more."""
    for facts, column in _columns(ctx):
        if facts.newer:
            continue
        for word, (count, rows) in column.bad_words.items():
            allowed = facts.table.column(column.name).enum or ()
            observed = f"{column.name} = {word[:60]!r} in {count} rows"
            yield Hit(facts.path, observed, f"one of {', '.join(allowed)}", tuple(rows), count=count)


@rule("E110")
def keys_once(ctx: Context) -> Iterator[Hit]:
    """No key is there twice."""
    for facts in ctx.files:
        if facts.order and facts.order[1] == "duplicate":
            row = facts.order[0]
            keys = ", ".join(facts.table.key)
            same = f"rows {row - 1} and {row} have the same {keys}"
            yield Hit(facts.path, same, "one row for each key", (row,))


@rule("E111")
def rows_sorted(ctx: Context) -> Iterator[Hit]:
    """Rows are in key order."""
    for facts in ctx.files:
        if facts.order and facts.order[1] == "unsorted":
            row = facts.order[0]
            yield Hit(
                facts.path, f"row {row} belongs before row {row - 1}", ", ".join(facts.table.key), (row,)
            )


@rule("E112")
def content_as_listed(ctx: Context) -> Iterator[Hit]:
    """The logical digest is the listed one."""
    for facts in _readable(ctx):
        found, listed = facts.logical_sha256, ctx.entries[facts.path].get("logical_sha256")
        if found is not None and found != listed:
            yield Hit(facts.path, f"digest {found[:16]}...", f"{str(listed)[:16]}...")


@rule("E113")
def values_finite(ctx: Context) -> Iterator[Hit]:
    """Floats are finite and lists hold no nulls."""
    for facts, column in _columns(ctx):
        if column.error:
            yield Hit(facts.path, column.error, "finite numbers, null for unknown")
