"""What a GPU can do at most, as its vendor states it, by the name NVML gives it: rows of
`protocol/*/gpus.yaml`.

A card that is not there, or only as a roof, has no MFU and no plan: unknown is better than a guess.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache
from typing import Any

from harness.errors import KitError


@dataclass(frozen=True)
class Card:
    """A GPU model.

    Attributes:
        name: For people.
        flops: Dense bf16 FLOP/s, sums in float32.
        bytes_per_s: Memory bandwidth.
        memory_bytes: Memory.
        watts: Limit of the board.
    """

    name: str
    flops: float
    bytes_per_s: float
    memory_bytes: int = 0
    watts: float = 0.0

    @property
    def hopper_sxm(self) -> bool:
        """Whether the bars of `reference` hold, which are stated for an H100 SXM (an H200 has the same
        processor)."""
        return self.name in ("H100 SXM", "H200 SXM")


ALIASES = {
    "h100-sxm": "H100 SXM",
    "h200": "H200 SXM",
    "a100": "A100 SXM 80 GB",
    "l40s": "L40S",
    "rtx4090": "RTX 4090",
    "b200": "B200",
}
"""Words of --gpu."""


@cache
def _rows() -> tuple[tuple[str, Card], ...]:
    from harness.spec import version_folder
    from harness.spec.load import read_yaml

    data: Any = read_yaml(version_folder(None) / "gpus.yaml")
    return tuple((row["pattern"], _card(row)) for row in data["gpus"] if "name" in row)


def _card(row: dict[str, Any]) -> Card:
    # What NVML shows of 80 GB: 81,559 MiB, since a seller's GB of memory is 1024^3.
    return Card(
        row["name"],
        row["bf16_tflops"] * 1e12,
        row["bandwidth_tb_s"] * 1e12,
        int(row["memory_gb"] * (1 << 30) * 0.9955),
        float(row["watts"]),
    )


def find_card(model: str | None) -> Card | None:
    """The card of an NVML model name; None for an unknown one, and for a part of a card (MIG)."""
    if not model or "MIG" in model:
        return None
    for pattern, card in _rows():
        if re.search(rf"(?<![A-Za-z0-9])(?:{pattern})(?![A-Z0-9])", model):
            return card
    return None


def named_card(word: str) -> Card:
    """The card of a word of --gpu.

    Raises:
        KitError: No such card.
    """
    for _, card in _rows():
        if card.name == ALIASES.get(word.lower(), word):
            return card
    raise KitError(f"no card {word!r}", expected=", ".join(ALIASES))
