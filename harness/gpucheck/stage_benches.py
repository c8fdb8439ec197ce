"""The section of the stages' own code: OLMo-2 shapes with random weights, beside their sums and the roofline.

One child program (`stage_program`) does the work, this process meters it: a case is a stage of one metered
run, billed by the counter at ticks. What does not fit the card, and what the time does not suffice for, is
left out by name.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, NamedTuple

from harness.doctor.inventory import shorten_uuids
from harness.errors import KitError
from harness.gpucheck.check import (
    Bench,
    Expectation,
    SectionResult,
    Table,
    judged,
    predicted_row,
    shown,
)
from harness.gpucheck.loader import OrderedProgram
from harness.gpucheck.metered import MeteredRun, billed_s
from harness.meter.helper import package_environ
from harness.planning.cards import Card, find_card
from harness.planning.cases import Case, card_cases, miniature_cases
from harness.planning.steps import Efficiency, decode_step, forward_step, prompt_step, training_step
from harness.planning.sums import leave_out, memory_of, work_of

RESERVE_S = 150.0
"""No case is begun with less than this left of the check's time: it has to end, and the engine to follow."""

GOOD_PJ_PER_FLOP = 3.0
"""Above this an H100 mostly waits (1.0 to 1.7 is healthy)."""

J_PER_TOKEN_BARS = {"student_train_1b": 0.02, "student_train_13b": 0.17, "teacher_logits_32b": 0.11}
"""J/token on one H100 that a stage should stay below, GPU board only."""

_STEADY_S = 4.0
_MOST_STEPS = 400
_MEMORY_WITHIN = 0.10
_LEAST_MFU = 0.25
_COMPUTE = ("student_train", "teacher_logits")
_UNKNOWN = "no case, or a card whose limits are not known"
_COMPLETE = ("models_complete", "Every case that fits the card runs to its end", "all")


class _Bar(NamedTuple):
    """A bar for one figure of every case that has it; `hopper` is one stated for an H100 or H200 only."""

    id: str
    title: str
    bar: str
    key: str
    stages: Sequence[str]
    holds: Callable[[str, float], bool]
    form: str
    hopper: bool = False


_ANCHORS = ", ".join(f"{name} {x:g}" for name, x in J_PER_TOKEN_BARS.items())
_BARS = (
    _Bar("models_memory", "Training takes the memory that its sum states",
         f"tensors within {_MEMORY_WITHIN:.0%}", "memory_ratio", ("student_train",),
         lambda name, x: abs(x - 1) <= _MEMORY_WITHIN, "{:.3f} of the sum"),
    _Bar("models_card", "No case takes more of the card than stated",
         "at most the stated peak", "card_ratio", (*_COMPUTE, "teacher_generate"),
         lambda name, x: x <= 1.0, "{:.3f} of the sum"),
    _Bar("models_mfu", "Training and the teacher's forward use the card",
         f"MFU at least {_LEAST_MFU:.0%}", "mfu", _COMPUTE, lambda name, x: x >= _LEAST_MFU, "{:.3f}"),
    _Bar("models_pj", "A FLOP of training and of the teacher's forward costs what a busy card takes",
         f"at most {GOOD_PJ_PER_FLOP:g} pJ on an H100 or H200", "pj_per_flop", _COMPUTE,
         lambda name, x: x <= GOOD_PJ_PER_FLOP, "{:.2f} pJ", hopper=True),
    _Bar("models_j_per_token", "A token costs no more than the roofline's anchors allow",
         f"J/token on an H100 or H200: {_ANCHORS}", "anchored_j_per_token", _COMPUTE,
         lambda name, x: x <= J_PER_TOKEN_BARS[name], "{:.4f} J", hopper=True),
)  # fmt: skip

# Column, the figure (a dotted key), its form, what it is divided by.
_Column = tuple[str, str, str, float]
_MEMORY: tuple[_Column, ...] = (
    ("case", "id", "{}", 1),
    ("parameters", "measured.parameters", "{:.3f} B", 1e9),
    ("weights stated", "stated_memory_bytes.weights", "{:.4g}", 1e9),
    ("weights", "measured.weight_bytes", "{:.4g}", 1e9),
    ("tensors' peak stated", "stated_memory_bytes.tensors", "{:.4g}", 1e9),
    ("tensors' peak", "measured.allocated_peak_bytes", "{:.4g}", 1e9),
    ("card stated", "stated_memory_bytes.peak", "{:.4g}", 1e9),
    ("card", "measured.card_bytes", "{:.4g}", 1e9),
)
_SPEED: tuple[_Column, ...] = (
    ("case", "id", "{}", 1),
    ("steps", "measured.steps", "{}", 1),
    ("s", "measured.seconds", "{:.2f}", 1),
    ("tokens/s", "tokens_per_s", "{:.0f}", 1),
    ("of tokens", "token_kind", "{}", 1),
    ("MFU", "mfu", "{:.1f} %", 0.01),
    ("roofline s", "roofline_s", "{:.3f}", 1),
    ("of the roofline", "roofline_share", "{:.1f} %", 0.01),
    ("J/token", "j_per_token", "{:.4f}", 1),
    ("pJ/FLOP", "pj_per_flop", "{:.2f}", 1),
)


