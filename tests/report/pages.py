"""Logs for pages and figures: a study of six runs on one made-up GPU, and one whose every text is markup."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from harness.journal.scores import eval_row
from tests.accounting.synthetic import Stage, make_run
from tests.validate.tamper import edit_rows

STUDY = {
    # name: method, watts of the student's training, Q, standard error
    "sft-1b": ("sft", 300, 0.62, 0.012),
    "sft-7b": ("sft", 520, 0.90, 0.012),
    "kd-1b": ("kd", 250, 0.70, 0.012),
    "kd-7b": ("kd", 450, 0.88, 0.012),
    "synthetic_sft-1b": ("synthetic_sft", 260, 0.55, 0.012),
    "synthetic_sft-7b": ("synthetic_sft", 460, 0.905, 0.012),
}
TEACHER = {"kd": ("teacher_logits", 600), "synthetic_sft": ("teacher_generate", 560)}


def study(folder: Path) -> list[Path]:
    """Runs in which what is best, beaten and tied is known."""
    found = []
    for name, (method, watts, q, stderr) in STUDY.items():
        stages = [Stage("prepare", "preprocess", 2, 12, 120)]
        if method in TEACHER:
            kind, power = TEACHER[method]
            stages.append(Stage("teacher", kind, 14, 34, power))
        stages += [
            Stage("train", "student_train", 40, 140, watts, tokens=100_000),
            Stage("score", "evaluate", 142, 160, 250),
        ]
        run = make_run(tuple(stages), end_s=165, devices=1)
        for entry in (run.manifest["hardware"], *run.manifest["hardware"]["devices"]):
            entry["scale_id"] = "ab" * 16
        run.manifest |= {
            "name": name,
            "method": method,
        }
        path = run.write(folder / name)
        uid = len(stages)
        edit_rows(
            path, "evals", lambda rows, q=q, stderr=stderr, uid=uid: rows.extend(_scores(q, stderr, uid))
        )
        found.append(path)
    return found


def _scores(q: float, stderr: float, uid: int) -> list[dict[str, Any]]:
    given = {"benchmark": "b", "metric": "m", "score_unit": "fraction", "n_items": 400, "suite": "s"}
    return [
        {**eval_row({**given, "subject": who, "score": score, "stderr": error}), "stage_uid": uid}
        for who, score, error in (("student", 0.8 * q, 0.8 * stderr), ("teacher", 0.8, 0.0))
    ]


def hostile_run(folder: Path, text: str) -> Path:
    """A log that names everything it may name by `text`."""
    run = make_run((Stage(text, "student_train", 2, 12, 300, tokens=10),), end_s=14, devices=1)
    run.manifest |= {"name": text, "labels": [text]}
    run.manifest["hardware"] |= {"cpu_model": text}
    run.manifest["hardware"]["devices"][0]["model"] = text
    run.artifacts = [
        {
            "artifact_id": "sha256:" + "0" * 64, "name": text, "kind": "file", "bytes": 1, "stage_uid": uid,
            "role": role, "origin_run_id": None, "origin_energy_j": None,
        }
        for uid, role in ((1, "produced"),)
    ]  # fmt: skip
    return run.write(folder)
