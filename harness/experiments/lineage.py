"""Which run paid for an artifact, and how much: what a cell's log says about its inputs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from harness.accounting import Interval
from harness.accounting.interval import total
from harness.accounting.shared_scales import Energy
from harness.accounting.stage_scales import Sharing, as_records, rows_parts
from harness.accounting.totals import roots, row_energy
from harness.audit.attempt import Origin
from harness.bundle import Bundle
from harness.bundle.derive import derive_bundle, sharing

Row = Mapping[str, Any]


def stage_rows(run: Path) -> list[Row]:
    """Rows of `stages` of a bundle, every derived column recomputed from its raw rows."""
    derived: list[Row] = list(derive_bundle(Bundle.open(run), threads=1).stages)
    return derived


def energy_of(rows: Iterable[Row], names: Iterable[str]) -> Interval | None:
    """Energy of stages by name, all attempts together; None if nothing is known of any."""
    wanted = set(names)
    known = [row_energy(row) for row in roots(rows) if row["name"] in wanted]
    energies = [energy for energy in known if energy is not None]
    return total(energies) if energies else None


def parts_of(rows: Iterable[Row], names: Iterable[str], shared: Sharing) -> Energy | None:
    """The same energy by the scales that it shares with others."""
    wanted = set(names)
    return rows_parts((row for row in roots(rows) if row["name"] in wanted), shared)


def origins_of(run: Path, charged: Iterable[str]) -> dict[str, Origin]:
    """The artifacts that a run paid for on behalf of others, with the energy of the stage that made each.

    An artifact that nobody is charged for has no origin: one with a run and no energy says that its energy is
    unknown, and then so is that of everything made from it.

    Args:
        run: Folder of the sealed run.
        charged: Names of the stages that users of their output are charged for.
    """
    bundle = Bundle.open(run)
    rows = stage_rows(run)
    names = {row["stage_uid"]: row["name"] for row in rows}
    kinds = {row["name"]: str(row["stage"]) for row in rows}
    shared = sharing(bundle)
    paid = {name: energy_of(rows, [name]) for name in charged}
    origins = {}
    for row in bundle.table("artifacts").to_pylist():
        name = names.get(row["stage_uid"])
        if row["role"] == "produced" and name in paid:
            energy = paid[name]
            parts = parts_of(rows, [name], shared)
            origins[str(row["artifact_id"])] = Origin(
                str(bundle.manifest["run_id"]),
                None if energy is None else energy.best,
                kinds[name],
                () if parts is None else tuple(as_records(parts)),
            )
    return origins
