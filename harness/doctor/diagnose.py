"""From checks to a diagnosis: what a run here would be made of, and whether what was asked for is there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from harness import __version__
from harness.doctor.checks import Check, run_checks
from harness.doctor.observe import Machine, observe
from harness.spec import load_protocol


@dataclass(frozen=True)
class Diagnosis:
    """The doctor's whole answer.

    Attributes:
        methods: How a run here gets the energy of "gpu", "cpu" and "dram".
        required: What was asked for, by the names of `requirements`.
        missing: What of it is not there.
    """

    checks: tuple[Check, ...]
    methods: dict[str, str]
    required: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()

    @property
    def measurable(self) -> bool:
        """Whether a run has any energy figure here, if only an estimated one."""
        return any(method != "absent" for method in self.methods.values())

    @property
    def exit_code(self) -> int:
        """0 when a run can be measured and nothing required is missing, else 1."""
        return 0 if self.measurable and not self.missing else 1

    def as_json(self) -> dict[str, Any]:
        """The diagnosis as a JSON object."""
        return {
            "kit_version": __version__,
            "measurable": self.measurable,
            "methods": self.methods,
            "required": list(self.required),
            "missing": list(self.missing),
            "checks": [asdict(check) for check in self.checks],
        }


def requirements() -> list[str]:
    """What can be required: a GPU's energy, its counter, and each source of measured CPU energy."""
    measured = [source.name for source in load_protocol().sources_of("cpu") if source.state == "measured"]
    return ["gpu", "counter", *measured]


def diagnose(target: str = "runs", required: Sequence[str] = ()) -> Diagnosis:
    """Look at the machine and judge it.

    Args:
        target: The folder that runs are to go to.
        required: What must be there, of `requirements`.
    """
    return judge(observe(target), required)


def judge(machine: Machine, required: Sequence[str] = ()) -> Diagnosis:
    """Judge a machine that was looked at."""
    methods = _methods(machine)
    have = {"gpu": methods["gpu"] != "absent", "counter": methods["gpu"] == "counter"}
    have |= {name: found.measures("cpu") for name, found in machine.zones.items()}
    wanted = tuple(dict.fromkeys(required))
    return Diagnosis(
        checks=tuple(run_checks(machine)),
        methods=methods,
        required=wanted,
        missing=tuple(name for name in wanted if not have.get(name, False)),
    )


def _methods(machine: Machine) -> dict[str, str]:
    """The method of each part as a run here would record it; the worst card decides for the GPUs."""
    chosen = machine.nvml.selected if machine.nvml.error is None else ()
    gpu = "absent"
    if chosen and all(card.counter_works() for card in chosen):
        gpu = "counter"
    elif chosen and all(card.counter_works() or card.power_works() for card in chosen):
        gpu = "power_integral"
    for source in load_protocol().sources_of("cpu"):
        found, method = machine.zones.get(source.name), source.method or "absent"
        if found is not None and found.measures("cpu"):
            return {"gpu": gpu, "cpu": method, "dram": method if found.measures("dram") else "absent"}
        if source.state == "estimated" and machine.estimator.error is None:
            return {"gpu": gpu, "cpu": method, "dram": method}
    return {"gpu": gpu, "cpu": "absent", "dram": "absent"}
