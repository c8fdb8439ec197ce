"""Which sources a run is metered by: those asked for, else by the protocol's ranks what can be read here."""

from __future__ import annotations

from dataclasses import dataclass, field

from harness.errors import KitError
from harness.meter.sources.base import Wanted, load_source, own_process
from harness.spec import PowerSource, load_protocol

Named = tuple[str, str | None]
"""A source and its argument."""


@dataclass(frozen=True)
class SourceChoice:
    """What the meter's processes are to read.

    Attributes:
        devices: The source of devices, read by the sampler.
        zones: Sources of zones, read by the sampler.
        estimator: A source that is read by a process of its own, None for none.
        cpu_method: How CPU energy is got, in the protocol's words; "absent" for not at all.
        cpu_absent_reason: Why it is absent.
        cpu_required: Whether the source of CPU energy was asked for by name.
    """

    devices: Named
    zones: list[Named] = field(default_factory=list)
    estimator: str | None = None
    cpu_method: str = "absent"
    cpu_absent_reason: str | None = None
    cpu_required: bool = False


def cpu_choices() -> list[str]:
    """What `cpu` can be: "auto", the sources of CPU energy by rank, "none"."""
    return ["auto", *(source.name for source in load_protocol().sources_of("cpu", ranked=False)), "none"]


def choose(cpu: str, named: tuple[str, ...] = ()) -> SourceChoice:
    """Choose sources.

    Args:
        cpu: One of `cpu_choices`.
        named: NAME or NAME:ARGUMENT; such a source is used for what it measures, whatever its rank.

    Raises:
        KitError: A source is unknown, or cannot be read here though it was asked for by name.
    """
    protocol = load_protocol()
    devices: Named = (protocol.sources_of("gpu")[0].name, None)
    zones: list[Named] = []
    cpu_argument: str | None = None
    for text in named:
        name, _, argument = text.partition(":")
        source = protocol.source(name)
        if "gpu" in source.parts:
            devices = (name, argument or None)
        elif "cpu" in source.parts:
            cpu, cpu_argument = name, argument or None
        else:
            zones.append((name, argument or None))
    if cpu == "none":
        return SourceChoice(devices, zones)
    candidates = protocol.sources_of("cpu") if cpu == "auto" else [protocol.source(cpu, part="cpu")]
    reason = None
    for source in candidates:
        module = load_source(source.name)
        if own_process(module):
            return SourceChoice(devices, zones, source.name, _method(source), cpu_required=cpu != "auto")
        found = module.discover(Wanted(argument=cpu_argument))
        found.close()
        if found.measures("cpu"):
            return SourceChoice(devices, [*zones, (source.name, cpu_argument)], None, _method(source))
        reason = found.reason
        if cpu != "auto":
            raise KitError(
                reason or f"{source.name} measures no CPU here",
                where=f"cpu: {source.name}",
                expected=found.expected,
                fix="kit doctor shows what can be measured here, and what would change that",
            )
    return SourceChoice(devices, zones, cpu_absent_reason=reason)


def _method(source: PowerSource) -> str:
    assert source.method is not None  # the protocol wants one of every source of zones
    return source.method
