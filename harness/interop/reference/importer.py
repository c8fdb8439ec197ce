"""`import_reference`: a log folder of the authors' harness becomes a bundle."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.accounting import Sampling
from harness.bundle import BundleWriter, scrub
from harness.errors import KitError
from harness.interop.reference.devices import DeviceMap
from harness.interop.reference.discover import discover
from harness.interop.reference.judge import Imported, decide
from harness.interop.reference.manifest import build_manifest, run_id_of
from harness.interop.reference.naming import safe_name
from harness.interop.reference.plan import make_plan
from harness.interop.reference.power_runs import SPLIT_S
from harness.interop.reference.records import US_PER_S
from harness.interop.reference.tables import Tables, build_tables
from harness.spec import Protocol, load_protocol


@dataclass(frozen=True, slots=True)
class ImportResult:
    """What an import did.

    Attributes:
        folder: The bundle.
        stages: Its rows of `stages`, derived columns included.
        dropped_copies: Attempts that were found more than once.
        unplaced: Records that give an energy but no time; they are in the events.
        ignored_files: Files that are no logs of the harness.
    """

    folder: Path
    run_id: str
    stages: list[dict[str, Any]]
    events: list[dict[str, Any]]
    dropped_copies: int
    unplaced: int
    ignored_files: int

    def doubts(self) -> Counter[str]:
        """Number of stages each flag stands on."""
        return Counter(flag for row in self.stages for flag in row["flags"])


def import_reference(
    path: Path, out: Path, *, name: str | None = None, split_s: float = SPLIT_S
) -> ImportResult:
    """Turn a log folder of the authors' harness into a bundle.

    Args:
        path: A stage file, a stage folder, a `stages` folder, a run folder, or a folder with many.
        out: Folder of the bundle; must be empty or absent.
        name: Name of the run in the manifest; the folder's by default.
        split_s: Silence in a power_log.csv that separates two runs, seconds.

    Raises:
        KitError: Nothing to import, a malformed file (with its line), or `out` holds something already.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise KitError(
            "is not empty",
            where=str(out),
            expected="a new or empty folder for the bundle",
            fix="choose another --out",
        )
    plan = make_plan(discover(path), split_s=split_s)
    protocol = load_protocol()
    sampling = _sampling(protocol, [a.record.poll_s for a in plan.attempts if a.record is not None])
    devices = DeviceMap()
    decided = decide(plan, devices, sampling)
    tables = build_tables(decided, plan, sampling, protocol)
    manifest = build_manifest(
        decided, devices, sampling, name=safe_name(scrub(name or path.resolve().name)), ticks=_ticks(decided)
    )
    run_id = run_id_of(decided)
    _write(out, tables, manifest, run_id, protocol)
    return ImportResult(
        folder=out,
        run_id=run_id,
        stages=tables.stages,
        events=tables.events,
        dropped_copies=plan.duplicates,
        unplaced=len(plan.unplaced),
        ignored_files=plan.ignored_files,
    )


def _sampling(protocol: Protocol, poll_s: list[float | None]) -> Sampling:
    """The protocol's rules with the poll period most records state."""
    rules = protocol.sampling
    stated = Counter(period for period in poll_s if period)
    period_us = round(stated.most_common(1)[0][0] * US_PER_S) if stated else rules.nominal_period_us
    return Sampling(
        nominal_period_us=period_us,
        gap_factor=rules.gap_factor,
        min_samples=rules.min_samples,
        disagreement_rel=protocol.tolerances.counter_vs_integral_remark,
    )


def _ticks(decided: list[Imported]) -> dict[int, int]:
    return {item.session: len(item.attempt.power.t_us) for item in decided if item.attempt.power is not None}


def _write(out: Path, tables: Tables, manifest: dict[str, Any], run_id: str, protocol: Protocol) -> None:
    writer = BundleWriter(out, protocol, run_id=run_id)
    writer.write_table("stages", tables.stages)
    writer.write_table("power", tables.power)
    writer.write_table("counters", tables.counters)
    writer.write_table("events", tables.events)
    writer.write_table("artifacts", [])
    writer.write_manifest(manifest)
