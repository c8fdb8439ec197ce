"""Checks as values, the registry of them, and how they are run so that none can bring down the others."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

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


Look = Callable[..., Verdict | None]
Subject = Literal["machine", "gpu", "any gpu"]


@dataclass(frozen=True)
class Check:
    """One line of the doctor's report: a verdict, what it is about and why anyone should care."""

    id: str
    title: str
    group: str
    device: int | None
    status: Status
    observed: str
    why_it_matters: str
    fix: str | None
    data: Mapping[str, Any]


@dataclass(frozen=True)
class RegisteredCheck:
    """A check in the registry.

    Attributes:
        id: The function's name.
        title: What it is about.
        group: A key of `GROUPS`.
        why: Why anyone should care.
        look: Takes the `Machine`, and the `GpuFacts` where `subject` says so; answers None where it has
            nothing to say.
        subject: "machine"; "gpu" for each GPU that answers; "any gpu" also for those that do not.
    """

    id: str
    title: str
    group: str
    why: str
    look: Look
    subject: Subject


_REGISTRY: list[RegisteredCheck] = []


def machine_check(title: str, group: str, why: str, subject: Subject = "machine") -> Callable[[Look], Look]:
    """Register a check of the whole machine; its id is the function's name."""

    def register(look: Look) -> Look:
        _REGISTRY.append(RegisteredCheck(look.__name__, title, group, why, look, subject))
        return look

    return register


def gpu_check(title: str, why: str, subject: Subject = "gpu") -> Callable[[Look], Look]:
    """Register a check of each GPU; its id is the function's name."""
    return machine_check(title, "gpu", why, subject)


def registered() -> list[RegisteredCheck]:
    """All checks in the order they are shown."""
    from harness.doctor import cpu_checks, gpu_checks, host_checks  # noqa: F401  (they register themselves)

    order = list(GROUPS)
    return sorted(_REGISTRY, key=lambda entry: order.index(entry.group))


def run_checks(machine: Any) -> list[Check]:
    """Run every registered check on a `Machine`; one that fails is reported as such, the others go on."""
    checks = []
    for entry in registered():
        if entry.subject == "machine":
            checks.append(_run(entry, None, machine))
            continue
        for gpu in machine.nvml.gpus:
            if gpu.error is None or entry.subject == "any gpu":
                checks.append(_run(entry, gpu.index, machine, gpu))
    return [check for check in checks if check is not None]


def _run(entry: RegisteredCheck, device: int | None, *looked_at: Any) -> Check | None:
    try:
        found = entry.look(*looked_at)
    except Exception as error:
        what = f"this check itself failed ({type(error).__name__}: {error}); nothing is known"
        found = Verdict("warn", what)
    if found is None:
        return None
    named = (entry.id, entry.title, entry.group, device)
    return Check(*named, found.status, found.observed, entry.why, found.fix, found.data)
