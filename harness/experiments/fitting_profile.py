"""Which profile fits this machine, and why."""

from __future__ import annotations

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
