"""Several bundles side by side: readings that two of them share, and joules that one says another paid."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise, permutations
from typing import Any

from harness.accounting.counter import GPU_MAX_W
from harness.validate.comparability import HELD_OUT
from harness.validate.context import Context, device_spans
from harness.validate.findings import Finding, Hit, Report
from harness.validate.likeness import pairs
from harness.validate.registry import Rule, finding, load_rules

COPIED = "E324"
UNPAID = "E229"
SHARED = "E325"
LOWERED = "E251"
ASKED = "E252"
ELSEWHERE = (COPIED, SHARED, UNPAID, LOWERED, ASKED)
"""Rules that only a neighbour's bundle can break."""


Row = dict[str, Any]
Charge = tuple[int, int, Hit]
"""Number of the bundle that breaks the rule, number of the one that shows it, and what was found."""


@dataclass(frozen=True)
class Known:
    """What a bundle's neighbours must know of it: plain values, so that JSON can keep them.

    Attributes:
        run_id: Of the manifest.
        manifest_sha256: Of the manifest's bytes: one bundle named twice is one bundle.
        spans: What it bills on each GPU, rows without a parent: row, its name, clock, device, session, start
            and end in us, stored joules.
        readings: Counter at boundaries: device, session, time in us, millijoules.
        artifacts: Edges, of which those without an origin and those of other runs are looked at.
        made: Artifact -> kind of the stage that made it, its joules, and the least they can have been.
        charged: Kinds of stages whose output is inherited with its energy: a teacher's, and a student's.
        evals: Rows of scores, without losses on held-out text.
    """

    run_id: str
    manifest_sha256: str
    spans: Sequence[Sequence[Any]]
    readings: Sequence[Sequence[Any]]
    artifacts: Sequence[Row]
    made: Mapping[str, Sequence[Any]]
    charged: Sequence[str]
    evals: Sequence[Row]


_EDGE = ("artifact_id", "name", "role", "origin_run_id", "origin_energy_j")
_SCORE = ("suite", "subject", "benchmark", "metric", "filter", "judge_id", "items_sha256", "model_sha256")


def known(ctx: Context) -> Known | None:
    """What the neighbours of a bundle must know; None where nothing was recomputed."""
    if ctx.recomputed is None:
        return None
    charged = (*ctx.protocol.kinds("teacher"), *ctx.protocol.kinds("student"))
    return Known(
        str(ctx.manifest.get("run_id")),
        hashlib.sha256(ctx.manifest_bytes).hexdigest(),
        list(_spans(ctx)),
        [
            (row["device_id"], row["session"], row["mono_us"], row["value"])
            for row in ctx.boundary_rows
            if row["device_id"] is not None and row["value"] is not None
        ],
        [{name: _finite(row[name]) for name in _EDGE} for row in ctx.artifacts],
        _made(ctx),
        charged,
        [
            {**{name: row[name] for name in _SCORE}, "score": _finite(row["score"]), "row": number}
            for number, row in enumerate(ctx.evals)
            if row["suite"] != HELD_OUT
        ],
    )


def compare(reports: Sequence[Report], contexts: Sequence[Context], levels: Sequence[int]) -> list[Report]:
    """Add to each report what only its neighbours show.

    Args:
        reports: one a bundle.
        contexts: what validation saw of each, in the same order.
        levels: those asked for; each of the rules here is of one of them.

    Returns:
        The reports, in the same order.
    """
    hits: list[list[tuple[str, Hit]]] = [[] for _ in reports]
    for number, hit in _copies(contexts):
        hits[number].append((COPIED, hit))
    places = [n for n, ctx in enumerate(contexts) if ctx.recomputed is not None]
    bundles = [bundle for ctx in contexts if (bundle := known(ctx)) is not None]
    for rule_id, (number, _, hit) in charges(bundles):
        hits[places[number]].append((rule_id, hit))
    rules = load_rules()
    done = []
    for report, own in zip(reports, hits, strict=True):
        found = list(report.findings)
        for rule_id in ELSEWHERE:
            if rules[rule_id].level in levels:
                found += by_file(rules[rule_id], [hit for name, hit in own if name == rule_id])
        done.append(replace(report, findings=tuple(found)))
    return done


def charges(bundles: Sequence[Known]) -> Iterator[tuple[str, Charge]]:
    """Rules that bundles break side by side, copies apart (E324 wants the readings themselves)."""
    looks = {SHARED: _shared_devices, UNPAID: _origins, LOWERED: _teachers, ASKED: _questions}
    for rule_id, look in looks.items():
        for charge in look(bundles):
            yield rule_id, charge


def by_file(rule: Rule, hits: Sequence[Hit]) -> list[Finding]:
    """One finding a file."""
    files = dict.fromkeys(hit.file for hit in hits)
    return [finding(rule, file, [hit for hit in hits if hit.file == file]) for file in files]


def _pairs(groups: Iterable[Sequence[int]]) -> list[tuple[int, int]]:
    """Both orders of all pairs inside groups, each once."""
    return sorted({pair for group in groups for pair in permutations(dict.fromkeys(group), 2)})


