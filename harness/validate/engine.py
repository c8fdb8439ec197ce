"""Runs the rules level by level: all findings at once, never an exception, whatever lies in the folder."""

from __future__ import annotations

import json
import os
from collections import defaultdict
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from harness.bundle.commit import MANIFEST
from harness.errors import KitError
from harness.spec import load_protocol
from harness.validate import container, invariants, schema
from harness.validate.context import Context
from harness.validate.findings import Finding, Hit, Report
from harness.validate.registry import CHECKS, Rule, finding, load_rules
from harness.validate.scan import scan_file
from harness.validate.series import recompute

LEVELS = (0, 1, 2)
MODULES = (container, schema, invariants)
"""Imported for the rules they register."""

NEEDED_FOR_ACCOUNTING = ("stages", "power", "counters", "events", "artifacts")
NOT_EVALUATED = "E299"
_MOST_HITS = 1000


def validate(folder: Path | str, levels: Sequence[int] = LEVELS, *, threads: int | None = None) -> Report:
    """Check a bundle. Its files are not touched.

    Args:
        folder: run folder with manifest.json.
        levels: which of the levels 0 (container), 1 (schema) and 2 (accounting invariants).
        threads: files and devices worked on at once; the number of processors, at most 4, by default.

    Returns:
        Findings of every rule, grouped by rule and file. Corrupt input is a finding, never an exception.
    """
    threads = threads or min(4, os.cpu_count() or 2)
    rules = load_rules()
    ctx = _open(Path(folder))
    unknown_version = list(CHECKS["E101"](ctx)) if not ctx.problem else []
    if ctx.problem or unknown_version:
        stop = ["E001", "E101"]
        unread = dict.fromkeys(levels, "not checked: the bundle cannot be read")
        return Report(tuple(_run(ctx, [rules[i] for i in stop])), unread, _run_id(ctx))
    _scan(ctx, threads)
    findings: list[Finding] = []
    outcome: dict[int, str] = {}
    for level in sorted(levels):
        reason = _blocked(ctx) if level == 2 else None
        if level == 2 and reason is None:
            reason = _recompute(ctx, threads)
        if reason is not None:
            outcome[level] = f"not checked: {reason}"
            if not any(f.severity == "error" for f in findings):
                # Nothing else says so yet, and a bundle whose accounting was not checked must not pass.
                hit = Hit(MANIFEST, f"level 2: {reason}", "rows that can be accounted for")
                findings.append(finding(rules[NOT_EVALUATED], MANIFEST, [hit]))
            continue
        found = _run(ctx, [r for r in rules.values() if r.level == level and r.id in CHECKS])
        failed = any(f.severity == "error" for f in found)
        outcome[level] = "failed" if failed else "passed"
        findings += found
    findings.sort(key=lambda f: (f.severity != "error", f.id, f.file))
    return Report(tuple(findings), outcome, _run_id(ctx), sum(facts.rows for facts in ctx.files))


def _run_id(ctx: Context) -> str | None:
    run_id = ctx.manifest.get("run_id")
    return run_id if isinstance(run_id, str) else None


def _open(folder: Path) -> Context:
    """Read the manifest; what is wrong with it becomes `problem`."""
    ctx = Context(folder, load_protocol())
    if not folder.is_dir():
        ctx.problem = f"{folder} is {'a file' if folder.exists() else 'not there'}"
        return ctx
    try:
        ctx.manifest_bytes = (folder / MANIFEST).read_bytes()
        manifest: Any = json.loads(ctx.manifest_bytes)
    except FileNotFoundError:
        left = (folder / "journal").is_dir()
        ctx.problem = "no manifest.json" + (", only a journal that was not sealed" if left else "")
        return ctx
    except (OSError, ValueError, RecursionError) as error:
        ctx.problem = f"not readable as JSON: {str(error)[:120]}"
        return ctx
    if not isinstance(manifest, dict):
        ctx.problem = "not a JSON object"
    elif not isinstance(manifest.get("files"), list):
        ctx.problem = "no list of files"
    else:
        ctx.manifest = manifest
    return ctx


def _scan(ctx: Context, threads: int) -> None:
    """Look at every listed file, the largest first, so that the threads end together."""
    jobs: list[tuple[int, Callable[[], None]]] = []
    for path in ctx.entries:
        if not _inside(ctx.folder, path):
            ctx.links.append(path)
            continue
        table = ctx.protocol.tables.get(path.split("/")[0].removesuffix(".parquet"))
        if table is None:
            continue
        facts, work = scan_file(ctx.folder, path, table, ctx.protocol)
        ctx.files.append(facts)
        jobs += [(facts.rows, job) for job in work]
    jobs.sort(key=lambda item: -item[0])
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(lambda item: item[1](), jobs))


def _inside(folder: Path, path: str) -> bool:
    parts = path.split("/")
    if "\\" in path or "\0" in path or any(part in ("", ".", "..") for part in parts):
        return False
    return not any(folder.joinpath(*parts[: i + 1]).is_symlink() for i in range(len(parts)))


def _blocked(ctx: Context) -> str | None:
    """Why the accounting cannot be checked, if it cannot."""
    for name in NEEDED_FOR_ACCOUNTING:
        files = [facts for facts in ctx.files if facts.table.table == name]
        if not files:
            return f"table {name} is missing"
        for facts in files:
            if not facts.usable:
                return f"{facts.path} is not readable as the protocol defines it"
            if facts.order is not None:
                return f"{facts.path} is not in key order"
    problems = {p.path.split(".")[0].split("[")[0] for p in ctx.protocol.manifest.problems(ctx.manifest)}
    broken = problems & {"hardware", "sampling", "labels", "method", "boundary", "status"}
    return f"manifest field {min(broken)} is not as the protocol defines it" if broken else None


def _recompute(ctx: Context, threads: int) -> str | None:
    step_us = ctx.protocol.tolerances.clock_step_event_us
    try:
        ctx.recomputed = recompute(ctx.bundle, step_us=step_us, threads=threads)
    except KitError as error:
        return error.message
    except Exception as error:
        # Values can be out of all reason in ways no schema names; the reader is told, not shown a traceback.
        return f"the rows cannot be accounted for ({type(error).__name__}: {str(error)[:120]})"
    return None


def _run(ctx: Context, rules: Sequence[Rule]) -> list[Finding]:
    found: list[Finding] = []
    for entry in rules:
        hits: list[Hit] = []
        failure: Exception | None = None
        try:
            for hit in CHECKS[entry.id](ctx):
                hits.append(hit)
                if len(hits) >= _MOST_HITS:
                    break
        except Exception as error:
            failure = error
        by_file: dict[str, list[Hit]] = defaultdict(list)
        for hit in hits:
            by_file[hit.file].append(hit)
        found += [finding(entry, file, group) for file, group in by_file.items()]
        if failure is not None:
            text = f"rule {entry.id} ({entry.name}): {type(failure).__name__}: {str(failure)[:120]}"
            found.append(finding(load_rules()[NOT_EVALUATED], MANIFEST, [Hit(MANIFEST, text, "an answer")]))
    return found
