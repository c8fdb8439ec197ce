"""How well the caller's window is billed: `python scripts/bench_window.py [--windows 1000]`.

Random loads and windows in simulated time (tests/accounting/windows.py), through the kit's accounting,
deterministic. A line for each setting: error against the caller's own window in %, share of truths inside the
95 % interval, its mean half-width, and that over the half-width of intervals scaled to cover exactly 95 %.
Settings without bars follow: other refreshes, and power as the mean of 25 ms. A model of a card from
documents and papers, not a GPU.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tests.accounting.windows import GRID, LOADS, Setting, Summary, misses

BESIDE = [
    *(Setting(load, 1_000_000, 20_000, False, sensor_us=100_000) for load in LOADS),
    *(Setting(load, 1_000_000, 100_000, False, sensor_us=10_000) for load in LOADS),
    *(
        Setting(load, 1_000_000, refresh_us, True, window_us=25_000)
        for load in LOADS
        for refresh_us in (100_000, 20_000)
    ),
]


def line(setting: Setting, seeds: range) -> Summary:
    """Bill the windows of a setting and print its line."""
    s = Summary.of(map(setting.window, seeds))
    sensor_ms = (setting.sensor_us or setting.refresh_us) / 1000
    phase = "in phase" if setting.in_phase else "any phase"
    mean_of = f", mean of {setting.window_us / 1000:g}" if setting.window_us else ""
    print(
        f"{setting.load:6} {setting.length_us / 1e6:4g} s {setting.refresh_us / 1000:4g} "
        f"{f'{sensor_ms:g} {phase}{mean_of}':26} {s.mean:7.3f} {s.p95:7.3f} {s.worst:7.2f} {s.bias:+7.3f} "
        f"{s.coverage:9.1%} {s.half:7.3f} {s.ratio:6.2f} {s.stepped:6.0%}",
        end="",
        flush=True,
    )
    return s


def main() -> int:
    """Entry point; 1 where a bar is missed."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--windows", type=int, default=1000, help="of each setting")
    parser.add_argument("--seed", type=int, default=0, help="of the first window")
    options = parser.parse_args()
    seeds = range(options.seed, options.seed + options.windows)
    print(
        f"{'load':6} {'length':6} {'ms':>4} {'power, ms':26} {'mean':>7} {'p95':>7} {'worst':>7} {'bias':>7} "
        f"{'coverage':>9} {'half':>7} {'ratio':>6} {'step':>6}"
    )
    missed = 0
    for setting in GRID:
        found = misses(setting, line(setting, seeds))
        missed += len(found)
        print("".join(f"  MISSED {bar}" for bar in found))
    print("beside, without bars:")
    for setting in BESIDE:
        line(setting, seeds)
        print()
    print(f"{missed} bars missed in {len(GRID)} settings of {options.windows} windows")
    return int(missed > 0)


if __name__ == "__main__":
    raise SystemExit(main())
