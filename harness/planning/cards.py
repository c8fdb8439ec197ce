"""What a GPU can do at most: dense bf16 arithmetic and memory bandwidth, by the name NVML gives it.

From NVIDIA's data sheets; where they state bf16 with sparsity, half of it. bf16 with float32 sums, as
training uses it. A card that is not here has no MFU and no roofline: unknown is better than a guess.
"""

from __future__ import annotations

import re
from dataclasses import dataclass


@dataclass(frozen=True)
class Card:
    """A GPU model.

    Attributes:
        name: For people.
        flops: Dense bf16 FLOP/s.
        bytes_per_s: Memory bandwidth.
        hopper_sxm: Whether the bars of `reference` hold, which are stated for an H100 SXM (an H200 has the
            same processor).
    """

    name: str
    flops: float
    bytes_per_s: float
    hopper_sxm: bool = False


# (pattern of NVML's name, card); the first that fits counts.
_CARDS: tuple[tuple[str, Card], ...] = (
    (r"H100 NVL", Card("H100 NVL", 835.5e12, 3.9e12)),
    (r"H100 PCIe", Card("H100 PCIe", 756.5e12, 2.0e12)),
    (r"H100 (80GB HBM3|SXM)", Card("H100 SXM", 989.4e12, 3.35e12, hopper_sxm=True)),
    (r"H200 NVL", Card("H200 NVL", 835.5e12, 4.8e12)),
    (r"H200", Card("H200 SXM", 989.4e12, 4.8e12, hopper_sxm=True)),
    (r"B200", Card("B200", 2250e12, 8.0e12)),
    (r"A100-SXM4-80GB", Card("A100 SXM 80 GB", 312e12, 2.039e12)),
    (r"A100-SXM4-40GB", Card("A100 SXM 40 GB", 312e12, 1.555e12)),
    (r"A100 80GB PCIe", Card("A100 PCIe 80 GB", 312e12, 1.935e12)),
    (r"A100-PCIE-40GB", Card("A100 PCIe 40 GB", 312e12, 1.555e12)),
    (r"L40S", Card("L40S", 362.05e12, 0.864e12)),
    (r"L40", Card("L40", 181.05e12, 0.864e12)),
    (r"L4", Card("L4", 121e12, 0.300e12)),
    (r"RTX 4090", Card("RTX 4090", 165.2e12, 1.008e12)),
)


def find_card(model: str | None) -> Card | None:
    """The card of an NVML model name; None for an unknown one, and for a part of a card (MIG)."""
    if not model or "MIG" in model:
        return None
    for pattern, card in _CARDS:
        if re.search(rf"(?<![A-Z0-9]){pattern}(?![A-Z0-9])", model):
            return card
    return None
