"""Own models, once for real: SmolLM2-135M-Instruct to a student of every third of its layers (part of
`make evidence`).

    python scripts/own_models.py [--data DIR] [--positions N] [--answers N] [--conversations N]

Runs examples/own_models/smollm2.yaml: SFT, KD and synthetic SFT at a budget, and the held-out loss of teacher
and students. Written: artifacts/evidence/own_models.json, with the digests of code and inputs, the table of
docs/own_models.md, and the logs as artifacts/runs/smollm2; `--table` writes the table alone, from the record
as it is: after a change of the code it says that the figures are of an earlier one.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

import evidence
import record_runs

from harness.files import file_digest

ROOT = Path(__file__).resolve().parent.parent

WORK = ROOT / "build" / "own_models"
OUT = ROOT / "artifacts" / "evidence" / "own_models.json"
RUNS = ROOT / "artifacts" / "runs" / "smollm2"
PAGE = ROOT / "docs" / "own_models.md"
PROFILE = ROOT / "examples" / "own_models" / "smollm2.yaml"
BEGIN, END = "<!-- own_models.json -->\n", evidence.END
EVERY = 3
"""Every so manieth layer is the student's."""
CODE = ("harness/distill", "harness/models", "harness/experiments", "examples/own_models")
REGIMES = {"sft": "SFT", "kd": "KD", "synthetic_sft": "Synthetic SFT"}


def main() -> None:
    """Make the models, run the profile, write record and table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data" / "benchmarks")
    parser.add_argument("--positions", type=int, default=40_000, help="of a student's training, at most")
    parser.add_argument("--answers", type=int, default=100, help="of the teacher")
    parser.add_argument("--conversations", type=int, default=280, help="to train on and to hold out")
    parser.add_argument(
        "--table", action="store_true", help="write the page's table from the record, no more"
    )
    options = parser.parse_args()
    if options.table:
        evidence.write_table(PAGE, BEGIN, table(json.loads(OUT.read_text(encoding="utf-8"))))
        return
    make_models()
    make_chats(options.data, options.conversations)
    profile = write_profile(options.positions, options.answers)
    words = ["reproduce", "table2", "--profile", str(profile), "--out", str(WORK / "out"), "--yes"]
    subprocess.run([sys.executable, "-m", "harness.cli.main", *words], check=True, cwd=ROOT)
    record = record_of(WORK / "out", options)
    OUT.write_text(json.dumps(record, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    evidence.write_table(PAGE, BEGIN, table(record))
    record_runs.record(WORK / "out", RUNS, profile=str(profile))
    print(f"own_models: written {OUT.relative_to(ROOT)}, the table of {PAGE.relative_to(ROOT)} and the logs")


def make_models() -> None:
    """The teacher out of its wheel, and the student of every third of its layers."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    teacher, student = WORK / "teacher", WORK / "student"
    if not (teacher / "config.json").exists():
        evidence.unpack(teacher)
    if (student / "config.json").exists():
        return
    model = AutoModelForCausalLM.from_pretrained(teacher, dtype=torch.float32)
    evidence.keep_layers(model, range(0, len(model.model.layers), EVERY))
    model.save_pretrained(student)
    AutoTokenizer.from_pretrained(teacher).save_pretrained(student)


def make_chats(data: Path, count: int) -> None:
    """Questions and answers of gsm8k's training split as JSON lines with `messages`."""
    from harness.evaluation.items import read_items

    lines = []
    for item in read_items("gsm8k", "train", data)[:count]:
        said = [("user", item.content["question"]), ("assistant", item.content["answer"])]
        lines.append(json.dumps({"messages": [{"role": role, "content": text} for role, text in said]}))
    WORK.mkdir(parents=True, exist_ok=True)
    (WORK / "chats.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")


def write_profile(positions: int, answers: int) -> Path:
    """The example's profile with its budget, beside the models."""
    import yaml

    values = yaml.safe_load(PROFILE.read_text(encoding="utf-8"))
    values["budget"] = {"positions": positions}
    values["grid"]["defaults"]["prompts"] = answers
    values |= {"teacher": "teacher", "students": {"64m": "student"}, "data": "chats.jsonl"}
    path = WORK / "smollm2.yaml"
    path.write_text(yaml.safe_dump(values, sort_keys=False), encoding="utf-8")
    return path


def record_of(out: Path, options: argparse.Namespace) -> dict[str, Any]:
    """What the page and its test need, and the digests it rests on."""
    found = json.loads((out / "tables" / "table2.json").read_text(encoding="utf-8"))
    names = ("model.safetensors", "config.json")
    return {
        "positions": options.positions,
        "answers": options.answers,
        "conversations": options.conversations,
        "work": work_of(out / "runs"),
        "machine": {"processor": platform.machine(), "cores": os.cpu_count()},
        "teacher_heldout_loss": found["teacher"]["heldout_loss"],
        "run_spread": found["run_spread"],
        "cells": [cell_of(cell, out / "runs") for cell in found["cells"]],
        "inputs_sha256": {
            **{f"{m}/{n}": file_digest(WORK / m / n) for m in ("teacher", "student") for n in names},
            "chats.jsonl": file_digest(WORK / "chats.jsonl"),
        },
        "code_sha256": evidence.code_digest(CODE),
    }


