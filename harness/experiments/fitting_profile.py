"""Which profile fits this machine, and why; and the one card that it runs on."""

from __future__ import annotations

import os
from dataclasses import dataclass

PAPER_BYTES = 80_000_000_000
"""Least memory of the GPU that profile `paper` runs on: a 13B student's training peaks at 62 GB, the 32B
teacher's forward pass at 67 GB."""


@dataclass(frozen=True)
class ProfileChoice:
    """A profile and the reason for it, in words."""

    profile: str
    why: str


def choose_profile() -> ProfileChoice:
    """`paper` where a visible GPU has 80 GB or more, else `pocket`."""
    from harness.doctor.inventory import take_inventory

    gpus = [gpu for gpu in take_inventory().selected if gpu.error is None and gpu.mem_mib]
    if not gpus:
        return ProfileChoice("pocket", "no GPU can be used here; the paper's models need one of 80 GB")
    best = max(gpus, key=lambda gpu: gpu.mem_mib or 0)
    # NVML rounds down and keeps a little for itself: a card sold with 80 GB shows 81,559 MiB.
    size = (best.mem_mib or 0) * (1 << 20)
    shown = f"GPU {best.index} ({best.model}) has {size / 1e9:.0f} GB"
    if size >= PAPER_BYTES:
        return ProfileChoice("paper", f"{shown}, the paper's models need 80 GB")
    return ProfileChoice("pocket", f"{shown}; the paper's models need 80 GB")


def pin_card() -> str | None:
    """Of several visible cards show one to the stages and the meter alike: they use one, the rest would idle.

    Returns:
        In words, which one; None where there is nothing to choose.
    """
    from harness.doctor.inventory import take_inventory

    gpus = [gpu for gpu in take_inventory().selected if gpu.error is None and gpu.uuid]
    if len(gpus) < 2 or any(gpu.mig_selected for gpu in gpus):
        return None
    best = max(gpus, key=lambda gpu: gpu.mem_mib or 0)
    # A UUID means the same card to CUDA and NVML, in whatever order they number them.
    os.environ["CUDA_VISIBLE_DEVICES"] = best.uuid.removesuffix("...")
    return f"GPU {best.index} ({best.model}) is used and metered, the other {len(gpus) - 1} are left out"