def _grouped(keys: Iterable[tuple[Hashable, int]]) -> list[list[int]]:
    """Numbers by what they share, where more than one does."""
    found: dict[Hashable, list[int]] = {}
    for key, number in keys:
        found.setdefault(key, []).append(number)
    return [group for group in found.values() if len(group) > 1]


def _copies(contexts: Sequence[Context]) -> Iterator[tuple[int, Hit]]:
    """Series that are also in another bundle; signals said to be made up claim nothing.

    One bundle named twice, byte for byte, is one bundle.
    """
    series = [(n, facts) for n, ctx in enumerate(contexts) if ctx.recomputed for facts in ctx.facts.seen]
    exact = _grouped((f.signal.digest, i) for i, (_, f) in enumerate(series) if f.signal and f.signal.digest)
    same = {(min(a, b), max(a, b)) for group in exact for a, b in pairwise(group)}
    for a, b in sorted(same | set(pairs([facts.traces for _, facts in series]))):
        for one, other in ((series[a], series[b]), (series[b], series[a])):
            ctx, theirs = contexts[one[0]], contexts[other[0]]
            if one[0] == other[0] or ctx.manifest_bytes == theirs.manifest_bytes:
                continue
            if "simulated" in ctx.manifest["labels"]:
                continue
            what = "all the readings" if (a, b) in same else "a block of readings"
            observed = f"device {one[1].key.device_id}, session {one[1].key.session} has {what} of run"
            observed += f" {theirs.manifest.get('run_id')}, device {other[1].key.device_id}"
            yield one[0], Hit("power.parquet", observed, "readings of its own")


def _shared_devices(bundles: Sequence[Known]) -> Iterator[Charge]:
    """Stages on a GPU whose time another bundle bills too: one clock, one device, one counter."""
    groups = _grouped(((span[2], span[3]), n) for n, own in enumerate(bundles) for span in own.spans)
    for a, b in _pairs(groups):
        if bundles[a].manifest_sha256 != bundles[b].manifest_sha256:
            for hit in _billed_twice(bundles[b], bundles[a]):
                yield a, b, hit


def _billed_twice(other: Known, own: Known) -> Iterator[Hit]:
    for number, name, clock, device, session, start, end, energy in own.spans:
        shared = 0
        for _, _, their_clock, their_device, their_session, begin, stop, _ in other.spans:
            both = min(end, stop) - max(start, begin)
            if (clock, device) != (their_clock, their_device) or both <= 0:
                continue
            if _one_counter(_values(own, device, session), _values(other, device, their_session)):
                shared += both
        if shared:
            observed = f"{name}, device {device}: run {other.run_id} bills it too, for {shared / 1e6:.3f} s"
            joules = None if energy is None else energy * shared / max(1, end - start)
            yield Hit("stages.parquet", observed, "one meter a GPU", (number,), joules)


def _spans(ctx: Context) -> Iterator[tuple[Any, ...]]:
    for number, row in enumerate(ctx.stages):
        if row["parent_uid"] is None and row["gpu_energy_method"] != "imported":
            for device, start, end in device_spans(row):
                energy = _finite(row["gpu_energy_j"])
                where = row["clock_id"], device, row["session"]
                yield number, ctx.named(row), *where, start, end, energy


def _values(own: Known, device: int, session: int) -> list[tuple[int, int]]:
    """Time and value of a device's counter at boundaries."""
    return sorted((time, value) for d, s, time, value in own.readings if (d, s) == (device, session))


def _one_counter(a: Sequence[tuple[int, int]], b: Sequence[tuple[int, int]]) -> bool:
    """Whether two lists of readings can be of one counter; two cards may have one number in two containers.

    Between two readings of one list the other's lie between their values, a refresh of 5 kW apart.
    """
    slack = int(GPU_MAX_W * 100)
    for own, other in ((a, b), (b, a)):
        for (t0, v0), (t1, v1) in pairwise(own):
            if any(t0 <= t <= t1 and not v0 - slack <= v <= v1 + slack for t, v in other):
                return False
    return True