def cell_of(cell: dict[str, Any], runs: Path) -> dict[str, Any]:
    """A cell of the tables with the losses of its training and its CPU seconds."""
    name = f"{cell['regime'].replace('_', '-')}-{cell['size']}"
    lines = (runs / name / "work" / "student" / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    steps = [json.loads(line) for line in lines]
    kept = ["regime", "size", "energy_j", "energy_j_low", "energy_j_high", "heldout_loss", "tokens_trained"]
    kept += ["student_positions", "student_steps", "student_ended", "cpu_energy_methods"]
    kept += [key for key in cell if key.startswith("break_even_")]
    return {
        **{key: cell[key] for key in kept},
        "student_cpu_s": cpu_of(stages(runs / name, "student_train")),
        "untrained_loss": steps[0]["ce"],
        "losses": [[step["step"], step["eval_loss"]] for step in steps if "eval_loss" in step],
    }


def stages(run: Path, name: str | None = None) -> list[dict[str, Any]]:
    """Rows of a run's stages with what they took, all attempts; those inside another left out."""
    from harness.bundle import Bundle

    columns = ["name", "parent_uid", "mono_start_us", "mono_end_us", "process_cpu_s"]
    rows: list[dict[str, Any]] = Bundle.open(run).table("stages", columns).to_pylist()
    return [row for row in rows if row["parent_uid"] is None and name in (None, row["name"])]


def work_of(runs: Path) -> dict[str, float | None]:
    """Seconds and CPU seconds of all stages, all attempts: the machine was busy with other things meanwhile
    where the first are the more. CPU seconds are None where one is unknown."""
    rows = [row for run in sorted(runs.iterdir()) for row in stages(run)]
    return {
        "seconds": sum(row["mono_end_us"] - row["mono_start_us"] for row in rows) / 1e6,
        "cpu_s": cpu_of([row for row in rows if row["name"] != "unattributed"]),
    }


def cpu_of(rows: list[dict[str, Any]]) -> float | None:
    """CPU seconds of stages; None where one is unknown."""
    found = [row["process_cpu_s"] for row in rows]
    return None if None in found else sum(found)


def table(record: dict[str, Any]) -> str:
    """The record as the page shows it."""
    from harness.accounting import BreakEven
    from harness.accounting.rounding import break_even_text
    from harness.spec import load_protocol

    states = load_protocol().method_states()
    estimated = any(
        states.get(m) == "estimated" for c in record["cells"] for m in c["cpu_energy_methods"].split("+")
    )
    energy = "E of the pipeline, J" + (" (estimated)" if estimated else "")
    head = ["", "positions with evaluations", "steps", "held-out loss, nats", "CPU s of training"]
    head += [energy, "N\\*"]
    lines = [f"| {' | '.join(head)} |", "|" + "---|" * len(head)]
    lines.append(f"| teacher, 135 M | - | - | {record['teacher_heldout_loss']:.3f} | - | - | - |")
    for cell in record["cells"]:
        half = max(cell["energy_j_high"] - cell["energy_j"], cell["energy_j"] - cell["energy_j_low"])
        values = [cell[f"break_even_{name}"] for name in ("case", "reuses", "reuses_whole", "low", "high")]
        ends = [math.inf if end is None else end for end in values[3:]]
        even = "-" if values[0] is None else break_even_text(BreakEven(*values[:3], *ends))
        if cell["break_even_withheld"]:
            even = f"no verdict: {cell['break_even_withheld']}"
        start, loss = cell["losses"][0][1], cell["heldout_loss"]
        lines.append(
            f"| {REGIMES[cell['regime']]}, 64 M | {cell['student_positions']:,} | {cell['student_steps']} | "
            f"{cell['untrained_loss']:.1f}, {start:.3f}, {loss:.3f} | "
            f"{seconds_text(cell['student_cpu_s'])} | {cell['energy_j']:.0f} ± {half:.0f} | {even} |"
        )
    work, spread = record["work"], record["run_spread"]
    what = "Losses: of the first batch before any update, held out at the first evaluation (step "
    what += f"{record['cells'][0]['losses'][0][0]}), held out of the student that was kept. "
    what += f"{record['conversations']} conversations, {record['answers']} answers of the teacher, at most "
    what += f"{record['positions']:,} positions of training. All stages together: "
    what += f"{seconds_text(work['cpu_s'])} CPU seconds in {work['seconds']:.0f} s on "
    what += f"{record['machine']['cores']} cores. "
    if spread is not None:
        what += f"Two equal trainings differ by {100 * spread['relative']:.1f} % in the joules of training."
    if estimated:
        what += (
            " Most of an estimated E is memory at constant watts for as long as a stage took, its waiting "
        )
        what += "for a core included: CPU seconds say more."
    stale = "" if record["code_sha256"] == evidence.code_digest(CODE) else evidence.STALE
    return stale + "\n".join([*lines, "", what, ""])


def seconds_text(seconds: float | None) -> str:
    """In whole seconds."""
    return "unknown" if seconds is None else f"{seconds:,.0f}"


if __name__ == "__main__":
    main()
