"""How far a power reading lags behind the energy counter.

A reading that averages over w seconds shows the power of w/2 ago; summed up, its joules run behind the
counter's by that much time. So the running integral of the reading is compared with the counter shifted
by a lag: the lag at which they fit best is the mean delay of the reading, whatever the shape of the
averaging. Gain and a constant offset between the two instruments are fitted along, so a wrong scale does
not pass for a delay.
"""

from __future__ import annotations

import numpy as np

from harness.gpucheck.probe.record import Changes, Floats, Shown

_LAGS_S = (-0.2, 1.6)
_COARSE_US, _FINE_US = 20_000.0, 1_000.0
_GRID_US = 10_000.0
_LEAST_FIT = 0.95
_LEAST_SWING_W, _LEAST_SWING = 10.0, 0.1
_BLOCK_US = 200_000.0


def find_lag(ticks: Changes, reading: Shown) -> tuple[float, float] | str:
    """The lag of `reading` (mW) behind the counter whose ticks are `ticks` (mJ), or why it cannot be told.

    Returns:
        The mean delay as it is read, half a refresh of waiting included, and half the difference of the two
        halves of the record, both in us.
    """
    if len(reading.value) < 100:
        return "the card does not give this reading"
    if len(ticks) < 20:
        return "the energy counter was not seen to move"
    swing = _swing_w(ticks)
    mean_w = float((ticks.value[-1] - ticks.value[0]) / (ticks.at_us[-1] - ticks.at_us[0])) * 1e3
    if swing < max(_LEAST_SWING_W, _LEAST_SWING * mean_w):
        return f"the power did not change enough while it was watched (by {swing:.0f} W)"
    start = max(ticks.at_us[0] + _LAGS_S[1] * 1e6, reading.at_us[0])
    end = min(ticks.at_us[-1] + _LAGS_S[0] * 1e6, reading.at_us[-1])
    if end - start < 4e6:
        return "the record is too short"
    whole = _best(ticks, reading, start, end)
    if whole is None:
        return "the reading does not follow the counter"
    middle = (start + end) / 2
    halves = [_best(ticks, reading, start, middle), _best(ticks, reading, middle, end)]
    found = [half for half in halves if half is not None]
    error = abs(found[0] - found[1]) / 2 if len(found) == 2 else _COARSE_US
    return whole, max(error, _FINE_US)


def _swing_w(ticks: Changes) -> float:
    times = np.arange(ticks.at_us[0], ticks.at_us[-1], _BLOCK_US)
    if len(times) < 3:
        return 0.0
    watts = np.diff(np.interp(times, ticks.at_us, ticks.value)) / _BLOCK_US * 1e3
    return float(np.percentile(watts, 95) - np.percentile(watts, 5))


def _best(ticks: Changes, reading: Shown, start: float, end: float) -> float | None:
    times = np.arange(start, end, _GRID_US)
    if len(times) < 100:
        return None
    at, power = reading.at_us, reading.value
    steps = np.diff(at) * (power[1:] + power[:-1]) / 2
    integral = np.interp(times, at, np.concatenate(([0.0], np.cumsum(steps)))) / 1e9  # mW us -> J
    basis, _ = np.linalg.qr(np.column_stack((np.ones_like(times), times - times.mean())))
    target = _without(integral, basis)
    energy_j = (ticks.value - ticks.value[0]) / 1e3

    def explained(lag: float) -> float:
        shifted = _without(np.interp(times - lag, ticks.at_us, energy_j), basis)
        product = float(target @ shifted)
        if product <= 0.0:
            return 0.0
        return product**2 / float(target @ target) / float(shifted @ shifted)

    low, high = (edge * 1e6 for edge in _LAGS_S)
    coarse = np.arange(low, high + 1, _COARSE_US)
    fits = np.array([explained(float(lag)) for lag in coarse])
    best = int(np.argmax(fits))
    if best in (0, len(coarse) - 1) or fits[best] < _LEAST_FIT:
        return None
    fine = np.arange(coarse[best - 1], coarse[best + 1], _FINE_US)
    fits = np.array([explained(float(lag)) for lag in fine])
    return float(fine[int(np.argmax(fits))])


def _without(values: Floats, basis: Floats) -> Floats:
    """What remains of `values` once the columns of an orthonormal basis are taken out."""
    remainder: Floats = values - basis @ (basis.T @ values)
    return remainder
