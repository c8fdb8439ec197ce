"""The section of the stages' own code: OLMo-2 shapes with random weights, beside their sums and the roofline.

One child program does the work, this process meters it: a case is a stage of one metered run, billed by the
counter at ticks. What does not fit the card, and what the time does not suffice for, is left out by name.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from harness.doctor.inventory import shorten_uuids
from harness.errors import KitError
from harness.gpucheck.bench.model import Bench, Expectation, SectionResult, judged
from harness.gpucheck.bench.runs import billed_s
from harness.gpucheck.loader import Worker
from harness.gpucheck.models.figures import (
    GOOD_PJ_PER_FLOP,
    J_PER_TOKEN_BARS,
    Figures,
    Measured,
    figures_of,
)
from harness.meter.helper import package_environ
from harness.planning.cards import find_card
from harness.planning.cases import Case, card_cases, miniature_cases
from harness.planning.sums import leave_out, work_of

BUDGET_S = 300.0
"""No case is begun later than this: the whole check is to end within ten minutes."""

_STEADY_S = 4.0
_MOST_STEPS = 400
_MEMORY_WITHIN = 0.10
_LEAST_MFU = 0.25

_TITLES = {
    "models_complete": ("Every case that fits the card runs to its end", "all"),
    "models_memory": (
        "Training takes the memory that its sum states",
        f"tensors within {_MEMORY_WITHIN:.0%}",
    ),
    "models_card": ("No case takes more of the card than stated", "at most the stated peak"),
    "models_mfu": ("Training and the teacher's forward use the card", f"MFU at least {_LEAST_MFU:.0%}"),
    "models_pj": (
        "A FLOP of training and of the teacher's forward costs what a busy card takes",
        f"at most {GOOD_PJ_PER_FLOP:g} pJ on an H100 or H200",
    ),
    "models_j_per_token": (
        "A token costs no more than the roofline's anchors allow",
        "J/token on an H100 or H200: "
        + ", ".join(f"{name} {bar:g}" for name, bar in J_PER_TOKEN_BARS.items()),
    ),
}


@dataclass
class _Outcome:
    """What became of the cases."""

    measured: dict[str, dict[str, Any]] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)


def run_models(bench: Bench) -> SectionResult:
    """The section."""
    kind = "cpu" if bench.rehearsal else "cuda"
    bench.load.release()
    try:
        worker = _start(bench, kind)
    except KitError as error:
        return SectionResult(
            tuple(Expectation(name, *texts, error.message, "not run") for name, texts in _TITLES.items()),
            {"left_out": {"all": error.message}},
        )
    cases = miniature_cases() if bench.rehearsal else card_cases()
    ready = worker.ready
    outcome = _Outcome()
    try:
        rows = _meter(bench, worker, cases, outcome, lambda: _start(bench, kind))
    finally:
        bench.load.open()
    card = None if bench.rehearsal else find_card(ready["model"])
    figures = [
        figures_of(case, _measured(outcome.measured[case.id], rows[case.id]), card)
        for case in cases
        if case.id in outcome.measured
    ]
    return SectionResult(
        tuple(_expectations(figures, outcome, card is not None and card.hopper_sxm)),
        {
            "device": ready["model"],
            "card": None if card is None else card.name,
            "program": ready["backend"],
            "free_bytes": ready["free_bytes"],
            "cases": [figure.as_json() for figure in figures],
            "left_out": outcome.left_out,
            "failed": outcome.failed,
        },
        tables(figures),
        _remarks(figures, outcome, bench.rehearsal),
    )


_clock = time.monotonic


def _start(bench: Bench, kind: str) -> Worker:
    reports = ("KIT_EVENTS", "KIT_STATUS")  # of a stage that this check may itself be
    environ = {name: value for name, value in package_environ().items() if name not in reports}
    environ |= {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    command = [bench.load.python, "-P", "-m", "harness.gpucheck.models.program", kind]
    return Worker(command, "the program that runs the models", environ)


def _meter(
    bench: Bench,
    worker: Worker,
    cases: Sequence[Case],
    outcome: _Outcome,
    restart: Callable[[], Worker],
) -> dict[str, dict[str, Any]]:
    """Run the cases as stages of one metered run; returns the stages' rows by case."""
    from harness import Meter
    from harness.bundle import Bundle

    free = worker.ready["free_bytes"]
    if free is not None:
        outcome.left_out |= leave_out(cases, free)
    begun = _clock()
    out = bench.folder / "models"
    labels = ("rehearsal",) if bench.rehearsal else ()
    try:
        with Meter(
            out=out, name="models", devices=_devices(bench, worker), cpu="none", labels=labels
        ) as meter:
            for case in cases:
                if case.id in outcome.left_out:
                    bench.say(f"  {case.id} is left out: {outcome.left_out[case.id]}")
                    continue
                if _clock() - begun > BUDGET_S * max(1.0, bench.scale):
                    outcome.left_out[case.id] = f"the section's {BUDGET_S:.0f} s were over"
                    continue
                try:
                    outcome.measured[case.id] = _run(bench, worker, case, meter)
                except KitError as error:
                    outcome.failed[case.id] = error.message
                    bench.say(f"  {case.id} failed: {error.message}")
                    worker.close()
                    try:
                        worker = restart()
                    except KitError as again:
                        outcome.failed[case.id] += f"; and then: {again.message}"
                        break
    finally:
        worker.close()
    rows = Bundle.open(out).table("stages").to_pylist()
    return {row["name"]: row for row in rows if row["stage"] != "unattributed"}


