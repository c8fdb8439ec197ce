"""Doubts in sentences: what each flag means for the figure beside it, and what the whole run lacks."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime

from harness.accounting.interval import total as interval_total
from harness.accounting.rounding import duration, quantity
from harness.accounting.stage_scales import stated
from harness.accounting.unused import devices_reserved
from harness.bundle.reader import event_detail
from harness.errors import KitError
from harness.meter.visible import ORDER_IN_DOUBT
from harness.report.comparison import against_notes, judged, whole_energy
from harness.report.model import RunReport, StageLine, failed_energy, unmeasured
from harness.spec import load_protocol
from harness.text import shown

_METHODS = {
    "counter_tick": "counter",
    "counter_step": "counter",
    "counter_linear": "counter, straight at an end",
    "counter_sample": "counter, sampled",
    "counter_split": "counter, bridged",
    "power_integral": "power samples",
    "imported": "another tool",
    "absent": "absent",
    "mixed": "mixed",
}

PLAIN_COUNTER = ("counter_tick", "counter_step")
"""Methods about which a table of joules says nothing more."""


def method_words(method: str) -> str:
    """What a report calls a method of measuring; an unknown one is called by its name."""
    for source in load_protocol().sources:
        if source.method == method:
            endings = {"measured": "", "estimated": "'s estimate", "simulated": ", simulated"}
            return source.words + endings[source.state]
    return _METHODS.get(method, method)


def part_words(report: RunReport, part: str) -> str:
    """How gpu, cpu or dram was measured; what is made up says so."""
    found = " + ".join(method_words(method) for method in getattr(report.totals, part).methods)
    made_up = (report.manifest.get("boundary") or {}).get(part) == "simulated"
    return f"{found} (simulated)" if made_up else found


def utc(t_us: object) -> datetime | None:
    """A stored time; None for a clock that was never set, or what is no time."""
    if not isinstance(t_us, int) or not 946_684_800_000_000 <= t_us < 4e15:  # from 2000 on
        return None
    return datetime.fromtimestamp(t_us / 1e6, UTC)


def said_once(flag: str) -> bool:
    """Whether a flag holds for the whole run: it stands in the notes, not beside every stage."""
    known = load_protocol().flag_named(flag)
    return known is not None and known.whole_run


def _flag_words(flag: str) -> str:
    known = load_protocol().flag_named(flag)
    return flag if known is None else known.words


def flag_sentence(flag: str, line: StageLine) -> str:
    """One flag of one stage in words; an unknown word is shown as it is."""
    row = line.row
    known = load_protocol().flag_named(flag)
    if known is None:
        return flag.replace("_", " ")
    relative = row.get("gpu_counter_vs_integral")
    return known.words.format(
        gap=duration(int(row.get("gap_us") or 0)),
        in_gaps=quantity(row.get("energy_in_gaps_j"), "J"),
        samples=row.get("samples", 0),
        disagreement="an unknown share" if relative is None else f"{abs(relative):.0%}",
    )


def stage_notes(report: RunReport) -> Iterator[tuple[str, list[str]]]:
    """(names of stages, sentences), stages with the same doubts together, in the order of the table."""
    lines = report.all_lines
    grouped: dict[tuple[str, ...], list[str]] = {}
    for line in lines:
        sentences = tuple(flag_sentence(f, line) for f in line.row["flags"] if not said_once(f))
        if sentences:
            grouped.setdefault(sentences, []).append(title(line))
    for sentences, names in grouped.items():
        yield ", ".join(names), list(sentences)


def title(line: StageLine) -> str:
    """Name of a stage with its attempt, if it is not the first."""
    attempt = line.row["attempt"]
    return f"{line.row['name']} #{attempt}" if attempt != 1 else str(line.row["name"])


def notes(report: RunReport) -> list[str]:
    """What a reader must know of the run as a whole, most important first."""
    found: list[str] = []
    if report.changed or report.lost_rows:
        joules = [d.joules for d in report.changed if d.joules]
        worst = f", by up to {quantity(max(joules), 'J')}" if joules else ""
        count = len(report.changed) + report.lost_rows
        found.append(
            f"The bundle's own summary differs from its raw rows in {count} values{worst}. "
            "The figures here are recomputed from the raw rows; kit validate names each difference."
        )
    status = report.manifest.get("status")
    if status != "complete":
        found.append(f"The run is {status}: what it did not do is not in these figures.")
    missing = unmeasured(report)
    devices = (report.manifest.get("hardware") or {}).get("devices") or []
    if "GPU" in missing:
        found.append(
            "No GPU energy was measured."
            if devices
            else "No GPU was metered; GPU energy is absent, not zero."
        )
    others = [name for name in missing if name != "GPU"]
    if others:
        verb = "was" if len(others) == 1 else "were"
        found.append(f"{' and '.join(others)} energy {verb} not measured (absent, not zero).")
    for event in report.events:
        if event["kind"] == "source_absent":
            detail = event_detail(event)
            source, reason = (str(detail.get(name, "unknown")) for name in ("source", "reason"))
            found.append(f"{source} did not start, what it measures is missing: {reason}")
    found += _unused(report)
    student = [line.row for line in report.lines if line.row["stage"] in report.protocol.kinds("student")]
    silent = [str(r["name"]) for r in student if r["status"] == "completed" and r["tokens_trained"] is None]
    if silent and len(silent) < len(student) and "trained" not in report.token_counts:
        names = ", ".join(dict.fromkeys(silent))
        found.append(f"J/token of the run is unknown: {names} counted no tokens.")
    flags = {flag for line in report.lines for flag in line.row["flags"]}
    if "cpu_estimated" in flags:
        found.append(f"{_flag_words('cpu_estimated')}. Never rank it beside a measured figure.")
        found += _dram_constant(report)
    if "rapl_mirror" in flags:
        found.append(f"{_flag_words('rapl_mirror').capitalize()}.")
    failed = failed_energy(report)
    if failed is not None:
        energy = quantity(failed.best, "J", failed.low, failed.high)
        found.append(f"{energy} went into attempts that did not complete; it is part of the total.")
    if report.totals.gpu.energy_j is not None:
        swing = report.totals.gpu.energy_j * report.sensor_rel
        found.append(
            "Intervals hold integration errors only. The GPU's own sensor is stated to "
            f"±{report.sensor_rel:.0%} (±{quantity(swing, 'J', 0, 2 * swing)}), the same for every stage."
        )
    if report.against is not None:
        found += against_notes(report.against)
    if report.manifest.get("shared_node"):
        found.append("Somebody else's work ran on the metered devices.")
    labels = report.manifest.get("labels") or []
    if "simulated" in labels:
        found.append("Simulated: some signals are made up. Never set it beside a measured figure.")
    if ORDER_IN_DOUBT in labels:
        found.append(
            "The cards that were metered may not be those that were used: CUDA numbers cards of two models "
            "by speed. Set CUDA_DEVICE_ORDER=PCI_BUS_ID, or name cards by their UUID."
        )
    shown = [str(label) for label in labels if label not in ("cpu_estimated", "no_gpu")]
    if shown:
        found.append(f"Labels: {', '.join(shown)}.")
    if report.options.region and report.options.pue is None:
        found.append("PUE was not applied: CO2e is that of the IT energy alone. Give it with --pue.")
    found += _factor_notes(report)
    return found


def _unused(report: RunReport) -> Iterator[str]:
    """Cards that are part of the total and on which nothing of the run was seen."""
    unused = report.unused_devices
    if not unused:
        return
    known = [energy for energy in unused.values() if energy is not None]
    least = "at least " if len(known) < len(unused) else ""
    part = f"{least}{quantity(sum(known), 'J')}" if known else "an unknown part"
    named = f"GPU {', '.join(map(str, unused))}: no kernel ran there; {part} of the total"
    if devices_reserved(report.manifest):
        yield f"{named}, reserved and paid for (devices: all)."
        return
    ids = {int(device) for line in report.lines for device in line.row["device_ids"]}
    used = sorted(ids - set(unused))
    shown = ",".join(map(str, used))
    fix = f"devices: [{shown}]" if used else "devices: none"
    yield f"{named}. To leave them out: {fix} in the pipeline file, or CUDA_VISIBLE_DEVICES={shown}."


def _dram_constant(report: RunReport) -> Iterator[str]:
    """An estimate of DRAM is watts by the size of the memory: say how many, and their share."""
    dram, whole = report.totals.dram, report.totals.it
    states = load_protocol().method_states()
    lines = report.all_lines
    billed_s = sum(x.duration_us for x in lines if x.depth == 0 and x.row["dram_energy_j"] is not None) / 1e6
    if not dram.energy_j or not billed_s or whole is None or not whole.best:
        return
    if any(states.get(method) == "estimated" for method in dram.methods):
        watts = quantity(round(dram.energy_j / billed_s, 1), "W")
        share = f"{dram.energy_j / whole.best:.0%} of the total"
        yield f"DRAM energy is a constant of {watts}, by the size of the memory, whatever runs: {share}."


def _factor_notes(report: RunReport) -> Iterator[str]:
    """Whom the factors are from, whether they fit the run, and those the run was started with."""
    if report.carbon or report.options.pue_factor is not None:
        from harness.spec.factors import SCOPES, attribution
    if report.carbon:
        factor = report.carbon[0].factor
        yield f"Grid intensity: {attribution(factor)}."
        if factor.scope == "direct":
            yield f"Its scope is direct: {SCOPES['direct']}. Countries have lifecycle figures."
        year = _year(report)
        if year is not None and year != factor.year:
            own = next((c.factor for c in report.carbon if c.factor.year == year), None)
            instead = f"--region {own.factor_id} is of its year" if own else "none of its own year is known"
            yield f"The run is of {year}, the grid intensity of {factor.year}; {instead}."
    if report.options.pue_factor is not None:
        yield f"PUE: {attribution(report.options.pue_factor)}."
    stated = _stated_options(report)
    if stated:
        yield f"The run was started with factors that are not applied here: {' '.join(stated)} applies them."


def _year(report: RunReport) -> int | None:
    """Calendar year (UTC) of the run's last boundary; None for a clock that was never set."""
    last = utc(max((int(line.row["t_end_us"]) for line in report.lines), default=0))
    return None if last is None else last.year


