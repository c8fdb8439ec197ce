"""Which GPUs a sampler reads: those asked for at the start, and the same ones again after a restart."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from harness.errors import KitError
from harness.meter import nvml


@dataclass
class OpenedGpus:
    """The devices to read.

    Attributes:
        gpus: In the order CUDA numbers them.
        reason: Why there are none; None when there are.
        doubts: What is doubtful about the choice, one word each.
        mig_devices: NVML indices of cards chosen by a MIG instance of theirs.
        lost: NVML indices of cards that have fallen off the bus.
        unidentified: NVML indices of cards that cannot be told apart, and so are not read.
    """

    gpus: list[nvml.GpuSource] = field(default_factory=list)
    reason: str | None = None
    doubts: tuple[str, ...] = ()
    mig_devices: tuple[int, ...] = ()
    lost: tuple[int, ...] = ()
    unidentified: tuple[int, ...] = ()


def open_gpus(devices: list[str] | None) -> OpenedGpus:
    """Open the GPUs asked for.

    Args:
        devices: None follows CUDA_VISIBLE_DEVICES; [] means none; else NVML indices, UUIDs or UUID prefixes.

    Raises:
        KitError: A listed device is not there.
    """
    if devices == []:
        return OpenedGpus(reason="not asked for (devices: none)")
    reason = nvml.nvml_unavailable()
    if reason is not None:
        if devices:
            raise KitError(
                f"devices {', '.join(devices)} were asked for, but NVML fails: {reason}",
                where="devices",
                fix="kit doctor",
            )
        return OpenedGpus(reason=reason)
    survey = nvml.survey_gpus()
    selection = nvml.choose_gpus(devices, survey)
    gpus = [nvml.GpuSource(index) for index in selection.indices]
    doubts = selection.doubts + (("gpu_lost",) if survey.lost else ())
    return OpenedGpus(
        gpus,
        None if gpus else "no GPU is visible (CUDA_VISIBLE_DEVICES)",
        doubts + (("gpu_unidentified",) if survey.unidentified else ()),
        selection.mig_indices,
        survey.lost,
        survey.unidentified,
    )


def reopen_gpus(known: list[list[Any]]) -> OpenedGpus:
    """The devices of the sampler that this one replaces, under their numbers; one may be lost by now.

    Args:
        known: (device id, UUID) of each.
    """
    if not known:
        return OpenedGpus(reason="not asked for (devices: none)")
    reason = nvml.nvml_unavailable()
    opened = OpenedGpus(reason=reason)
    lost = []
    for device_id, uuid in known:
        gpu = None if reason else nvml.open_by_uuid(int(device_id), str(uuid))
        if gpu is None:
            lost.append(int(device_id))
        else:
            opened.gpus.append(gpu)
    opened.lost = tuple(lost)
    return opened
