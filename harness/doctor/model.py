"""Checks as values, the registry of them, and how they are run so that none can bring down the others."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from harness.doctor.inventory import Gpu
    from harness.doctor.machine import Machine

Status = Literal["ok", "warn", "missing", "info"]
GROUPS = {
    "gpu": "GPU energy",
    "cpu": "CPU and memory energy",
    "time": "Clocks and sampling",
    "host": "This machine",
}


@dataclass(frozen=True)
class Verdict:
    """What a check found.

    Attributes:
        status: "ok", "warn" (measurable, but something spoils it), "missing" (cannot be measured) or "info".
        observed: What is so, in words.
        fix: The one command that would change it, in shell syntax; None when no command would.
        data: The figures behind `observed`, with units in their keys.
    """

    status: Status
    observed: str
    fix: str | None = None
    data: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Check:
    """One line of the doctor's report: a verdict, what it is about and why anyone should care."""

    id: str
    title: str
    group: str
    status: Status
    observed: str
    why_it_matters: str
    fix: str | None = None
    device: int | None = None
    data: Mapping[str, Any] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        """The check as a JSON object."""
        return {
            "id": self.id,
            "title": self.title,
            "group": self.group,
            "device": self.device,
            "status": self.status,
            "observed": self.observed,
            "why_it_matters": self.why_it_matters,
            "fix": self.fix,
            "data": dict(self.data),
        }


MachineLook = Callable[["Machine"], Verdict | None]
GpuLook = Callable[["Machine", "Gpu"], Verdict | None]


@dataclass(frozen=True)
class Entry:
    """A registered check; `look` answers None where the check has nothing to say."""

    id: str
    title: str
    group: str
    why: str
    machine_look: MachineLook | None = None
    gpu_look: GpuLook | None = None


_REGISTRY: list[Entry] = []


def machine_check(title: str, group: str, why: str) -> Callable[[MachineLook], MachineLook]:
    """Register a check of the whole machine; its id is the function's name."""

    def register(look: MachineLook) -> MachineLook:
        _REGISTRY.append(Entry(look.__name__, title, group, why, machine_look=look))
        return look

    return register


def gpu_check(title: str, why: str) -> Callable[[GpuLook], GpuLook]:
    """Register a check of each GPU; its id is the function's name."""

    def register(look: GpuLook) -> GpuLook:
        _REGISTRY.append(Entry(look.__name__, title, "gpu", why, gpu_look=look))
        return look

    return register


def registered() -> list[Entry]:
    """All checks in the order they are shown."""
    from harness.doctor import cpu_checks, gpu_checks, host_checks  # noqa: F401  (they register themselves)

    order = list(GROUPS)
    return sorted(_REGISTRY, key=lambda entry: order.index(entry.group))


def run_checks(machine: Machine) -> list[Check]:
    """Run every registered check; one that fails is reported as such instead of ending the report."""
    checks = []
    for entry in registered():
        if entry.machine_look is not None:
            look = entry.machine_look
            checks.append(_guarded(entry, lambda look=look: look(machine), None))  # type: ignore[misc]
        if entry.gpu_look is not None:
            for gpu in machine.nvml.gpus:
                ask = entry.gpu_look
                checks.append(
                    _guarded(entry, lambda ask=ask, gpu=gpu: ask(machine, gpu), gpu.index)  # type: ignore[misc]
                )
    return [check for check in checks if check is not None]


def _guarded(entry: Entry, look: Callable[[], Verdict | None], device: int | None) -> Check | None:
    try:
        verdict = look()
    except Exception as error:
        verdict = Verdict(
            "warn", f"this check itself failed ({type(error).__name__}: {error}); nothing is known", None
        )
    if verdict is None:
        return None
    return Check(
        id=entry.id,
        title=entry.title,
        group=entry.group,
        status=verdict.status,
        observed=verdict.observed,
        why_it_matters=entry.why,
        fix=verdict.fix,
        device=device,
        data=verdict.data,
    )