def _origins(bundles: Sequence[Known]) -> Iterator[Charge]:
    """Inherited artifacts whose maker stands beside: named, and charged no less than its stage alone took."""
    runs: dict[str, list[int]] = {}
    makers: dict[str, list[_Maker]] = {}
    for n, bundle in enumerate(bundles):
        runs.setdefault(bundle.run_id, []).append(n)
        for artifact, (kind, best, low) in bundle.made.items():
            makers.setdefault(artifact, []).append(_Maker(n, bundle.run_id, kind, best, low))
    for n, bundle in enumerate(bundles):
        own = {row["artifact_id"] for row in bundle.artifacts if row["role"] == "produced"}
        for number, row in enumerate(bundle.artifacts):
            if row["role"] != "consumed" or row["artifact_id"] in own:
                continue
            others = [m for m in makers.get(row["artifact_id"], ()) if m.bundle != n]
            named = [m for m in others if m.run_id == row["origin_run_id"]]
            stated, name = row["origin_energy_j"], row["name"]

            def hit(observed: str, expected: str, joules: float | None = None, number: int = number) -> Hit:
                return Hit("artifacts.parquet", observed, expected, (number,), joules)

            if row["origin_run_id"] is None:
                paid = [m for m in others if m.kind in bundle.charged]
                if paid:
                    least = min(paid, key=lambda m: m.best)
                    expected = f"run {least.run_id}, whose {least.kind} took {least.best:.6g} J"
                    yield n, least.bundle, hit(f"{name}: nobody paid for it", expected, least.best)
                continue
            there = [other for other in runs.get(row["origin_run_id"], ()) if other != n]
            if not named and there:
                observed = f"{name}: run {row['origin_run_id']} did not make it"
                yield n, there[0], hit(observed, "an artifact that run produced")
                continue
            # Of a run that is not here nothing is known: its claim is held to the cheapest maker that is.
            bounds = [(m.best, m.bundle) for m in named] or [(m.low, m.bundle) for m in others]
            least_j, maker = (max if named else min)(bounds, default=(0.0, n))
            if stated is not None and stated < least_j * (1 - 1e-9):
                expected = f"at least {least_j:.6g} J, which its stage alone took"
                yield n, maker, hit(f"{name}: {stated:.6g} J", expected, least_j - stated)


@dataclass(frozen=True)
class _Maker:
    """Who made an artifact: kind of the stage, its joules, and the least they can have been elsewhere."""

    bundle: int
    run_id: str
    kind: str
    best: float
    low: float


def _made(ctx: Context) -> dict[str, tuple[str, float, float]]:
    rows = {row["stage_uid"]: row for row in ctx.facts.stages}
    gain = 1 - ctx.protocol.tolerances.sensor_rel
    found = {}
    for edge in ctx.artifacts:
        row = rows.get(edge["stage_uid"])
        if edge["role"] == "produced" and row is not None:
            best, low = (
                math.fsum(row[f"{part}_energy_j{end}"] or 0.0 for part in ("gpu", "cpu", "dram"))
                for end in ("", "_low")
            )
            found[edge["artifact_id"]] = (row["stage"], best, low * gain)
    return found


def _finite(value: Any) -> Any:
    """None for a float that JSON has no word for; its own bundle's rules refuse it."""
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _disagreeing(
    rows: Iterable[tuple[int, Row]], by: Sequence[str], what: str
) -> Iterator[tuple[int, Row, int, Row]]:
    """Rows that agree in `by` and not in `what`, each with the first other one it disagrees with."""
    groups: dict[tuple[object, ...], list[tuple[int, Row]]] = {}
    for n, row in rows:
        if row[what] is not None:
            groups.setdefault(tuple(row[name] for name in by), []).append((n, row))
    for group in groups.values():
        first = group[0]
        odd = [item for item in group if item[0] != first[0] and item[1][what] != first[1][what]]
        for item in odd:
            yield *item, *first
        if odd:
            yield *first, *odd[0]


def _teachers(bundles: Sequence[Known]) -> Iterator[Charge]:
    """A teacher has one score on the same items of a suite, whoever divides by it."""
    by = [name for name in _SCORE if name != "subject"]
    scores = ((n, row) for n, bundle in enumerate(bundles) for row in bundle.evals)
    rows = ((n, row) for n, row in scores if row["subject"] == "teacher" and row["items_sha256"])
    for n, row, where, other in _disagreeing(rows, by, "score"):
        observed = f"teacher {row['benchmark']} ({row['metric']}): {row['score']:.6g}"
        expected = f"{other['score']:.6g}, as in run {bundles[where].run_id}"
        yield n, where, Hit("evals.parquet", observed, expected, (row["row"],))


def _questions(bundles: Sequence[Known]) -> Iterator[Charge]:
    """A suite asks the same benchmarks and items everywhere, on the same scale."""
    asked: dict[tuple[int, object, object], set[str]] = {}
    first: dict[object, dict[str, int]] = {}
    for n, bundle in enumerate(bundles):
        for row in bundle.evals:
            asked.setdefault((n, row["suite"], row["subject"]), set()).add(row["benchmark"])
            first.setdefault(row["suite"], {}).setdefault(row["benchmark"], n)
    for (n, suite, subject), names in asked.items():
        lost = sorted(first[suite].keys() - names, key=lambda name: (first[suite][name], name))
        if subject == "student" and lost:
            observed, expected = f"{suite}: nothing of {lost[0]}", "every benchmark that others have of it"
            yield n, first[suite][lost[0]], Hit("evals.parquet", observed, expected)
    rows = ((n, row) for n, bundle in enumerate(bundles) for row in bundle.evals)
    for n, row, where, other in _disagreeing(rows, ("suite", "benchmark"), "items_sha256"):
        observed = f"{row['benchmark']} of {row['suite']}: items {str(row['items_sha256'])[:12]}..."
        expected = f"{str(other['items_sha256'])[:12]}..., as in run {bundles[where].run_id}"
        yield n, where, Hit("evals.parquet", observed, expected, (row["row"],))
