"""Scores that a stage reports: checked against tables `evals` and `eval_items` before they enter the journal.

A stage says `{"eval": {...columns...}}` once for each benchmark, metric and filter, and its items' scores in
one or more `{"eval_items": {subject, benchmark, metric, filter, first, scores: [...], item_sha256: [...],
groups: [...]}}`.
Everything here is a name, a number or a digest: no prompt and no answer has a place.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
    from harness.spec import Column

KEY = ("subject", "benchmark", "metric", "filter")
"""What names a score within a stage."""
SCALES = {"fraction": (0.0, 1.0), "percent": (0.0, 100.0), "rating_1_10": (1.0, 10.0), "nats": (0.0, 1000.0)}
"""Bounds of a score where the stage gives none."""

Key: TypeAlias = tuple[str, str, str, str]

_MEAN_REL = 1e-9
_MAX_TEXT = 200
_ITEMS_A_LINE = 400
_MAX_ITEMS = 2_000_000
_SHA256 = re.compile(r"(?:sha256:)?([0-9a-f]{64})")
_DEFAULTS: dict[str, Any] = {
    "subject": "student",
    "filter": "none",
    "higher_is_better": True,
    "aggregation": "external",
    "harness": "unspecified",
}


@dataclass(frozen=True)
class Items:
    """Scores of consecutive items of one benchmark.

    Attributes:
        key: subject, benchmark, metric, filter.
        first: Number of the first item; None follows on what came before.
        scores: One for each item, None where none could be read.
        item_sha256: One for each item, or empty.
        groups: One for each item, None where it has none; or empty.
    """

    key: Key
    first: int | None
    scores: tuple[float | None, ...]
    item_sha256: tuple[str, ...]
    groups: tuple[str | None, ...] = ()


def eval_row(message: object) -> dict[str, Any]:
    """A row of `evals` but for stage_uid, from what a stage reported.

    Raises:
        ValueError: What is missing, unknown or of the wrong type, in words.
    """
    given = _mapping(message, "eval")
    columns = {name: column for name, column in _columns().items() if name != "stage_uid"}
    unknown = sorted(set(given) - set(columns))
    if unknown:
        raise ValueError(f"eval has no column {unknown[0]!r}")
    row: dict[str, Any] = {**dict.fromkeys(columns), **_DEFAULTS, **given}
    low, high = SCALES.get(str(row["score_unit"]), (None, None))
    for name, bound in (("score_min", low), ("score_max", high)):
        row[name] = bound if row[name] is None else row[name]
    _complete_counts(row)
    row = {name: _value(row[name], column) for name, column in columns.items()}
    if min(row["n_items"], row["n_scored"], row["n_unparsed"]) < 0:
        raise ValueError("eval: a number of items is negative")
    if row["n_scored"] + row["n_unparsed"] != row["n_items"]:
        counts = f"{row['n_scored']} scored + {row['n_unparsed']} unparsed"
        raise ValueError(f"eval {row['benchmark']}: {counts} are not its {row['n_items']} items")
    if not row["n_scored"]:
        raise ValueError(f"eval {row['benchmark']}: no item was scored, so there is no score")
    if not row["score_min"] <= row["score"] <= row["score_max"]:
        bounds = f"{row['score_min']:g} to {row['score_max']:g}"
        raise ValueError(f"eval {row['benchmark']}: score {row['score']:g} is not within {bounds}")
    return row


def items_chunk(message: object) -> Items:
    """Items' scores, from what a stage reported.

    Raises:
        ValueError: What is missing, unknown or of the wrong type, in words.
    """
    given = _mapping(message, "eval_items")
    unknown = sorted(set(given) - {*KEY, "first", "scores", "item_sha256", "groups"})
    if unknown:
        raise ValueError(f"eval_items has no member {unknown[0]!r}")
    columns = _columns()
    named = {name: _value(given.get(name, _DEFAULTS.get(name)), columns[name]) for name in KEY}
    first = given.get("first")
    if first is not None and (isinstance(first, bool) or not isinstance(first, int) or first < 0):
        raise ValueError("eval_items: first must be a whole number >= 0")
    scores, hashes, groups = given.get("scores"), given.get("item_sha256") or [], given.get("groups") or []
    if not all(isinstance(listed, list | tuple) for listed in (scores, hashes, groups)) or not scores:
        raise ValueError(
            "eval_items: scores, item_sha256 and groups must be lists, scores of at least one number"
        )
    for name, listed in (("item_sha256", hashes), ("groups", groups)):
        if listed and len(listed) != len(scores):
            raise ValueError(f"eval_items: {len(scores)} scores and {len(listed)} {name}")
    return Items(
        (named["subject"], named["benchmark"], named["metric"], named["filter"]),
        first,
        tuple(None if score is None else _number(score, "scores") for score in scores),
        tuple(_digest(digest, "item_sha256") for digest in hashes),
        tuple(None if group is None else _name(group, "groups") for group in groups),
    )


def check_together(row: Mapping[str, Any], items: Items | None) -> None:
    """Check a row against all of its items at once.

    Raises:
        ValueError: They contradict each other.
    """
    board = Scoreboard()
    board.add_row(row)
    if items is not None:
        board.add_items(items)
    for problem in board.problems():
        raise ValueError(problem)


def items_digest(item_sha256: Sequence[str]) -> str:
    """`items_sha256`: SHA-256 of the canonical JSON list of the items' digests in order."""
    return hashlib.sha256(json.dumps(list(item_sha256), separators=(",", ":")).encode()).hexdigest()