def _run(bench: Bench, worker: Worker, case: Case, meter: Any) -> dict[str, Any]:
    built = worker.ask({"op": "build", "case": case.as_json()})
    worker.ask({"op": "run", "steps": 1})  # kernels are loaded and chosen
    trial = worker.ask({"op": "run", "steps": 1})
    steps = math.ceil(bench.seconds(_STEADY_S) / max(trial["seconds"], 1e-6))
    steps = min(_MOST_STEPS, max(2, steps))
    with meter.stage(case.id, kind=f"x-{case.stage}") as stage:
        done = worker.ask({"op": "run", "steps": steps}, 60.0 + 4.0 * steps * trial["seconds"])
        work = work_of(case)
        stage.add_tokens(**{work.token_kind: work.tokens * steps})
    worker.ask({"op": "drop"})
    return {**built, **done}


def _devices(bench: Bench, worker: Worker) -> list[str | int] | None:
    """The one GPU that the program works on, where it can be told apart; else all that are visible."""
    uuid = worker.ready["uuid"]
    if uuid is None or sum(gpu.uuid == shorten_uuids(uuid) for gpu in bench.gpus) != 1:
        return None
    return [uuid]


def _measured(answer: dict[str, Any], row: dict[str, Any]) -> Measured:
    energy = {name: row[f"gpu_{name}"] for name in ("energy_j", "energy_j_low", "energy_j_high")}
    return Measured(**answer, **energy, billed_s=billed_s(row))


def _expectations(figures: Sequence[Figures], outcome: _Outcome, hopper: bool) -> list[Expectation]:
    compute = [figure for figure in figures if figure.case.stage != "teacher_generate"]
    memory = {
        figure.case.id: figure.memory_ratio
        for figure in figures
        if figure.case.stage == "student_train" and figure.memory_ratio is not None
    }
    card = {
        figure.case.id: figure.measured.card_bytes / figure.stated.peak
        for figure in figures
        if figure.measured.card_bytes is not None
    }
    mfu = {figure.case.id: figure.mfu for figure in compute if figure.mfu is not None}
    pj = {figure.case.id: figure.pj_per_flop for figure in compute if figure.pj_per_flop is not None}
    joules = {
        figure.case.id: figure.j_per_token
        for figure in figures
        if figure.case.id in J_PER_TOKEN_BARS and figure.j_per_token is not None
    }
    ran = f"{len(figures)} ran, {len(outcome.left_out)} left out"
    failed = "; ".join(f"{name}: {why}" for name, why in outcome.failed.items())
    title, bar = _TITLES["models_complete"]
    return [
        judged("models_complete", title, bar, failed or ran, not outcome.failed and bool(figures)),
        _all("models_memory", memory, lambda name, x: abs(x - 1) <= _MEMORY_WITHIN, "{:.3f} of the sum"),
        _all("models_card", card, lambda name, x: x <= 1.0, "{:.3f} of the sum"),
        _all("models_mfu", mfu, lambda name, x: x >= _LEAST_MFU, "{:.3f}"),
        _all("models_pj", pj if hopper else {}, lambda name, x: x <= GOOD_PJ_PER_FLOP, "{:.2f} pJ"),
        _all(
            "models_j_per_token",
            joules if hopper else {},
            lambda name, x: x <= J_PER_TOKEN_BARS[name],
            "{:.4f} J",
        ),
    ]


