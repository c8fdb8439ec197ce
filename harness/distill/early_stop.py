"""When training stops before its horizon: no evaluation better by eps than the last good one, `patience`
times.

The paper's rule (eps 2e-3, patience 3, best checkpoint kept), the same for every regime.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass


@dataclass
class EarlyStop:
    """The rule and what it remembers.

    Attributes:
        eps: Improvement of the evaluation loss that counts, nats.
        patience: Evaluations in a row without one that end the run; 0 never ends it.
        reference: Loss to improve upon.
        failures: Evaluations since the last improvement that counted.
        best: Lowest loss of all, also when it was lower by less than eps: its checkpoint is the one kept.
        best_step: Optimizer steps taken when it was measured.
    """

    eps: float
    patience: int
    reference: float = math.inf
    failures: int = 0
    best: float = math.inf
    best_step: int | None = None

    def update(self, loss: float, step: int) -> bool:
        """Take in an evaluation; says whether it is the best so far (NaN never is)."""
        if loss < self.reference - self.eps:
            self.reference, self.failures = loss, 0
        else:
            self.failures += 1
        if loss < self.best:
            self.best, self.best_step = loss, step
            return True
        return False

    @property
    def stop(self) -> bool:
        """Whether patience is at its end."""
        return 0 < self.patience <= self.failures

    def export(self) -> dict[str, float | int | None]:
        """What it remembers, as JSON values; infinities as None."""
        memory = {key: value for key, value in asdict(self).items() if key not in ("eps", "patience")}
        return {key: None if value == math.inf else value for key, value in memory.items()}

    def restore(self, memory: dict[str, float | int | None]) -> None:
        """Take over what `export` gave."""
        self.reference = math.inf if memory["reference"] is None else float(memory["reference"])
        self.best = math.inf if memory["best"] is None else float(memory["best"])
        self.failures = int(memory["failures"] or 0)
        self.best_step = None if memory["best_step"] is None else int(memory["best_step"])
