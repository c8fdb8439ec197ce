"""One submission: every finding, the figures that its raw samples give, and the level they have."""

from __future__ import annotations

import math
import os
import shutil
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from harness.accounting import UNATTRIBUTED, Interval
from harness.accounting.rounding import J_PER_KWH
from harness.accounting.shared_scales import Scales, alone
from harness.accounting.stage_scales import as_records, from_records, stated
from harness.bundle import Bundle
from harness.bundle.derive import Derived
from harness.bundle.files import open_parquet
from harness.bundle.privacy import scrub_anywhere
from harness.errors import KitError
from harness.files import file_digest, write_bytes
from harness.leaderboard import faults
from harness.leaderboard.entry import ENTRY, SHA256, Submission, read_entry
from harness.leaderboard.examined import Examined, from_cache, to_bytes
from harness.leaderboard.rules import found
from harness.leaderboard.shape import file_digests, mismatches, names_and_strays, tree_digest
from harness.leaderboard.signers import signatures
from harness.report.comparison import whole_energy
from harness.report.model import RunReport, report_of
from harness.report.page import embedded, page_data
from harness.report.traces import Trace, power_trace
from harness.spec import load_protocol
from harness.text import shown
from harness.validate.across import known
from harness.validate.engine import validate_and_keep
from harness.validate.findings import Finding, Report

POINTS = 240
"""Slices of a power trace on a row's page."""

MOST_MINUTES = 8 * 31 * 1440
"""Rows of a one-minute trace that are read: eight GPUs for a month."""

TRACE = "trace60s.parquet"
BUNDLE = "bundle"


def examine(
    folder: Path,
    *,
    cache: Path | None = None,
    raw: Sequence[Path] = (),
    allowed: Path | None = None,
    threads: int | None = None,
) -> Examined:
    """Check a submission and compute its row. Nothing in it is run; nothing is written into it.

    Args:
        folder: submissions/LAB/ID.
        cache: Folder of results by digest; None: no cache.
        raw: Files that the submission leaves behind links, fetched by a maintainer.
        allowed: List of allowed signers.
        threads: As of `validate`.
    """
    folder = Path(folder)
    key = f"{folder.parent.name}/{folder.name}"
    if folder.is_symlink() or not folder.is_dir():
        what = "a link" if folder.is_symlink() else "no folder"
        return Examined(key, str(folder), "", [found("E502", ENTRY, what, "a folder submissions/LAB/ID")])
    names, refused = names_and_strays(folder)
    if refused:
        return Examined(key, str(folder), "", refused)
    digests = file_digests(folder, names)
    digest = tree_digest(digests)
    kept = None if cache is None or raw else cache / f"{digest}.kept"
    done = from_cache(kept, folder, key)
    if done is None:
        done = _examine(Examined(key, str(folder), digest), folder, digests, raw, threads)
        if kept is not None:
            own = kept.with_suffix(f".{os.getpid()}")  # another process may be at the same bytes
            write_bytes(own, to_bytes(done)).replace(kept)
    if done.row is not None:
        done.findings = [*done.findings, *signatures(folder, done, names, allowed)]
    done.findings.sort(
        key=lambda f: (f.severity == "label", not f.counts, f.severity != "error", f.id, f.file)
    )
    return done


def _examine(
    done: Examined, folder: Path, digests: Mapping[str, str], raw: Sequence[Path], threads: int | None
) -> Examined:
    try:
        entry = read_entry(folder / ENTRY)
    except KitError as error:
        done.findings = [found("E501", ENTRY, f"{error.where}: {error.message}", "what kit submit writes")]
        return done
    texts = {**vars(entry), "files": [vars(file) for file in entry.files]}
    done.findings = mismatches(folder, entry, digests) + _private(texts, ENTRY)
    if done.errors:
        return done
    with tempfile.TemporaryDirectory(prefix="kit-raw-") if raw else nullcontext("") as temporary:
        bundle = _complete(folder / BUNDLE, Path(temporary) / BUNDLE, entry, raw) if raw else folder / BUNDLE
        try:
            if entry.origin != "kit":
                _published(entry, done)
            elif not raw and any(file.path.startswith(f"{BUNDLE}/") for file in entry.elsewhere):
                _unchecked(entry, bundle, done)
            else:
                _bundle(entry, bundle, done, {} if raw else digests, threads)
        except Exception as error:  # values of any kind: one submission never stops the check of the others
            why = error.message if isinstance(error, KitError) else f"{type(error).__name__}: {error!s:.120}"
            done.row = None
            done.findings.append(found("E501", BUNDLE, why, "a bundle that can be reported"))
    return done


