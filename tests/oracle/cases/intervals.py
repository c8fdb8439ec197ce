"""Low and high of stages: the terms of 4.4, alone and together."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tests.oracle.family import Family

Json = dict[str, Any]
S, PERIOD = 1_000_000, 500_000
LIMIT = 700_000


def _end(number: int, mono: int, value: int | None, device: int, method: str, **more: Any) -> Json:
    row = {"session": 0, "boundary": number, "device_id": device, "mono_us": mono, "value_mj": value}
    return row | {"method": method, "uncertainty_us": 0, "power_mw": None, **more}


def counted(
    seconds: int,
    watts: int,
    brackets: tuple[int, int],
    method: str | tuple[str, str] = "tick",
    device: int = 0,
    last_w: int | None = None,
) -> Json:
    """A device that drew `watts`, read at both ends within brackets of so many us."""
    more = [
        {"uncertainty_us": u, "power_mw": 1000 * w}
        for u, w in zip(brackets, (watts, watts if last_w is None else last_w), strict=True)
    ]
    methods = (method, method) if isinstance(method, str) else method
    ends = [
        _end(n, t * S, 10**9 + 1000 * t * watts, device, methods[n], **more[n])
        for n, t in enumerate((0, seconds))
    ]
    return {"boundaries": ends, "power": []}


def sampled(watts: Sequence[int | None], device: int = 0) -> Json:
    """A device without a counter, sampled every half second; None is a failed read."""
    times = [PERIOD * k for k in range(len(watts))]
    power = [None if w is None else 1000 * w for w in watts]
    ends = [_end(n, t, None, device, "immediate") for n, t in enumerate((times[0], times[-1]))]
    block = {"device_id": device, "session": 0, "mono_us": times, "power_mw": power}
    return {"boundaries": ends, "power": [block]}


def together(*devices: Json) -> Json:
    """A stage on all of them."""
    return {
        "device_ids": list(range(len(devices))),
        "power_limit_mw": LIMIT,
        "boundaries": [row for device in devices for row in device["boundaries"]],
        "power": [block for device in devices for block in device["power"]],
    }


def intervals() -> Family:
    """Intervals of stages."""
    doc = "Low and high are a 95 % interval: uniform terms combined exactly, random ones in quadrature."
    family = Family("intervals", doc, "stage_interval", "4.4")
    steps = [100, 400] * 20
    few = [*steps[:30], None, None, *steps[32:], *[100, 400] * 20, 100]
    many = [*[300] * 10, *[None] * 20, *[300] * 10, 300]
    alike = counted(10, 300, (200, 200))
    added, on_time = "IntervalsAdded", "NeverOnTime"
    for name, text, devices, *flags in (
        ("two-ticks", "Two brackets alike: 1.55 times one of them, not 2.", [alike], added),
        ("two-brackets", "Two that differ.", [counted(20, 450, (900, 300))], added),
        ("one-bracket", "One of them so small that only the other one counts, and the last millijoule.",
         [counted(20, 450, (5_000, 1))], added),
        ("power-at-ends", "Each bracket by the power beside it.",
         [counted(30, 500, (400, 400), last_w=80)], added),
        ("whole-millijoules", "Exact ticks: half a millijoule at each end is left.",
         [counted(10, 300, (0, 0))], added),
        ("as-read", "Values as they stood when read, up to 50 ms old: both ends lag alike.",
         [counted(10, 300, (50_000, 50_000), "immediate")], added),
        ("as-read-later-end", "The end lags more than the start: the interval reaches further up.",
         [counted(10, 300, (10_000, 90_000), "immediate")], added),
        ("as-read-one-end", "A bracket and an old value: were it not old, the bracket would be left.",
         [counted(10, 300, (2_000, 90_000), ("tick", "immediate"))], f"{added} {on_time}"),
        ("steady-samples", "Without a counter, power that never changes: what rounding hides.",
         [sampled([300] * 21)]),
        ("changing-samples", "Every sample differs from the one before: the worst that sampling can do.",
         [sampled([*steps, 100])], added),
        ("few-samples", "Two cells say little of how rough the power is.", [sampled([100, 400, 100])], added),
        ("short-gap", "A gap of less than a tenth: as doubtful as what was seen.", [sampled(few)], added),
        ("long-gap", "A gap of half the window: anything up to the power limit, on top.", [sampled(many)]),
        ("two-devices", "Independent devices add in quadrature.",
         [alike, counted(10, 300, (200, 200), device=1)], added),
        ("two-instruments", "A counter and a device without one.",
         [counted(20, 450, (900, 300)), sampled([*steps, 100], 1)], added),
        ("bounds-of-one", "A bound of one device is added to the rest.",
         [counted(20, 450, (900, 300)), sampled(many, 1)], added),
    ):  # fmt: skip
        family.add(name, text, together(*devices), *flags)
    return family
