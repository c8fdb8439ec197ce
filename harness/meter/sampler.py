"""The sampler: a process of its own that reads every device at absolute deadlines and writes the journal.

Started by `harness.meter.client` before the first stage. It reads commands as JSON lines on standard input
and answers on standard output; when its owner disappears it ends the stage's processes (nothing should run
unmeasured), takes a last boundary and closes the journal. Run as `python -m harness.meter.sampler
CONFIG-JSON`.
"""

from __future__ import annotations

import gc
import json
import math
import os
import select
import signal
import sys
import time
from pathlib import Path
from typing import Any

from harness.ending import leave
from harness.errors import KitError
from harness.journal.records import KIND_POWER, KIND_ZONE, ZONE_ROW, JournalWriter
from harness.meter.cells import CellReader
from harness.meter.child import cpu_s, ignore_signals, raise_priority, say
from harness.meter.clocks import ClockWatch, clock_id, mono_us, utc_at, utc_us
from harness.meter.foreign import foreign_pids
from harness.meter.sources.base import ZONE_UNCERTAINTY_US, Device, Found, Reading, Wanted, Zone, load_source
from harness.meter.ticks import TickModel, watch_ticks
from harness.meter.watchers import GpuWatch, LatenessHistogram, ZoneWatch

VERSION = "1"
_LEARN_TICKS = 5
_LEARN_ROUNDS = 6  # more than one only where the processor is hard to get, or the counters keep no time
_SHARP_US = 200.0
_CALM_S = 1e-3  # with more time than this before the next look, a sample can be taken in between
_LOOK_AGAIN_US = 2_000_000
_LOOK_AGAIN_MAX_US = 120_000_000
_STATS_EVERY_US = 10_000_000
_OVERDUE_US = 150_000
_ORPHAN_GRACE_S = 5.0


