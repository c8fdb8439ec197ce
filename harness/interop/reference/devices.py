"""Nodes and GPUs of an import: numbered by order of appearance, so that no host name is needed to tell them
apart."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from harness.interop.reference.attempts import Attempt
from harness.interop.reference.read_csv import MAX_BOARD_W, TOTAL_ONLY
from harness.interop.reference.records import Gpu

_COUNTED_MODEL = re.compile(r"(\d+) x (.+)")


@dataclass(frozen=True, slots=True)
class Device:
    """One metered device; ids are unique over the bundle, not only on their node."""

    device_id: int
    node_id: str
    model: str | None
    mem_mib: int | None
    power_limit_mw: int | None

    def manifest_entry(self) -> dict[str, Any]:
        """Entry of manifest hardware.devices. The harness reads nvmlDeviceGetPowerUsage and nothing else."""
        vendor = "nvidia" if self.model is None or "NVIDIA" in self.model.upper() else "unknown"
        return {
            "device_id": self.device_id,
            "vendor": vendor,
            "model": self.model or "unknown",
            "mem_mib": self.mem_mib,
            "power_limit_mw": self.power_limit_mw,
            "default_power_limit_mw": None,
            "mig": None,
            "persistence": None,
            "counter_supported": False,
            "instant_supported": False,
            "average_supported": None,
            "counter_scope": None,
        }


@dataclass(frozen=True, slots=True)
class Placement:
    """Where an attempt ran.

    Attributes:
        devices: In the order of the columns of its samples.
        known_gpus: Number of GPUs the logs state; None when they do not.
    """

    node_id: str
    devices: tuple[Device, ...]
    known_gpus: int | None

    @property
    def limit_w(self) -> float | None:
        """Power limits together, W; None if one is unknown."""
        limits = [device.power_limit_mw for device in self.devices]
        known = [limit for limit in limits if limit is not None]
        return sum(known) / 1000 if known and len(known) == len(limits) else None


class DeviceMap:
    """Numbers nodes and devices in the order in which attempts are placed."""

    def __init__(self) -> None:
        self._nodes: dict[str, str] = {}
        self._devices: dict[tuple[str, int], Device] = {}

    @property
    def devices(self) -> list[Device]:
        """Every device, by device_id."""
        return sorted(self._devices.values(), key=lambda device: device.device_id)

    def place(self, attempt: Attempt) -> Placement:
        """Node and devices of an attempt."""
        environment = attempt.folder.environment
        # Logs without an environment file may come from any machine: one unknown node for each run directory.
        key = environment.host_key if environment is not None else f"unknown {attempt.folder.run_dir}"
        node_id = self._nodes.setdefault(key, f"node-{len(self._nodes):02d}")
        described = {gpu.index: gpu for gpu in environment.gpus} if environment is not None else {}
        known = len(described) or None
        if not described and attempt.emission is not None:
            described = _from_codecarbon(attempt.emission.gpu_model)
            known = attempt.emission.gpu_count or len(described) or None
        indices = tuple(described) or (0,)
        if attempt.power is not None:
            indices = attempt.power.gpus
            if indices == (TOTAL_ONLY,) and len(described) == 1:
                indices = tuple(described)
        devices = tuple(self._device(node_id, index, described.get(index)) for index in indices)
        return Placement(node_id, devices, known)

    def _device(self, node_id: str, index: int, gpu: Gpu | None) -> Device:
        device = self._devices.get((node_id, index))
        if device is None or (device.model is None and gpu is not None):
            number = len(self._devices) if device is None else device.device_id
            limit_w = None if gpu is None else gpu.power_limit_w
            device = Device(
                device_id=number,
                node_id=node_id,
                model="sum of the node's GPUs"
                if index == TOTAL_ONLY
                else (None if gpu is None else gpu.name),
                mem_mib=None if gpu is None else gpu.memory_total_mib,
                power_limit_mw=round(limit_w * 1000) if limit_w and 0 < limit_w < MAX_BOARD_W else None,
            )
            self._devices[(node_id, index)] = device
        return device


def _from_codecarbon(model: str | None) -> dict[int, Gpu]:
    """GPUs from CodeCarbon's text, such as "1 x NVIDIA H100 80GB HBM3"."""
    match = _COUNTED_MODEL.fullmatch(model or "")
    count = min(int(match[1]), 64) if match else 0
    return {index: Gpu(index, match[2], None, None, None) for index in range(count)} if match else {}
