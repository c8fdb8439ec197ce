"""The estimator: a process of its own that reads a source of estimates and writes its journal.

Started by `harness.meter.client`, warm before the first stage, so that the estimate's own start belongs to no
stage. Run as `python -m harness.meter.estimator CONFIG-JSON`; commands and answers are JSON lines.
"""

from __future__ import annotations

import json
import os
import select
import sys
import time
from pathlib import Path
from typing import Any

from harness.errors import KitError
from harness.journal.records import JournalWriter
from harness.meter.child import ignore_signals, say
from harness.meter.clocks import mono_us, utc_us
from harness.meter.process_tree import MeasuredTree, lives
from harness.meter.sources.base import ESTIMATE, Wanted, load_source

_PERIOD_S = 1.0
_SAMPLER_ENDS_S = 15.0  # it gives the stage of a lost owner two grace periods of 5 s


class Worker:
    """The loop: one look a second, and one at every stage boundary.

    Raises:
        KitError: The source finds nothing here.
    """

    def __init__(self, config: dict[str, Any], answers: int) -> None:
        self._session = int(config["session"])
        self._owner_pid = int(config["owner_pid"])
        self._answers = answers
        self._samplers = list(config["helper_pids"])
        helpers = [os.getpid(), *self._samplers]
        self._tree = MeasuredTree(int(config["root_pid"]), bool(config["include_root"]), helpers)
        self._source = str(config["source"])
        self._found = load_source(self._source).discover(Wanted(tree=self._tree))
        if self._found.reason is not None:
            raise KitError(self._found.reason, where=f"cpu: {self._source}", expected=self._found.expected)
        self._journal = JournalWriter(Path(config["journal"]))

    def run(self) -> int:
        """Look until told to stop or left alone."""
        greeting = {
            "type": f"{ESTIMATE}_start",
            "source": self._source,
            "session": self._session,
            **self._found.facts,
            "mono_us": mono_us(),
            "t_us": utc_us(),
        }
        self._journal.append_record(greeting)
        self._look(None)
        say({"ready": greeting}, self._answers)
        buffer = b""
        while True:
            readable, _, _ = select.select([0], [], [], _PERIOD_S)
            if readable:
                chunk = os.read(0, 1 << 16)
                if not chunk:
                    break
                buffer += chunk
                while b"\n" in buffer:
                    line, _, buffer = buffer.partition(b"\n")
                    if not self._obey(json.loads(line)):
                        return 0
            else:
                if os.getppid() != self._owner_pid:
                    break
                self._look(None)
        self._outlive_sampler()
        self._journal.close()
        return 3

    def _outlive_sampler(self) -> None:
        """The owner was killed: the sampler ends the stage, and what the stage uses until then is its own."""
        self._tree.root_lost()
        until = time.monotonic() + _SAMPLER_ENDS_S
        next_look = 0.0
        while time.monotonic() < until and any(map(lives, self._samplers)):
            if time.monotonic() >= next_look:
                next_look = time.monotonic() + _PERIOD_S
                self._look(None)
            time.sleep(0.02)
        self._look(None)

    def _obey(self, command: dict[str, Any]) -> bool:
        if command["op"] == "stop":
            self._look(None)
            self._journal.close()
            say({"id": command["id"], "stopped": True}, self._answers)
            return False
        if command["op"] == "helpers":
            self._samplers = command["pids"]
            self._tree.add_helpers(command["pids"])
            return True
        if command["op"] == "boundary":
            self._look(int(command["boundary"]))
        elif command["op"] == "settle":
            say({"id": command["id"]}, self._answers)
        return True

    def _look(self, boundary: int | None) -> None:
        values = {zone.label: zone.read().energy for zone in self._found.zones}
        reading = {
            "type": ESTIMATE,
            "source": self._source,
            "session": self._session,
            "boundary": boundary,
            "mono_us": mono_us(),
            "t_us": utc_us(),
            "uncertainty_us": self._found.zones[0].uncertainty_us,
            "cpu_uj": values.get("cpu"),
            "ram_uj": values.get("ram"),
        }
        self._journal.append_record(reading)


def main() -> int:
    """Entry point of the estimator process."""
    ignore_signals()
    answers = os.dup(1)
    os.dup2(2, 1)  # nothing that a source prints may reach the answers
    try:
        worker = Worker(json.loads(sys.argv[1]), answers)
    except KitError as error:
        say({"error": error.message}, answers)
        return 2
    return worker.run()


if __name__ == "__main__":
    sys.exit(main())