@dataclass
class CaseResults:
    """What became of the cases: measurements, or why there are none, by id.

    Attributes:
        left_out: Those that were not tried: the card has no room for them, or no time was left.
        late: Those of them for which no time was left.
    """

    measured: dict[str, dict[str, Any]] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)
    late: list[str] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)


def run_stage_benches(bench: Bench) -> SectionResult:
    """Training, teacher's logits and generation beside the sums and the roofline."""
    try:
        worker = _start(bench)
    except KitError as error:
        titles = (_COMPLETE, *((bar.id, bar.title, bar.bar) for bar in _BARS))
        return SectionResult(
            [judged(*texts, error.message, None) for texts in titles], {"left_out": {"all": error.message}}
        )
    cases = miniature_cases() if bench.rehearsal else card_cases()
    ready = worker.ready
    results = CaseResults()
    _meter(bench, worker, cases, results)
    card = None if bench.rehearsal else find_card(ready["model"])
    figures = [
        compare(case, results.measured[case.id], card) for case in cases if case.id in results.measured
    ]
    lines = [f"left out: {name}: {why}" for name, why in results.left_out.items()]
    lines += [f"failed: {name}: {why}" for name, why in results.failed.items()]
    if figures and card is None:
        why = "the work ran on the CPU" if bench.rehearsal else "its limits are not in the table of cards"
        lines.append(f"MFU and roofline unknown: {why}")
    return SectionResult(
        judge(figures, results, hopper=card is not None and card.hopper_sxm),
        {
            "device": ready["model"],
            "card": None if card is None else card.name,
            "program": ready["backend"],
            "free_bytes": ready["free_bytes"],
            "cases": figures,
            "left_out": results.left_out,
            "failed": results.failed,
        },
        [
            _table("Memory, GB = 1e9 bytes", _MEMORY, figures),
            _table("Speed and energy (GPU board, billed at the counter's ticks)", _SPEED, figures),
        ],
        "\n".join(lines),
        [] if card is None else predictions(figures, card),
    )


def predictions(figures: Sequence[Mapping[str, Any]], card: Card) -> list[list[str]]:
    """What `kit plan` and the sums of memory say of the cases, beside what was measured."""
    rows = []
    for figure in figures:
        case, measured = Case.from_json(figure["case"]), figure["measured"]
        planned = planned_s(case, card)
        watts = Efficiency().of("watts", case.stage).likely * card.watts
        took = measured["seconds"] / measured["steps"]
        energy = None if measured["energy_j"] is None else measured["energy_j"] / measured["steps"]
        stated, taken = figure["stated_memory_bytes"]["tensors"] / 1e9, measured["allocated_peak_bytes"]
        memory = (stated, None if taken is None else taken / 1e9)
        rows.append(predicted_row(figure["id"], (planned, took), (planned * watts, energy), memory))
    return rows


def planned_s(case: Case, card: Card, engine: str = "transformers") -> float:
    """Likely time of one step of a case; `engine` is what answers prompts."""
    known, shape = Efficiency(), case.shape
    if case.stage == "student_train":
        step = training_step(
            shape, rows=case.rows, seq_len=case.seq_len, accumulation=1, checkpointing=case.checkpointing
        )
        return step.seconds(card, known).likely
    if case.stage == "teacher_logits":
        one = forward_step(shape, rows=case.rows, seq_len=case.seq_len, labels=case.label_tokens, cached=True)
        return one.seconds(card, known).likely
    context = case.seq_len + case.new_tokens / 2
    token = decode_step(shape, rows=case.rows, context=context, engine=engine)
    read = prompt_step(shape, tokens=case.rows * case.seq_len, prompt=case.seq_len)
    return read.seconds(card, known).likely + case.new_tokens * token.seconds(card, known).likely