def item_messages(items: Items) -> Iterator[dict[str, Any]]:
    """Items as members of `{"eval_items": ...}` lines, each well below the length a line may have."""
    named = dict(zip(KEY, items.key, strict=True))
    for start in range(0, len(items.scores), _ITEMS_A_LINE):
        stop = start + _ITEMS_A_LINE
        listed: dict[str, Sequence[Any]] = {
            "scores": items.scores[start:stop],
            "item_sha256": items.item_sha256[start:stop],
            "groups": items.groups[start:stop],
        }
        yield {**named, "first": (items.first or 0) + start, **{k: list(v) for k, v in listed.items()}}


@dataclass
class Scoreboard:
    """What one attempt at a stage has reported; a report that contradicts an earlier one is refused."""

    rows: dict[Key, dict[str, Any]] = field(default_factory=dict)
    items: dict[Key, list[tuple[float | None, str | None]]] = field(default_factory=dict)
    groups: dict[Key, list[str | None]] = field(default_factory=dict)

    def add_row(self, row: Mapping[str, Any]) -> bool:
        """Add a row; False when it was reported before, exactly so.

        Raises:
            ValueError: The same benchmark was reported with other values.
        """
        key = _key(row)
        if key in self.rows:
            if self.rows[key] == row:
                return False
            raise ValueError(f"eval {_named(key)} was reported before with other values; the first stands")
        self.rows[key] = dict(row)
        return True

    def add_items(self, chunk: Items) -> int | None:
        """Add items; the number of the first of them, or None when they were reported before, exactly so.

        Raises:
            ValueError: They overlap others, leave some out or are too many.
        """
        have = self.items.setdefault(chunk.key, [])
        hashes = chunk.item_sha256 or (None,) * len(chunk.scores)
        fresh = list(zip(chunk.scores, hashes, strict=True))
        first = len(have) if chunk.first is None else chunk.first
        if first < len(have) and have[first : first + len(fresh)] == fresh:
            return None
        if first != len(have):
            raise ValueError(
                f"eval_items {_named(chunk.key)} begins at item {first}, {len(have)} are there already"
            )
        if sum(map(len, self.items.values())) + len(fresh) > _MAX_ITEMS:
            raise ValueError(f"eval_items: more than {_MAX_ITEMS} items in one stage")
        have += fresh
        self.groups.setdefault(chunk.key, []).extend(chunk.groups or (None,) * len(fresh))
        return first

    def problems(self) -> list[str]:
        """What rows and items say of each other that cannot be, once all have come."""
        # Here, because most stages score nothing and numpy takes a moment to import.
        from harness.accounting.item_scores import ItemScores, summary

        found = []
        for key, items in self.items.items():
            row = self.rows.get(key)
            if row is None:
                found.append(f"eval_items {_named(key)}: no eval says what they are; they are left out")
                continue
            scored = [score for score, _ in items if score is not None]
            counts = (len(items), len(scored))
            if counts != (row["n_items"], row["n_scored"]):
                stated = f"{row['n_items']} and {row['n_scored']} stated"
                found.append(f"eval {_named(key)}: {counts[0]} items, {counts[1]} scored; {stated}")
            elif row["aggregation"] != "external":
                mean, _ = summary(
                    ItemScores([score for score, _ in items], self.groups[key], row["aggregation"])
                )
                if not math.isclose(mean, row["score"], rel_tol=_MEAN_REL, abs_tol=_MEAN_REL):
                    found.append(
                        f"eval {_named(key)}: the mean of its items is {mean!r}, not {row['score']!r}"
                    )
        for key, row in self.rows.items():
            if row["aggregation"] != "external" and key not in self.items:
                found.append(f"eval {_named(key)}: called a mean, and no items were reported")
        return found


