"""Write tests/protocol/examples/1.0; those of earlier versions were written by their own code and stay.

python -m tests.protocol.make_examples
"""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from harness.bundle import BundleWriter
from harness.journal.scores import eval_row, items_digest
from harness.spec import load_protocol
from tests.accounting.synthetic import Stage, make_run

STAGES = (
    Stage("prepare", "preprocess", 2.0, 22.0, 120.0),
    Stage("cache", "teacher_logits", 22.0, 62.0, 650.0, tokens=2_000_000),
    Stage("train", "student_train", 64.3, 104.3, 600.0, tokens=1_000_000),
    Stage("eval", "evaluate", 104.3, 118.0, 400.0, tokens=50_000),
)
SCORES = {"student": (1.0, 0.0, None, 1.0, 0.0), "teacher": (1.0, 1.0, 1.0, 0.0, 1.0)}


def token_events(stages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Two reports of every stage that counted tokens."""
    events: list[dict[str, Any]] = []
    for row in stages:
        counts = {name: row[name] for name in ("tokens_trained", "tokens_processed") if row[name] is not None}
        for part in (0, 1) if counts else ():
            shares = {name: (count // 3, count - count // 3)[part] for name, count in counts.items()}
            at = row["mono_end_us"] - (1 - part) * 5_000_000
            events.append(
                {
                    "session": row["session"],
                    "t_us": row["t_start_us"] + at - row["mono_start_us"],
                    "mono_us": at,
                    "kind": "stage_tokens",
                    "stage_uid": row["stage_uid"],
                    "severity": "info",
                    "detail": json.dumps(shares, sort_keys=True, separators=(",", ":")),
                }
            )
    return events


def scores(stage_uid: int) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Rows of evals and eval_items."""
    digests = [f"{number:064x}" for number in range(5)]
    evals, items = [], []
    for subject, values in SCORES.items():
        known = [value for value in values if value is not None]
        named = {"benchmark": "arithmetic", "metric": "exact_match", "subject": subject}
        row = {**named, "suite": "demo", "score": float(np.mean(known)), "score_unit": "fraction"}
        row |= {
            "n_items": 5,
            "n_scored": len(known),
            "aggregation": "mean",
            "stderr": float(np.std(known, ddof=1) / np.sqrt(len(known))),
            "harness": "example",
        }
        evals.append({**eval_row({**row, "items_sha256": items_digest(digests)}), "stage_uid": stage_uid})
        for number, (digest, value) in enumerate(zip(digests, values, strict=True)):
            place = {"stage_uid": stage_uid, **named, "filter": "none", "item": number}
            items.append({**place, "item_sha256": digest, "score": value})
    return evals, items


def write(folder: Path) -> None:
    """One device, four stages, RAPL, a suite of one benchmark."""
    shutil.rmtree(folder, ignore_errors=True)
    run = make_run(STAGES, devices=1, end_s=120.0, rapl=True, method="moment")
    run.events += token_events(run.stages)
    run.events = [{**event, "event_id": number} for number, event in enumerate(run.events)]
    writer = BundleWriter(folder, load_protocol())
    size = len(run.power["mono_us"])
    columns: dict[str, Any] = {"node_id": ["node-00"] * size}
    for name in ("device_id", "session", "t_us", "mono_us"):
        columns[name] = run.power[name]
    for name in ("power_mw", "energy_counter_mj"):
        columns[name] = pa.array(run.power[name], mask=~run.power[f"{name}_valid"])
    evals, items = scores(stage_uid=3)
    writer.write_table("power", pa.table(columns))
    writer.write_table("stages", run.derive())
    for name, rows in (("counters", run.counters), ("events", run.events), ("artifacts", run.artifacts)):
        writer.write_table(name, rows)
    writer.write_table("evals", evals)
    writer.write_table("eval_items", items)
    writer.write_manifest(run.manifest)


if __name__ == "__main__":
    write(Path(__file__).parent / "examples" / "1.0")
    sys.exit(0)
