"""Which GPUs belong to the measured job: the rules of CUDA_VISIBLE_DEVICES, as CUDA itself reads it.

Pure functions over a description of the machine's GPUs, so that every form can be tested without one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from harness.errors import KitError

ALL = "all"
"""Every GPU of the machine, whatever the environment shows: reserved for the run, and paid for by it."""

ORDER_IN_DOUBT = "device_order_ambiguous"
"""The doubt, and the label of a run, where the GPUs that were metered may not be those that were used."""


@dataclass(frozen=True)
class GpuIdentity:
    """What names a GPU: NVML index, UUID, PCI bus id, model, and the UUIDs of its MIG instances."""

    index: int
    uuid: str
    pci_bus_id: str
    model: str
    mig_uuids: tuple[str, ...] = ()


class Selection(NamedTuple):
    """The chosen NVML indices, in the order CUDA numbers them, and what is doubtful about the choice."""

    indices: tuple[int, ...]
    mig_indices: tuple[int, ...] = ()
    doubts: tuple[str, ...] = ()


def select_visible(gpus: list[GpuIdentity], visible: str | None, device_order: str | None) -> Selection:
    """Resolve CUDA_VISIBLE_DEVICES against the machine's GPUs.

    As in CUDA: unset means all; the list ends at the first entry that names no device; numbers count in
        CUDA's order,
    which is PCI order when CUDA_DEVICE_ORDER=PCI_BUS_ID or when all GPUs are of one model, and otherwise
    unknown from outside ("fastest first"), which is reported as a doubt. UUIDs may be shortened while they
    stay unique; a MIG form selects its parent GPU, since power is only measured for whole GPUs.

    Args:
        gpus: All GPUs that NVML shows.
        visible: The variable's value, None when unset.
        device_order: CUDA_DEVICE_ORDER, None when unset.
    """
    in_pci_order = sorted(gpus, key=lambda gpu: (gpu.pci_bus_id.lower(), gpu.index))
    doubts: list[str] = []
    if visible is None:
        return Selection(tuple(gpu.index for gpu in in_pci_order))
    entries = [entry.strip() for entry in visible.split(",")]
    numbered = any(entry.isdigit() for entry in entries)
    if numbered and device_order != "PCI_BUS_ID" and len({gpu.model for gpu in gpus}) > 1:
        doubts.append(ORDER_IN_DOUBT)
    chosen: list[int] = []
    mig: list[int] = []
    named: set[str] = set()
    for entry in entries:
        gpu, is_mig = _match(entry, in_pci_order)
        if gpu is None:
            break
        if gpu.index not in chosen:
            chosen.append(gpu.index)
        elif not is_mig or entry in named:
            # CUDA refuses a list that names a device twice: it then shows no device at all.
            return Selection((), (), ("duplicate_visible_device",))
        named.add(entry)
        if is_mig and gpu.index not in mig:
            mig.append(gpu.index)
    # Whatever the numbers mean, a list of all cards is all cards.
    return Selection(tuple(chosen), tuple(mig), tuple(doubts) if len(chosen) < len(gpus) else ())


def select_listed(gpus: list[GpuIdentity], wanted: list[str]) -> Selection:
    """Resolve an explicit `devices:` list of NVML indices, UUIDs or UUID prefixes; ["all"] is every GPU.

    Raises:
        KitError: An entry names no GPU of this machine.
    """
    by_index = sorted(gpus, key=lambda gpu: gpu.index)
    if wanted == [ALL]:
        return Selection(tuple(gpu.index for gpu in by_index))
    chosen: list[int] = []
    mig: list[int] = []
    for entry in wanted:
        gpu, is_mig = _match(entry, by_index)
        if entry.isascii() and entry.isdigit():
            # A number of NVML's, which the others keep when one of them is lost.
            gpu = next((known for known in by_index if known.index == int(entry)), None)
        if gpu is None:
            have = ", ".join(f"{known.index} ({known.model})" for known in by_index) or "none"
            raise KitError(
                f"device {entry!r} is not a GPU of this machine",
                where="devices",
                expected=f"an NVML index or a UUID; this machine has: {have}",
                fix="kit doctor lists what can be measured here",
            )
        if gpu.index not in chosen:
            chosen.append(gpu.index)
        if is_mig and gpu.index not in mig:
            mig.append(gpu.index)
    return Selection(tuple(chosen), tuple(mig))


def _match(entry: str, ordered: list[GpuIdentity]) -> tuple[GpuIdentity | None, bool]:
    if entry.isascii() and entry.isdigit():
        position = int(entry)
        return (ordered[position], False) if position < len(ordered) else (None, False)
    if entry.startswith("MIG-GPU-"):
        return _unique(ordered, entry.removeprefix("MIG-").split("/")[0]), True
    if entry.startswith("MIG-"):
        parents = [gpu for gpu in ordered for uuid in gpu.mig_uuids if uuid.startswith(entry)]
        return (parents[0] if len(parents) == 1 else None), True
    if entry.startswith("GPU-"):
        return _unique(ordered, entry), False
    return None, False


def _unique(gpus: list[GpuIdentity], prefix: str) -> GpuIdentity | None:
    matches = [gpu for gpu in gpus if gpu.uuid.startswith(prefix)]
    return matches[0] if len(matches) == 1 else None
