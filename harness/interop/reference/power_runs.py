"""Cuts a power_log.csv into runs and hands each run the samples of its window.

The harness appends every run of a stage to the same file. Samples are never carried across a change of
columns, a second header, a step back in time or a silence longer than `split_s`, unless a record written by
the harness itself says that one run spans it: then the silence is a gap of that run.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from harness.interop.reference.records import US_PER_S, PowerLog

EDGE_S = 2.0
"""Samples this close outside a recorded window belong to it: the poller starts before and stops after the
stage."""

SPLIT_S = 300.0
"""Default silence that separates two runs. The longest silence inside a published run is 41.4 s; a restart
needs to load a 32B teacher or wait in a queue, minutes to hours."""


@dataclass(frozen=True, slots=True)
class PowerSeries:
    """Samples of one run.

    Attributes:
        gpus: NVML index of each column of `watts`; `(-1,)` when only the total is known.
        t_us: int64 [n], unix microseconds, strictly increasing.
        watts: float64 [n, g], NaN where a reading cannot be used.
        steps_back: Times the wall clock ran backwards inside the run; the overlapped samples are dropped.
    """

    gpus: tuple[int, ...]
    t_us: NDArray[np.int64]
    watts: NDArray[np.float64]
    steps_back: int = 0

    @property
    def total_w(self) -> NDArray[np.float64]:
        """Watts over all GPUs [n]; NaN where any GPU has none."""
        return np.asarray(self.watts.sum(axis=1), dtype=np.float64)

    def between(self, start_us: int, end_us: int) -> PowerSeries:
        """The samples with start_us <= t <= end_us."""
        keep = (self.t_us >= start_us) & (self.t_us <= end_us)
        return PowerSeries(self.gpus, self.t_us[keep], self.watts[keep], self.steps_back)


class PowerRuns:
    """The samples of one power_log.csv, taken away piece by piece."""

    def __init__(self, log: PowerLog, split_s: float = SPLIT_S) -> None:
        self._split_us = round(split_s * US_PER_S)
        self._pieces: list[PowerSeries] = []
        self.column_changes = sum(before.gpus != after.gpus for before, after in pairwise(log.blocks))
        for block in log.blocks:
            t_us = np.round(block.t_s * US_PER_S).astype(np.int64)
            cuts = np.flatnonzero((np.diff(t_us) <= 0) | (np.diff(t_us) > self._split_us)) + 1
            for t_piece, watts in zip(np.split(t_us, cuts), np.split(block.watts, cuts), strict=True):
                self._pieces.append(PowerSeries(block.gpus, t_piece, watts))

    @property
    def segments(self) -> int:
        """Pieces that are left."""
        return len(self._pieces)

    def count_between(self, start_us: int, end_us: int) -> int:
        """Pieces with samples inside the window."""
        return sum(bool(len(piece.between(start_us, end_us).t_us)) for piece in self._pieces)

    def take(self, start_us: int, end_us: int, *, until_us: int | None = None) -> PowerSeries | None:
        """Remove and return the samples of one run.

        Args:
            start_us: Recorded start of the run, unix microseconds.
            end_us: Recorded end.
            until_us: For a run that went on after its last record: also take what follows without a cut, up
                to here.

        Returns:
            The samples, or None when the log has none inside the window.
        """
        edge_us = round(EDGE_S * US_PER_S)
        inside = [piece for piece in self._pieces if len(piece.between(start_us, end_us).t_us)]
        if not inside:
            return None
        weight: dict[tuple[int, ...], int] = {}
        for piece in inside:
            weight[piece.gpus] = weight.get(piece.gpus, 0) + len(piece.between(start_us, end_us).t_us)
        # One process polls one set of cards: the set with most samples is the run, others are its neighbours.
        gpus = max(weight, key=lambda columns: weight[columns])
        own = [piece for piece in inside if piece.gpus == gpus]
        last = max(range(len(own)), key=lambda position: int(own[position].t_us[-1]))
        parts: list[PowerSeries] = []
        for position, piece in enumerate(own):
            stop_us = end_us + edge_us
            if until_us is not None and position == last:
                stop_us = max(stop_us, until_us)
            parts.append(piece.between(start_us - edge_us, stop_us))
            self._replace(piece, _without(piece, start_us - edge_us, stop_us))
        return _join(parts)

    def rest(self, *, min_samples: int = 2) -> tuple[list[PowerSeries], int]:
        """What no record claims: one series a run, and the number of stray samples too few to integrate."""
        runs = [piece for piece in self._pieces if len(piece.t_us) >= min_samples]
        stray = sum(len(piece.t_us) for piece in self._pieces if len(piece.t_us) < min_samples)
        return sorted(runs, key=lambda piece: int(piece.t_us[0])), stray

    def _replace(self, piece: PowerSeries, parts: list[PowerSeries]) -> None:
        position = next(index for index, other in enumerate(self._pieces) if other is piece)
        self._pieces[position : position + 1] = parts


def _without(piece: PowerSeries, start_us: int, end_us: int) -> list[PowerSeries]:
    sides = [piece.t_us < start_us, piece.t_us > end_us]
    return [PowerSeries(piece.gpus, piece.t_us[side], piece.watts[side]) for side in sides if side.any()]


def _join(parts: list[PowerSeries]) -> PowerSeries:
    """One increasing series. Where the clock ran back, the later-written samples win: their clock was set
    right."""
    back = sum(bool(after.t_us[0] <= before.t_us[-1]) for before, after in pairwise(parts))
    t_us, watts = parts[0].t_us, parts[0].watts
    for part in parts[1:]:
        keep = t_us < part.t_us[0]
        t_us = np.concatenate([t_us[keep], part.t_us])
        watts = np.concatenate([watts[keep], part.watts])
    return PowerSeries(parts[0].gpus, t_us, watts, steps_back=back)
