"""Sealing: journals (and an earlier bundle of the same run) become the bundle.

Every derived number comes from `harness.accounting` and the raw rows, so a run that is sealed once at its end
and one that was killed, recovered, resumed and sealed three times have the same figures for the same rows.
"""

from __future__ import annotations

import contextlib
import heapq
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from harness.accounting import UNATTRIBUTED
from harness.bundle.commit import DECISION, MANIFEST
from harness.bundle.derive import derive, device_limits, sampling_rules
from harness.bundle.order import sorted_rows
from harness.bundle.reader import Bundle
from harness.bundle.seal_events import event_rows, limit_events, lost_estimates, report_events, runner_gaps
from harness.bundle.seal_manifest import build_manifest
from harness.bundle.seal_tables import counter_rows, eval_table, item_table, last_sample_boundaries
from harness.bundle.series import SeriesKey, power_pieces
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
from harness.spec import Protocol, current_version, load_protocol, short_version

DAMAGED = ".damaged"
"""What a journal is called beside its bundle if not all of it could be read: nobody removes it."""


_CONTRADICTIONS = (ArithmeticError, LookupError, TypeError, ValueError, pa.ArrowException)


def seal(run_dir: Path | str, *, recovered: bool = False) -> Path:
    """Turn the journals of a run folder into its bundle, together with what was sealed there before.

    The journals are removed once the bundle is in place; a crash before that leaves them to be sealed again.
    One that was damaged, or holds what makes no sense, is kept beside the bundle.

    Args:
        run_dir: The run folder.
        recovered: Whether the run ended without closing its journals; the manifest then says so.

    Raises:
        KitError: There is nothing to seal, the folder cannot be written, or the earlier bundle is damaged.
    """
    run_dir = Path(run_dir)
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
        for name, found in journals.odd.items():
            raise KitError(
                f"the record of the run makes no sense: {found[0]}",
                where=str(run_dir / "journal" / name),
                expected="a record that this version of the kit writes",
                fix="the journals are kept; the version that wrote them may read them",
            )
        raise KitError(
            "the journals hold no run: the meter was killed before it began",
            where=str(run_dir / "journal"),
            fix=f"remove {run_dir} and start again",
        )
    protocol = _protocol_of(journals, earlier)
    if earlier is not None and earlier.protocol is not protocol:
        earlier = Bundle.open(run_dir, protocol=protocol)
    try:
        _write(run_dir, protocol, journals, earlier, recovered)
    except OSError as error:
        raise KitError(
            f"the bundle cannot be written: {error.strerror or error}",
            where=str(run_dir),
            fix=f"free some space, then: kit recover {run_dir} (the journals are kept)",
        ) from None
    except _CONTRADICTIONS as error:
        # Each record makes sense by itself; in how many ways they can contradict each other nobody can list.
        raise KitError(
            f"the records contradict each other ({type(error).__name__}: {str(error)[:120]})",
            where=str(run_dir / "journal"),
            expected="records as a meter writes them",
            fix="the journals are kept; the version that wrote them may read them",
        ) from error
    damaged = [file for file in files if file.name in {*journals.damaged, *journals.odd}]
    _remove([file for file in files if file not in damaged])
    for file in damaged:
        file.rename(file.with_name(file.name + DAMAGED))
    _remove_folder(run_dir)
    return run_dir


def rows_so_far(run_dir: Path) -> list[dict[str, Any]]:
    """Rows of `stages` for the ended stages of an open session, derived as sealing would."""
    journals = read_journals(run_dir)
    ended = {record["stage_uid"] for record in journals.of_type("stage_end")}
    records = [r for r in journals.records if r["type"] != "stage_start" or r["stage_uid"] in ended]
    protocol, run = _protocol_of(journals, None), journals.of_type("run")[-1]
    clocks = {int(run["session"]): str(run["clock_id"])}
    rows = stage_rows(records, boundaries_of(records), clocks, run["reference_tokens"], protocol.event_flags)
    devices = {d["device_id"]: d for start in journals.of_type("sampler_start") for d in start["devices"]}
    known = {
        "sampling": {"nominal_period_us": run["period_us"]},
        "hardware": {"devices": list(devices.values())},
    }
    limits = device_limits(known, event_rows(journals, 0))
    power = _power_batches(journals, None, protocol)
    return derive(
        rows, counter_rows(journals, protocol), power, sampling_rules(protocol, known), limits
    ).stages


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


def _protocol_of(journals: JournalRun, earlier: Bundle | None) -> Protocol:
    """The newest version that a session of the run was begun with; the current one where none says."""
    said = [str(record.get("protocol") or current_version()) for record in journals.of_type("run")]
    said += [] if earlier is None else [short_version(earlier.written.version)]
    return load_protocol(max(said, key=lambda version: tuple(map(int, version.split(".")))))


