"""Which instrument is billed, device by device, and what is said where there is none."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

from vector_oracle.build import Family
from vector_oracle.curve import PERIOD

Json = dict[str, Any]
S = 1_000_000


def families() -> list[Family]:
    """Instruments of a run."""
    return [_methods()]


def reading(number: int, second: int, value: int | None, device: int | None = 0) -> Json:
    """One device at one boundary."""
    mono = second * S
    found = {"session": 0, "boundary": number, "device_id": device, "mono_us": mono, "t_us": mono}
    return found | {"value_mj": value, "method": "tick"}


def stage(uid: int, name: str, start: int, end: int, devices: tuple[int, ...] = (0,)) -> Json:
    """A stage between two boundaries."""
    found = {"stage_uid": uid, "name": name, "stage": "student_train", "boundary_start": start}
    return found | {"boundary_end": end, "device_ids": list(devices)}


def samples(seconds: int, milliwatts: int, counter_mw: int | None, device: int = 0, base: int = 0) -> Json:
    """Power at 2 Hz that shows `milliwatts`, beside a counter that rises at `counter_mw`."""
    mono = [k * PERIOD for k in range(seconds * S // PERIOD + 1)]
    counted = [None if counter_mw is None else base + counter_mw * t // S for t in mono]
    found: Json = {"device_id": device, "session": 0, "mono_us": mono}
    return found | {"power_mw": [milliwatts] * len(mono), "energy_counter_mj": counted}


def _methods() -> Family:
    family = Family(
        "methods",
        "Counter first, the power integral beside it or in its place; unknown where there is neither.",
    )

    def add(name: str, clause: str, text: str, given: Json, expected: Json, *flags: str) -> None:
        family.valid(name, clause, "account", given, expected, text, *flags)

    ends = [reading(0, 1, 300_000), reading(1, 11, 3_300_000)]
    row: Json = {"name": "a", "gpu_energy_j": Fraction(3000), "gpu_energy_counter_j": Fraction(3000)}
    row |= {"gpu_energy_integral_j": Fraction(5000), "gpu_energy_method": "counter_tick"}
    add(
        "counter-and-integral",
        "4.1",
        "A load that samples alias: 5 kJ by power, 3 kJ by the counter. The counter is billed, both shown.",
        {"stages": [stage(0, "a", 0, 1)], "boundaries": ends, "power": [samples(12, 500_000, 300_000)]},
        {"stages": [row], "gpu_energy_j": Fraction(3000)},
        "IntegralBilled",
    )
    cut = [reading(0, 0, 0), reading(1, 5, None), reading(2, 9, 2_700_000)]
    cut[1]["mono_us"] = cut[1]["t_us"] = 5_200_000
    rows: list[Json] = [
        {"name": "a", "gpu_energy_j": Fraction(1560), "gpu_energy_method": "counter_sample"},
        {"name": "b", "gpu_energy_j": Fraction(1140), "gpu_energy_method": "counter_sample"},
    ]
    add(
        "unread-shared-boundary",
        "4.1",
        "The read at a shared boundary failed: both stages take one interpolated value; the sum is exact.",
        {
            "stages": [stage(0, "a", 0, 1), stage(1, "b", 1, 2)],
            "boundaries": cut,
            "power": [samples(9, 310_000, 300_000)],
        },
        {"stages": rows, "gpu_energy_j": Fraction(2700), "session_energy_mj": [2_700_000]},
        "IntegralBilled",
        "NullAsZero",
    )
    pair = [reading(n, s, v, d) for n, s in ((0, 0), (1, 10)) for d, v in ((0, 400_000 * s), (1, None))]
    power = [samples(10, 350_000, 400_000), samples(10, 100_000, None, 1)]
    row = {"name": "a", "device_energy_j": [Fraction(4000), Fraction(1000)], "gpu_energy_j": Fraction(5000)}
    row |= {"gpu_energy_counter_j": None, "gpu_energy_integral_j": Fraction(4500)}
    add(
        "one-device-without-counter",
        "4.1",
        "Each device by the best it has; the sum carries the worst method, and has no counter figure.",
        {"stages": [stage(0, "a", 0, 1, (0, 1))], "boundaries": pair, "power": power},
        {"stages": [row | {"gpu_energy_method": "power_integral"}], "gpu_energy_j": Fraction(5000)},
        "IntegralBilled",
        "UnknownAsZero",
        "NullAsZero",
    )
    add(
        "one-device-unmeasured",
        "1.2",
        "A device that nothing could read: the sum with an unknown part is unknown, not the known part.",
        {"stages": [stage(0, "a", 0, 1, (0, 1))], "boundaries": pair, "power": power[:1]},
        {
            "stages": [{"name": "a", "gpu_energy_j": None, "gpu_energy_method": "absent"}],
            "gpu_energy_j": None,
        },
        "UnknownAsZero",
        "NullAsZero",
    )
    three = [
        reading(0, 0, 0),
        reading(1, 10, 1_000_000),
        reading(2, 12, 1_100_000),
        reading(3, 20, 2_000_000),
    ]
    zone = {"zone": "package-0", "session": 0, "range_uj": None, "mono_us": [0, 10 * S, 12 * S, 20 * S]}
    zone["value_uj"] = [5_000_000, 505_000_000, 565_000_000, 1_365_000_000]
    rows = [
        {
            "name": "a",
            "gpu_energy_j": Fraction(1000),
            "cpu_energy_j": Fraction(500),
            "energy_j": Fraction(1500),
        },
        {
            "name": "b",
            "gpu_energy_j": Fraction(900),
            "cpu_energy_j": Fraction(800),
            "energy_j": Fraction(1700),
        },
        {
            "name": "unattributed",
            "gpu_energy_j": Fraction(100),
            "cpu_energy_j": Fraction(60),
            "energy_j": Fraction(160),
        },
    ]
    whole = {"gpu_energy_j": Fraction(2000), "cpu_energy_j": Fraction(1360), "it_energy_j": Fraction(3360)}
    add(
        "gpu-and-cpu",
        "1.2",
        "Packages are cut at the same boundaries; a wait has CPU energy too.",
        {"stages": [stage(0, "a", 0, 1), stage(1, "b", 2, 3)], "boundaries": three, "zones": [zone]},
        {"stages": rows, **whole, "unattributed_energy_j": Fraction(160)},
        "HolesLost",
        "SinglePrecision",
    )
    two = [reading(n, s, 1000 * s * d, d - 1) for n, s in ((0, 0), (1, 10), (2, 12), (3, 20)) for d in (1, 2)]
    cards = [stage(0, "a", 0, 1, (0,)), stage(1, "b", 2, 3, (1,))]
    rows = [
        {"name": "a", "gpu_energy_j": Fraction(10), "cpu_energy_j": Fraction(500)},
        {"name": "b", "gpu_energy_j": Fraction(16), "cpu_energy_j": Fraction(800)},
        {
            "device_ids": [1],
            "boundary_start": 0,
            "boundary_end": 2,
            "gpu_energy_j": Fraction(24),
            "cpu_energy_j": None,
        },
        {
            "device_ids": [],
            "boundary_start": 1,
            "boundary_end": 2,
            "gpu_energy_j": None,
            "cpu_energy_j": Fraction(60),
        },
        {
            "device_ids": [0],
            "boundary_start": 1,
            "boundary_end": 3,
            "gpu_energy_j": Fraction(10),
            "cpu_energy_j": None,
        },
    ]
    whole = {"gpu_energy_j": Fraction(60), "cpu_energy_j": Fraction(1360), "it_energy_j": Fraction(1420)}
    add(
        "cpu-of-a-common-wait",
        "2.4",
        "Stages on different devices: the processor's wait is where no stage runs at all, and counts once.",
        {"stages": cards, "boundaries": two, "zones": [zone]},
        {"stages": rows, **whole},
        "HolesLost",
        "UnknownAsZero",
        "SinglePrecision",
    )
    bare = [reading(0, 0, None, None), reading(1, 10, None, None), reading(2, 20, None, None)]
    rows = [
        {"name": "a", "gpu_energy_j": None, "gpu_energy_method": "absent", "cpu_energy_j": Fraction(500)},
        {"name": "b", "gpu_energy_j": None, "gpu_energy_method": "absent", "cpu_energy_j": Fraction(860)},
    ]
    add(
        "cpu-alone",
        "1.2",
        "A machine without a GPU: absent, not zero; the packages are all there is.",
        {"stages": [stage(0, "a", 0, 1, ()), stage(1, "b", 1, 2, ())], "boundaries": bare, "zones": [zone]},
        {"stages": rows, "gpu_energy_j": None, "cpu_energy_j": Fraction(1360), "it_energy_j": Fraction(1360)},
        "UnknownAsZero",
        "SinglePrecision",
    )
    return family