def _complete_counts(row: dict[str, Any]) -> None:
    """Of items, scored and unparsed, what follows from the other two."""
    counts = [row["n_items"], row["n_scored"], row["n_unparsed"]]
    if not all(count is None or isinstance(count, int) for count in counts):
        return
    if row["n_unparsed"] is None and row["n_items"] is not None:
        row["n_unparsed"] = 0 if row["n_scored"] is None else row["n_items"] - row["n_scored"]
    if row["n_scored"] is None and row["n_items"] is not None:
        row["n_scored"] = row["n_items"] - row["n_unparsed"]


@cache
def _columns() -> dict[str, Column]:
    # Here, because most stages score nothing and the protocol's models take a moment to import.
    from harness.spec import load_protocol

    return {column.name: column for column in load_protocol().tables["evals"].columns}


def _mapping(message: object, what: str) -> Mapping[str, Any]:
    if not isinstance(message, Mapping):
        raise ValueError(f"{what} must be an object")
    return message


def _key(row: Mapping[str, Any]) -> Key:
    return row["subject"], row["benchmark"], row["metric"], row["filter"]


def _named(key: Key) -> str:
    subject, benchmark, metric, filtered = key
    return f"{benchmark} ({subject}, {metric}{'' if filtered == 'none' else ', ' + filtered})"


def _value(value: object, column: Column) -> Any:
    if value is None:
        if column.nullable:
            return None
        raise ValueError(f"eval: {column.name} is missing")
    if column.name.endswith("_sha256"):
        return _digest(value, column.name)
    if column.type == "string":
        named = _name(value, column.name)
        if not column.allows(named):
            raise ValueError(f"eval: {column.name} is {named!r}, not one of {', '.join(column.enum or ())}")
        return named
    if column.type == "bool":
        if not isinstance(value, bool):
            raise ValueError(f"eval: {column.name} must be true or false")
        return value
    number = _number(value, column.name)
    if column.type == "float64":
        if column.name == "stderr" and number < 0:
            raise ValueError("eval: stderr must not be negative")
        return number
    if not number.is_integer() or abs(number) >= 2**31:
        raise ValueError(f"eval: {column.name} must be a whole number")
    return int(number)


def _name(value: object, name: str) -> str:
    if not isinstance(value, str) or not 0 < len(value) <= _MAX_TEXT or not value.isprintable():
        raise ValueError(f"eval: {name} must be a name of at most {_MAX_TEXT} characters")
    return value


def _number(value: object, name: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError(f"eval: {name} must be a number")
    return float(value)


def _digest(value: object, name: str) -> str:
    found = _SHA256.fullmatch(value) if isinstance(value, str) else None
    if found is None:
        raise ValueError(f"eval: {name} must be 64 hexadecimal digits")
    return found[1]
