"""Many submissions side by side: copies, links between them, classes, ranks, the frontier."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any

from harness.accounting import Interval, ParetoPoint, pareto_frontier
from harness.accounting.rounding import quantity
from harness.leaderboard.entry import ENTRY
from harness.leaderboard.examined import Examined
from harness.leaderboard.rules import Level, found, submission_rules
from harness.validate.across import UNPAID, by_file, charges
from harness.validate.findings import Hit
from harness.validate.likeness import pairs
from harness.validate.registry import load_rules

Row = dict[str, Any]
NEAREST = 2


def stand(
    entries: Sequence[Examined], *, fresh: Collection[str] = (), before: Mapping[str, Examined] | None = None
) -> list[Row]:
    """Add to each entry what only the others show, and order the rows of each class.

    Args:
        entries: Every submission.
        fresh: Keys of those under check; of two equal ones the other is the original. Empty: all alike.
        before: The submissions as they were accepted, by key; None: nothing is known of them.

    Returns:
        The rows, by key. Each has `rank` and `rank_to` (from the best to the worst that its interval allows),
        `of`, `frontier` ("on", "tie", "dominated") where it is ranked, and `unranked` reasons where not.
    """
    standing = [e for e in entries if e.row is not None and e.row["status"] != "withdrawn"]
    standing.sort(key=lambda e: (e.key in fresh, e.row.get("created_t_us", 0) if e.row else 0, e.key))
    _across(standing, fresh)
    _duplicates(standing)
    rows = {entry.key: entry.row for entry in entries if entry.row is not None}
    _links(entries, rows)
    if before is not None:
        _changes(entries, before)
    levels = {level.name: level for level in submission_rules().levels}
    for entry in entries:
        if entry.row is not None:
            _may_rank(entry, entry.row, levels[entry.row["level"]])
    _replications(rows)
    _order(rows)
    _sharing(rows)
    return [rows[key] for key in sorted(rows)]


def _across(standing: Sequence[Examined], fresh: Collection[str]) -> None:
    """What one submission says against another (E229, E251, E252, E325).

    The later one is charged, but for an artifact that costs too little: its user is, whoever came first. What
    is refused on its own speaks neither for nor against anybody.
    """
    sound = [entry for entry in standing if not entry.errors and entry.known is not None]
    hits: dict[tuple[int, str], list[Hit]] = defaultdict(list)
    for rule_id, (number, other, hit) in charges([entry.known for entry in sound if entry.known]):
        if number > other or rule_id == UNPAID:
            hits[number, rule_id].append(hit)
            if sound[other].key in fresh and sound[number].key not in fresh:
                sound[number].disputed = True
    rules = load_rules()
    for (number, rule_id), own in hits.items():
        sound[number].findings += [
            replace(f, file=f"bundle/{f.file}", hits=()) for f in by_file(rules[rule_id], own)
        ]


def _duplicates(standing: Sequence[Examined]) -> None:
    """E506: one run, table, series or block of readings in two submissions that both stand."""
    owner: dict[str, str] = {}
    copied: dict[str, str] = {}
    for entry in standing:
        assert entry.row is not None
        named = dict(entry.digests)
        if entry.row["origin"] == "kit":
            named[f"run {entry.row['id']}"] = "the run id"
        for digest, what in named.items():
            if owner.setdefault(digest, entry.key) != entry.key:
                copied.setdefault(entry.key, f"{what} is also in {owner[digest]}")
    for a, b in pairs([entry.prints for entry in standing]):
        copied.setdefault(standing[b].key, f"a block of readings is also in {standing[a].key}")
    for entry in standing:
        if entry.key in copied:
            entry.findings.append(
                found("E506", "bundle/power.parquet", copied[entry.key], "a measurement of its own")
            )


def _links(entries: Sequence[Examined], rows: Mapping[str, Row]) -> None:
    """E509, and the way back of every link."""
    for entry in entries:
        row = entry.row
        if row is None:
            continue
        for name in ("replicates", "supersedes"):
            other = row[name]
            if other is None:
                continue
            same_lab = other.split("/")[0] == row["lab"]
            if other not in rows or other == entry.key:
                entry.findings.append(
                    found("E509", ENTRY, f"{name}: {other} is not there", "LAB/ID of an entry")
                )
            elif same_lab == (name == "replicates"):
                whose = "its own laboratory's" if same_lab else "another laboratory's"
                entry.findings.append(
                    found("E509", ENTRY, f"{name}: {other} is {whose}", "see kit explain E509")
                )
            elif name == "supersedes" and not entry.errors:
                rows[other]["superseded_by"] = entry.key


def _changes(entries: Sequence[Examined], before: Mapping[str, Examined]) -> None:
    """E507: what was accepted before stays as it was."""
    there = {entry.key: entry for entry in entries}
    rel = submission_rules().edit_rel
    for key, old in before.items():
        new = there.get(key)
        if new is None or old.row is None or new.digest == old.digest:
            continue
        for name, unit in (("energy", "J"), ("q", "")):
            was, now = old.row[name], None if new.row is None else new.row[name]
            if was is None and now is None:
                continue
            if was is None or now is None or abs(now[0] - was[0]) > rel * abs(was[0]):
                words = [quantity(None if x is None else x[0], unit) for x in (was, now)]
                observed = f"{name}: {words[0]} before, {words[1]} now"
                new.findings.append(found("E507", ENTRY, observed, f"at most {rel:.1%} apart"))


def _may_rank(entry: Examined, row: Row, level: Level) -> None:
    """Reasons that keep a row out of every ranking."""
    reasons = list(row["unranked"])
    errors = sorted({f.id for f in entry.findings if f.severity == "error" and f.counts})
    if errors:
        reasons.append(f"findings {', '.join(errors)}")
    if not level.ranked:
        reasons.append(f"{level.name}: {level.next}")
    if row["status"] != "active":
        reasons.append(f"{row['status']}: {row['reason']}")
    if row.get("superseded_by"):
        reasons.append(f"superseded by {row['superseded_by']}")
    if row["energy"] is None or row["lower_bound"]:
        reasons.append("the energy of a part is unknown")
    if row["q"] is None:
        reasons.append("no Q of one suite with a teacher's scores")
    elif not row.get("q_known", True):
        reasons.append("how well Q is known is not known: a standard error is missing")
    row["unranked"] = list(dict.fromkeys(reasons))
    row["findings"] = [
        {"id": f.id, "severity": f.severity, "text": f.message, "fix": f.fix, "waived": f.waived}
        for f in entry.findings
    ]


def _replications(rows: Mapping[str, Row]) -> None:
    """Level `replicated` where another laboratory's ranked row of the same class overlaps in E and Q."""
    pairs = []
    for row in rows.values():
        other = rows.get(row["replicates"] or "")
        if other is None or other["lab"] == row["lab"]:
            continue
        fits = (
            not row["unranked"]
            and not other["unranked"]
            and row["class"] == other["class"]
            and all(_interval(row[name]).overlaps(_interval(other[name])) for name in ("energy", "q"))
        )
        other.setdefault("replications", []).append({"key": row["key"], "overlaps": fits})
        if fits:
            pairs += [row, other]
    for row in pairs:
        if row["level"] == "re-derived":
            row["level"] = "replicated"


