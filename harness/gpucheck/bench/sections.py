"""What the GPU check does: probe, stages, sampler, repeatability, boundary modes, waiting for the device.

The models have a module of their own (`models`).
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
from harness.gpucheck.bench.model import Bench, Expectation, SectionResult, judged, section
from harness.gpucheck.bench.models import run_models
from harness.gpucheck.bench.runs import (
    MeteredRun,
    Piece,
    billed_s,
    half_width_share,
    mean_w,
    meter_pieces,
    stage_data,
)
from harness.meter.helper import package_environ

_STEADY_KINDS = ("x-matmul", "x-memory", "x-idle")
_REPEATS = 5


@section("probe", "The card's own instruments")
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
    expectations = [
        judged(
            "counter_refresh",
            "The energy counter refreshes on a period that boundaries can wait for",
            "5 to 120 ms on every GPU",
            _list(refresh, "ms"),
            len(known) == len(devices) and all(5.0 <= period <= 120.0 for period in known),
        ),
        judged(
            "counter_scope",
            "Counter and INSTANT power mean the same thing",
            "ratio 1 within 5 % (the sensor's own accuracy), or a module that is recognised as one",
            f"{_list(ratios)} ({', '.join(scopes)})",
            all(scope in ("gpu", "module") for scope in scopes),
        ),
    ]
    title, bar = "AVERAGE power is a mean over 1 s, as documented", "lag 0.5 s within 0.1 s"
    if any(lag is None for lag in lags):
        expectations.append(Expectation("average_lag", title, bar, _list(lags, "s"), "not run"))
    else:
        holds = all(lag is not None and abs(lag - 0.5) <= 0.1 for lag in lags)
        expectations.append(judged("average_lag", title, bar, _list(lags, "s"), holds))
    return SectionResult(
        tuple(expectations), {"counter_refresh_ms": known, "probe": result}, text=done.stdout.rstrip()
    )


def _value(device: dict[str, Any], key: str) -> float | None:
    figure = device["figures"].get(key)
    return None if figure is None else figure["value"]


def _list(values: list[float | None], unit: str = "") -> str:
    shown = ", ".join("unknown" if value is None else f"{value:.4g}" for value in values)
    return f"{shown} {unit}".strip()


@section("stages", "Stages of known work through the meter")
def stages(bench: Bench) -> SectionResult:
    """Bursts, rest, memory traffic and alternating load; counter beside integral, closure, boundaries."""
    fast = {"high_s": 0.23, "low_s": 0.14}
    slow = {"high_s": 0.8, "low_s": 0.5}
    plan = [
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
    pieces = [Piece(name, kind, bench.seconds(length), shape) for name, kind, length, shape in plan]
    run = meter_pieces(bench, "stages", pieces)
    return SectionResult(
        (
            _methods(run),
            _closure(run),
            _against_integral(run, bench),
            _boundary_share(run),
            _billed_windows(run, bench),
            judged(
                "no_missed_samples",
                "No sample is missed",
                "0",
                str(run.sampler["missed_ticks"]),
                run.sampler["missed_ticks"] == 0,
            ),
        ),
        {"stages": stage_data(run), "counter_span_mj": run.counter_span_mj(), "sampler": run.sampler},
        (_stage_table("Stages", run),),
    )


def _methods(run: MeteredRun) -> Expectation:
    methods = sorted({row["gpu_energy_method"] for row in run.stages})
    return judged(
        "counter_used",
        "Every stage is billed by the counter at ticks",
        "counter_tick",
        ", ".join(methods),
        methods == ["counter_tick"],
    )


def _closure(run: MeteredRun) -> Expectation:
    span = run.counter_span_mj()
    parts = [row["gpu_energy_counter_j"] for row in run.stages + run.gaps]
    title, bar = "Stages and the time between them add up to the counter's own difference", "0 mJ apart"
    if span is None or any(part is None for part in parts):
        return Expectation("closure", title, bar, "the counter could not be read throughout", "fail")
    apart = round(sum(1e3 * part for part in parts)) - span
    return judged("closure", title, bar, f"{apart} mJ apart of {span} mJ", apart == 0)


def _against_integral(run: MeteredRun, bench: Bench) -> Expectation:
    longest = bench.seconds(4.9)
    steady = [row for row in run.stages if row["stage"] in _STEADY_KINDS and billed_s(row) >= longest]
    apart = {row["name"]: row["gpu_counter_vs_integral"] for row in steady}
    shown = ", ".join(f"{name} {_percent(value)}" for name, value in apart.items())
    return judged(
        "counter_vs_integral",
        "Counter and power integral agree on steady stages of 5 s and more",
        "within 5 %",
        shown or "no such stage",
        bool(apart) and all(value is not None and abs(value) <= 0.05 for value in apart.values()),
    )


def _boundary_share(run: MeteredRun) -> Expectation:
    shares = {
        row["name"]: row["gpu_energy_boundary_j"] / row["gpu_energy_j"]
        for row in run.stages
        if billed_s(row) >= 1.0 and row["gpu_energy_j"] and row["gpu_energy_boundary_j"] is not None
    }
    worst = max(shares, key=lambda name: shares[name], default=None)
    return judged(
        "boundary_share",
        "What is uncertain at the two ends of a stage of 1 s and more is small",
        "0.1 % of its energy",
        "no such stage" if worst is None else f"at most {_percent(shares[worst])} ({worst})",
        worst is not None and shares[worst] <= 0.001,
    )


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


@section("sampler", "What metering costs")
def sampler(bench: Bench) -> SectionResult:
    """A minute at 2 Hz."""
    run = meter_pieces(bench, "sampler", [Piece("rest", "idle", bench.seconds(60))])
    share = run.sampler["sampler_cpu_s"] / run.sampler["sampler_wall_s"]
    expectations = (
        judged(
            "sampler_cpu",
            "The sampler takes next to nothing from the job",
            "0.5 % of one core at 2 Hz",
            _percent(share),
            share <= 0.005,
        ),
        judged(
            "sampler_jitter",
            "Samples are taken on time",
            "95 % within 5 ms",
            f"{run.sampler['jitter_p95_us'] / 1e3:.2f} ms",
            run.sampler["jitter_p95_us"] <= 5_000,
        ),
    )
    return SectionResult(expectations, {"sampler": run.sampler, "cpu_share": share})


@section("repeatability", "The same stage five times")
def repeatability(bench: Bench) -> SectionResult:
    """Five equal stages after a warm-up."""
    run = _repeat(bench, "repeatability", "tick")
    watts = _watts(run)
    spread = statistics.stdev(watts) / statistics.mean(watts)
    return SectionResult(
        (
            judged(
                "repeatability",
                "Equal stages have equal power",
                "standard deviation 2 % of the mean",
                f"{_percent(spread)} of {statistics.mean(watts):.1f} W",
                spread <= 0.02,
            ),
        ),
        {"mean_power_w": watts, "stages": stage_data(run)},
        (_stage_table("Repeats", run),),
    )


def _repeat(bench: Bench, name: str, boundary: str) -> MeteredRun:
    length = bench.seconds(2.0)
    pieces = [Piece("warm_up", "matmul", bench.seconds(3.0))]
    pieces += [Piece(f"repeat_{number}", "matmul", length) for number in range(1, _REPEATS + 1)]
    return meter_pieces(bench, name, pieces, boundary=boundary)


def _watts(run: MeteredRun) -> list[float]:
    watts = [mean_w(row) for row in run.stages if row["name"].startswith("repeat")]
    known = [value for value in watts if value is not None]
    if len(known) < _REPEATS:
        raise KitError("a stage has no GPU energy")
    return known


@section("boundaries", "Interpolated boundaries beside ticks")
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
    return SectionResult(
        (
            judged(
                "interpolate_agrees",
                "Interpolated boundaries give the same power within their own interval",
                "3 % or the interval, whichever is wider",
                f"{_percent(apart)} apart, interval {_percent(widest)}",
                abs(apart) <= max(0.03, widest),
            ),
            judged(
                "interpolate_wider",
                "They state a wider interval than ticks, as they should",
                "wider",
                f"{_percent(statistics.mean(shares))} against {_percent(statistics.mean(tick_shares))}",
                statistics.mean(shares) > statistics.mean(tick_shares),
            ),
        ),
        {"stages": stage_data(run), "longest_wait_us": max(waits)},
        (_stage_table("Interpolated", run),),
    )


@section("synchronise", "A stage waits for work that was only queued")
def synchronise(bench: Bench) -> SectionResult:
    """Queue a second of work in this process and leave the stage at once: its window must hold the work."""
    title = "A stage ends when the device has finished, not when the program has queued"
    bar = "work window at least 98 % of the device's own time"
    if bench.rehearsal or util.find_spec("torch") is None:
        why = "a rehearsal has no device" if bench.rehearsal else "torch is not in the kit's own interpreter"
        return SectionResult((Expectation("synchronise", title, bar, why, "not run"),))
    from harness import Meter
    from harness.bundle import Bundle

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
    with Meter(out=out, cpu="none") as meter, meter.stage("queued"):
        first.record()
        for _ in range(count):
            torch.matmul(matrix, matrix, out=product)
        last.record()
    last.synchronize()
    device_s = first.elapsed_time(last) / 1e3
    row = Bundle.open(out).table("stages").to_pylist()[0]
    work_s = (row["work_end_us"] - row["work_start_us"]) / 1e6
    observed = f"{work_s:.3f} s of work window, {device_s:.3f} s on the device"
    holds = work_s >= 0.98 * device_s
    return SectionResult(
        (judged("synchronise", title, bar, observed, holds),), {"work_s": work_s, "device_s": device_s}
    )


@section("models", "OLMo-2 shapes with random weights: memory, speed and energy of the stages")
def models(bench: Bench) -> SectionResult:
    """Training, teacher's logits and generation beside the sums and the roofline."""
    return run_models(bench)


def _stage_table(caption: str, run: MeteredRun) -> tuple[str, tuple[str, ...], list[tuple[str, ...]]]:
    header = ("stage", "billed s", "J", "mean W", "+- J", "integral J", "counter / integral - 1")
    rows: list[tuple[str, ...]] = []
    for row in run.stages:
        energy, low, high = (row[f"gpu_energy_j{end}"] for end in ("", "_low", "_high"))
        half = None if low is None or high is None else (high - low) / 2
        rows.append(
            (
                row["name"],
                f"{billed_s(row):.3f}",
                _number(energy),
                _number(mean_w(row)),
                _number(half),
                _number(row["gpu_energy_integral_j"]),
                _percent(row["gpu_counter_vs_integral"]),
            )
        )
    return caption, header, rows


def _number(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.2f}"


def _percent(share: float | None) -> str:
    return "unknown" if share is None else f"{100 * share:.3g} %"
