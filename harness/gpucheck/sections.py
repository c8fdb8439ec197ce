"""What the GPU check does, section by section, in the order of `SECTIONS` at the end.

The stages' own code has a module of its own (`stage_benches`).
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
from importlib import import_module, util
from typing import Any

from harness.errors import KitError
from harness.gpucheck.check import Bench, Expectation, SectionResult, Sections, judged, percent
from harness.gpucheck.engine import engine
from harness.gpucheck.metered import MeteredRun, Piece, billed_s, mean_w, meter_pieces
from harness.gpucheck.stage_benches import run_stage_benches
from harness.meter.helper import package_environ

# Title and bar of each expectation.
_EXPECTED = {
    "counter_refresh": ("The energy counter refreshes on a period that boundaries can wait for",
                        "5 to 120 ms on every GPU"),
    "counter_scope": ("Counter and INSTANT power mean the same thing",
                      "ratio 1 within 5 % (the sensor's own accuracy), or a module recognised as one"),
    "average_lag": ("AVERAGE power is a mean over 1 s, as documented", "lag 0.5 s within 0.1 s"),
    "counter_used": ("Every stage is billed by the counter", "counter_tick, counter_linear or counter_step"),
    "closure": ("Stages and the time between them add up to the counter's own difference",
                "between its refreshes inside and around the run"),
    "counter_vs_integral": ("Counter and power integral agree on steady stages of 5 s and more",
                            "within 5 %"),
    "boundary_share": ("What is uncertain at the two ends of a stage of 1 s and more is small",
                       "0.1 % of its energy"),
    "no_missed_samples": ("No sample is missed", "0"),
    "sampler_cpu": ("The sampler takes next to nothing from the job", "0.5 % of one core at 2 Hz"),
    "sampler_jitter": ("Samples are taken on time", "95 % within 5 ms"),
    "repeatability": ("Equal stages have equal power", "standard deviation 2 % of the mean"),
    "synchronise": ("A stage ends when the device has finished, not when the program has queued",
                    "work window at least 98 % of the device's own time"),
}  # fmt: skip
_STEADY_KINDS = ("x-matmul", "x-memory", "x-idle")
_REPEATS = 5
_COUNTED = ("counter_tick", "counter_linear", "counter_step")


def probe(bench: Bench) -> SectionResult:
    """`kit doctor --probe` as a person would run it."""
    seconds = max(8.0, 30.0 * bench.scale)
    out = bench.folder / "probe.json"
    command = [sys.executable, "-P", "-m", "harness.cli.main", "doctor", "--probe", "--seconds", str(seconds)]
    command += ["--out", str(out)]
    if bench.rehearsal:
        command.append("--no-load")
    else:
        command += ["--load-python", bench.load.python]
    done = subprocess.run(
        command, env=package_environ(), capture_output=True, text=True, timeout=300, check=False
    )
    if done.returncode:
        raise KitError(
            f"the probe ended with {done.returncode}: {(done.stderr.strip().splitlines() or ['?'])[-1]}"
        )
    result: dict[str, Any] = json.loads(out.read_text())
    devices = result["devices"]
    refresh = [_value(device, "counter_refresh_ms") for device in devices]
    known = [period for period in refresh if period is not None]
    scopes = [device["counter_scope"] for device in devices]
    ratios = [_value(device, "counter_vs_instant_ratio") for device in devices]
    lags = [_value(device, "average_lag_s") for device in devices]
    lag_holds = None if None in lags else all(lag is not None and abs(lag - 0.5) <= 0.1 for lag in lags)
    in_range = len(known) == len(devices) and all(5.0 <= period <= 120.0 for period in known)
    known_scope = all(scope in ("gpu", "module") for scope in scopes)
    expectations = (
        _judged("counter_refresh", _list(refresh, "ms"), in_range),
        _judged("counter_scope", f"{_list(ratios)} ({', '.join(scopes)})", known_scope),
        _judged("average_lag", _list(lags, "s"), lag_holds),
    )
    return SectionResult(
        expectations, {"counter_refresh_ms": known, "probe": result}, text=done.stdout.rstrip()
    )


def _judged(id: str, observed: str, holds: bool | None) -> Expectation:
    return judged(id, *_EXPECTED[id], observed, holds)


def _value(device: dict[str, Any], key: str) -> float | None:
    figure = device["figures"].get(key)
    return None if figure is None else figure["value"]


def _list(values: list[float | None], unit: str = "") -> str:
    shown = ", ".join("unknown" if value is None else f"{value:.4g}" for value in values)
    return f"{shown} {unit}".strip()


def stages(bench: Bench) -> SectionResult:
    """Bursts, rest, memory traffic and alternating load; counter beside integral, closure, boundaries."""
    fast = {"high_s": 0.23, "low_s": 0.14}
    slow = {"high_s": 0.8, "low_s": 0.5}
    plan: list[Piece] = [
        ("warm_up", "matmul", 5, {}),
        ("idle_5s", "idle", 5, {}),
        ("matmul_1s", "matmul", 1, {}),
        ("matmul_3s", "matmul", 3, {}),
        ("matmul_20s", "matmul", 20, {}),
        ("memory_10s", "memory", 10, {}),
        ("alternating_fast_10s", "square", 10, fast),
        ("alternating_slow_10s", "square", 10, slow),
        ("matmul_short", "matmul", 0.35, {}),
    ]
    plan += [(f"repeat_{number}", "matmul", 2, {}) for number in range(1, _REPEATS + 1)]
    # Opened here and not before: an idle card has no context, and the probe wants it idle.
    bench.load.open()
    try:
        run = meter_pieces(bench, "stages", plan)
    finally:
        bench.load.release()
    missed = run.sampler["missed_ticks"]
    methods = sorted({row["gpu_energy_method"] for row in run.stages})
    return SectionResult(
        (
            _judged("counter_used", ", ".join(methods), set(methods) <= set(_COUNTED)),
            _closure(run),
            _against_integral(run, bench),
            _boundary_share(run),
            _judged("no_missed_samples", str(missed), missed == 0),
            *_metering(run),
            _repeats(run),
        ),
        {"stages": run.data(), "counter_span_mj": run.counter_span_mj(), "sampler": run.sampler},
        (run.table("Stages"),),
    )


def _metering(run: MeteredRun) -> tuple[Expectation, Expectation]:
    """What metering takes from the job, and whether it is on time."""
    share = run.sampler["sampler_cpu_s"] / run.sampler["sampler_wall_s"]
    jitter_us = run.sampler["jitter_p95_us"]
    return (
        _judged("sampler_cpu", percent(share), share <= 0.005),
        _judged("sampler_jitter", f"{jitter_us / 1e3:.2f} ms", jitter_us <= 5_000),
    )


def _repeats(run: MeteredRun) -> Expectation:
    watts = [mean_w(row) for row in run.stages if row["name"].startswith("repeat")]
    known = [value for value in watts if value is not None]
    if len(known) < _REPEATS:
        return _judged("repeatability", "a stage has no GPU energy", False)
    spread = statistics.stdev(known) / statistics.mean(known)
    observed = f"{percent(spread)} of {statistics.mean(known):.1f} W"
    return _judged("repeatability", observed, spread <= 0.02)


def _closure(run: MeteredRun) -> Expectation:
    span = run.counter_span_mj()
    parts = [row["gpu_energy_counter_j"] for row in run.stages + run.gaps]
    if span is None or any(part is None for part in parts):
        return _judged("closure", "the counter could not be read throughout", False)
    total, (least, most) = round(sum(1e3 * part for part in parts)), span
    return _judged("closure", f"{total} mJ, {least} to {most} by the counter", least - 1 <= total <= most + 1)


def _against_integral(run: MeteredRun, bench: Bench) -> Expectation:
    longest = bench.seconds(4.9)
    steady = [row for row in run.stages if row["stage"] in _STEADY_KINDS and billed_s(row) >= longest]
    apart = {row["name"]: row["gpu_counter_vs_integral"] for row in steady}
    shown = ", ".join(f"{name} {percent(value)}" for name, value in apart.items())
    holds = bool(apart) and all(value is not None and abs(value) <= 0.05 for value in apart.values())
    return _judged("counter_vs_integral", shown or "no such stage", holds)


def _boundary_share(run: MeteredRun) -> Expectation:
    shares = {
        row["name"]: row["gpu_energy_boundary_j"] / row["gpu_energy_j"]
        for row in run.stages
        if billed_s(row) >= 1.0 and row["gpu_energy_j"] and row["gpu_energy_boundary_j"] is not None
    }
    worst = max(shares, key=lambda name: shares[name], default=None)
    observed = "no such stage" if worst is None else f"at most {percent(shares[worst])} ({worst})"
    return _judged("boundary_share", observed, worst is not None and shares[worst] <= 0.001)


def synchronise(bench: Bench) -> SectionResult:
    """Queue a second of work in this process and leave the stage at once: its window must hold the work."""
    torch: Any = None if bench.rehearsal or util.find_spec("torch") is None else import_module("torch")
    if torch is None or not torch.cuda.is_available():
        why = "the kit's own interpreter has no torch that sees a CUDA device"
        why = "a rehearsal has no device" if bench.rehearsal else why
        return SectionResult((_judged("synchronise", why, None),))
    from harness import Meter

    matrix = torch.randn(4096, 4096, device="cuda", dtype=torch.float16)
    product = torch.empty_like(matrix)
    for _ in range(20):
        torch.matmul(matrix, matrix, out=product)
    torch.cuda.synchronize()
    begun = time.monotonic()
    for _ in range(50):
        torch.matmul(matrix, matrix, out=product)
    torch.cuda.synchronize()
    count = max(50, int(50 * bench.seconds(1.0) / (time.monotonic() - begun)))
    out = bench.folder / "synchronise"
    first, last = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    with Meter(out=out, cpu="none") as meter, meter.stage("queued", kind="x-queued"):
        first.record()
        for _ in range(count):
            torch.matmul(matrix, matrix, out=product)
        last.record()
    last.synchronize()
    device_s = first.elapsed_time(last) / 1e3
    row = MeteredRun.read(out).stages[0]
    work_s = billed_s(row)
    observed = f"{work_s:.3f} s of work window, {device_s:.3f} s on the device"
    expectation = _judged("synchronise", observed, work_s >= 0.98 * device_s)
    return SectionResult((expectation,), {"work_s": work_s, "device_s": device_s})


SECTIONS: Sections = {
    "probe": ("The card's own instruments", probe),
    "stages": ("An audit of a minute: known work through the meter", stages),
    "synchronise": ("A stage waits for work that was only queued", synchronise),
    "models": (
        "OLMo-2 shapes with random weights: memory, speed and energy of the stages",
        run_stage_benches,
    ),
    "engine": ("vLLM on the 1B's shape, where it is installed", engine),
}