def _all(name: str, values: dict[str, float], holds: Callable[[str, float], bool], shown: str) -> Expectation:
    """An expectation of every value; one without values was not tried."""
    title, bar = _TITLES[name]
    if not values:
        return Expectation(name, title, bar, "no case, or a card whose limits are not known", "not run")
    observed = ", ".join(f"{case} {shown.format(value)}" for case, value in values.items())
    return judged(name, title, bar, observed, all(holds(case, value) for case, value in values.items()))


Table = tuple[str, tuple[str, ...], list[tuple[str, ...]]]


def tables(figures: Sequence[Figures]) -> tuple[Table, ...]:
    """Memory, and speed with energy."""
    memory: list[tuple[str, ...]] = []
    speed: list[tuple[str, ...]] = []
    for figure in figures:
        measured, stated = figure.measured, figure.stated
        memory.append(
            (
                figure.case.id,
                f"{measured.parameters / 1e9:.3f} B",
                _gb(stated.weights),
                _gb(measured.weight_bytes),
                _gb(stated.tensors),
                _gb(measured.allocated_peak_bytes),
                _gb(stated.peak),
                _gb(measured.card_bytes),
            )
        )
        speed.append(
            (
                figure.case.id,
                str(measured.steps),
                f"{measured.seconds:.2f}",
                f"{figure.tokens_per_s:.0f} {figure.work.token_kind}",
                _share(figure.mfu),
                _shown(figure.floor_s, "{:.3f}"),
                _share(figure.roofline_share),
                _shown(figure.j_per_token, "{:.4f}"),
                _shown(figure.pj_per_flop, "{:.2f}"),
            )
        )
    if not figures:
        return ()
    return (
        (
            "Memory, GB = 1e9 bytes",
            (
                "case",
                "parameters",
                "weights stated",
                "weights",
                "tensors' peak stated",
                "tensors' peak",
                "card stated",
                "card",
            ),
            memory,
        ),
        (
            "Speed and energy (GPU board, billed at the counter's ticks)",
            (
                "case",
                "steps",
                "s",
                "tokens/s",
                "MFU",
                "roofline s",
                "of the roofline",
                "J/token",
                "pJ/FLOP",
            ),
            speed,
        ),
    )


def _remarks(figures: Sequence[Figures], outcome: _Outcome, rehearsal: bool) -> str:
    lines = [f"left out: {name}: {why}" for name, why in outcome.left_out.items()]
    lines += [f"failed: {name}: {why}" for name, why in outcome.failed.items()]
    if figures and all(figure.card is None for figure in figures):
        why = "the work ran on the CPU" if rehearsal else "its limits are not in the table of cards"
        lines.append(f"MFU and roofline unknown: {why}")
    return "\n".join(lines)


def _gb(size: int | None) -> str:
    return "unknown" if size is None else f"{size / 1e9:.4g}"


def _shown(value: float | None, form: str) -> str:
    return "unknown" if value is None else form.format(value)


def _share(value: float | None) -> str:
    return "unknown" if value is None else f"{100 * value:.1f} %"
