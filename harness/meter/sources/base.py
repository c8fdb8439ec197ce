"""What a power source is: it discovers what it can read, and each of those is read until it is closed.

A source is a module `harness.meter.sources.NAME` with

    def discover(wanted: Wanted) -> Found

and an entry NAME in the `sources` table of protocol.yaml. `discover` opens what is there and says what it is;
the sampler then reads it. Two kinds of things can be found:

- a `Device` has power, and mostly an energy counter that ticks; a tick of the sampler is a row of table
  `power`, a stage boundary is placed between two refreshes of its counter (`harness.meter.ticks`);
- a `Zone` has a cumulative counter; each reading, at a tick or at a boundary, is a row of table `counters`.

Rules for all of them: a failed read is None, never 0; times are CLOCK_MONOTONIC at the middle of the read;
values are as the instrument gives them, in the unit that is declared; `close` may be called twice. The
sampler process imports the module: standard library and the instrument's own binding only. One that is too
heavy for it, or must see the measured processes, sets `OWN_PROCESS = True`; `harness.meter.estimator` then
reads it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any, Literal, NamedTuple, Protocol, cast

from harness.errors import KitError
from harness.journal.records import POWER_ROW
from harness.meter.clocks import mono_us

ZONE_UNCERTAINTY_US = 1_000
"""Age of a reading of a counter that is renewed every millisecond, as RAPL's are."""

ESTIMATE = "codecarbon"
"""Type of the journal's records that hold an estimate, whatever its source."""

MISSING = -1
"""Stands for null in packed rows."""


@dataclass(frozen=True)
class Measure:
    """What one device or zone measures.

    Attributes:
        source: Name of its source in the protocol.
        part: Whose energy: gpu, cpu, dram, machine (all of it), or a piece that lies inside another one.
        unit: Of the counter: mJ or uJ. Power is always mW.
        scope: What is inside the figure, such as "board" or "package".
        reads: "counter", "power" or both.
        state: "measured", "estimated" or "simulated".
        shared_scale: Readings with the same word here share one error of gain, which cancels in their ratio.
    """

    source: str
    part: str
    unit: Literal["mJ", "uJ"]
    scope: str
    reads: tuple[str, ...]
    state: str
    shared_scale: str


@dataclass(slots=True)
class Reading:
    """One read: raw values, None for each that failed, and the instrument's codes for why it failed.

    Attributes:
        mono_us: Middle of the read.
        read_us: How long it took.
        energy: The counter, in the unit of the measure.
        power_mw: Power at this moment, or the nearest to it that there is.
        average_mw: Power as the instrument averages it, over a second as a rule.
        errors: Quantity ("energy", "instant", "average") to code; None where nothing failed.
    """

    mono_us: int
    read_us: int
    energy: int | None = None
    power_mw: int | None = None
    average_mw: int | None = None
    errors: dict[str, int] | None = None

    def fail(self, quantity: str, code: int) -> None:
        """Note that a quantity could not be read, and why."""
        if self.errors is None:
            self.errors = {}
        self.errors[quantity] = code


class Device:
    """A device with power, an energy counter or both; what a simple source needs to write is `read`.

    Attributes:
        index: Its number in the log.
        uuid: What it is found again by after a restart of the sampler; kept in memory only.
        methods: How "energy", "instant" and "average" are read, "absent" for what is not there.
        limit_change: Power limit before and after, mW, when a sample found it changed; whoever tells of it
            sets it back to None.
    """

    measures: Measure
    index: int
    uuid: str
    methods: dict[str, str]
    limit_change: tuple[int, int] | None = None

    def read(self) -> Reading:
        """Counter and power now."""
        raise NotImplementedError

    def read_energy(self) -> int | None:
        """The counter alone, for bursts around its tick."""
        return self.read().energy

    def sample(self, session: int, wall_offset_us: int) -> tuple[bytes, int, Reading | None]:
        """One power row packed for the journal, and what it says.

        Args:
            session: The session's number.
            wall_offset_us: UTC minus CLOCK_MONOTONIC, us.

        Returns:
            The row, the counter (`MISSING` for none), and the reading in full where anything about it can be
            out of the ordinary.
        """
        reading = self.read()
        return self.pack(reading, session, wall_offset_us), _or_missing(reading.energy), reading

    def pack(
        self,
        reading: Reading,
        session: int,
        wall_offset_us: int,
        gauges: Iterable[int] = (MISSING,) * 5,
        limit_mw: int = MISSING,
    ) -> bytes:
        """A row of table `power`; `gauges` are utilisation, memory, temperature, clock and throttle bits."""
        return POWER_ROW.pack(
            self.index,
            session,
            reading.mono_us + wall_offset_us,
            reading.mono_us,
            _or_missing(reading.power_mw),
            _or_missing(reading.average_mw),
            _or_missing(reading.energy),
            *gauges,
            limit_mw,
            reading.read_us,
        )

    def compute_pids(self) -> list[int] | None:
        """Processes that use the device; None where nobody can say."""
        return None

    def describe(self) -> dict[str, Any]:
        """The manifest's entry for this device; None for what it does not say."""
        return {
            "device_id": self.index,
            "vendor": self.measures.source,
            "model": "unknown",
            "mem_mib": None,
            "power_limit_mw": None,
            "default_power_limit_mw": None,
            "mig": None,
            "persistence": None,
            "counter_supported": self.methods["energy"] != "absent",
            "instant_supported": self.methods["instant"] == "field",
            "average_supported": self.methods["average"] == "field",
            "power_method": self.methods["instant"],
            "counter_method": self.methods["energy"],
            "counter_scope": self.measures.scope,
        }

    def close(self) -> None:
        """Let go of it."""