def _bundle(
    entry: Submission, folder: Path, done: Examined, digests: Mapping[str, str], threads: int | None
) -> None:
    """A whole bundle: levels 0 to 4, the faults by name, and the figures."""
    own = {name.removeprefix(f"{BUNDLE}/"): digest for name, digest in digests.items()}
    report, ctx = validate_and_keep(folder, own, threads=threads)
    labels = report.comparability.labels if report.comparability else ()
    done.findings += [replace(f, file=f"{BUNDLE}/{f.file}", hits=()) for f in (*report.findings, *labels)]
    of_another = _other_run(entry, ctx.manifest)
    done.findings += of_another
    if of_another or ctx.recomputed is None:
        return
    result = ctx.recomputed
    done.known = known(ctx)
    done.findings += faults.counter_thousandfold(result.stages, ctx.boundary_rows)
    done.findings += faults.mig_repeated(ctx.boundary_rows)
    pue = (ctx.manifest.get("factors") or {}).get("pue")
    done.findings += faults.stored_columns(ctx.stages, result.stages, pue)
    signals = [(facts.key.device_id, facts.signal) for facts in result.seen if facts.signal is not None]
    for device, signal in signals:
        if signal.digest is not None:
            done.digests[signal.digest] = f"all the readings of device {device}"
    for path, listed in ctx.entries.items():
        if path.split("/")[0].removesuffix(".parquet") in ("power", "counters") and listed.get("rows"):
            done.digests[str(listed.get("logical_sha256"))] = f"all rows of {path}"
    done.prints = [own for facts in result.seen for own in facts.traces if own.prints.size]
    used = [(device, signal.util_samples, signal.util_max) for device, signal in signals]
    figures = report_of(ctx.bundle, result, used, traces=_traces(ctx.bundle))
    done.row = _show(entry, figures, report, done)
    if report.comparability is not None:
        done.row["class"] = report.comparability.digest
        done.row["class_text"] = report.comparability.text
        done.row["unranked"] = list(report.comparability.reasons)
    done.row["level"] = "imported" if "imported" in ctx.manifest["labels"] else "re-derived"
    done.findings += _stated(entry, done.row, pue)
    if done.errors:
        done.row["level"] = "self-measured"


def _other_run(entry: Submission, manifest: Mapping[str, Any]) -> list[Finding]:
    """What the entry says of its run, and the run's manifest does not."""
    pairs = (("id", entry.id, "run_id"), ("method", entry.method, "method"))
    return [
        found("E501", ENTRY, f"{name} {said} of a run with {there} {manifest[there]!s:.80}", "the run's own")
        for name, said, there in pairs
        if manifest.get(there) not in (None, said)
    ]


def _unchecked(entry: Submission, folder: Path, done: Examined) -> None:
    """A bundle without its raw samples: figures as stored, and nobody has computed them again."""
    for file in entry.elsewhere:
        observed = f"{file.path}: {file.bytes} bytes at {file.url}"
        done.findings.append(found("W517", file.path, observed, "raw samples in the submission"))
    bundle = Bundle.open(folder)
    done.findings += _other_run(entry, bundle.manifest)
    if done.errors:
        return
    rows = bundle.table("stages").to_pylist()
    origin_us = min((row["t_start_us"] - row["mono_start_us"] for row in rows), default=0)
    minutes = _minutes(folder.parent / TRACE, origin_us)
    figures = report_of(bundle, Derived(rows, [], [], []), [], traces=minutes)
    done.row = _show(entry, figures, Report((), {}, entry.id), done)
    done.findings += _private(bundle.manifest, f"{BUNDLE}/manifest.json")
    done.row["level"] = "imported" if "imported" in bundle.manifest["labels"] else "self-measured"
    done.findings += _stated(entry, done.row, (bundle.manifest.get("factors") or {}).get("pue"))


