"""What the probe found, as values: every figure with its spread, its base and how it was measured."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from harness import __version__

HONESTY = (
    "These figures are what the loaded libnvidia-ml.so.1 showed. Nothing a program can read proves that it "
    "belongs to a driver, nor how right the sensors are: the vendor states 5 %."
)
SCOPES = {
    "gpu": "the counter agrees with the GPU's own INSTANT power: it counts the GPU",
    "module": "the counter agrees with the module's power: it counts the whole module, not the GPU alone",
    "wider": "the counter counts more than INSTANT power shows: likely a whole module, not a GPU alone",
    "narrower": "the counter counts less than INSTANT power shows: one of the two is wrong",
    "unknown": "what the counter counts could not be told: no steady power, or a reading is missing",
}


@dataclass(frozen=True)
class Figure:
    """One measured figure.

    Attributes:
        key: Its name, ending in its unit ("counter_refresh_ms").
        label: Its name for people.
        value: None when it could not be measured; `how` then says why.
        plus_minus: Standard error or half-width, in the same unit.
        n: How many observations it rests on.
        how: How it was measured.
    """

    key: str
    label: str
    value: float | None
    plus_minus: float | None
    n: int
    how: str

    def as_json(self) -> dict[str, Any]:
        """The figure as a JSON object; its key carries the unit."""
        return {"value": self.value, "plus_minus": self.plus_minus, "n": self.n, "how": self.how}


@dataclass(frozen=True)
class DeviceProbe:
    """The figures of one GPU.

    Attributes:
        scope: What the counter counts, by the keys of `SCOPES`.
        remarks: What a reader of the figures must know.
    """

    device_id: int
    model: str | None
    figures: tuple[Figure, ...]
    scope: str
    remarks: tuple[str, ...] = ()

    def as_json(self) -> dict[str, Any]:
        """The device as a JSON object."""
        return {
            "device_id": self.device_id,
            "model": self.model,
            "counter_scope": self.scope,
            "figures": {figure.key: figure.as_json() for figure in self.figures},
            "remarks": list(self.remarks),
        }


@dataclass(frozen=True)
class ProbeResult:
    """One probe of the selected GPUs.

    Attributes:
        load: What made the load ("torch 2.11.0"), None without.
        no_load_reason: Why there was none.
    """

    driver: str | None
    cuda: str | None
    seconds: float
    scheduling: str
    devices: tuple[DeviceProbe, ...]
    load: str | None = None
    no_load_reason: str | None = None
    notes: tuple[str, ...] = field(default_factory=tuple)

    def as_json(self) -> dict[str, Any]:
        """The result as a JSON object."""
        return {
            "kind": "kit-doctor-probe/1",
            "kit_version": __version__,
            "driver": self.driver,
            "cuda": self.cuda,
            "seconds": self.seconds,
            "scheduling": self.scheduling,
            "load": self.load,
            "no_load_reason": self.no_load_reason,
            "notes": [HONESTY, *self.notes],
            "devices": [device.as_json() for device in self.devices],
        }
