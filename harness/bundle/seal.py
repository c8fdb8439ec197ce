"""Sealing: journals (and an earlier bundle of the same run) become the bundle.

Every derived number comes from `harness.accounting` and the raw rows, so a run that is sealed once at its end
and one that was killed, recovered, resumed and sealed three times have the same figures for the same rows.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from harness.accounting.series import PowerSeries
from harness.accounting.stages import DevicePart, Plan
from harness.bundle.commit import DECISION, MANIFEST
from harness.bundle.inputs import counter_series, device_limits, sampling_rules
from harness.bundle.order import sorted_rows
from harness.bundle.reader import Bundle
from harness.bundle.seal_limits import limit_events
from harness.bundle.seal_manifest import build_manifest
from harness.bundle.seal_reports import eval_table, item_table, report_events
from harness.bundle.seal_tables import artifact_rows, counter_rows, event_rows, last_sample_boundaries
from harness.bundle.stage_rows import NODE, boundaries_of, stage_rows
from harness.bundle.writer import BundleWriter
from harness.errors import KitError
from harness.journal.reading import (
    POWER_DTYPE,
    JournalRun,
    Rows,
    await_writers,
    journal_files,
    read_journals,
    session_of,
)
from harness.spec import Protocol, load_protocol

DAMAGED = ".damaged"
"""What a journal is called beside its bundle if not all of it could be read: nobody removes it."""

_NULLABLE_FROM_MINUS_ONE = (
    "power_mw",
    "power_average_mw",
    "energy_counter_mj",
    "util_pct",
    "mem_used_mib",
    "temp_c",
    "sm_clock_mhz",
    "throttle_bits",
    "power_limit_mw",
)


def seal(run_dir: Path | str, *, recovered: bool = False) -> Path:
    """Turn the journals of a run folder into its bundle, together with what was sealed there before.

    The journals are removed once the bundle is in place; a crash before that leaves them to be sealed again.
    One that was damaged is kept beside the bundle.

    Args:
        run_dir: The run folder.
        recovered: Whether the run ended without closing its journals; the manifest then says so.

    Returns:
        The run folder.

    Raises:
        KitError: There is nothing to seal, the folder cannot be written, or the earlier bundle is damaged.
    """
    run_dir = Path(run_dir)
    protocol = load_protocol()
    files = journal_files(run_dir)
    if not files:
        raise KitError(
            "nothing to seal: no journal",
            where=str(run_dir / "journal"),
            expected="a folder that a meter wrote",
        )
    earlier = _earlier_bundle(run_dir)
    if earlier is not None:
        # A crash between the commit and the removal of the journals leaves some of them: the bundle has them.
        sealed = {int(entry["session"]) for entry in earlier.manifest["sampling"]["sessions"]}
        _remove([file for file in files if session_of(file) in sealed])
        files = [file for file in files if session_of(file) not in sealed]
        if not files:
            _remove_folder(run_dir)
            return run_dir
    journals = read_journals(run_dir)
    if not journals.of_type("run"):
        raise KitError(
            "the journals hold no run: the meter was killed before it began",
            where=str(run_dir / "journal"),
            fix=f"remove {run_dir} and start again",
        )
    try:
        _write(run_dir, protocol, journals, earlier, recovered)
    except OSError as error:
        raise KitError(
            f"the bundle cannot be written: {error.strerror or error}",
            where=str(run_dir),
            fix=f"free some space, then: kit recover {run_dir} (the journals are kept)",
        ) from None
    damaged = [file for file in files if file.name in journals.damaged]
    _remove([file for file in files if file not in damaged])
    for file in damaged:
        file.rename(file.with_name(file.name + DAMAGED))
    _remove_folder(run_dir)
    return run_dir


def _remove(journals: list[Path]) -> None:
    """Remove journals that the bundle holds; one that cannot be removed is known as sealed."""
    with contextlib.suppress(OSError):
        for file in journals:
            file.unlink()
            stderr = file.with_suffix(".stderr")
            if stderr.exists() and stderr.stat().st_size == 0:
                stderr.unlink()


def _remove_folder(run_dir: Path) -> None:
    with contextlib.suppress(OSError):
        (run_dir / "journal").rmdir()


def recover(run_dir: Path | str) -> Path:
    """Seal a run whose owner was killed. Does nothing to a run that is sealed already.

    Raises:
        KitError: The folder holds neither a bundle nor journals, or the run in it is still going on.
    """
    run_dir = Path(run_dir)
    if not journal_files(run_dir):
        Bundle.open(run_dir)
        return run_dir
    await_writers(run_dir)
    return seal(run_dir, recovered=True)


def _earlier_bundle(run_dir: Path) -> Bundle | None:
    """What was sealed here before, a commit that was cut short included."""
    if not (run_dir / MANIFEST).exists() and not (run_dir / DECISION).exists():
        return None
    return Bundle.open(run_dir)


def _write(
    run_dir: Path, protocol: Protocol, journals: JournalRun, earlier: Bundle | None, recovered: bool
) -> None:
    run = journals.of_type("run")[-1]
    _complete_lost_sessions(journals)
    boundaries = boundaries_of(journals.records)
    clocks = {int(record["session"]): str(record["clock_id"]) for record in journals.of_type("run")}
    rows = stage_rows(journals.records, boundaries, clocks, run["reference_tokens"])
    counters = counter_rows(journals, protocol)
    known = {int(row["stage_uid"]) for row in rows}
    first_event = 0 if earlier is None else len(earlier.table("events", ["event_id"]))
    found = [*report_events(journals, known), *limit_events(journals, earlier)]
    events = event_rows(journals, first_event, found)
    evals = eval_table(journals, protocol, known)
    items = item_table(journals, protocol, evals)
    artifacts = artifact_rows(journals)
    if earlier is not None:
        rows = [row for row in earlier.table("stages").to_pylist() if row["stage"] != "unattributed"] + rows
        counters = sorted_rows(
            pa.concat_tables([earlier.table("counters"), counters]), protocol.tables["counters"].sort
        )
        events = earlier.table("events").to_pylist() + events
        artifacts = earlier.table("artifacts").to_pylist() + artifacts
        evals = pa.concat_tables([earlier.table("evals"), evals])
        items = pa.concat_tables([earlier.table("eval_items"), items])
    artifacts = _unique(artifacts, {int(row["stage_uid"]) for row in rows})
    manifest = build_manifest(journals, earlier.manifest if earlier else None, rows, recovered)
    limits = device_limits(manifest, events)
    plan = Plan(rows, counter_series(counters), sampling_rules(protocol, manifest), limits)
    parts: list[DevicePart | None] = []
    writer = BundleWriter(run_dir, protocol, run_id=run["run_id"])
    writer.write_table("power", _power_batches(journals, earlier, protocol, plan, parts))
    derivation = plan.finish(parts)
    writer.write_table("stages", derivation.stages)
    writer.write_table("counters", counters)
    writer.write_table("events", events)
    writer.write_table("artifacts", artifacts)
    writer.write_table("evals", evals)
    writer.write_table("eval_items", items)
    writer.write_manifest({**manifest, **_boundary_states(derivation.stages, manifest)})


def _complete_lost_sessions(journals: JournalRun) -> None:
    """Give stages that nobody ended an end at the last samples there are."""
    ended = {record["stage_uid"] for record in journals.of_type("stage_end")}
    taken = boundaries_of(journals.records)
    for start in journals.of_type("stage_start"):
        session, number = int(start["session"]), int(start["boundary"])
        if (session, number) not in taken:
            continue  # its boundary never reached the disk
        if start["stage_uid"] in ended or any(s == session and n > number for s, n in taken):
            continue
        journals.records += last_sample_boundaries(journals, session, number)


def _power_batches(
    journals: JournalRun,
    earlier: Bundle | None,
    protocol: Protocol,
    plan: Plan,
    parts: list[DevicePart | None],
) -> Iterator[pa.RecordBatch]:
    """All power rows in the table's order; each series is accounted for on its way through."""
    schema = protocol.arrow_schema("power")
    sealed = {} if earlier is None else {(k.device_id, k.session): k for k in earlier.power_devices()}
    for key in sorted({*journals.power_keys(), *sealed}):
        if key in sealed:
            assert earlier is not None
            for series_key, arrays in earlier.iter_power(schema.names, series=[sealed[key]]):
                columns = []
                for field in schema:
                    valid = arrays.get(f"{field.name}_valid")
                    mask = None if valid is None else ~valid
                    columns.append(pa.array(arrays[field.name], field.type, mask=mask))
                parts.append(
                    plan.measure(
                        PowerSeries(
                            series_key.node_id,
                            series_key.device_id,
                            series_key.session,
                            arrays["mono_us"],
                            arrays["power_mw"],
                            arrays["power_mw_valid"],
                            arrays["energy_counter_mj"],
                            arrays["energy_counter_mj_valid"],
                        )
                    )
                )
                yield pa.RecordBatch.from_arrays(columns, schema=schema)
            continue
        fresh = journals.power_rows(key)
        parts.append(plan.measure(_series(key, fresh)))
        yield _batch(fresh, schema)


