"""What the energy counter counts, told by comparing it with INSTANT power while the power is steady."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from harness.gpucheck.probe.record import Changes, Recording, Shown

_BLOCK_US = 500_000.0
_STEADY = 0.03
_AGREE = 0.05  # the accuracy that the vendor states for board power
_AGREE_UNSTEADY = 0.15  # beyond this no lag explains the difference
_TWO_LEVELS = 1.3
_LEAST_STEADY = 4


@dataclass(frozen=True)
class CounterScope:
    """Counter against INSTANT power.

    Attributes:
        ratio: Counter's power over INSTANT power, at the highest steady level seen.
        spread: Standard deviation of that ratio over the stretches it was taken from.
        stretches: How many, of half a second each.
        steady: Whether the power was steady in them; else the ratio is that of the whole record.
        slope: Counter's watts per INSTANT watt from two power levels, None with one.
        offset_w: What the counter counts besides, from two power levels.
        verdict: "gpu", "module", "wider", "narrower" or "unknown".
        module_ratio: Counter's power over the module's INSTANT power, None for a card without a module.
    """

    ratio: float
    spread: float
    stretches: int
    steady: bool
    slope: float | None
    offset_w: float | None
    verdict: str
    module_ratio: float | None


@dataclass(frozen=True)
class _Block:
    counter_w: float
    instant_w: float
    module_w: float | None
    steady: bool


def find_scope(ticks: Changes, recording: Recording) -> CounterScope | str:
    """The counter's scope, or why it cannot be told."""
    power = recording.instant if len(recording.instant.value) else recording.usage
    if len(power.value) < 100:
        return "the card shows no power"
    if len(ticks) < 10:
        return "the energy counter was not seen to move"
    blocks = _blocks(ticks, power, recording.module)
    steady = [block for block in blocks if block.steady]
    chosen, is_steady = (steady, True) if len(steady) >= _LEAST_STEADY else (blocks, False)
    if not chosen:
        return "the record is too short"
    slope, offset_w = _line(steady if is_steady else [])
    if is_steady:
        top = max(block.instant_w for block in chosen)
        chosen = [block for block in chosen if block.instant_w >= top * (1 - 2 * _STEADY)]
        ratios = [block.counter_w / block.instant_w for block in chosen]
        ratio, spread = float(np.median(ratios)), float(np.std(ratios))
    else:
        ratio = sum(block.counter_w for block in chosen) / sum(block.instant_w for block in chosen)
        spread = float(np.std([block.counter_w / block.instant_w for block in chosen]))
    module = [block.counter_w / block.module_w for block in chosen if block.module_w]
    module_ratio = float(np.median(module)) if module else None
    return CounterScope(
        ratio=ratio,
        spread=spread,
        stretches=len(chosen),
        steady=is_steady,
        slope=slope,
        offset_w=offset_w,
        verdict=_verdict(ratio, module_ratio, is_steady),
        module_ratio=module_ratio,
    )


def _verdict(ratio: float, module_ratio: float | None, steady: bool) -> str:
    if abs(ratio - 1.0) <= _AGREE:
        return "gpu"
    if module_ratio is not None and abs(module_ratio - 1.0) <= _AGREE:
        return "module"
    if not steady and abs(ratio - 1.0) <= _AGREE_UNSTEADY:
        return "unknown"
    return "wider" if ratio > 1.0 else "narrower"


def _blocks(ticks: Changes, power: Shown, module: Shown) -> list[_Block]:
    """Stretches of half a second, cut at counter ticks."""
    edges = [0]
    for number, at in enumerate(ticks.at_us):
        if at - ticks.at_us[edges[-1]] >= _BLOCK_US:
            edges.append(number)
    blocks: list[_Block] = []
    before: float | None = None
    for left, right in pairwise(edges):
        start, end = float(ticks.at_us[left]), float(ticks.at_us[right])
        shown = power.between(start, end)
        if len(shown.value) < 10:
            before = None
            continue
        mean = _time_mean(shown)
        quiet = bool(shown.value.std() <= _STEADY * mean)
        settled = before is not None and abs(mean - before) <= _STEADY * mean
        whole = module.between(start, end)
        blocks.append(
            _Block(
                counter_w=float(ticks.value[right] - ticks.value[left]) / (end - start) * 1e3,
                instant_w=mean / 1e3,
                module_w=_time_mean(whole) / 1e3 if len(whole.value) >= 10 else None,
                steady=quiet and settled,
            )
        )
        before = mean
    return blocks


def _time_mean(shown: Shown) -> float:
    """Mean over time rather than over reads, which are not evenly spaced on a busy machine."""
    at, value = shown.at_us, shown.value
    return float((np.diff(at) * (value[1:] + value[:-1]) / 2).sum() / (at[-1] - at[0]))


def _line(blocks: list[_Block]) -> tuple[float | None, float | None]:
    """Slope and offset of counter power over INSTANT power, where there are two levels for a line."""
    if len(blocks) < 2:
        return None, None
    instant = np.array([block.instant_w for block in blocks])
    counter = np.array([block.counter_w for block in blocks])
    if instant.max() < _TWO_LEVELS * instant.min():
        return None, None
    slope, offset = np.polyfit(instant, counter, 1)
    return float(slope), float(offset)
