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
from harness.gpucheck.metered import MeteredRun, Piece, billed_s, half_width_share, mean_w, meter_pieces
from harness.gpucheck.stage_benches import run_stage_benches
from harness.meter.helper import package_environ

# Title and bar of each expectation.
_EXPECTED = {
    "counter_refresh": (
        "The energy counter refreshes on a period that boundaries can wait for",
        "5 to 120 ms on every GPU",
    ),
    "counter_scope": (
        "Counter and INSTANT power mean the same thing",
        "ratio 1 within 5 % (the sensor's own accuracy), or a module that is recognised as one",
    ),
    "average_lag": ("AVERAGE power is a mean over 1 s, as documented", "lag 0.5 s within 0.1 s"),
    "counter_used": ("Every stage is billed by the counter at ticks", "counter_tick"),
    "closure": (
        "Stages and the time between them add up to the counter's own difference",
        "0 mJ apart",
    ),
    "counter_vs_integral": (
        "Counter and power integral agree on steady stages of 5 s and more",
        "within 5 %",
    ),
    "boundary_share": (
        "What is uncertain at the two ends of a stage of 1 s and more is small",
        "0.1 % of its energy",
    ),
    "no_missed_samples": ("No sample is missed", "0"),
    "sampler_cpu": ("The sampler takes next to nothing from the job", "0.5 % of one core at 2 Hz"),
    "sampler_jitter": ("Samples are taken on time", "95 % within 5 ms"),
    "repeatability": ("Equal stages have equal power", "standard deviation 2 % of the mean"),
    "interpolate_agrees": (
        "Interpolated boundaries give the same power within their own interval",
        "3 % or the interval, whichever is wider",
    ),
    "interpolate_wider": ("They state a wider interval than ticks, as they should", "wider"),
    "synchronise": (
        "A stage ends when the device has finished, not when the program has queued",
        "work window at least 98 % of the device's own time",
    ),
}
_STEADY_KINDS = ("x-matmul", "x-memory", "x-idle")
_REPEATS = 5


def probe(bench: Bench) -> SectionResult:
    """`kit doctor --probe` as a person would run it."""
    seconds = max(8.0, 30.0 * bench.scale)
    out = bench.folder / "probe.json"
    command = [sys.executable, "-P", "-m", "harness.cli.main", "doctor", "--probe", "--seconds", str(seconds)]
    command += ["--out", str(out)]
    if bench.rehearsal:
        command.append("--no-load")
    elif bench.load_python:
        command += ["--load-python", bench.load_python]
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
    run = meter_pieces(bench, "stages", plan)
    missed = run.sampler["missed_ticks"]
    methods = sorted({row["gpu_energy_method"] for row in run.stages})
    return SectionResult(
        (
            _judged("counter_used", ", ".join(methods), methods == ["counter_tick"]),
            _closure(run),
            _against_integral(run, bench),
            _boundary_share(run),
            _billed_windows(run, bench),
            _judged("no_missed_samples", str(missed), missed == 0),
        ),
        {"stages": run.data(), "counter_span_mj": run.counter_span_mj(), "sampler": run.sampler},
        (run.table("Stages"),),
    )


def _closure(run: MeteredRun) -> Expectation:
    span = run.counter_span_mj()
    parts = [row["gpu_energy_counter_j"] for row in run.stages + run.gaps]
    if span is None or any(part is None for part in parts):
        return _judged("closure", "the counter could not be read throughout", False)
    apart = round(sum(1e3 * part for part in parts)) - span
    return _judged("closure", f"{apart} mJ apart of {span} mJ", apart == 0)


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


def _billed_windows(run: MeteredRun, bench: Bench) -> Expectation:
    allowed_us = bench.refresh_us() + 20_000
    before = [row["work_start_us"] - row["mono_start_us"] for row in run.stages]
    after = [row["mono_end_us"] - row["work_end_us"] for row in run.stages]
    worst = max(*before, *after)
    return judged(
        "billed_window",
        "The billed window holds the work and is at most one refresh longer at each end",
        f"0 to {allowed_us / 1e3:.0f} ms",
        f"{min(*before, *after) / 1e3:.1f} to {worst / 1e3:.1f} ms",
        min(*before, *after) >= 0 and worst <= allowed_us,
    )