def _complete(folder: Path, into: Path, entry: Submission, raw: Sequence[Path]) -> Path:
    """The bundle with the raw files that a maintainer fetched, each known by its digest."""
    shutil.copytree(folder, into)
    wanted = {file.sha256: file for file in entry.elsewhere}
    for path in raw:
        file = wanted.pop(file_digest(path), None)
        if file is None:
            raise KitError(
                "is none of the files that the submission leaves elsewhere",
                where=str(path),
                expected=", ".join(f"{f.path} with sha256 {f.sha256[:16]}..." for f in entry.elsewhere),
            )
        target = into / file.path.removeprefix(f"{BUNDLE}/")
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, target)
    if wanted:
        lost = ", ".join(file.path for file in wanted.values())
        raise KitError(f"{lost} is missing", where=entry.key, fix="give every file with --raw FILE")
    return into


def _published(entry: Submission, done: Examined) -> None:
    """Figures without a bundle: as stated, held against themselves."""
    energy = Interval.exact(entry.stated["energy_kwh"] * J_PER_KWH)
    stages = list(entry.stages_kwh.values())
    figures: dict[str, Any] = {"energy_kwh": math.fsum(stages) or None}
    if entry.reference_tokens:
        figures["energy_j_per_token"] = [energy.best / entry.reference_tokens]
    done.findings += faults.stated(entry.stated, stages, figures, None)
    q, protocol = entry.stated.get("quality"), load_protocol()
    teacher = [kwh for kind, kwh in entry.stages_kwh.items() if kind in protocol.kinds("teacher")]
    student = [kwh for kind, kwh in entry.stages_kwh.items() if kind in protocol.kinds("student")]
    paid = Interval.exact(math.fsum(teacher) * J_PER_KWH)
    done.row = {
        **_said(entry),
        "level": "imported" if entry.origin == "import" else "reported",
        "hardware": entry.hardware,
        "energy": _triple(energy),
        "boundaries": {"all": {"own": _triple(energy - paid), "teacher": _triple(paid) if teacher else None}},
        "students": {"all": as_records(alone(Interval.exact(math.fsum(student) * J_PER_KWH)))}
        if student
        else {},
        "stages": [
            {"stage": kind, "energy": [kwh * J_PER_KWH] * 3} for kind, kwh in entry.stages_kwh.items()
        ],
        "tokens": {"reference": entry.reference_tokens} if entry.reference_tokens else {},
        "q": None if q is None else [q, q, q],
        "suite": None,
        "class": f"{entry.origin} {entry.hardware}",
        "class_text": f"{entry.origin}: {entry.hardware or 'unknown hardware'}",
    }


def _said(entry: Submission) -> dict[str, Any]:
    """What the laboratory says, for the index."""
    names = ("lab", "id", "title", "origin", "method", "student", "teacher", "status", "reason", "party")
    more = ("conflict", "source", "replicates", "supersedes", "doubts", "licence", "commitment")
    said = {name: getattr(entry, name) for name in (*names, *more)}
    said["doubts"] = list(entry.doubts)
    return {"key": entry.key, **said, "unranked": [], "lower_bound": False, "consumes": [], "produces": []}


def _row(entry: Submission, report: RunReport, page: Mapping[str, Any]) -> dict[str, Any]:
    """Figures of a bundle for the index; energies in joules as [best, low, high], null where unknown.

    They hold what is not known of the meters: two laboratories share no scale that could cancel.
    """
    run, kinds = page["runs"][0], report.protocol
    scales = {name: (low, high) for name, (low, high) in page["scales"].items()}
    hardware = report.manifest["hardware"]
    models = [str(device.get("model")) for device in hardware["devices"]]
    gpus = [f"{models.count(model)} x {model}" for model in sorted(set(models))]
    whole, q = whole_energy(report), run["quality"]
    students = {
        boundary: None if costs is None else costs.of(kinds.kinds("student"))
        for boundary, costs in (("all", report.costs), ("gpu", report.gpu_costs))
    }
    return {
        **_said(entry),
        "hardware": ", ".join([*gpus, str(hardware.get("cpu_model") or "an unknown CPU")]),
        "labels": list(report.manifest["labels"]),
        "created_t_us": report.manifest["created_t_us"],
        "date": run["date"],
        "energy": None if whole is None else _triple(stated(whole, scales)),
        "boundaries": {
            boundary: {side: _stated_of(energy[side], scales) for side in ("own", "teacher", "whole")}
            for boundary, energy in run["energy"].items()
            if energy["own"] is not None
        },
        "students": {name: as_records(e) for name, e in students.items() if e is not None},
        "stages": [
            {"stage": kind, "energy": _triple(energy)} for kind, energy in report.totals.by_kind.items()
        ],
        "tokens": dict(report.token_counts),
        "q": None if q is None else [q["best"], q["low"], q["high"]],
        "q_known": q is None or q["known"],
        "suite": None if q is None else q["suite"],
        "lower_bound": whole is None,
        "consumes": sorted(report.costs.consumed) if report.costs else [],
        "produces": sorted({a["artifact_id"] for a in report.artifacts if a["role"] == "produced"}),
    }


