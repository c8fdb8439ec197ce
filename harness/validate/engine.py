"""Runs the rules level by level: all findings at once, never an exception, whatever lies in the folder."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

from harness.bundle import SeriesKey
from harness.bundle.commit import MANIFEST
from harness.bundle.derive import derive_bundle
from harness.bundle.series import PowerRows
from harness.bundle.versions import read_manifest, refuse_outside, written_by
from harness.errors import KitError
from harness.spec import Protocol, available_versions, load_protocol, short_version
from harness.validate import (  # noqa: F401 (they register their rules)
    authenticity,
    claims,
    comparability,
    container,
    invariants,
    plausibility,
    private,
    rank,
    redundancy,
    schema,
    scores,
    structure,
    tokens,
)
from harness.validate.across import ELSEWHERE as ACROSS
from harness.validate.across import by_file, compare
from harness.validate.comparability import class_digest, class_key, class_text
from harness.validate.context import Context, device_spans
from harness.validate.findings import Comparability, Finding, Hit, Report
from harness.validate.power_facts import WATCHED, Mark, SeriesFacts, Watch, look
from harness.validate.registry import CHECKS, Rule, finding, load_rules
from harness.validate.scan import scan_file
from harness.validate.waivers import WAIVABLE, Waiver, apply_waivers

LEVELS = (0, 1, 2, 3, 4)
ACCOUNTING, PLAUSIBILITY, COMPARABILITY = 2, 3, 4
NOT_EVALUATED = "E299"
UNUSED_WAIVER = "W399"
ELSEWHERE = {NOT_EVALUATED, UNUSED_WAIVER, *ACROSS}
"""Rules that are no function of one bundle."""

_MOST_HITS = 1000
_FEW_ROWS = 50_000
"""Rows below which a second thread costs more than it saves."""


def validate(
    folder: Path | str,
    levels: Sequence[int] = LEVELS,
    *,
    threads: int | None = None,
    protocol: str | None = None,
    waivers: Sequence[Waiver] = (),
) -> Report:
    """Check a bundle. Its files are not touched.

    Args:
        folder: run folder with manifest.json.
        levels: which of the levels 0 (container), 1 (schema), 2 (accounting invariants), 3 (plausibility) and
            4 (comparability class).
        threads: files and devices worked on at once; the number of processors, at most 4, by default.
        protocol: version to judge by, `major.minor`; each bundle's own by default.
        waivers: level 3 findings that somebody has explained.

    Returns:
        Findings of every rule, grouped by rule and file. Corrupt input is a finding, never an exception.

    Raises:
        KitError: `protocol` is a version this installation does not have.
    """
    return validate_many([folder], levels, threads=threads, protocol=protocol, waivers=waivers)[0]


def validate_many(
    folders: Sequence[Path | str],
    levels: Sequence[int] = LEVELS,
    *,
    threads: int | None = None,
    protocol: str | None = None,
    waivers: Sequence[Waiver] = (),
) -> list[Report]:
    """Check several bundles, and each against the others: copied readings, joules another run paid.

    Takes and returns what `validate` does, one report a folder in the same order. A waiver is unused only if
    no bundle has its finding.
    """
    seen = [look_into(Path(folder), levels, threads, protocol) for folder in folders]
    contexts = [ctx for _, ctx in seen]
    reports = [report for report, _ in seen]
    if len(seen) > 1:
        reports = compare(reports, contexts, levels)
    rules = load_rules(protocol)
    done = [apply_waivers(report.findings, waivers, rules) for report in reports]
    reports = [replace(r, findings=tuple(found)) for r, (found, _) in zip(reports, done, strict=True)]
    if PLAUSIBILITY in levels and reports:
        unused = [_unused(rules, w) for w in waivers if all(w in others for _, others in done)]
        reports[0] = replace(reports[0], findings=(*reports[0].findings, *unused))
    return [_weighed(report, ctx) for report, ctx in zip(reports, contexts, strict=True)]


def validate_and_keep(
    folder: Path | str, digests: Mapping[str, str], *, threads: int | None = None
) -> tuple[Report, Context]:
    """Check one bundle at all levels, and hand out what was read and computed for it.

    Args:
        folder: As of `validate`.
        digests: sha256 of the bytes of its files, by path, where they were just hashed.
        threads: As of `validate`.
    """
    report, ctx = look_into(Path(folder), LEVELS, threads, None, digests)
    return _weighed(report, ctx), ctx


def _judge(manifest: Mapping[str, Any], protocol: str | None) -> Protocol:
    """The protocol a bundle is judged by: the one asked for, else its own, else the current one."""
    own = manifest.get("protocol_version")
    if protocol is None and isinstance(own, str) and short_version(own) in available_versions():
        return load_protocol(own)
    return load_protocol(protocol)


def look_into(
    folder: Path,
    levels: Sequence[int] = LEVELS,
    threads: int | None = None,
    protocol: str | None = None,
    digests: Mapping[str, str] | None = None,
) -> tuple[Report, Context]:
    """Findings and labels of one bundle, as they come."""
    threads = threads or min(4, os.cpu_count() or 2)
    ctx = _open(folder, protocol)
    rules = load_rules(ctx.protocol.version)
    unknown_version = list(CHECKS["E101"](ctx)) if not ctx.problem else []
    if ctx.problem or unknown_version:
        stop = ["E001", "E101"]
        unread = dict.fromkeys(levels, "not checked: the bundle cannot be read")
        return Report(tuple(_run(ctx, [rules[i] for i in stop])), unread, _run_id(ctx)), ctx
    ctx.version, notes = written_by(ctx.manifest, ctx.protocol, folder / MANIFEST)
    ctx.notes += notes
    _scan(ctx, threads, digests or {})
    findings: list[Finding] = []
    outcome: dict[int, str] = {}
    reason: str | None = None
    for level in sorted(levels):
        if level >= ACCOUNTING and ctx.recomputed is None and reason is None:
            reason = _blocked(ctx) or _recompute(ctx, threads)
        if level >= ACCOUNTING and reason is not None:
            outcome[level] = f"not checked: {reason}"
            if not any(f.severity == "error" for f in findings):
                # Nothing else says so yet, and a bundle whose accounting was not checked must not pass.
                hit = Hit(MANIFEST, f"level {level}: {reason}", "rows that can be accounted for")
                findings.append(finding(rules[NOT_EVALUATED], MANIFEST, [hit]))
            continue
        asked = [r for r in rules.values() if r.level == level and r.id not in ELSEWHERE]
        ctx.notes += [
            f"rule {r.id} ({r.name}) was not checked: this kit has no function for it"
            for r in asked
            if r.id not in CHECKS
        ]
        found = _run(ctx, [r for r in asked if r.id in CHECKS])
        outcome[level] = "passed"
        findings += found
    rows = sum(facts.rows for facts in ctx.files)
    return Report(tuple(findings), outcome, _run_id(ctx), rows, tuple(dict.fromkeys(ctx.notes))), ctx


def _weighed(report: Report, ctx: Context) -> Report:
    """Findings in their order, each level failed or passed by those that count, and the labels apart."""
    labels = tuple(f for f in report.findings if f.severity == "label")
    findings = [f for f in report.findings if f.severity != "label"]
    findings.sort(key=lambda f: (not f.counts, f.severity != "error", f.id, f.file))
    failed = {f.level for f in findings if f.severity == "error" and f.counts}
    levels = {
        level: word if word.startswith("not checked") else "failed" if level in failed else "passed"
        for level, word in report.levels.items()
    }
    report = replace(report, findings=tuple(findings), levels=levels)
    if levels.get(COMPARABILITY) != "passed":
        return report
    key = class_key(ctx)
    rules = load_rules(ctx.protocol.version)
    # A waiver is for reading: what it explains was found in the figures that a ranking compares.
    errors = [f for f in findings if f.severity == "error"]
    reasons = [f"{f.id} {f.name}{'' if f.counts else ', waived'}: {f.observed}" for f in errors]
    reasons += [f"{x.id} {x.name}: {x.observed}" for x in labels if rules[x.id].unrankable]
    return replace(
        report,
        comparability=Comparability(key, class_text(key), class_digest(key), tuple(reasons), labels),
    )


def _unused(rules: Mapping[str, Rule], waiver: Waiver) -> Finding:
    what = waiver.rule if waiver.stage is None else f"{waiver.rule} for stage {waiver.stage}"
    return finding(
        rules[UNUSED_WAIVER], MANIFEST, [Hit(MANIFEST, f"a waiver of {what}", "a finding to waive")]
    )


def _run_id(ctx: Context) -> str | None:
    run_id = ctx.manifest.get("run_id")
    return run_id if isinstance(run_id, str) else None


def _open(folder: Path, protocol: str | None) -> Context:
    """Read the manifest; what is wrong with it becomes `problem`."""
    ctx = Context(folder, load_protocol(protocol))
    try:
        ctx.manifest, ctx.manifest_bytes = read_manifest(folder)
        ctx.protocol = _judge(ctx.manifest, protocol)
    except KitError as error:
        ctx.problem = error.message
    return ctx


def _scan(ctx: Context, threads: int, digests: Mapping[str, str]) -> None:
    """Look at every listed file, the largest first, so that the threads end together."""
    jobs: list[tuple[int, Callable[[], None]]] = []
    for path in ctx.entries:
        if not _inside(ctx.folder, path):
            ctx.links.append(path)
            continue
        table = ctx.written.tables.get(path.split("/")[0].removesuffix(".parquet"))
        if table is None:
            continue
        newer = ctx.verdict == "warn"
        sha256 = digests.get(path)
        facts, work = scan_file(ctx.folder, path, table, ctx.written, newer=newer, sha256=sha256)
        ctx.files.append(facts)
        jobs += [(facts.rows, job) for job in work]
    jobs.sort(key=lambda item: -item[0])
    if threads == 1 or sum(facts.rows for facts in ctx.files) <= _FEW_ROWS:
        for _, job in jobs:
            job()
        return
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(lambda item: item[1](), jobs))


def _inside(folder: Path, path: str) -> bool:
    try:
        refuse_outside(folder, path)
    except KitError:
        return False
    return True


def _blocked(ctx: Context) -> str | None:
    """Why the accounting cannot be checked, if it cannot."""
    for name in ctx.written.tables:
        files = [facts for facts in ctx.files if facts.table.table == name]
        if not files:
            return f"table {name} is missing"
        for facts in files:
            if not facts.usable:
                return f"{facts.path} is not readable as the protocol defines it"
            if facts.order is not None:
                return f"{facts.path} is not in key order"
    problems = {p.path.split(".")[0].split("[")[0] for p in ctx.manifest_problems}
    broken = problems & {"hardware", "sampling", "labels", "method", "boundary", "status", "reference_tokens"}
    return f"manifest field {min(broken)} is not as the protocol defines it" if broken else None


def _recompute(ctx: Context, threads: int) -> str | None:
    try:
        watch = _watch(ctx)

        def seen(rows: PowerRows) -> SeriesFacts:
            return look(rows, watch)

        ctx.recomputed = derive_bundle(
            ctx.bundle, stages=ctx.stages, columns=WATCHED, look=seen, threads=threads
        )
    except KitError as error:
        return error.message
    except Exception as error:
        # Values can be out of all reason in ways no schema names; the reader is told, not shown a traceback.
        return f"the rows cannot be accounted for ({type(error).__name__}: {str(error)[:120]})"
    return None


def _watch(ctx: Context) -> Watch:
    """What to look for in the power series, from the boundaries and the idle stages."""
    marks: dict[SeriesKey, list[Mark]] = defaultdict(list)
    for row in ctx.boundary_rows:
        if row["device_id"] is not None and row["value"] is not None:
            key = SeriesKey(row["node_id"], row["device_id"], row["session"])
            marks[key].append(Mark(row["boundary"], row["mono_us"], row["value"]))
    idle: dict[SeriesKey, list[tuple[int, int]]] = defaultdict(list)
    for row in ctx.stages:
        if row["stage"] in ctx.protocol.kinds("idle"):
            for device, start, end in device_spans(row):
                idle[SeriesKey(row["node_id"], device, row["session"])].append((start, end))
    return Watch(
        step_us=ctx.protocol.tolerances.clock_step_event_us,
        period_us=int(ctx.manifest["sampling"]["nominal_period_us"]),
        marks=marks,
        idle=idle,
        limits_mw=ctx.limits_mw,
    )


def _run(ctx: Context, rules: Sequence[Rule]) -> list[Finding]:
    found: list[Finding] = []
    for entry in rules:
        hits: list[Hit] = []
        failure: Exception | None = None
        try:
            for hit in CHECKS[entry.id](ctx):
                hits.append(hit)
                # What can be waived is looked at hit by hit: one left out would be waived with the rest.
                if len(hits) >= _MOST_HITS and entry.level != WAIVABLE:
                    break
        except Exception as error:
            failure = error
        found += by_file(entry, hits) if hits else []
        if failure is not None:
            text = f"rule {entry.id} ({entry.name}): {type(failure).__name__}: {str(failure)[:120]}"
            missing = finding(load_rules()[NOT_EVALUATED], MANIFEST, [Hit(MANIFEST, text, "an answer")])
            found.append(replace(missing, level=entry.level))
    return found
