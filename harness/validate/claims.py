"""Level 3, what was done with the energy: tokens beyond the hardware's roof, scores on the wrong scale."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

from harness.bundle.reader import event_detail
from harness.spec import version_folder
from harness.spec.load import read_yaml
from harness.validate.context import Context
from harness.validate.findings import Hit
from harness.validate.registry import rule

STAGES = "stages.parquet"
FLOP_PER_TOKEN = 2.0
"""Operations that a token costs per weight at the least: one multiplication and one addition, forward."""


@cache
def _gpus(path: Path) -> tuple[dict[str, Any], ...]:
    data: Any = read_yaml(path)
    return tuple(data["gpus"])


def card(model: str, version: str | None = None) -> dict[str, Any] | None:
    """The entry of gpus.yaml for a GPU by its name; None when the name is unknown."""
    return _card(version_folder(version) / "gpus.yaml", model)


@lru_cache(maxsize=256)
def _card(path: Path, model: str) -> dict[str, Any] | None:
    for entry in _gpus(path):
        if re.search(rf"(?<![A-Za-z0-9])(?:{entry['pattern']})(?![0-9])", model):
            return entry
    return None


def peak_flops(model: str, version: str | None = None) -> float | None:
    """Highest dense rate of a GPU by its name, operations a second; None when the name is unknown."""
    entry = card(model, version)
    return None if entry is None else float(entry["dense_tflops"]) * 1e12


def card_watts(model: str, version: str | None = None) -> float | None:
    """What the vendor lets such a board draw; None when it is not listed."""
    entry = card(model, version)
    return None if entry is None or entry.get("watts") is None else float(entry["watts"])


def stage_parameters(ctx: Context) -> dict[int, int]:
    """stage_uid -> parameters of the model it worked with, where a stage_event of it says so.

    A report may hold `active_parameters` (a mixture of experts) beside or instead of `parameters`.
    """
    found: dict[int, int] = {}
    for row in ctx.events:
        if row["kind"] != "stage_event" or row["stage_uid"] is None:
            continue
        report = event_detail(row).get("report")
        if not isinstance(report, dict):
            continue
        for name in ("active_parameters", "parameters"):
            count = report.get(name)
            if isinstance(count, int) and not isinstance(count, bool) and count > 0:
                found[row["stage_uid"]] = count
                break
    return found


@rule("E330")
def tokens_under_the_roof(ctx: Context) -> Iterator[Hit]:
    """No stage did more operations a second than its GPUs can."""
    models = {d["device_id"]: str(d["model"]) for d in ctx.manifest["hardware"]["devices"]}
    parameters = stage_parameters(ctx)
    unknown: set[str] = set()
    for number, row in ctx.recorded:
        counts = [row[c] for c in ("tokens_trained", "tokens_processed", "tokens_generated") if row[c]]
        if not row["device_ids"] or not counts:
            continue
        peaks = {
            device: peak_flops(models.get(device, ""), ctx.protocol.version) for device in row["device_ids"]
        }
        unknown |= {models.get(device, "?") for device, peak in peaks.items() if peak is None}
        size = parameters.get(row["stage_uid"])
        if size is None:
            unknown.add(f"the model of {row['name']}")
        known = [peak for peak in peaks.values() if peak is not None]
        seconds = (row["mono_end_us"] - row["mono_start_us"]) / 1e6
        if size is None or len(known) < len(peaks) or seconds <= 0:
            continue
        rate, roof = FLOP_PER_TOKEN * size * max(counts) / seconds, sum(known)
        if rate > roof:
            observed = f"{ctx.named(row)}: {max(counts)} tokens in {seconds:.0f} s with {size} parameters"
            expected = f"at most {roof / FLOP_PER_TOKEN / size:.6g} tokens/s on {len(known)} GPUs"
            yield Hit(STAGES, observed, expected, (number,), row["gpu_energy_j"])
    if unknown:
        ctx.notes.append(
            f"tokens/s against the FLOP roof not checked: size unknown of {_listed(sorted(unknown))}"
        )


def _listed(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


@rule("W331")
def scores_on_their_scale(ctx: Context) -> Iterator[Hit]:
    """A percentage is not given as a fraction, nor a rating of 1 to 10 as one of 0 to 1."""
    for number, row in enumerate(ctx.evals):
        name = f"{row['subject']} {row['benchmark']} ({row['metric']})"
        if row["score_unit"] == "percent" and 0 < row["score"] <= 1.0 and row["n_scored"] < 10_000:
            # One right answer in a hundred is 1 %; less than one answer is a fraction in the wrong column.
            if row["score"] / 100 * row["n_scored"] < 1 or _looks_like_fraction(row):
                observed = f"{name}: {row['score']:g} percent"
                yield Hit(
                    "evals.parquet",
                    observed,
                    f"{100 * row['score']:g} percent, if it is a fraction",
                    (number,),
                )
        elif row["score_unit"] == "fraction" and row["aggregation"] == "external" and row["score"] > 1:
            yield Hit("evals.parquet", f"{name}: fraction {row['score']:g}", "at most 1", (number,))


def _looks_like_fraction(row: dict[str, Any]) -> bool:
    """Whether the score is a whole number of n-ths and, taken as a percentage, is not."""
    right = row["score"] * row["n_scored"]
    hundredth = right / 100
    whole = abs(right - round(right)) < 1e-6 * row["n_scored"]
    return whole and bool(abs(hundredth - round(hundredth)) > 1e-6 * row["n_scored"])
