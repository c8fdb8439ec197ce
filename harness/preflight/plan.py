"""What the stages of a profile will take: time and energy with intervals and reasons, memory, disks.

Amounts that show only later (tokens of an example, steps until an early stop, length of an answer) are the
profile's `amounts`, as ranges; a plan is as wide as they are. Ends of ranges are taken together: the low
end of a plan is a run in which everything is short, and no run is below it unless an assumption is wrong.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from harness.errors import KitError
from harness.evaluation.suites import Benchmark, Suite
from harness.experiments.pipelines import SHARED
from harness.experiments.profile import Amounts, Profile
from harness.models.shapes import ModelShape
from harness.planning.cards import Card
from harness.planning.steps import (
    NOTHING,
    Efficiency,
    Range,
    decode_step,
    forward_step,
    prompt_step,
    training_step,
)
from harness.preflight.memory import stage_memory
from harness.preflight.stages import Model, Outlook, Stage
from harness.text import shown

LOAD_BYTES_PER_S = Range(3.0e9, 1.5e9, 0.5e9)
"""Weights from a disk to the card: an NVMe disk, the page cache, a network disk."""

START_S = Range(15.0, 25.0, 60.0)
"""Starting Python, torch, transformers, CUDA."""

TURNS = 3615 / 1388
"""Judged turns of a dialogue of MT-Bench-101."""

RATING_TOKENS = Range(30.0, 70.0, 256.0)
"""Of a judge's rating with its reasons; a guess."""

TOKENISED_PER_S = Range(60_000.0, 30_000.0, 10_000.0)
"""Tokens that preprocess encodes a second on one node (pocket's rate times a few cores; a guess)."""


@dataclass(frozen=True)
class StagePlan:
    """One stage.

    Attributes:
        where: Run and stage.
        kind: Its program.
        seconds: Wall time.
        joules: Of the card; CPU and memory are not planned.
        peak_bytes: Of the card; None: none.
        reasons: What the figures rest on.
    """

    where: str
    kind: str
    seconds: Range
    joules: Range
    peak_bytes: int | None
    reasons: tuple[str, ...]


@dataclass(frozen=True)
class Plan:
    """All stages on one card."""

    name: str
    card: str
    stages: tuple[StagePlan, ...]
    unplanned: tuple[str, ...] = ()

    @property
    def seconds(self) -> Range:
        """Of everything."""
        return sum((stage.seconds for stage in self.stages), NOTHING)

    @property
    def joules(self) -> Range:
        """Of everything."""
        return sum((stage.joules for stage in self.stages), NOTHING)

    def as_json(self) -> dict[str, Any]:
        """For programs, and to be compared with afterwards."""
        return {
            "kind": "plan/1",
            **asdict(self),
            "seconds": asdict(self.seconds),
            "joules": asdict(self.joules),
        }


def amounts_of(profile: Profile | None, name: str) -> Amounts:
    """What a plan must assume.

    Raises:
        KitError: It is a pipeline file, or a profile that states no amounts.
    """
    if profile is None or profile.amounts is None:
        raise KitError(
            "nothing says how much data there is",
            where=name,
            expected="`amounts` in the profile: tokens of an example, steps until an early stop, ...",
            fix="kit plan paper, or a profile file with `base: paper` and amounts of its own",
        )
    return profile.amounts


def make_plan(outlook: Outlook, card: Card, efficiency: Efficiency | None = None) -> Plan:
    """Plan every stage whose model and settings are known.

    Raises:
        KitError: The profile states no amounts.
    """
    if outlook.more:
        parts = [make_plan(replace(part, more=[]), card, efficiency) for part in (outlook, *outlook.more)]
        stages = [
            replace(stage, where=f"{name} {stage.where}")
            for part, name in zip(parts, [o.out.name for o in (outlook, *outlook.more)], strict=True)
            for stage in part.stages
        ]
        return Plan(outlook.name, card.name, tuple(stages), parts[0].unplanned)
    amounts = amounts_of(outlook.profile, outlook.name)
    known = efficiency or Efficiency()
    data = _Data.of(outlook, amounts)
    plans, unplanned = [], []
    for stage in outlook.stages:
        planned = _plan(stage, card, known, data, amounts)
        if planned is None:
            unplanned.append(stage.where)
            continue
        seconds, reasons = planned
        seconds = seconds * known.of("scale", stage.program)
        watts = known.of("watts", stage.program) * card.watts
        need = stage_memory(stage, card.memory_bytes) if stage.model else None
        peak = None if need is None else need.peak
        plans.append(StagePlan(stage.where, stage.program, seconds, seconds * watts, peak, reasons))
    return Plan(outlook.name, card.name, tuple(plans), tuple(unplanned))