class Sampler:
    """The state of the sampler process.

    Args:
        config: `journal` (file to create), `session`, `period_us`, `device_source` (name and argument of the
            source of devices), `zone_sources` (the same of each source of zones), `devices` (None = those the
            job may use, [] = none, or a list of numbers and UUIDs), `known_devices` (None, or [device id,
            UUID] of each device of the sampler that this one replaces), `visible` (see `Wanted`),
            `owner_pid`, `next_boundary` (first number not used yet).
    """

    def __init__(self, config: dict[str, Any]) -> None:
        self.session = int(config["session"])
        self.period_us = int(config["period_us"])
        self.owner_pid = int(config["owner_pid"])
        self.journal = JournalWriter(Path(config["journal"]))
        self.clock = ClockWatch()
        self.lateness = LatenessHistogram()
        self.ticks = 0
        self.missed_ticks = 0
        self.group: tuple[int, int] | None = None  # process group of the running stage, and the stage's uid
        self._disk_error: str | None = None
        self._cpu_at_ready_s = 0.0
        self._ready_us = 0
        self._next_stats_us = 0
        self._due_us = 0
        self._sample_s = 0.0  # how long reading everything takes, at worst lately
        self._look_again_us = 0
        self._look_pause_us = _LOOK_AGAIN_US
        self.next_boundary = int(config["next_boundary"])
        self._input = bytearray()
        self._input_ended = False
        self._deferred: list[dict[str, Any]] = []  # commands that wait for the cells of all boundaries
        self._ends: list[tuple[int, int]] = []  # (boundary, stage) whose processes are still to be asked for
        name, argument = config["device_source"]
        wanted = Wanted(config["devices"], config["known_devices"], config["visible"], argument)
        self.opened: Found = load_source(name).discover(wanted)
        self.gpus = self.opened.devices
        for index in self.opened.lost:
            self.event("gpu_lost", "error", device_id=index, at_start=True)
        for index in self.opened.unidentified:
            # Not metered: what it used is missing from every stage of a job that uses it.
            self.event("nvml_error", "error", device_id=index, at_start=True, quantity="identity")
        found = [load_source(name).discover(Wanted(argument=text)) for name, text in config["zone_sources"]]
        self.zones: list[Zone] = [zone for one in found for zone in one.zones]
        self._zone_watches = [ZoneWatch(zone) for zone in self.zones]
        self._zones_denied = [label for one in found for label in one.denied]
        self._zone_uncertainty_us = max([ZONE_UNCERTAINTY_US, *(zone.uncertainty_us for zone in self.zones)])
        self.models = {gpu.index: TickModel() for gpu in self.gpus}
        self._watched = [(gpu, GpuWatch(gpu.index)) for gpu in self.gpus]
        self.cells = CellReader(
            self.gpus, self.models, self.journal, self.session, idle=self._between_looks, silent=self._silent
        )

    def event(self, kind: str, severity: str = "info", **fields: Any) -> None:
        """Journal an event; `device_id`, `stage_uid` and `at_us` are columns, the rest is detail."""
        at_us = int(fields.pop("at_us", 0)) or mono_us()
        self.journal.append_record(
            {
                "type": "event",
                "kind": kind,
                "severity": severity,
                "session": self.session,
                "mono_us": at_us,
                "t_us": utc_at(at_us),
                "device_id": fields.pop("device_id", None),
                "stage_uid": fields.pop("stage_uid", None),
                "detail": fields,
            }
        )

    def start(self) -> dict[str, Any]:
        """Warm up: describe the devices, learn the counters' ticks, sample once. Returns the greeting."""
        scheduling = raise_priority()
        zones = [
            {
                "label": zone.label,
                "range": zone.range,
                "source": zone.measures.source,
                "part": zone.measures.part,
            }
            for zone in self.zones
        ]
        self._due_us = mono_us() + self.period_us  # nothing is due while the ticks are learned
        for _ in range(_LEARN_ROUNDS):
            self._watch_counters(_LEARN_TICKS)
            now = mono_us()
            if not any(model.unsettled(now, _SHARP_US) for model in self.models.values()):
                break
        described = [{**gpu.describe(), "source": gpu.measures.source} for gpu in self.gpus]
        for entry in described:
            entry["refresh_us"] = self.models[entry["device_id"]].period_us
            entry["mig_instance"] = entry["device_id"] in self.opened.mig_devices
        greeting = {
            "type": "sampler_start",
            "session": self.session,
            "pid": os.getpid(),
            "clock_id": clock_id(),
            "devices": described,
            "no_gpu_reason": self.opened.reason,
            "doubts": list(self.opened.doubts),
            "zones": zones,
            "zones_denied": self._zones_denied,
            "driver": self.opened.facts.get("driver"),
            "cuda": self.opened.facts.get("cuda"),
            "scheduling": scheduling,
            "period_us": self.period_us,
            "sampler_version": VERSION,
            "mono_us": mono_us(),
            "t_us": utc_us(),
        }
        self.journal.append_record(greeting)
        for gpu in self.gpus:
            for quantity, method in gpu.methods.items():
                if method != "field":
                    self.event(
                        "field_fallback", "warning", device_id=gpu.index, quantity=quantity, method=method
                    )
        self._due_us = mono_us()
        self._next_stats_us = self._due_us + _STATS_EVERY_US
        self._tick()
        self._cpu_at_ready_s, self._ready_us = cpu_s(), mono_us()
        return greeting

    def _tick(self) -> None:
        """One sample of everything, at the deadline that is due."""
        now, wall = mono_us(), utc_us()
        late = now - self._due_us
        self.lateness.add(late)
        self.ticks += 1
        if late >= self.period_us:
            skipped = late // self.period_us
            self.missed_ticks += skipped
            self.event("gap", "warning", at_us=now, length_us=late, missed_ticks=skipped)
            self._due_us += skipped * self.period_us
        self._due_us += self.period_us
        step = self.clock.step_us(wall, now)
        if step is not None:
            self.event("clock_step", "warning", step_us=step)
        self._sample(wall - now)
        self._sample_s = max(0.9 * self._sample_s, (mono_us() - now) / 1e6)
        if now >= self._next_stats_us:
            self._next_stats_us = now + _STATS_EVERY_US
            self.journal.append_record(self._stats())
        if self.journal.error != self._disk_error:
            self._tell_disk()

    def _sample(self, wall_offset_us: int) -> None:
        rows = bytearray()
        for gpu, watch in self._watched:
            row, energy_mj, reading = gpu.sample(self.session, wall_offset_us)
            rows += row
            if gpu.limit_change is not None:
                self._tell_limit(gpu)
            if reading is None:
                if watch.is_calm(energy_mj):
                    continue
                reading = Reading(mono_us(), 0, energy_mj)
            for kind, severity, detail in watch.notice(reading):
                self.event(kind, severity, device_id=gpu.index, **detail)
        if rows:
            self.journal.append_rows(KIND_POWER, rows, flush=not self.zones)
        if self.zones:
            self._read_zones(-1)

    def _tell_limit(self, gpu: Device) -> None:
        assert gpu.limit_change is not None
        (before_mw, after_mw), gpu.limit_change = gpu.limit_change, None
        limits = {"before_mw": before_mw, "after_mw": after_mw}
        self.event("power_limit_change", "warning", device_id=gpu.index, **limits)

    def _read_zones(self, boundary: int) -> None:
        rows = bytearray()
        for position, zone in enumerate(self.zones):
            reading = zone.read()
            at, value = reading.mono_us, reading.energy
            reset = None if value is None else self._zone_watches[position].notice(at, value)
            if reset is not None:
                self.event("counter_reset", "warning", at_us=at, **reset)
            rows += ZONE_ROW.pack(
                position,
                self.session,
                utc_at(at),
                at,
                -1 if value is None else value,
                boundary,
            )
        if rows:
            self.journal.append_rows(KIND_ZONE, bytes(rows))

    def _tell_disk(self) -> None:
        error, before = self.journal.error, self._disk_error
        if error is None:
            self.event("disk_full", "warning", error=before, recovered=True)
        else:
            # Kept in memory with everything else until the disk takes it.
            self.event("disk_full", "error", error=error, recovered=False)
            say({"warning": f"the journal cannot be written ({error}); samples are kept in memory"})
        self._disk_error = error

    def _stats(self) -> dict[str, Any]:
        return {
            "type": "sampler_stats",
            "session": self.session,
            "mono_us": mono_us(),
            "ticks": self.ticks,
            "missed_ticks": self.missed_ticks,
            "sampler_cpu_s": cpu_s() - self._cpu_at_ready_s,
            "sampler_wall_s": (mono_us() - self._ready_us) / 1e6,
            "dropped_frames": self.journal.dropped_frames,
            **self.lateness.summary(),
        }

    def boundary(self, number: int, at_us: int, stage_uid: int | None = None) -> None:
        """Read everything beside a boundary that was stamped a moment ago, and watch for the ticks behind it.

        Args:
            number: Of the boundary.
            at_us: Its moment.
            stage_uid: The stage that ends here, if one does: foreign processes are then looked for. That is
                slow and locking in a driver, so it is done once the counters have ticked.
        """
        self.next_boundary = max(self.next_boundary, number + 1)
        powers = {}
        for gpu in self.gpus:
            reading = gpu.read()
            power_mw = reading.power_mw if reading.power_mw is not None else reading.average_mw
            powers[str(gpu.index)] = [power_mw, reading.mono_us]
            if reading.energy is not None:
                self.cells.follow(gpu, reading)
        self._read_zones(number)
        self.journal.append_record(
            {
                "type": "boundary",
                "boundary": number,
                "session": self.session,
                "mono_us": at_us,
                "t_us": utc_at(at_us),
                "powers": powers,
                "zone_uncertainty_us": self._zone_uncertainty_us,
            }
        )
        if stage_uid is not None:
            self._ends.append((number, stage_uid))

    def _silent(self, device_id: int) -> None:
        self.event("counter_stuck", "warning", device_id=device_id)

    def _look_for_foreigners(self) -> None:
        """Processes on the devices that are not the measured job's, where stages have just ended."""
        ends, self._ends = self._ends, []
        if not ends:
            return
        for gpu in self.gpus:
            foreign = foreign_pids(gpu.compute_pids() or [], self.owner_pid)
            for _, stage_uid in ends if foreign else ():
                self.event(
                    "foreign_process",
                    "warning",
                    stage_uid=stage_uid,
                    device_id=gpu.index,
                    processes=len(foreign),
                )

    def _watch_counters(self, count: int = 1, *, interruptible: bool = False) -> None:
        """Learn from ticks of the counters there are; the schedule of samples is kept meanwhile.

        Args:
            count: Ticks to wait for.
            interruptible: Whether a command ends the watch: no boundary waits for a look that is only useful.
        """
        ticking = [gpu for gpu in self.gpus if gpu.methods["energy"] != "absent"]
        idle = self._keep_schedule_until_asked if interruptible else self._keep_schedule
        calm_s = max(_CALM_S, 2 * self._sample_s)
        watch_ticks(ticking, self.models, count=count, calm_s=calm_s, spin=not interruptible, idle=idle)

    def _keep_schedule(self, calm: bool) -> bool:
        overdue = mono_us() - self._due_us
        if overdue > (0 if calm else _OVERDUE_US):
            self._tick()
        return False

    def _keep_schedule_until_asked(self, calm: bool) -> bool:
        self._keep_schedule(calm)
        return bool(select.select([0], [], [], 0)[0])

    def run(self) -> int:
        """Sample until told to stop. Returns the process's exit code."""
        while True:
            due_us = min(self._due_us, self.cells.due_us())
            self._receive(max(0.0, (due_us - mono_us()) / 1e6))
            self.cells.watch()
            self._look_for_foreigners()
            if self._answer():
                return 0
            if self._input_ended or os.getppid() != self.owner_pid:
                return self._owner_lost()
            self.cells.look_again()
            if mono_us() >= self._due_us:
                self._tick()
                self._refresh_models()

    def _receive(self, wait_s: float = 0.0) -> None:
        """Take in commands; those about boundaries are carried out at once."""
        if self._input_ended or not select.select([0], [], [], wait_s)[0]:
            return
        chunk = os.read(0, 1 << 16)
        self._input_ended = not chunk
        self._input += chunk
        while b"\n" in self._input:
            line, _, rest = bytes(self._input).partition(b"\n")
            self._input = bytearray(rest)
            self._obey(json.loads(line))

    def _between_looks(self, calm: bool) -> bool:
        self._receive()
        self.cells.look_again()
        return self._keep_schedule(calm)

    def _refresh_models(self) -> None:
        """Look at the next tick of counters whose tick times become uncertain, to keep boundaries cheap."""
        now = mono_us()
        if now < self._look_again_us:
            return
        if now >= self._fading_at_us():
            self._watch_counters(interruptible=True)
            if mono_us() >= self._fading_at_us():
                # It changed nothing (no processor, a counter without a rhythm): not again at every tick.
                self._look_pause_us = min(2 * self._look_pause_us, _LOOK_AGAIN_MAX_US)
                self._look_again_us = mono_us() + self._look_pause_us
                return
        self._look_pause_us = _LOOK_AGAIN_US
        self._look_again_us = round(min(self._fading_at_us(), now + _LOOK_AGAIN_MAX_US))

    def _fading_at_us(self) -> float:
        return min((model.fades_at_us() for model in self.models.values()), default=math.inf)

    def _obey(self, command: dict[str, Any]) -> None:
        operation = command["op"]
        if operation == "boundary":
            self.boundary(int(command["boundary"]), int(command["at_us"]), command["ends"])
        elif operation == "group":
            group = command["pgid"]
            self.group = None if group is None else (int(group), int(command["stage_uid"]))
        elif operation == "numbered":
            self.next_boundary = max(self.next_boundary, int(command["next"]))
        else:
            self._deferred.append(command)

    def _answer(self) -> bool:
        """Answer what waited for the counters; whether it was told to stop."""
        deferred, self._deferred = self._deferred, []
        for command in deferred:
            if command["op"] == "settle":
                say({"id": command["id"]})
            elif command["op"] == "stop":
                self._finish()
                say({"id": command["id"], "stopped": True, "pending_bytes": self.journal.pending_bytes})
                return True
        return False

    def _finish(self) -> None:
        self.cells.finish()
        # The last boundary then has a sample behind it.
        self._sample(utc_us() - mono_us())
        self.journal.append_record({**self._stats(), "type": "sampler_end"})
        self.journal.close()
        self.opened.close()
        for zone in self.zones:
            zone.close()

    def _owner_lost(self) -> int:
        """The runner was killed: end the stage it left behind, bill it to its end, close the journal."""
        stage_uid = None
        if self.group is not None:
            group, stage_uid = self.group
            self._end_group(group)
        number = self.next_boundary
        self.boundary(number, mono_us(), stage_uid)
        self.event("runner_lost", "error", stage_uid=stage_uid, boundary=number)
        self._look_for_foreigners()
        self._finish()
        return 3

    def _end_group(self, group: int) -> None:
        """SIGTERM to the process group, SIGKILL after a grace period; sampling goes on meanwhile."""
        for end_signal in (signal.SIGTERM, signal.SIGKILL):
            deadline = mono_us() + int(_ORPHAN_GRACE_S * 1e6)
            try:
                os.killpg(group, end_signal)
                while mono_us() < deadline:
                    os.killpg(group, 0)
                    if mono_us() >= self._due_us:
                        self._tick()
                    time.sleep(0.01)
            except (ProcessLookupError, PermissionError):
                return


def main() -> int:
    """Entry point of the sampler process."""
    gc.disable()  # it makes no garbage, and looking for some would hold up a tick
    ignore_signals()
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # a file size limit is a full disk, not a reason to die
    try:
        sampler = Sampler(json.loads(sys.argv[1]))
    except KitError as error:
        say({"error": error.message, "where": error.where, "expected": error.expected, "fix": error.fix})
        return 2
    greeting = sampler.start()
    # UUIDs are for the owner's memory only: no file of the run holds one.
    opened, known = sampler.opened, [[gpu.index, gpu.uuid] for gpu in sampler.gpus]
    ready = {"greeting": greeting, "devices": known, "visible": opened.visible, "broken": opened.broken}
    say({"ready": ready})
    return sampler.run()


if __name__ == "__main__":
    leave(main())
