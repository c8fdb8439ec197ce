"""Power over time, thinned out for drawing: the least, the mean and the largest of each slice of time.

A picture has a thousand columns and a run has millions of samples. What is drawn is never a choice of
samples: each slice keeps its extremes. No energy is computed from a trace.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from harness.accounting import CounterSeries
from harness.bundle.series import SeriesKey
from harness.text import shown

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]


class Trace(NamedTuple):
    """Power of one device or zone in one session.

    Attributes:
        name: what is drawn.
        part: gpu, cpu or dram.
        source: where the watts are from, in words.
        t_us: (n,) UTC at the middle of each slice, microseconds.
        low_w: (n,) least power in the slice, watts; NaN where nothing was read, so that a line breaks there.
        mean_w: (n,) mean of the readings in the slice.
        high_w: (n,) largest power in the slice.
        readings: how many readings are behind it.
    """

    name: str
    part: str
    source: str
    t_us: Ints
    low_w: Floats
    mean_w: Floats
    high_w: Floats
    readings: int


def thinned(t_us: Ints, watts: Floats, points: int, period_us: int) -> tuple[Ints, Floats, Floats, Floats]:
    """At most `points` slices of time with least, mean and largest power, and a break in each gap.

    Args:
        t_us: (n,) increasing.
        watts: (n,) NaN where a read failed.
        points: most slices wanted, at least 1; breaks come on top.
        period_us: nominal period; what is further apart than two and a half of it, or of a slice, is a gap.
    """
    if not len(t_us):
        return t_us, watts, watts, watts
    width = max(1, -(-int(t_us[-1] - t_us[0] + 1) // points)) if len(t_us) > points else 1
    slices = (t_us - t_us[0]) // width
    starts = np.flatnonzero(np.diff(slices, prepend=-1))
    known = np.isfinite(watts)
    count = np.add.reduceat(known.astype(np.int64), starts)
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = np.add.reduceat(np.where(known, watts, 0.0), starts) / count
    low = np.where(count > 0, np.minimum.reduceat(np.where(known, watts, np.inf), starts), np.nan)
    high = np.where(count > 0, np.maximum.reduceat(np.where(known, watts, -np.inf), starts), np.nan)
    ends = np.append(starts[1:], len(t_us)) - 1
    middle = (t_us[starts] + t_us[ends]) // 2
    gaps = np.flatnonzero(np.diff(middle) > 2.5 * max(period_us, width)) + 1
    if not gaps.size:
        return middle, low, mean, high
    at = (middle[gaps - 1] + middle[gaps]) // 2
    whole = [np.insert(values, gaps, np.nan) for values in (low, mean, high)]
    return np.insert(middle, gaps, at), whole[0], whole[1], whole[2]


def power_trace(
    key: SeriesKey, manifest: Mapping[str, Any], t_us: Ints, power_mw: Any, read: Any, points: int
) -> Trace:
    """Board power of one device in one session, thinned out.

    Args:
        key: node and device.
        manifest: for the device's model and the nominal period.
        t_us: (n,) times of the samples.
        power_mw: (n,) readings; `read` says which are known.
        read: (n,) bool.
        points: as of `thinned`.
    """
    models = {int(d["device_id"]): str(d.get("model")) for d in manifest["hardware"]["devices"]}
    name = f"GPU {key.device_id} ({models.get(key.device_id, 'unknown')}), {key.node_id}"
    watts = np.where(read, power_mw / 1000.0, np.nan)
    shape = thinned(t_us, watts, points, int(manifest["sampling"]["nominal_period_us"]))
    return Trace(shown(name), "gpu", "board power as read", *shape, int(read.sum()))


def counter_traces(counters: Iterable[CounterSeries], points: int, period_us: int) -> list[Trace]:
    """Mean power between the readings of counters that no device has: packages, memory, an estimate.

    A reading that falls below the one before (a wrap, a reset) breaks the line: this is a picture, and what a
    wrap is worth is the accounting's to say.
    """
    found = []
    for series in counters:
        part = _part(series)
        if series.device_id is not None or part is None:
            continue
        valid = np.asarray(series.valid, np.bool_)
        t_us, mono, value = (
            np.asarray(column)[valid] for column in (series.t_us, series.mono_us, series.value)
        )
        later = np.append(True, np.diff(mono) > 0)
        t_us, mono, value = t_us[later], mono[later], value[later].astype(np.float64)
        if len(mono) < 2:
            continue
        # Two readings within a few milliseconds, at a boundary, have more noise than power between them.
        kept = _apart(mono, period_us // 2)
        t_us, mono, value = t_us[kept], mono[kept], value[kept]
        per_j = 1e6 if series.unit == "uJ" else 1e3
        rise = np.diff(value)
        watts = np.where(rise >= 0, rise / per_j / (np.diff(mono) / 1e6), np.nan)
        middle = (t_us[1:] + t_us[:-1]) // 2
        words = "estimate by CodeCarbon" if series.source == "codecarbon" else f"counter of {series.source}"
        found.append(
            Trace(
                shown(f"{_title(part, series.zone)}, {series.node_id}"),
                part,
                words,
                *thinned(
                    middle, watts, points, int(np.median(np.diff(mono))) if len(mono) > 1 else period_us
                ),
                int(valid.sum()),
            )
        )
    return found


def _title(part: str, zone: str | None) -> str:
    """The component, and its zone where that says more: package-0, not cpu."""
    return part.upper() if zone in (None, "cpu", "ram", "dram") else f"{part.upper()} {zone}"


def _part(series: CounterSeries) -> str | None:
    zone = series.zone or ""
    if zone.startswith(("package", "cpu", "socket")):
        return "cpu"
    return "dram" if zone.startswith(("dram", "ram")) else None


def _apart(mono: Ints, least_us: int) -> Ints:
    """Places of readings at least so far apart, greedily from the first."""
    kept, last = [0], int(mono[0])
    for place in range(1, len(mono)):
        if int(mono[place]) - last >= least_us:
            kept.append(place)
            last = int(mono[place])
    return np.array(kept, np.int64)


def packed(trace: Trace, origin_us: int) -> dict[str, object]:
    """A trace for a page: milliseconds from the point before, tenths of a watt; null breaks the line."""
    times = (trace.t_us - origin_us) // 1000
    steps = np.diff(times, prepend=0)
    return {
        "name": trace.name,
        "part": trace.part,
        "source": trace.source,
        "readings": trace.readings,
        "step_ms": steps.tolist(),
        **{
            name: _tenths(values)
            for name, values in (
                ("low_dw", trace.low_w),
                ("mean_dw", trace.mean_w),
                ("high_dw", trace.high_w),
            )
        },
    }


def _tenths(watts: Floats) -> Sequence[int | None]:
    return [None if math.isnan(value) else round(value * 10) for value in watts.tolist()]