def _write(
    run_dir: Path, protocol: Protocol, journals: JournalRun, earlier: Bundle | None, recovered: bool
) -> None:
    run = journals.of_type("run")[-1]
    _complete_lost_sessions(journals)
    boundaries = boundaries_of(journals.records)
    clocks = {int(record["session"]): str(record["clock_id"]) for record in journals.of_type("run")}
    denominator, flags = run["reference_tokens"], protocol.event_flags
    rows = stage_rows(journals.records, boundaries, clocks, denominator, flags)
    counters = counter_rows(journals, protocol)
    known = {int(row["stage_uid"]) for row in rows}
    first_event = 0 if earlier is None else len(earlier.table("events", ["event_id"]))
    found = [*report_events(journals, known), *limit_events(journals, earlier), *runner_gaps(journals)]
    events = event_rows(journals, first_event, found)
    evals = eval_table(journals, protocol, known)
    items = item_table(journals, protocol, evals)
    columns = protocol.tables["artifacts"].names
    artifacts = [{name: record.get(name) for name in columns} for record in journals.of_type("artifact")]
    if earlier is not None:
        rows = [row for row in earlier.table("stages").to_pylist() if row["stage"] != UNATTRIBUTED] + rows
        counters = sorted_rows(
            pa.concat_tables([earlier.table("counters"), counters]), protocol.tables["counters"].sort
        )
        events = earlier.table("events").to_pylist() + events
        artifacts = earlier.table("artifacts").to_pylist() + artifacts
        evals = pa.concat_tables([earlier.table("evals"), evals])
        items = pa.concat_tables([earlier.table("eval_items"), items])
    artifacts = _unique(artifacts, {int(row["stage_uid"]) for row in rows})
    manifest = build_manifest(protocol, journals, earlier.manifest if earlier else None, rows, recovered)
    limits = device_limits(manifest, events)
    writer = BundleWriter(run_dir, protocol, run_id=run["run_id"])
    power = writer.passing("power", _power_batches(journals, earlier, protocol))
    stages = derive(rows, counters, power, sampling_rules(protocol, manifest), limits).stages
    writer.write_table("stages", stages)
    writer.write_table("counters", counters)
    writer.write_table("events", events)
    writer.write_table("artifacts", artifacts)
    writer.write_table("evals", evals)
    writer.write_table("eval_items", items)
    table = counters.filter(pc.is_valid(counters["device_id"]))
    devices = set(table["source"].unique().to_pylist())
    writer.write_manifest({**manifest, **_boundary_states(stages, manifest, devices, protocol)})


def _complete_lost_sessions(journals: JournalRun) -> None:
    """Give stages that nobody ended an end at the last samples there are."""
    ended = {record["stage_uid"] for record in journals.of_type("stage_end")}
    taken = boundaries_of(journals.records)
    for start in journals.of_type("stage_start"):
        session, number = int(start["session"]), int(start["boundary"])
        if (session, number) not in taken:
            continue  # its boundary never reached the disk
        if start["stage_uid"] in ended or any(
            s == session and n > number and not at.inner for (s, n), at in taken.items()
        ):
            continue
        if start.get("parent_uid") is None:
            journals.records += last_sample_boundaries(journals, session, number)
    journals.records += lost_estimates(journals)


def _power_batches(
    journals: JournalRun, earlier: Bundle | None, protocol: Protocol
) -> Iterator[pa.RecordBatch]:
    """All power rows in the table's order: those of an earlier bundle between those of the journals."""
    schema = protocol.arrow_schema("power")
    fresh = (
        (SeriesKey(NODE, *key), _batch(journals.power_rows(key), schema)) for key in journals.power_keys()
    )
    sealed = () if earlier is None else power_pieces(earlier.iter_batches("power"), earlier.folder)
    for _, batch in heapq.merge(sealed, fresh, key=lambda piece: piece[0]):
        yield batch


def _batch(rows: Rows, schema: pa.Schema) -> pa.RecordBatch:
    """Power rows of a journal, where -1 stands for null."""
    columns = []
    for field in schema:
        if field.name == "node_id":
            columns.append(pa.repeat(pa.scalar(NODE), len(rows)))
            continue
        if field.name not in (POWER_DTYPE.names or ()):
            columns.append(pa.nulls(len(rows), field.type))  # a column that the sampler does not read
            continue
        values = np.ascontiguousarray(rows[field.name])
        mask = values < 0 if field.nullable else None
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


def _boundary_states(
    stages: list[dict[str, Any]], manifest: dict[str, Any], devices: set[str], protocol: Protocol
) -> dict[str, Any]:
    """What the joules cover, and the labels that follow from it."""
    states = {
        part: protocol.state_of(
            (row[f"{part}_energy_method"] for row in stages), devices if part == "gpu" else ()
        )
        for part in ("gpu", "cpu", "dram")
    }
    labels = set(manifest["labels"]) - {"cpu_estimated", "no_gpu"}
    if states["cpu"] == "estimated":
        labels.add("cpu_estimated")
    if states["gpu"] == "absent":
        labels.add("no_gpu")
    if "simulated" in states.values():
        labels.add("simulated")
    return {"boundary": states, "labels": sorted(labels)}
