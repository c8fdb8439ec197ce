"""From samples and stages to joules, with an interval for each. Pure functions on numpy arrays, no I/O.

    integral.py   power samples -> energy, gaps found and bounded
    counter.py    energy counter -> energy, resets and standstills bridged
    rapl.py       RAPL zones -> CPU and DRAM energy
    processor.py  which CPU source counts, and how wide an estimate is
    error_model.py how wrong each of these can be, and how that makes a 95 % interval
    boundaries.py sessions, holes, `unattributed` rows
    device.py     one GPU in one session
    stages.py     recorded columns + raw readings -> derived columns
    unused.py     devices that were billed and not used
    totals.py     run totals, J/token, facility energy, CO2e
    shared_scales.py what stages of a device or machine have in common, at its ends
    stage_scales.py which of these a stage's energy is a multiple of
    amortize.py   reuse, N* and T*
    quality.py    Q against the teacher's scores
    pareto.py     the frontier, ties told from dominations
    figures.py    digits that respect the interval

Nothing here reads a file or imports more of this package than `harness.accounting`.
"""

from __future__ import annotations

from harness.accounting.amortize import BreakEven, Reuse, break_even, reuse, serving_break_even
from harness.accounting.boundaries import UNATTRIBUTED, UNATTRIBUTED_UID
from harness.accounting.counter import CounterEnergy, CounterReading, CounterTicks, counter_energy
from harness.accounting.integral import PowerIntegral, integrate_power
from harness.accounting.interval import Interval
from harness.accounting.pareto import ParetoPoint, Standing, pareto_frontier
from harness.accounting.quality import Measured, Quality
from harness.accounting.series import NO_BOUNDARY, CounterSeries, DeviceLimits, PowerSeries, Sampling
from harness.accounting.stages import DERIVED_FLAGS, Derivation, Plan, SessionTotal, derive_stages
from harness.accounting.totals import RunTotals, run_totals

__all__ = [
    "DERIVED_FLAGS",
    "NO_BOUNDARY",
    "UNATTRIBUTED",
    "UNATTRIBUTED_UID",
    "BreakEven",
    "CounterEnergy",
    "CounterReading",
    "CounterSeries",
    "CounterTicks",
    "Derivation",
    "DeviceLimits",
    "Interval",
    "Measured",
    "ParetoPoint",
    "Plan",
    "PowerIntegral",
    "PowerSeries",
    "Quality",
    "Reuse",
    "RunTotals",
    "Sampling",
    "SessionTotal",
    "Standing",
    "break_even",
    "counter_energy",
    "derive_stages",
    "integrate_power",
    "pareto_frontier",
    "reuse",
    "run_totals",
    "serving_break_even",
]
