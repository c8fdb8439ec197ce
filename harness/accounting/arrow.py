"""From the tables of a bundle to the shapes of `series.py`, without needless copies."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from harness.accounting.series import NO_BOUNDARY, CounterSeries, DeviceLimits, Int64, PowerSeries, Sampling

POWER_COLUMNS = ("mono_us", "power_mw", "energy_counter_mj")
"""Columns of `power` that the accounting reads."""

_COUNTER_KEY = ("node_id", "source", "device_id", "zone", "session", "unit", "range")


def power_series(key: tuple[str, int, int], arrays: Mapping[str, npt.NDArray[Any]]) -> PowerSeries:
    """One series of `Bundle.iter_power(POWER_COLUMNS)`.

    Args:
        key: node_id, device_id, session.
        arrays: a column by its name, validity of a nullable column `c` as `c_valid`.
    """
    return PowerSeries(
        node_id=key[0],
        device_id=int(key[1]),
        session=int(key[2]),
        mono_us=arrays["mono_us"],
        power_mw=arrays["power_mw"],
        power_valid=arrays["power_mw_valid"],
        counter_mj=arrays["energy_counter_mj"],
        counter_valid=arrays["energy_counter_mj_valid"],
    )


def counter_series(table: Any) -> list[CounterSeries]:
    """Split the table `counters` (a pyarrow Table in key order) into its counters.

    Args:
        table: all columns of `counters`.
    """
    if table.num_rows == 0:
        return []
    table = table.combine_chunks()
    edges = np.zeros(table.num_rows, dtype=np.bool_)
    edges[0] = True
    for name in _COUNTER_KEY:
        codes = _codes(table.column(name))
        edges[1:] |= codes[1:] != codes[:-1]
    starts = np.flatnonzero(edges)
    ends = np.append(starts[1:], table.num_rows)
    ints = {name: _ints(table.column(name), 0) for name in ("mono_us", "t_us", "value", "uncertainty_us")}
    ints["boundary"] = _ints(table.column("boundary"), NO_BOUNDARY)
    ints["power_mw"] = _ints(table.column("power_mw"), -1)
    valid = table.column("value").is_valid().to_numpy()
    method: Any = np.asarray(table.column("method").to_numpy(), dtype=object)
    found = []
    for start, end in zip(starts.tolist(), ends.tolist(), strict=True):
        key = {name: table.column(name)[start].as_py() for name in _COUNTER_KEY}
        rows = slice(start, end)
        found.append(
            CounterSeries(
                source=key["source"],
                node_id=key["node_id"],
                device_id=key["device_id"],
                zone=key["zone"],
                session=key["session"],
                unit=key["unit"],
                wrap_range=key["range"],
                valid=valid[rows],
                method=method[rows],
                **{name: values[rows] for name, values in ints.items()},
            )
        )
    return found


def _codes(column: Any) -> Int64:
    """Integers that differ where the values differ; nulls are -1."""
    encoded = column.dictionary_encode().combine_chunks()
    chunk = encoded if not hasattr(encoded, "chunks") else encoded.chunk(0)
    return np.asarray(chunk.indices.fill_null(-1).to_numpy(), dtype=np.int64)


def _ints(column: Any, null: int) -> Int64:
    if column.null_count:
        column = column.fill_null(null)
    return np.asarray(column.to_numpy(), dtype=np.int64)


def device_limits(manifest: Mapping[str, Any]) -> dict[int, DeviceLimits]:
    """What the manifest says of its devices, by device_id; a field that is not there is unknown."""
    hardware = manifest.get("hardware")
    devices = hardware.get("devices") if isinstance(hardware, dict) else None
    found = {}
    for device in devices if isinstance(devices, list) else ():
        if isinstance(device, dict) and isinstance(device.get("device_id"), int):
            limit = device.get("power_limit_mw")
            found[device["device_id"]] = DeviceLimits(
                max_mw=limit if isinstance(limit, int) else None,
                instant=device.get("instant_supported") is not False,
            )
    return found


def sampling_rules(manifest: Mapping[str, Any], protocol: Any) -> Sampling:
    """The protocol's rules with the run's own nominal period, which is what its ticks are judged by."""
    sampling = manifest.get("sampling")
    period = sampling.get("nominal_period_us") if isinstance(sampling, dict) else None
    return Sampling(
        nominal_period_us=period
        if isinstance(period, int) and period > 0
        else protocol.sampling.nominal_period_us,
        gap_factor=protocol.sampling.gap_factor,
        min_samples=protocol.sampling.min_samples,
        disagreement_rel=protocol.tolerances.counter_vs_integral_remark,
    )
