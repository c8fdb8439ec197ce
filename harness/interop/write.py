"""Writes an imported run as a bundle: tables, a manifest without paths, users and hosts, a run id."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from harness import __version__
from harness.accounting import Sampling
from harness.bundle import BundleWriter, scrub_value
from harness.errors import KitError
from harness.interop.imported import US_PER_S, ImportedRun, ImportedStage, safe_name, with_overlaps
from harness.interop.tables import build_tables
from harness.journal.ulid import ulid_of
from harness.spec import Protocol, protocol_digest


@dataclass(frozen=True, slots=True)
class ImportResult:
    """What an import did.

    Attributes:
        folder: The bundle.
        run: What was found.
        stages: Rows of `stages`, derived columns included.
    """

    folder: Path
    run: ImportedRun
    run_id: str
    stages: list[dict[str, Any]]
    events: list[dict[str, Any]]

    def doubts(self) -> Counter[str]:
        """Number of stages each flag stands on."""
        return Counter(flag for row in self.stages for flag in row["flags"])


def refuse_used(out: Path) -> None:
    """Make sure that a bundle can be written, before logs are read.

    Raises:
        KitError: `out` holds something already.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise KitError(
            "is not empty",
            where=str(out),
            expected="a new or empty folder for the bundle",
            fix="choose another --out",
        )


def sampling_of(protocol: Protocol, periods_s: Iterable[float | None]) -> Sampling:
    """The protocol's rules with the poll period, seconds, that most records state."""
    rules = protocol.sampling
    stated = Counter(period for period in periods_s if period)
    period_us = round(stated.most_common(1)[0][0] * US_PER_S) if stated else rules.nominal_period_us
    return Sampling(
        nominal_period_us=period_us,
        gap_factor=rules.gap_factor,
        min_samples=rules.min_samples,
        disagreement_rel=protocol.tolerances.counter_vs_integral_remark,
    )


def write_bundle(
    run: ImportedRun, out: Path, name: str, sampling: Sampling, protocol: Protocol
) -> ImportResult:
    """Derive every figure and write the bundle.

    Args:
        run: What was found.
        out: A new or empty folder.
        name: Name of the run in the manifest.
        sampling: Rules with the period of the logs.
        protocol: Protocol of the bundle.
    """
    run = replace(run, stages=with_overlaps(run.stages))
    tables = build_tables(run, sampling, protocol)
    run_id = _run_id(run)
    writer = BundleWriter(out, protocol, run_id=run_id)
    for table, rows in tables.items():
        writer.write_table(table, rows)
    writer.write_manifest(_manifest(run, name, sampling))
    return ImportResult(out, run, run_id, tables["stages"], tables["events"])


def _run_id(run: ImportedRun) -> str:
    """A ULID that depends on the logs alone: importing them again gives the same run."""
    parts = [(stage.name, stage.start_us, stage.end_us, stage.status, stage.node_id) for stage in run.stages]
    digest = hashlib.sha256(repr(parts).encode()).digest()[:10]
    return ulid_of(min(stage.start_us for stage in run.stages), digest)


def _manifest(run: ImportedRun, name: str, sampling: Sampling) -> dict[str, Any]:
    """Manifest fields but those the writer fills in."""
    stages = run.stages
    hosts = [stage.host for stage in stages if stage.host is not None]

    def agreed(*names: str) -> dict[str, Any]:
        """What all hosts agree on, else None: a manifest says nothing rather than something half true."""
        found = {name: {getattr(host, name) for host in hosts} for name in names}
        return {name: values.pop() if len(values) == 1 else None for name, values in found.items()}

    cpu, dram = any(stage.cpu for stage in stages), any(stage.dram for stage in stages)
    labels = ["imported", "wall_clock"]
    labels += ["cpu_estimated"] if cpu else []
    labels += ["several_nodes"] if len({stage.node_id for stage in stages}) > 1 else []
    return {
        "protocol_sha256": protocol_digest(),
        "name": name,
        "method": run.method,
        "status": "complete" if all(stage.status == "completed" for stage in stages) else "partial",
        "created_t_us": min(stage.start_us for stage in stages),
        "labels": sorted(labels),
        "pipeline": {
            "source": run.source,
            "stages": [
                {"session": session, "name": stage.name, "config": scrub_value(dict(stage.config))}
                for session, stage in enumerate(stages)
            ],
        },
        "hardware": {
            "devices": [device.manifest_entry() for device in run.devices],
            **agreed("cpu_model", "cpu_count", "mem_mib"),
        },
        "software": {
            "kit_version": __version__,
            **agreed("python", "driver", "cuda", "torch", "git_commit", "git_dirty"),
            "lock_sha256": None,
            "image_digest": None,
        },
        "sampling": {
            "nominal_period_us": sampling.nominal_period_us,
            "sampler_version": run.sampler,
            "clock": "UTC",
            "sessions": [_session(session, stage, run) for session, stage in enumerate(stages)],
        },
        "boundary": {
            "gpu": "measured" if any(stage.gpu or stage.samples for stage in stages) else "absent",
            "cpu": "estimated" if cpu else "absent",
            "dram": "estimated" if dram else "absent",
        },
        "factors": {"pue": None, "region": None if run.region is None else safe_name(run.region)},
        "reference_tokens": None,
        "shared_node": None,
    }


def _session(session: int, stage: ImportedStage, run: ImportedRun) -> dict[str, Any]:
    return {
        "session": session,
        "ticks": None if stage.samples is None else len(stage.samples.t_us),
        "missed_ticks": None,
        "jitter_p50_us": None,
        "jitter_p95_us": None,
        "jitter_max_us": None,
        "sampler_cpu_s": None,
        "sampler_wall_s": ((stage.tail_end_us or stage.end_us) - stage.start_us) / US_PER_S,
        "scheduling": run.scheduling,
    }
