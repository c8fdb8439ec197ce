"""A made-up run in which every table has rows and every figure of the report exists."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from harness.bundle import Bundle, BundleWriter, canonical_json
from tests.accounting.synthetic import EPOCH_US, Run, S, Stage, join, make_run

STAGES = (
    Stage("baseline", "idle", 2.0, 12.0, 82.0),
    Stage("prepare", "preprocess", 12.0, 44.0, 130.0),
    Stage("cache", "teacher_logits", 44.0, 80.0, 640.0, tokens=2_400_000),
    Stage("train", "student_train", 83.3, 119.3, 600.0, status="failed", tokens=400_000),
)
AGAIN = (
    Stage("train", "student_train", 2.0, 62.0, 610.0, tokens=1_000_000),
    Stage("eval", "evaluate", 65.2, 97.2, 380.0, tokens=120_000),
)
REFERENCE_TOKENS = 30_000_000
SUITE = "two-tasks"
ORIGIN_RUN = "01J00000000000000000000000"


def full_run(*, gpu: bool = True, seed: int = 1) -> Run:
    """Two sessions: a failed attempt in the first, the student and its scores in the second.

    Args:
        gpu: two GPUs and RAPL; otherwise a machine without either, whose CPU energy is estimated.
        seed: of the noise in the power readings.
    """
    options: dict[str, Any] = {"rapl": True} if gpu else {"devices": 0, "codecarbon": True}
    first = make_run(STAGES, end_s=121.0, **options)
    run = join(first, make_run(AGAIN, end_s=99.0, session=1, mono0=4_000 * S, **options))
    run.manifest["labels"] = []
    run.manifest["reference_tokens"] = REFERENCE_TOKENS
    for row in run.stages:
        row["token_denominator"] = REFERENCE_TOKENS
        row["tokens_positions"] = None if row["tokens_processed"] is None else row["tokens_processed"] * 2
    again = next(row for row in run.stages if row["name"] == "train" and row["session"] == 1)
    again["attempt"] = 2
    _add_noise(run, seed)
    _add_lineage(run, again)
    _add_reports(run)
    return run


def _add_noise(run: Run, seed: int) -> None:
    """Milliwatts of noise without a mean, so that the integral stays what the counter says."""
    rng = np.random.default_rng(seed)
    noise = rng.normal(0, 400, run.power["power_mw"].shape)
    run.power["power_mw"] = (run.power["power_mw"] + np.rint(noise)).astype(np.int32)


def _add_lineage(run: Run, train: dict[str, Any]) -> None:
    """The student reads a data set that another run paid for."""
    artifact = "sha256:" + "ab" * 32
    energy = 12_345.5
    train["consumes"] = [artifact]
    run.artifacts.append(
        {
            "artifact_id": artifact, "name": "corpus", "kind": "folder", "bytes": 123_456,
            "stage_uid": train["stage_uid"], "role": "consumed", "origin_run_id": ORIGIN_RUN,
            "origin_energy_j": energy,
        }
    )  # fmt: skip
    detail = {"artifact_id": artifact, "origin_run_id": ORIGIN_RUN, "origin_energy_j": energy}
    _event(run, train, "x-artifact_origin", detail)


def _add_reports(run: Run) -> None:
    """Token counts come in two reports a stage."""
    for row in run.stages:
        counts = {
            name: row[name]
            for name in ("tokens_trained", "tokens_processed", "tokens_positions", "tokens_generated")
            if row[name] is not None
        }
        for part in (0, 1):
            half = {name: count // 3 if part else count - count // 3 for name, count in counts.items()}
            if half:
                _event(run, row, "stage_tokens", half)


def _event(run: Run, stage: dict[str, Any], kind: str, detail: dict[str, Any]) -> None:
    at = stage["mono_end_us"] - 1000
    run.events.append(
        {
            "event_id": len(run.events), "session": stage["session"], "t_us": at + EPOCH_US, "mono_us": at,
            "kind": kind, "stage_uid": stage["stage_uid"], "device_id": None, "severity": "info",
            "detail": canonical_json(detail).decode(),
        }
    )  # fmt: skip


def scores(run: Run, seed: int = 2) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Rows of evals and eval_items: an exact match, a rating and a likelihood, student and teacher."""
    rng = np.random.default_rng(seed)
    uid = next(row["stage_uid"] for row in run.stages if row["stage"] == "evaluate")
    evals: list[dict[str, Any]] = []
    items: list[dict[str, Any]] = []
    tasks = (
        ("adding", "exact_match", "fraction", (0.0, 1.0)),
        ("talking", "judge_rating", "rating_1_10", (1.0, 10.0)),
        ("reading", "loss", "nats", (0.0, 20.0)),
    )
    for benchmark, metric, unit, (low, high) in tasks:
        count = 60
        hashes = [hashlib.sha256(f"{benchmark}{i}".encode()).hexdigest() for i in range(count)]
        for subject, level in (("student", 0.55), ("teacher", 0.8)):
            values = low + (high - low) * rng.beta(6 * level, 6 * (1 - level), count)
            if metric == "exact_match":
                values = (rng.random(count) < level).astype(float)
            found: list[float | None] = [round(float(v), 3) for v in values]
            if unit == "rating_1_10":
                found[7] = None
            good = np.array([v for v in found if v is not None])
            key = {"stage_uid": uid, "subject": subject, "benchmark": benchmark, "metric": metric}
            key["filter"] = "none"
            evals.append(
                {
                    **key, "suite": SUITE, "benchmark_version": "1", "dataset_sha256": None, "n_items": count,
                    "n_scored": len(good), "n_unparsed": count - len(good), "score": float(good.mean()),
                    "score_unit": unit, "score_min": low, "score_max": high,
                    "higher_is_better": unit != "nats", "aggregation": "mean",
                    "stderr": float(good.std(ddof=1) / len(good) ** 0.5), "judge_id": None,
                    "judge_stage_uid": None, "harness": "kit", "harness_version": None, "model_sha256": None,
                    "items_sha256": hashlib.sha256(canonical_json(hashes)).hexdigest(),
                }
            )  # fmt: skip
            items += [
                {**key, "item": i, "item_sha256": hashes[i], "score": value} for i, value in enumerate(found)
            ]
    return evals, items


