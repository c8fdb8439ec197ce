"""Cuts a power_log.csv into runs and hands each run the samples of its window.

The harness appends every run of a stage to the same file. Samples are never carried across a change of
columns, a second header, a step back in time or a silence longer than `split_s`, unless a record written by
the harness itself says that one run spans it: then the silence is a gap of that run.
"""

from __future__ import annotations

from collections import Counter
from itertools import pairwise

import numpy as np

from harness.interop.imported import US_PER_S, Samples
from harness.interop.reference.records import PowerLog

EDGE_US = 2 * US_PER_S
"""Samples this close outside a recorded window belong to it: the poller starts before and stops after the
stage."""

SPLIT_S = 300.0
"""Default silence that separates two runs. The longest silence inside a published run is 41.4 s; a restart
needs to load a 32B teacher or wait in a queue, minutes to hours."""


class PowerRuns:
    """The samples of one power_log.csv, taken away piece by piece."""

    def __init__(self, log: PowerLog, split_s: float = SPLIT_S) -> None:
        self._pieces: list[Samples] = []
        self.column_changes = sum(before.gpus != after.gpus for before, after in pairwise(log.blocks))
        for block in log.blocks:
            steps = np.diff(block.t_us)
            cuts = np.flatnonzero((steps <= 0) | (steps > round(split_s * US_PER_S))) + 1
            pieces = zip(np.split(block.t_us, cuts), np.split(block.watts, cuts), strict=True)
            self._pieces += [Samples(block.gpus, t_us, watts) for t_us, watts in pieces]

    def count_between(self, start_us: int, end_us: int) -> int:
        """Pieces with samples inside the window."""
        return sum(bool(len(piece.between(start_us, end_us).t_us)) for piece in self._pieces)

    def take(self, start_us: int, end_us: int, *, until_us: int | None = None) -> Samples | None:
        """Remove and return the samples of one run.

        Args:
            start_us: Recorded start of the run, unix microseconds.
            end_us: Recorded end.
            until_us: For a run that went on after its last record: also take what follows without a cut, up
                to here.

        Returns:
            The samples, or None when the log has none inside the window.
        """
        weight: Counter[tuple[int, ...]] = Counter()
        for piece in self._pieces:
            if inside := len(piece.between(start_us, end_us).t_us):
                weight[piece.gpus] += inside
        if not weight:
            return None
        # One process polls one set of cards: the set with most samples is the run, others are its neighbours.
        gpus = weight.most_common(1)[0][0]
        own = [p for p in self._pieces if p.gpus == gpus and len(p.between(start_us, end_us).t_us)]
        last = max(own, key=lambda piece: int(piece.t_us[-1]))
        first_us, parts, left = start_us - EDGE_US, [], []
        for piece in self._pieces:
            if not any(piece is one for one in own):
                left.append(piece)
                continue
            stop_us = end_us + EDGE_US
            if until_us is not None and piece is last:
                stop_us = max(stop_us, until_us)
            parts.append(piece.between(first_us, stop_us))
            for side in (piece.t_us < first_us, piece.t_us > stop_us):
                if side.any():
                    left.append(Samples(piece.gpus, piece.t_us[side], piece.watts[side]))
        self._pieces = left
        return _join(parts)

    def rest(self, *, min_samples: int = 2) -> tuple[list[Samples], int]:
        """What no record claims: one series a run, and the number of stray samples too few to integrate."""
        runs = [piece for piece in self._pieces if len(piece.t_us) >= min_samples]
        stray = sum(len(piece.t_us) for piece in self._pieces if len(piece.t_us) < min_samples)
        return sorted(runs, key=lambda piece: int(piece.t_us[0])), stray


def _join(parts: list[Samples]) -> Samples:
    """One increasing series. Where the clock ran back, the later-written samples win: their clock was set
    right."""
    back = sum(bool(after.t_us[0] <= before.t_us[-1]) for before, after in pairwise(parts))
    t_us, watts = parts[0].t_us, parts[0].watts
    for part in parts[1:]:
        keep = t_us < part.t_us[0]
        t_us = np.concatenate([t_us[keep], part.t_us])
        watts = np.concatenate([watts[keep], part.watts])
    return Samples(parts[0].gpus, t_us, watts, steps_back=back)