def _series(key: tuple[int, int], rows: Rows) -> PowerSeries:
    power, counter = rows["power_mw"], rows["energy_counter_mj"]
    return PowerSeries(
        NODE,
        key[0],
        key[1],
        np.ascontiguousarray(rows["mono_us"]),
        np.where(power < 0, 0, power),
        power >= 0,
        np.where(counter < 0, 0, counter),
        counter >= 0,
    )


def _batch(rows: Rows, schema: pa.Schema) -> pa.RecordBatch:
    columns = []
    for field in schema:
        if field.name == "node_id":
            columns.append(pa.array([NODE], pa.string()).take(pa.array(np.zeros(len(rows), np.int32))))
            continue
        assert field.name in (POWER_DTYPE.names or ())
        values = np.ascontiguousarray(rows[field.name])
        mask = values < 0 if field.name in _NULLABLE_FROM_MINUS_ONE else None
        if mask is not None:
            values = np.where(mask, 0, values)
        columns.append(pa.array(values.astype(field.type.to_pandas_dtype()), field.type, mask=mask))
    return pa.RecordBatch.from_arrays(columns, schema=schema)


def _unique(artifacts: list[dict[str, Any]], stage_uids: set[int]) -> list[dict[str, Any]]:
    """One row a key; edges of stages that were torn off with the journal's end are dropped with them."""
    found: dict[tuple[Any, ...], dict[str, Any]] = {}
    for row in artifacts:
        if row["stage_uid"] in stage_uids:
            found[(row["artifact_id"], row["role"], row["stage_uid"])] = row
    return list(found.values())


def _boundary_states(stages: list[dict[str, Any]], manifest: dict[str, Any]) -> dict[str, Any]:
    """What the joules cover, and the labels that follow from it."""
    methods = {
        part: {row[f"{part}_energy_method"] for row in stages} - {"absent"} for part in ("gpu", "cpu", "dram")
    }
    states = {
        part: "absent" if not found else "estimated" if "codecarbon_process" in found else "measured"
        for part, found in methods.items()
    }
    labels = set(manifest["labels"]) - {"cpu_estimated", "no_gpu"}
    if states["cpu"] == "estimated":
        labels.add("cpu_estimated")
    if states["gpu"] == "absent":
        labels.add("no_gpu")
    return {"boundary": states, "labels": sorted(labels)}