def _start(bench: Bench) -> OrderedProgram:
    reports = ("KIT_EVENTS", "KIT_STATUS")  # of a stage that this check may itself be
    environ = {name: value for name, value in package_environ().items() if name not in reports}
    environ |= {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    kind = "cpu" if bench.rehearsal else "cuda"
    command = [bench.load.python, "-P", "-m", "harness.gpucheck.stage_program", kind]
    return OrderedProgram(command, "the program that runs the models", environ)


def _meter(bench: Bench, worker: OrderedProgram, cases: Sequence[Case], results: CaseResults) -> None:
    """Run the cases as stages of one metered run."""
    from harness import Meter

    free = worker.ready["free_bytes"]
    if free is not None:
        results.left_out |= leave_out(cases, free)
    out = bench.folder / "models"
    labels = ("rehearsal",) if bench.rehearsal else ()
    devices = _devices(bench, worker)
    try:
        with Meter(out=out, name="models", devices=devices, cpu="none", labels=labels) as meter:
            for case in cases:
                if case.id in results.left_out:
                    bench.say(f"  {case.id} is left out: {results.left_out[case.id]}")
                    continue
                if bench.left_s() < RESERVE_S:
                    results.left_out[case.id] = f"less than {RESERVE_S:.0f} s of the check's time were left"
                    results.late.append(case.id)
                    continue
                try:
                    results.measured[case.id] = _run(bench, worker, case, meter)
                except KitError as error:
                    results.failed[case.id] = error.message
                    bench.say(f"  {case.id} failed: {error.message}")
                    worker.close()
                    try:
                        worker = _start(bench)
                    except KitError as again:
                        gone = f"its program did not start again: {again.message}"
                        untried = [one.id for one in cases[cases.index(case) + 1 :]]
                        results.left_out |= {name: gone for name in untried if name not in results.left_out}
                        break
    finally:
        worker.close()
    for row in MeteredRun.read(out).stages:
        if row["name"] in results.measured:
            energy = {name: row[f"gpu_{name}"] for name in ("energy_j", "energy_j_low", "energy_j_high")}
            results.measured[row["name"]] |= {**energy, "billed_s": billed_s(row)}


def _run(bench: Bench, worker: OrderedProgram, case: Case, meter: Any) -> dict[str, Any]:
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


def _devices(bench: Bench, worker: OrderedProgram) -> list[str | int] | None:
    """The one GPU that the program works on, where it can be told apart; else all that are visible."""
    uuid = worker.ready["uuid"]
    if uuid is None or sum(gpu.uuid == shorten_uuids(uuid) for gpu in bench.gpus) != 1:
        return None
    return [uuid]


def compare(case: Case, measured: Mapping[str, Any], card: Card | None) -> dict[str, Any]:
    """A case's sums, its measurements and what follows from them; units in the keys, None for the unknown.

    Args:
        case: The case.
        measured: What running it told: `steps`, `seconds` (the device's work waited for at both ends),
            `parameters`, `weight_bytes`, `head_copy` (of `memory_of`), `state_bytes` (the optimizer's),
            `allocated_peak_bytes` (the most that tensors took), `card_bytes` (memory of the card taken at
            the end, but for the CUDA context of about 0.5 GB, which is there before the first look); these
            two None on a CPU. `energy_j` with `energy_j_low` and `energy_j_high` and `billed_s` of the
            billed window, up to one refresh of the counter longer at each end.
        card: What the GPU can do at most; None for one that is not in the table.

    Returns:
        Among others `mfu`: model FLOPs over what the card could have done in the time; `roofline_s`: the
        shortest time for the run, and `roofline_share`: that over the time taken.
    """
    work, stated = work_of(case), memory_of(case, head_copy=measured["head_copy"])
    steps, seconds, energy = measured["steps"], measured["seconds"], measured["energy_j"]
    tokens, flops = work.tokens * steps, work.model_flops * steps
    floor_s = None if card is None else work.floor_s(card) * steps
    tensors, taken = measured["allocated_peak_bytes"], measured["card_bytes"]
    j_per_token = None if energy is None else energy / tokens
    return {
        "id": case.id,
        "case": case.as_json(),
        "tokens": tokens,
        "token_kind": work.token_kind,
        "step_model_flops": work.model_flops,
        "stated_memory_bytes": {**asdict(stated), "peak": stated.peak},
        "measured": dict(measured),
        "tokens_per_s": tokens / seconds,
        "mfu": None if card is None else flops / (seconds * card.flops),
        "roofline_s": floor_s,
        "roofline_share": None if floor_s is None else floor_s / seconds,
        "j_per_token": j_per_token,
        "anchored_j_per_token": j_per_token if case.id in J_PER_TOKEN_BARS else None,
        "pj_per_flop": None if energy is None else 1e12 * energy / flops,
        "memory_ratio": None if tensors is None else tensors / stated.tensors,
        "card_ratio": None if taken is None else taken / stated.peak,
    }


def judge(figures: Sequence[Mapping[str, Any]], results: CaseResults, *, hopper: bool) -> list[Expectation]:
    """The bars; one without a case that has its figure was not tried."""
    missing = [f"{name} left out: {why}" for name, why in results.left_out.items()]
    ran = "; ".join([f"{len(figures)} ran", *missing])
    failed = "; ".join(f"{name}: {why}" for name, why in results.failed.items())
    complete = None if results.late or not figures else True
    found = [judged(*_COMPLETE, failed or ran, False if failed else complete)]
    for bar in _BARS:
        values = {
            one["id"]: one[bar.key]
            for one in figures
            if one["case"]["stage"] in bar.stages and one[bar.key] is not None and (hopper or not bar.hopper)
        }
        observed = ", ".join(f"{name} {bar.form.format(value)}" for name, value in values.items())
        holds = all(bar.holds(name, value) for name, value in values.items()) if values else None
        found.append(judged(bar.id, bar.title, bar.bar, observed or _UNKNOWN, holds))
    return found


def _table(caption: str, columns: Sequence[_Column], figures: Sequence[Mapping[str, Any]]) -> Table:
    rows = []
    for figure in figures:
        cells = []
        for _, key, form, scale in columns:
            outer, _, inner = key.rpartition(".")
            value = (figure[outer] if outer else figure)[inner]
            cells.append(shown(value if value is None or scale == 1 else value / scale, form))
        rows.append(cells)
    return caption, [column[0] for column in columns], rows