@dataclass(frozen=True)
class _Data:
    examples: int
    tokens: Range
    labels: Range
    held_out: float

    @classmethod
    def of(cls, outlook: Outlook, amounts: Amounts) -> _Data:
        stages = outlook.of("preprocess")
        sources = stages[0].config.sources if stages else ()
        if any(source.samples is None for source in sources):
            raise KitError(
                "a source of the data says no number of conversations",
                where=outlook.name,
                expected="`samples` in every source, so that a plan knows how much there is",
                fix="data: [{path: ..., samples: N}]",
            )
        examples = sum(source.samples for source in sources)
        tokens = Range(*amounts.tokens_per_example) * examples
        fraction = stages[0].config.validation_fraction if stages else 0.0
        return cls(examples, tokens, tokens * Range(*amounts.label_share), fraction)


Planned = tuple[Range, tuple[str, ...]]


def _plan(stage: Stage, card: Card, known: Efficiency, data: _Data, amounts: Amounts) -> Planned | None:
    config, shape = stage.config, stage.model.shape if stage.model else None
    if config is None:
        return None
    if stage.program == "preprocess":
        if stage.name != "preprocess":
            return START_S * 2.0, ("the teacher's answers only",)
        rates = Range(
            *(tokens / rate for tokens, rate in zip(_ends(data.tokens), _ends(TOKENISED_PER_S), strict=True))
        )
        return rates + START_S, (f"{data.examples:,} conversations; the card idles",)
    if shape is None:
        return None
    load = START_S + Range(*(2.0 * shape.parameters / rate for rate in _ends(LOAD_BYTES_PER_S)))
    if stage.program == "teacher_logits":
        return _logits(config, shape, card, known, data, load)
    if stage.program == "teacher_generate":
        return _generation(config, shape, card, known, amounts, load)
    if stage.program == "student_train":
        return _training(config, shape, card, known, data, amounts, load)
    if stage.suite is None:
        return None
    if stage.program == "judging":
        seconds, reasons = _judging(stage.suite, shape, card, known, amounts)
    else:
        seconds, reasons = _evaluation(stage.suite, config.eval_batch, shape, card, known, data, amounts)
    return seconds + load, reasons


def _logits(
    config: Any, shape: ModelShape, card: Card, known: Efficiency, data: _Data, load: Range
) -> Planned:
    rows, seq_len = config.micro_batch, config.seq_len or 1024
    step = forward_step(shape, rows=rows, seq_len=seq_len, labels=int(rows * seq_len * 0.75), cached=True)
    batches = data.tokens * (1.0 / (rows * seq_len * 0.96))
    seconds = step.seconds(card, known) * batches
    return seconds + load, (f"{data.tokens.likely / 1e6:.0f} M positions, once; rows 96 % full",)