def _stated_options(report: RunReport) -> list[str]:
    """Options that would apply what the manifest names, where the reader gave none."""
    stated = report.manifest.get("factors") or {}
    region, pue = stated.get("region"), stated.get("pue")
    found: list[str] = []
    if report.options.region is None and isinstance(region, str):
        from harness.spec.factors import region_factors

        # A log may name any place; only one that has a factor is worth the advice.
        with suppress(KitError):
            found.append(f"--region {region_factors(region)[0].region}")
    if report.options.pue is None and isinstance(pue, float | int) and 1 < pue <= 10:
        found.append(f"--pue {pue:g}")
    return found


_METHODS_IN_WORDS = {
    "sft": "supervised training without a teacher",
    "kd": "distilling from a teacher's logits",
    "synthetic_sft": "training on a teacher's answers",
}


def summary_sentence(report: RunReport) -> str:
    """The run in one sentence, as a person would say it."""
    name = shown(str(report.manifest.get("name", "")))
    what = _METHODS_IN_WORDS.get(str(report.manifest.get("method")))
    subject = f"{name}, {what}," if what else name
    energies = [e for e in (report.totals.it, report.inherited) if e is not None]
    if not energies:
        return f"Of {subject.rstrip(',')} no energy was measured."
    from harness.report.study import scales_of

    whole = whole_energy(report)
    energy = interval_total(energies) if whole is None else stated(whole, scales_of([whole]))
    parts = [f"{subject} took {quantity(energy.best, 'J', energy.low, energy.high)}"]
    if report.inherited is not None:
        share = report.inherited.best / energy.best if energy.best else 0.0
        parts[0] += f", {share:.0%} of it paid by an earlier run whose output it uses"
    # No training is charged for serving, so that the whole is without it where all of it is known.
    counted = (report.totals if whole is None else report.made).by_kind
    largest = max(
        (line for line in report.lines if line.energy and line.depth == 0 and line.row["stage"] in counted),
        key=lambda line: line.energy.best if line.energy else 0.0,
        default=None,
    )
    if largest is not None and largest.energy is not None and energy.best > 0 and len(report.lines) > 1:
        share = largest.energy.best / energy.best
        parts.append(f"{share:.0%} of it went into {shown(title(largest))}")
    for token in ("reference", "trained", "processed"):
        if token in report.per_token and report.inherited is None:
            each = report.per_token[token]
            parts.append(f"each {token} token took {quantity(each.best, 'J', each.low, each.high)}")
            break
    suite = judged(report)
    if suite is not None and suite.quality is not None:
        parts.append(f"the student kept {suite.quality.q:.2f} of its teacher's quality")
    text = parts[0] + (": " + ", ".join(parts[1:]) if len(parts) > 1 else "")
    doubt = ""
    if "estimated" in report.states("gpu", "cpu"):
        doubt = " The joules are an estimate: the truth lies between nothing and twice as much."
    if report.unknown_origins:
        doubt += " What other runs paid for what it uses is unknown and not in it."
    if report.totals.incomplete:
        doubt += " A GPU's energy is unknown, so this is a lower bound."
    return f"{text}.{doubt}"
