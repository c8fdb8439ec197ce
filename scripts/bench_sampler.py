"""CPU that the meter costs, with the lab's fake NVML: `python scripts/bench_sampler.py [--seconds 60]`.

Prints the sampler's CPU time as a share of one core, over a stretch with one stage boundary and one with a
boundary every few seconds, as getrusage gives it; then the same stretch with the estimator of CPU energy
beside it, as a default run has it where RAPL cannot be read. A call into the fake costs about a microsecond;
a real driver's cost comes on top and is reported by the sampler itself in every run (`sampling.sessions` of
the manifest). Background load makes caches cold and the figure larger: run it on a quiet machine.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from harness.journal.records import read_journal
from harness.meter.client import MeterClient, MeterConfig
from harness.meter.clocks import mono_us
from tests.lab import LabConfig, LabDevice, Refresh, build_fake_nvml, random_waveform


def measure(
    directory: Path, seconds: float, period_ms: int, boundary_every_s: float | None, cpu: str = "none"
) -> dict[str, Any]:
    """Run the meter for a while; the sampler's closing statistics, and the estimator's CPU time, s."""
    events: list[str] = []
    directory.mkdir()
    config = MeterConfig(period_us=period_ms * 1000, cpu=cpu)
    client = MeterClient(directory, 0, config, lambda kind, severity, detail: events.append(kind))
    client.start()
    estimator_s = _estimator_cpu_s(client)
    end = time.monotonic() + seconds
    client.boundary(mono_us())  # every run begins with that of its first stage
    boundaries = 1
    while (left := end - time.monotonic()) > 0:
        time.sleep(min(left, boundary_every_s or left))
        if boundary_every_s is not None:
            client.boundary(mono_us())
            boundaries += 1
    estimator_s = _estimator_cpu_s(client) - estimator_s
    client.stop()
    journal = next(directory.glob("*sampler.jnl"))
    stats = [frame.record for frame in read_journal(journal) if frame.record.get("type") == "sampler_end"][-1]
    stats["estimator_cpu_s"] = estimator_s
    return {**stats, "boundaries": boundaries, "bytes": journal.stat().st_size, "events": events}


def _estimator_cpu_s(client: MeterClient) -> float:
    """CPU time of the estimator so far, s; its scheduler statistics are in ns, /proc/PID/stat in 10 ms."""
    if client._estimator is None:
        return 0.0
    path = Path(f"/proc/{client._estimator.process.pid}/schedstat")
    return int(path.read_text().split()[0]) / 1e9


def main() -> int:
    """Entry point."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--seconds", type=float, default=60.0, help="length of each of the three stretches")
    parser.add_argument("--gpus", type=int, default=8)
    parser.add_argument("--period-ms", type=int, default=500)
    parser.add_argument("--boundary-every", type=float, default=10.0, help="seconds, in the second stretch")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="kit-bench-") as scratch:
        library = build_fake_nvml(Path(scratch) / "lab").parent
        devices = [
            LabDevice(random_waveform(seed), Refresh(100_000, 1000 * seed)) for seed in range(options.gpus)
        ]
        environment = LabConfig(devices).env(library)
        if os.environ.get("KIT_LAB_NVML") is None:
            os.environ.update(environment)
        print(
            f"{options.gpus} GPUs, a sample every {options.period_ms} ms;"
            f" load average {os.getloadavg()[0]:.2f}"
        )
        for number, (every, cpu) in enumerate(
            ((None, "none"), (options.boundary_every, "none"), (options.boundary_every, "codecarbon"))
        ):
            name = "one boundary" if every is None else f"a boundary every {every:g} s"
            stats = measure(
                Path(scratch) / f"journal-{number}", options.seconds, options.period_ms, every, cpu
            )
            share = stats["sampler_cpu_s"] / stats["sampler_wall_s"]
            if cpu != "none":
                estimator = stats["estimator_cpu_s"] / options.seconds
                name += (
                    f", estimator {100 * estimator:.3f} %, in all {100 * (share + estimator):.3f} %; sampler"
                )
            print(
                f"  {name}: {100 * share:.3f} % of one core"
                f" ({1e6 * stats['sampler_cpu_s'] / stats['ticks']:.0f} us a tick, {stats['ticks']} ticks,"
                f" {stats['missed_ticks']} missed; late by {stats['jitter_p50_us']} us at the median,"
                f" {stats['jitter_p95_us']} us at 95 %; {stats['boundaries']} boundaries)"
            )
    return 0


if __name__ == "__main__":
    sys.exit(main())