def write_full(folder: Path, *, gpu: bool = True, run: Run | None = None) -> Path:
    """Write the run with every table, and every nullable column of power filled in."""
    run = run or full_run(gpu=gpu)
    run.write(folder)
    power = Bundle.open(folder).table("power")
    rng = np.random.default_rng(3)
    size = power.num_rows
    watts = np.asarray(power.column("power_mw")) / 1000
    fill = {
        "power_average_mw": (watts * 1000).astype(np.int32), "util_pct": np.where(watts > 200, 99, 0),
        "mem_used_mib": np.full(size, 40_960), "temp_c": (30 + watts / 20).astype(int),
        "sm_clock_mhz": np.where(watts > 200, 1980, 345), "throttle_bits": np.zeros(size, int),
        "power_limit_mw": np.full(size, 700_000), "read_us": 600 + rng.integers(0, 90, size),
    }  # fmt: skip
    for name, values in fill.items():
        kind = power.schema.field(name).type
        power = power.set_column(
            power.schema.get_field_index(name), power.schema.field(name), pa.array(values, kind)
        )
    manifest = json.loads((folder / "manifest.json").read_bytes())
    stages = Bundle.open(folder).table("stages").to_pylist()
    evals, items = scores(run)
    writer = BundleWriter(folder)
    writer.write_table("power", power)
    for name, rows in (
        ("counters", run.counters), ("events", run.events), ("artifacts", run.artifacts),
        ("stages", stages), ("evals", evals), ("eval_items", items),
    ):  # fmt: skip
        writer.write_table(name, rows)
    for name in ("protocol_version", "schema_id", "run_id", "files"):
        manifest.pop(name)
    writer.write_manifest(manifest)
    return folder