def _stated_of(records: object, scales: Scales) -> list[float | None] | None:
    energy = from_records(records)
    return None if energy is None else _triple(stated(energy, scales))


def _show(entry: Submission, report: RunReport, validation: Report, done: Examined) -> dict[str, Any]:
    """Its row; what its page shows is kept beside: that of `kit report --html`, without what all share."""
    page = page_data([report], [validation])
    del page["factors"]
    done.page, done.scales = embedded(page), page["scales"]
    return _row(entry, report, page)


def _traces(bundle: Bundle) -> list[Trace]:
    """Power of each series, thinned out for a picture."""
    return [
        power_trace(key, bundle.manifest, rows["t_us"], rows["power_mw"], rows["power_mw_valid"], POINTS)
        for key, rows in bundle.iter_power(("t_us", "power_mw"))
    ]


def _minutes(path: Path, origin_us: int) -> list[Trace]:
    """The one-minute trace of a submission whose raw samples are elsewhere."""
    file = open_parquet(path)
    if file.metadata.num_rows > MOST_MINUTES:
        raise KitError(
            f"holds {file.metadata.num_rows} rows", where=TRACE, expected=f"at most {MOST_MINUTES}"
        )
    found: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for row in file.read().to_pylist():
        found.setdefault((row["node_id"], row["device_id"], row["session"]), []).append(row)

    def watts(own: list[dict[str, Any]], name: str) -> Any:
        return np.array([np.nan if row[name] is None else row[name] / 1000 for row in own])

    return [
        Trace(
            shown(f"GPU {device}, {node}, session {session}"),
            "gpu",
            "least, mean and largest reading of each minute; the raw samples are elsewhere",
            np.array([row["minute_us"] + origin_us for row in own], np.int64),
            watts(own, "power_min_mw"),
            watts(own, "power_mean_mw"),
            watts(own, "power_max_mw"),
            sum(row["readings"] for row in own),
        )
        for (node, device, session), own in found.items()
    ]


def _triple(energy: Interval | None) -> list[float | None] | None:
    if energy is None:
        return None
    return [energy.best, energy.low, energy.high if math.isfinite(energy.high) else None]


def _stated(entry: Submission, row: Mapping[str, Any], pue: float | None) -> list[Finding]:
    energy = row["energy"][0] if row["energy"] else None
    stages = [s["energy"][0] / J_PER_KWH for s in row["stages"] if s["energy"] and s["stage"] != UNATTRIBUTED]
    figures = {
        "energy_kwh": None if energy is None else energy / J_PER_KWH,
        "quality": row["q"][0] if row["q"] else None,
        "energy_j_per_token": [energy / count for count in row["tokens"].values()] if energy else [],
    }
    return list(faults.stated(entry.stated, stages, figures, pue))


def _private(value: object, file: str) -> list[Finding]:
    """Texts that scrubbing would change (7)."""
    findings = []
    for path, text in texts_of(value):
        scrubbed = scrub_anywhere(text)
        if scrubbed != text:
            findings.append(found("E516", file, f"{path}: {scrubbed:.120}", "nothing private"))
    return findings


def texts_of(value: object, path: str = "") -> Iterable[tuple[str, str]]:
    """Every text in a JSON value with its dotted place, but addresses, which are meant to be read, and
    digests.
    """
    if isinstance(value, str):
        if not value.startswith("https://") and not SHA256.fullmatch(value):
            yield path, value
    elif isinstance(value, Mapping):
        for name, item in value.items():
            yield from texts_of(item, f"{path}.{name}".strip("."))
    elif isinstance(value, list | tuple):
        for number, item in enumerate(value):
            yield from texts_of(item, f"{path}[{number}]")