@dataclass
class Zone:
    """A cumulative counter without a device: `label` in the log, and the value after which it wraps to 0.

    Attributes:
        range: In the unit of the measure; None for a counter that never wraps.
        uncertainty_us: Age of a reading: how seldom the counter is renewed.
    """

    label: str
    range: int | None
    measures: Measure
    uncertainty_us: int = ZONE_UNCERTAINTY_US

    def value(self) -> int | None:
        """The counter as the instrument gives it, None when it cannot be read."""
        raise NotImplementedError

    def read(self) -> Reading:
        """The counter now."""
        before = mono_us()
        value = self.value()
        after = mono_us()
        return Reading((before + after) // 2, after - before, value)

    def close(self) -> None:
        """Let go of it."""


class Wanted(NamedTuple):
    """What a source is asked for.

    Attributes:
        devices: None: those the job may use; []: none; else numbers or names of devices.
        known: (number, UUID) of each device of the sampler that this one replaces; None at a start.
        visible: CUDA_VISIBLE_DEVICES and CUDA_DEVICE_ORDER of each environment that will use devices; where
            `devices` is None, those that any of them shows are opened. None: this process's own.
        argument: What follows the source's name in `--source NAME:ARGUMENT`.
        tree: For a source with a process of its own: whose CPU time counts.
    """

    devices: list[str] | None = None
    known: list[list[Any]] | None = None
    visible: list[list[str | None]] | None = None
    argument: str | None = None
    tree: Any = None


@dataclass
class Found:
    """What a source can read here.

    Attributes:
        reason: Why there is nothing, with what was expected instead.
        broken: Whether the instrument is there and does not work, of which a person must be told.
        doubts: What is doubtful about the choice, one word each.
        denied: Zones that are there and may not be read.
        visible: Numbers of the devices that each environment of `Wanted.visible` shows; None: not told apart.
        mig_devices: Numbers of devices chosen by a share of theirs; the whole is measured.
        lost: Numbers of devices that do not answer any more.
        unidentified: Numbers of devices that cannot be told apart, and so are not read.
        facts: What else is to be journalled of the source: versions of the driver, the model of an estimate.
    """

    devices: list[Device] = field(default_factory=list)
    zones: list[Zone] = field(default_factory=list)
    reason: str | None = None
    expected: str | None = None
    broken: bool = False
    doubts: tuple[str, ...] = ()
    denied: tuple[str, ...] = ()
    visible: list[list[int]] | None = None
    mig_devices: tuple[int, ...] = ()
    lost: tuple[int, ...] = ()
    unidentified: tuple[int, ...] = ()
    facts: dict[str, Any] = field(default_factory=dict)

    def everything(self) -> list[Device | Zone]:
        """Devices and zones together."""
        return [*self.devices, *self.zones]

    def measures(self, part: str) -> bool:
        """Whether something here measures that part."""
        return any(one.measures.part == part for one in self.everything())

    def close(self) -> None:
        """Let go of everything that was found; harmless when done twice."""
        for one in self.everything():
            one.close()


class Source(Protocol):
    """A module of this package."""

    def discover(self, wanted: Wanted) -> Found:
        """Open what can be read.

        Raises:
            KitError: What was asked for by name is not there.
        """


def with_full_path(named: str) -> str:
    """NAME:ARGUMENT with a file's absolute path: a program may change its folder before the meter starts."""
    name, _, argument = named.partition(":")
    if argument and getattr(load_source(name), "ARGUMENT_IS_FILE", False):
        return f"{name}:{Path(argument).absolute()}"
    return named


def own_process(source: Source) -> bool:
    """Whether the source is read by a process of its own instead of the sampler."""
    return bool(getattr(source, "OWN_PROCESS", False))


def load_source(name: str) -> Source:
    """The module of a source.

    Raises:
        KitError: There is none of that name.
    """
    try:
        return cast("Source", import_module(f"harness.meter.sources.{name}"))
    except ModuleNotFoundError as error:
        if error.name != f"harness.meter.sources.{name}":
            raise
        raise KitError(
            f"{name!r} is no power source of this installation",
            where="sources",
            expected=f"a file harness/meter/sources/{name}.py",
        ) from None


def _or_missing(value: int | None) -> int:
    return MISSING if value is None else value