def _training(
    config: Any, shape: ModelShape, card: Card, known: Efficiency, data: _Data, amounts: Amounts, load: Range
) -> Planned:
    # The examples of a step are packed by themselves, so its last row is rarely full.
    mean = data.tokens.likely / max(1, data.examples)
    needed = min(config.effective_batch, math.ceil(config.effective_batch * mean / config.seq_len / 0.9))
    rows = min(config.micro_batch, needed)
    step = training_step(
        shape,
        rows=rows,
        seq_len=config.seq_len,
        accumulation=-(-needed // rows),
        checkpointing=config.gradient_checkpointing,
    )
    per_epoch = data.examples * (1 - data.held_out) / config.effective_batch
    horizon = config.max_steps or config.max_epochs * max(1.0, per_epoch)
    steps = Range(*(min(count, horizon) for count in amounts.steps))
    reason = (
        f"{steps.likely:,.0f} steps, {steps.low:,.0f} to {steps.high:,.0f} (an early stop cannot be foreseen)"
    )
    if config.max_steps or not config.patience:
        steps, reason = Range(horizon, horizon, horizon), f"{horizon:,.0f} steps, the horizon"
    each = step.seconds(card, known)
    seconds = each * steps
    held_out = data.tokens.likely * data.held_out
    if config.eval_every_steps and held_out:
        rows = config.eval_batch or config.micro_batch
        one = forward_step(
            shape, rows=rows, seq_len=config.seq_len, labels=rows * config.seq_len, cached=False
        )
        count = held_out / (rows * config.seq_len * 0.96)
        seconds = seconds + one.seconds(card, known) * count * (steps * (1.0 / config.eval_every_steps))
    return seconds + load, (reason, f"{1e3 * each.likely:.0f} ms a step")


def _generation(
    config: Any, shape: ModelShape, card: Card, known: Efficiency, amounts: Amounts, load: Range
) -> Planned:
    prompts = config.prompts or 0
    cap = float(config.max_new_tokens)
    answer, prompt = (
        Range(*(min(value, cap) for value in amounts.answer_tokens)),
        Range(*amounts.prompt_tokens),
    )
    engine = "vllm" if config.engine == "vllm" else "transformers"
    need = stage_memory(Stage("", "", "teacher_generate", config, Model("", shape=shape)), card.memory_bytes)
    slots = need.slots if need is not None else None
    ends, rows = [], 0.0
    for mean, asked in zip(_ends(answer), _ends(prompt), strict=True):
        context = asked + mean / 2
        if engine == "vllm":
            room = (slots or 1) * (config.vllm.max_model_len or 4096)
            rows = min(float(config.vllm.max_num_seqs), room / context, float(prompts))
            passes = prompts * mean / rows + cap / 2
        else:
            rows = float(min(slots or 1, prompts))
            # A batch runs as long as its longest answer, rows leave it a quarter at a time.
            passes = math.ceil(prompts / rows) * min(cap, 1.35 * mean)
        ends.append(
            (passes, decode_step(shape, rows=rows, context=context, engine=engine).seconds(card, known))
        )
    decode = Range(ends[0][0] * ends[0][1].low, ends[1][0] * ends[1][1].likely, ends[2][0] * ends[2][1].high)
    read = prompt_step(shape, tokens=prompts * prompt.likely, prompt=prompt.likely).seconds(card, known)
    reasons = (
        f"{engine}, {rows:.0f} rows at once; {prompts:,} answers of {answer.likely:.0f} tokens "
        f"({answer.low:.0f} to {answer.high:.0f})",
    )
    return decode + read + load, reasons


def _evaluation(
    suite: Suite, rows: int, shape: ModelShape, card: Card, known: Efficiency, data: _Data, amounts: Amounts
) -> Planned:
    held_out = data.tokens.likely * data.held_out
    one = forward_step(shape, rows=rows, seq_len=1024, labels=rows * 1024, cached=False)
    seconds = one.seconds(card, known) * (held_out / (rows * 1024 * 0.96))
    count = 0.0
    for benchmark in suite.benchmarks:
        asked = _asked(benchmark)
        count += asked
        said = Range(*(min(tokens, benchmark.max_new_tokens or 0) for tokens in amounts.answer_tokens))
        prompt = Range(*amounts.evaluate_items)
        seconds += _answers(shape, card, known, asked, prompt, said, suite.batch_size)
    return seconds, (f"suite {suite.suite}: {count:,.0f} prompts, and the held-out loss",)


def _judging(suite: Suite, shape: ModelShape, card: Card, known: Efficiency, amounts: Amounts) -> Planned:
    assert suite.judge is not None
    seconds, count = NOTHING, 0.0
    for benchmark in (one for one in suite.benchmarks if one.judged):
        asked = _asked(benchmark)
        answer = Range(*(min(tokens, benchmark.max_new_tokens or 0) for tokens in amounts.answer_tokens))
        shown, said = Range(*amounts.prompt_tokens) + answer, NOTHING
        if benchmark.adapter == "pairwise":
            asked *= 2 if suite.judge.orders == "both" else 1
            shown += answer
        elif suite.judge.method == "template":
            said = Range(*(min(tokens, suite.judge.max_new_tokens) for tokens in _ends(RATING_TOKENS)))
        count += asked
        seconds += _answers(shape, card, known, asked, shown, said, suite.batch_size)
    return seconds, (f"suite {suite.suite}: {count:,.0f} judgements",)


def _asked(benchmark: Benchmark) -> float:
    """Prompts of a benchmark: a dialogue is asked turn by turn."""
    items = float(benchmark.data.n_items or 0)
    return items * TURNS if benchmark.adapter == "dialogues" else items


def _answers(
    shape: ModelShape, card: Card, known: Efficiency, count: float, prompt: Range, said: Range, batch: int
) -> Range:
    """Time of prompts and their answers with transformers, batch by batch."""
    reading = prompt_step(shape, tokens=count * prompt.likely, prompt=prompt.likely).seconds(card, known)
    reading = reading * (prompt * (1.0 / prompt.likely))
    if not said.likely:
        return reading
    rows = min(count, float(batch))
    step = decode_step(shape, rows=rows, context=prompt.likely + said.likely / 2, engine="transformers")
    # A batch runs as long as its longest answer.
    return reading + step.seconds(card, known) * (said * (1.35 * math.ceil(count / rows)))


def _ends(value: Range) -> tuple[float, float, float]:
    return value.low, value.likely, value.high


def calibrate(efficiency: Efficiency, outlook: Outlook, card: Card, runs: Sequence[Path]) -> Efficiency:
    """Efficiencies by what runs on such a card measured, stage kind by stage kind.

    A scale is the time measured over the time likely by the profile's amounts: where a run took more steps
    or longer answers than assumed, that is in it.

    Raises:
        KitError: No run has a stage to learn from, or one is another profile's.
    """
    plan = {stage.where: stage for stage in make_plan(outlook, card).stages}
    scale: dict[str, list[float]] = {}
    watts: dict[str, list[float]] = {}
    for folder in runs:
        for row in measured_rows(folder, outlook.name):
            where = row["name"] if folder.name == SHARED else f"{folder.name} {row['name']}"
            planned, joules = plan.get(where), row["gpu_energy_j"]
            if planned is None or not row["seconds"]:
                continue
            scale.setdefault(planned.kind, []).append(row["seconds"] / planned.seconds.likely)
            if joules is not None:
                watts.setdefault(planned.kind, []).append(joules / row["seconds"] / card.watts)
    if not scale:
        names = ", ".join(str(folder) for folder in runs)
        raise KitError(
            "no stage of the plan was measured there", where=names, expected="runs of this profile"
        )
    return efficiency.calibrated(_spread(scale), _spread(watts))


def _spread(values: Mapping[str, list[float]]) -> dict[str, Range]:
    return {
        kind: Range(min(found), sorted(found)[len(found) // 2], max(found)) for kind, found in values.items()
    }


def measured_rows(folder: Path, profile: str) -> list[dict[str, Any]]:
    """Stages of a sealed run that completed: name, seconds of the billed window, joules of the GPUs.

    Raises:
        KitError: The run is another profile's.
    """
    from harness.accounting.totals import roots
    from harness.bundle import Bundle
    from harness.bundle.privacy import scrub
    from harness.experiments.lineage import stage_rows

    pipeline = Bundle.open(folder).manifest.get("pipeline") or {}
    theirs = (pipeline.get("vars") or {}).get("profile", profile)
    if theirs not in (profile, scrub(profile)):  # a log holds what it tells scrubbed
        raise KitError(f"a run of profile {theirs}", where=str(folder), expected=f"runs of profile {profile}")
    return [
        {
            "name": row["name"],
            "seconds": (row["mono_end_us"] - row["mono_start_us"]) / 1e6,
            "gpu_energy_j": row["gpu_energy_j"],
        }
        for row in roots(stage_rows(folder))
        if row["status"] == "completed" and row["stage"] != "unattributed"
    ]


def beside(plan: Mapping[str, Any], runs: Path) -> list[dict[str, Any]]:
    """Stages of a plan that runs measured: seconds and joules of the GPUs, planned and found.

    Args:
        plan: As `Plan.as_json` wrote it.
        runs: Folder of the runs of a grid, or of one run.

    Returns:
        A row a stage: `stage`, and for `seconds` and `gpu_energy_j` the planned low, likely and high and what
        was measured; None where no GPU was metered.

    Raises:
        KitError: No stage of the plan was measured there, or a run is another profile's.
    """
    single = (runs / "manifest.json").exists()
    found = []
    for stage in plan["stages"]:
        run, _, name = stage["where"].rpartition(" ")
        if single and run not in ("", runs.name):
            continue
        folder = runs if single else runs / (run or SHARED)
        rows = measured_rows(folder, plan["name"]) if (folder / "manifest.json").exists() else []
        rows = [row for row in rows if row["name"] == name]
        if not rows:
            continue
        joules = [row["gpu_energy_j"] for row in rows]
        row: dict[str, Any] = {"stage": stage["where"]}
        for quantity, ends, measured in (
            ("seconds", stage["seconds"], sum(one["seconds"] for one in rows)),
            ("gpu_energy_j", stage["joules"], None if None in joules else sum(joules)),
        ):
            row |= {f"{quantity}_{end}": ends[end] for end in ("low", "likely", "high")}
            row[f"{quantity}_measured"] = measured
        found.append(row)
    if not found:
        raise KitError(
            "no stage of the plan was measured there", where=str(runs), expected="runs of this profile"
        )
    return found


def afterwards(plan: Mapping[str, Any], runs: Path) -> list[str]:
    """How far a plan was off, as a Markdown table of its stages; arguments of `beside`."""
    lines = [f"# The plan beside what was measured ({plan['name']} on {plan['card']})", ""]
    lines += ["| stage | planned s | measured s | off | planned kJ | measured kJ | off |", "|---" * 7 + "|"]
    for row in beside(plan, runs):
        cells = [
            row["stage"],
            *planned_and_found(row, "seconds"),
            *planned_and_found(row, "gpu_energy_j", 1e-3),
        ]
        lines.append("| " + " | ".join(cells) + " |")
    lines += ["", "Planned: likely, and from low to high. Off: measured over likely, less one."]
    return [
        *lines,
        "Steps, lengths of answers and tokens of examples were assumed; the card alone is planned.",
    ]


def planned_and_found(row: Mapping[str, Any], quantity: str, scale: float = 1.0) -> list[str]:
    """Planned with its range, measured, and how far off, of a row of `beside`; - is not measured."""
    low, likely, high, measured = (row[f"{quantity}_{end}"] for end in ("low", "likely", "high", "measured"))
    said = "{:,.4g} ({:,.4g} to {:,.4g})".format(*(value * scale for value in (likely, low, high)))
    if measured is None:
        return [said, "-", "-"]
    return [said, f"{measured * scale:,.4g}", f"{measured / likely - 1:+.0%}" if likely else "-"]


def read_plan(path: Path) -> dict[str, Any]:
    """What `beside` wants of a plan that was kept.

    Raises:
        KitError: It is no plan.
    """
    ends = ("low", "likely", "high")
    try:
        plan = json.loads(path.read_text(encoding="utf-8"))
        stages = [
            {
                "where": shown(stage["where"]),
                **{name: {end: float(stage[name][end]) for end in ends} for name in ("seconds", "joules")},
            }
            for stage in plan["stages"]
        ]
        return {"name": shown(plan["name"]), "card": shown(plan["card"]), "stages": stages}
    except (OSError, ValueError, KeyError, TypeError):
        raise KitError(
            "is no plan that kit reproduce kept", where=str(path), fix="move it: a plan is then made now"
        ) from None
