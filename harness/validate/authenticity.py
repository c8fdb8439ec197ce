"""Level 3, the shape of the readings: constant, rounded, replayed or copied series.

A run labelled simulated says itself that its signals are made up; it cannot be ranked, and these rules leave
it alone. Imported logs went through other tools' rounding, so their resolution is not judged.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import combinations

import numpy as np

from harness.validate.context import Context
from harness.validate.findings import Hit
from harness.validate.likeness import pairs
from harness.validate.power_facts import SeriesFacts
from harness.validate.registry import rule

POWER = "power.parquet"

CONSTANT_SAMPLES = 120
MINUTE_US = 60_000_000
"""No working card shows one milliwatt value for a minute. So many readings and so long: a meter with a period
of milliseconds reads the same refresh many times over."""

WORKING_SHARE = 0.3
"""Of the power limit; below it a card may be idle, and idle readings can stand still."""

COARSE_MW = 1000
FEW = 16
"""Different values below which a resolution cannot be judged."""

ENOUGH = 240


def _series(ctx: Context) -> Iterator[SeriesFacts]:
    if "simulated" not in ctx.manifest["labels"]:
        yield from (facts for facts in ctx.facts.seen if facts.signal is not None)


def _name(facts: SeriesFacts) -> str:
    return f"device {facts.key.device_id}, session {facts.key.session}"


def _working_mw(ctx: Context, facts: SeriesFacts) -> float:
    """Above this a card works; infinite where no limit is known, as nothing tells then."""
    limit = ctx.limits_mw.get(facts.key.device_id) or (facts.signal.limit_mw if facts.signal else None)
    return WORKING_SHARE * limit if limit else math.inf


@rule("E320")
def not_constant(ctx: Context) -> Iterator[Hit]:
    """No working card shows one and the same reading for a minute, or only a handful of values all along."""
    period_us = int(ctx.manifest["sampling"]["nominal_period_us"])
    for facts in _series(ctx):
        signal = facts.signal
        if signal is None or signal.constant is None:
            continue
        flat, lasted_us = signal.constant, signal.constant.end_us - signal.constant.start_us
        minute = flat.samples >= CONSTANT_SAMPLES and lasted_us >= MINUTE_US
        if minute and flat.power_mw > _working_mw(ctx, facts):
            seconds = lasted_us / 1e6
            observed = (
                f"{_name(facts)}: {flat.power_mw} mW in {flat.samples} readings in a row ({seconds:.0f} s)"
            )
            yield Hit(POWER, observed, "readings that vary", (), flat.power_mw * seconds / 1000, flat.samples)
            continue
        long = signal.samples >= ENOUGH and signal.samples * period_us >= MINUTE_US
        if long and signal.distinct < FEW and signal.max_mw > _working_mw(ctx, facts):
            observed = f"{_name(facts)}: {signal.distinct} different values in {signal.samples} readings"
            yield Hit(POWER, observed, f"at least {FEW}")


@rule("W321")
def fine_resolution(ctx: Context) -> Iterator[Hit]:
    """Readings come in milliwatts, not in whole watts."""
    if ctx.imported:
        return
    for facts in _series(ctx):
        signal = facts.signal
        if signal and signal.samples >= ENOUGH and signal.distinct >= FEW and signal.step_mw >= COARSE_MW:
            observed = f"{_name(facts)}: every reading is a multiple of {signal.step_mw / 1000:g} W"
            yield Hit(POWER, observed, "the milliwatts that the instrument gives")


@rule("E322")
def not_replayed(ctx: Context) -> Iterator[Hit]:
    """No block of half a minute occurs twice in a series."""
    for facts in _series(ctx):
        again = facts.signal.replay if facts.signal else None
        if again is not None:
            observed = (
                f"{_name(facts)}: {again.length} readings from mono_us {again.first_us} occur again from "
                f"{again.again_us}"
            )
            yield Hit(POWER, observed, "noise that never repeats", (), again.energy_j, again.length)


@rule("E323")
def not_copied(ctx: Context) -> Iterator[Hit]:
    """No two devices or sessions share a block of half a minute, noise or a factor put aside."""
    series = list(_series(ctx))
    near = set(pairs([facts.traces for facts in series]))
    for (i, a), (j, b) in combinations(enumerate(series), 2):
        what = shared(a, b) or ("readings much like those" if (i, j) in near else None)
        if what is not None:
            yield Hit(POWER, f"{_name(b)} has {what} of {_name(a)}", "readings of its own")


def shared(a: SeriesFacts, b: SeriesFacts) -> str | None:
    """What of `a` is in `b`: all its readings, a block of them, or None."""
    if a.signal is None or b.signal is None:
        return None
    if a.signal.digest is not None and a.signal.digest == b.signal.digest:
        return "all the readings"
    if np.intersect1d(a.signal.prints, b.signal.prints).size:
        return "a block of readings"
    return None