def _order(rows: Mapping[str, Row]) -> None:
    """Rank by energy and place on the frontier inside each class; overlapping intervals give a range."""
    classes: dict[str, list[Row]] = defaultdict(list)
    for row in rows.values():
        if not row["unranked"]:
            classes[row["class"]].append(row)
    for members in classes.values():
        energies = {row["key"]: _interval(row["energy"]) for row in members}
        lows = sorted(e.low for e in energies.values())
        highs = sorted(e.high for e in energies.values())
        points = [ParetoPoint(r["key"], energies[r["key"]], _interval(r["q"])) for r in members]
        standings = {s.name: s for s in pareto_frontier(points)}
        for row in members:
            own, place = energies[row["key"]], standings[row["key"]]
            row["rank"] = 1 + bisect_left(highs, own.low)
            row["rank_to"] = bisect_right(lows, own.high)
            row["of"] = len(members)
            row["frontier"] = (
                "on" if place.on_frontier else "tie" if place.may_be_on_frontier else "dominated"
            )


def _sharing(rows: Mapping[str, Row]) -> None:
    """Who else uses an artifact that this run uses or made: its energy is paid once."""
    users: dict[str, set[str]] = defaultdict(set)
    for key, row in rows.items():
        for digest in row["consumes"]:
            users[digest].add(key)
    for key, row in rows.items():
        digests = [*row["consumes"], *row["produces"]]
        row["shares"] = sorted({other for digest in digests for other in users[digest]} - {key})


def nearest(row: Row, rows: Sequence[Row]) -> list[Row]:
    """Rows of the same class around this one in energy; of any class where it has none."""
    if row["energy"] is None:
        return []
    others = [r for r in rows if r["key"] != row["key"] and r["energy"] is not None]
    alike = [r for r in others if r["class"] == row["class"]] or others
    alike.sort(key=lambda r: (r["energy"][0], r["key"]))
    at = bisect_left([r["energy"][0] for r in alike], row["energy"][0])
    return alike[max(0, at - NEAREST) : at + NEAREST]


def raises(row: Row) -> list[str]:
    """What would raise a row's level, and what keeps it out of a ranking."""
    step = submission_rules().level(row["level"]).next
    return [
        *([f"to raise the level: {step}"] if step else []),
        *(f"not ranked because: {x}" for x in row["unranked"]),
    ]


def _interval(triple: Sequence[float | None]) -> Interval:
    best, low, high = triple
    assert best is not None and low is not None
    return Interval(best, low, float("inf") if high is None else high)
