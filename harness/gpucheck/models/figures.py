"""What a case was stated to take beside what it took."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from harness.planning.cards import Card
from harness.planning.cases import Case
from harness.planning.sums import Memory, Work, memory_of, work_of

GOOD_PJ_PER_FLOP = 3.0
"""Above this an H100 mostly waits (1.0 to 1.7 is healthy)."""

J_PER_TOKEN_BARS = {"student_train_1b": 0.02, "student_train_13b": 0.17, "teacher_logits_32b": 0.11}
"""J/token on one H100 that a stage should stay below, GPU board only."""


@dataclass(frozen=True)
class Measured:
    """What running a case told.

    Attributes:
        steps: Steps done.
        seconds: Time they took, the device's work waited for at both ends.
        parameters: Weights of the model that was built, and
        weight_bytes: their bytes.
        state_bytes: Bytes of the optimizer's state.
        allocated_peak_bytes: The most that tensors took, from torch's allocator; None on a CPU.
        reserved_peak_bytes: The most that the allocator held; None on a CPU.
        card_bytes: Memory of the card that the process had taken at the end, but for its CUDA context (about
            0.5 GB), which is there before the first look; None on a CPU.
        energy_j: Energy billed to the stage, with its interval; None where it is not known.
        billed_s: Length of the billed window: up to one refresh of the counter longer at each end.
    """

    steps: int
    seconds: float
    parameters: int
    weight_bytes: int
    state_bytes: int
    allocated_peak_bytes: int | None
    reserved_peak_bytes: int | None
    card_bytes: int | None
    energy_j: float | None
    energy_j_low: float | None
    energy_j_high: float | None
    billed_s: float


@dataclass(frozen=True)
class Figures:
    """A case's sums, measurements and what follows from them; None for what is not known.

    Attributes:
        case: The case.
        work: Of one step.
        stated: Memory.
        measured: The run.
        card: What the GPU can do at most; None for one that is not in the table.
    """

    case: Case
    work: Work
    stated: Memory
    measured: Measured
    card: Card | None

    @property
    def tokens(self) -> int:
        """Tokens of the run, of the kind `work.token_kind`."""
        return self.work.tokens * self.measured.steps

    @property
    def tokens_per_s(self) -> float:
        """Throughput."""
        return self.tokens / self.measured.seconds

    @property
    def mfu(self) -> float | None:
        """Model FLOPs over what the card could have done in the time."""
        if self.card is None:
            return None
        return self.work.model_flops * self.measured.steps / (self.measured.seconds * self.card.flops)

    @property
    def floor_s(self) -> float | None:
        """The roofline's time for the run."""
        return None if self.card is None else self.work.floor_s(self.card) * self.measured.steps

    @property
    def roofline_share(self) -> float | None:
        """The roofline's time over the time taken: 1 at the roofline."""
        return None if self.floor_s is None else self.floor_s / self.measured.seconds

    @property
    def j_per_token(self) -> float | None:
        """Energy a token."""
        return None if self.measured.energy_j is None else self.measured.energy_j / self.tokens

    @property
    def pj_per_flop(self) -> float | None:
        """Energy a model FLOP, pJ."""
        if self.measured.energy_j is None:
            return None
        return 1e12 * self.measured.energy_j / (self.work.model_flops * self.measured.steps)

    @property
    def memory_ratio(self) -> float | None:
        """Peak of the tensors over the stated one."""
        peak = self.measured.allocated_peak_bytes
        return None if peak is None else peak / self.stated.tensors

    def as_json(self) -> dict[str, Any]:
        """Everything as a JSON object, units in the keys."""
        return {
            "id": self.case.id,
            "case": self.case.as_json(),
            "tokens": self.tokens,
            "token_kind": self.work.token_kind,
            "step_model_flops": self.work.model_flops,
            "step_done_flops": self.work.done_flops,
            "step_bytes": self.work.bytes,
            "stated_memory_bytes": {**asdict(self.stated), "peak": self.stated.peak},
            "measured": asdict(self.measured),
            "peak_flops_per_s": None if self.card is None else self.card.flops,
            "peak_bytes_per_s": None if self.card is None else self.card.bytes_per_s,
            "tokens_per_s": self.tokens_per_s,
            "mfu": self.mfu,
            "roofline_s": self.floor_s,
            "roofline_share": self.roofline_share,
            "j_per_token": self.j_per_token,
            "pj_per_flop": self.pj_per_flop,
            "memory_ratio": self.memory_ratio,
        }


def figures_of(case: Case, measured: Measured, card: Card | None) -> Figures:
    """Put a run beside the sums of its case."""
    return Figures(case, work_of(case), memory_of(case), measured, card)