def sampler(bench: Bench) -> SectionResult:
    """A minute at 2 Hz."""
    run = meter_pieces(bench, "sampler", [("rest", "idle", 60, {})])
    share = run.sampler["sampler_cpu_s"] / run.sampler["sampler_wall_s"]
    jitter_us = run.sampler["jitter_p95_us"]
    expectations = (
        _judged("sampler_cpu", percent(share), share <= 0.005),
        _judged("sampler_jitter", f"{jitter_us / 1e3:.2f} ms", jitter_us <= 5_000),
    )
    return SectionResult(expectations, {"sampler": run.sampler, "cpu_share": share})


def repeatability(bench: Bench) -> SectionResult:
    """Five equal stages after a warm-up."""
    run = _repeat(bench, "repeatability", "tick")
    watts = _watts(run)
    spread = statistics.stdev(watts) / statistics.mean(watts)
    observed = f"{percent(spread)} of {statistics.mean(watts):.1f} W"
    return SectionResult(
        (_judged("repeatability", observed, spread <= 0.02),),
        {"mean_power_w": watts, "stages": run.data()},
        (run.table("Repeats"),),
    )


def _repeat(bench: Bench, name: str, boundary: str) -> MeteredRun:
    pieces: list[Piece] = [("warm_up", "matmul", 3, {})]
    pieces += [(f"repeat_{number}", "matmul", 2, {}) for number in range(1, _REPEATS + 1)]
    return meter_pieces(bench, name, pieces, boundary=boundary)


def _watts(run: MeteredRun) -> list[float]:
    watts = [mean_w(row) for row in run.stages if row["name"].startswith("repeat")]
    known = [value for value in watts if value is not None]
    if len(known) < _REPEATS:
        raise KitError("a stage has no GPU energy")
    return known


def boundaries(bench: Bench) -> SectionResult:
    """The same stages with boundary="interpolate"; compared with those of `repeatability`."""
    ticks = bench.results.get("repeatability")
    if ticks is None:
        raise KitError("the section repeatability has to run first")
    run = _repeat(bench, "interpolate", "interpolate")
    mean_tick, mean_now = statistics.mean(ticks.data["mean_power_w"]), statistics.mean(_watts(run))
    shares = [share for row in run.stages if (share := half_width_share(row)) is not None]
    tick_shares = [share for row in ticks.data["stages"] if (share := half_width_share(row)) is not None]
    widest = max(shares, default=0.0)
    apart = mean_now / mean_tick - 1.0
    waits = [row["mono_end_us"] - row["work_end_us"] for row in run.stages]
    mean, tick_mean = statistics.mean(shares), statistics.mean(tick_shares)
    agreed = f"{percent(apart)} apart, interval {percent(widest)}"
    return SectionResult(
        (
            _judged("interpolate_agrees", agreed, abs(apart) <= max(0.03, widest)),
            _judged("interpolate_wider", f"{percent(mean)} against {percent(tick_mean)}", mean > tick_mean),
        ),
        {"stages": run.data(), "longest_wait_us": max(waits)},
        (run.table("Interpolated"),),
    )


def synchronise(bench: Bench) -> SectionResult:
    """Queue a second of work in this process and leave the stage at once: its window must hold the work."""
    if bench.rehearsal or util.find_spec("torch") is None:
        why = "a rehearsal has no device" if bench.rehearsal else "torch is not in the kit's own interpreter"
        return SectionResult((_judged("synchronise", why, None),))
    from harness import Meter

    torch: Any = import_module("torch")
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
    work_s = (row["work_end_us"] - row["work_start_us"]) / 1e6
    observed = f"{work_s:.3f} s of work window, {device_s:.3f} s on the device"
    expectation = _judged("synchronise", observed, work_s >= 0.98 * device_s)
    return SectionResult((expectation,), {"work_s": work_s, "device_s": device_s})


SECTIONS: Sections = {
    "probe": ("The card's own instruments", probe),
    "stages": ("Stages of known work through the meter", stages),
    "sampler": ("What metering costs", sampler),
    "repeatability": ("The same stage five times", repeatability),
    "boundaries": ("Interpolated boundaries beside ticks", boundaries),
    "synchronise": ("A stage waits for work that was only queued", synchronise),
    "models": (
        "OLMo-2 shapes with random weights: memory, speed and energy of the stages",
        run_stage_benches,
    ),
}
