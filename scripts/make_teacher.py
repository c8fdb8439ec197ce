"""Make artifacts/pocket_teacher again: train the pocket profile's teacher under the meter and keep it.

    python scripts/make_teacher.py [--out runs/teacher]

Runs the three stages of the recipe (models, teacher-data, teacher-train) as `kit audit` does, goes on with a
run that is there, and writes the weights in half precision and teacher.json. About two CPU minutes. One
thread and fixed seeds: one kind of processor and one set of locks give one set of weights; others may round
differently.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import torch
import yaml
from safetensors.torch import load_file, save_file

from harness.bundle import Bundle
from harness.distill.pocket_teacher import FACTS, WEIGHTS, kept_root, recipe_digest
from harness.experiments.pipelines import Layout, write_shared
from harness.experiments.profile import load_profile
from harness.experiments.teacher import recipe_of
from harness.files import file_digest, write_json

STAGES = ("models", "teacher-data", "teacher-train")


def main() -> int:
    """Entry point."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--out", type=Path, default=Path("runs/teacher"), help="folder of the run")
    out = parser.parse_args().out
    profile = load_profile("pocket").model_copy(update={"kept_teacher": False})
    layout = Layout(out.absolute(), {})
    run = layout.run("shared")
    if not (run / "manifest.json").exists():
        path = write_shared(profile, [], layout)
        document = yaml.safe_load(path.read_text())
        document["stages"] = [stage for stage in document["stages"] if stage["name"] in STAGES]
        path.write_text(yaml.safe_dump(document, sort_keys=False))
        words = [sys.executable, "-m", "harness.cli.main", "audit", str(path), "--out", str(run)]
        subprocess.run([*words, *(["--resume"] if run.exists() else [])], check=True)
    _keep(run, recipe_of(profile))
    return 0


def _keep(run: Path, recipe: dict[str, object]) -> None:
    bundle = Bundle.open(run)
    rows = {row["name"]: row for row in bundle.table("stages").to_pylist() if row["status"] == "completed"}
    made = [rows[name] for name in STAGES]
    root = kept_root()
    root.mkdir(parents=True, exist_ok=True)
    trained = load_file(run / "work" / "teacher" / "checkpoint" / WEIGHTS)
    save_file({name: weight.to(torch.float16) for name, weight in trained.items()}, root / WEIGHTS)
    hardware = bundle.manifest["hardware"]
    gpus = ", ".join(device["model"] for device in hardware["devices"])
    training: dict[str, object] = {
        "process_cpu_s": round(sum(row["process_cpu_s"] for row in made), 1),
        "seconds": round(sum(row["t_end_us"] - row["t_start_us"] for row in made) / 1e6, 1),
    }
    for name in (f"{part}_energy_j{end}" for part in ("cpu", "dram") for end in ("", "_low", "_high")):
        training[name] = round(sum(row[name] for row in made), 1)
    training |= {
        "energy_method": made[-1]["cpu_energy_method"],
        "stages": list(STAGES),
        "where": f"{hardware['cpu_model']}, {hardware['cpu_count']} logical processors, {gpus or 'no GPU'}",
        "date": datetime.fromtimestamp(made[-1]["t_end_us"] / 1e6, UTC).date().isoformat(),
        "run_id": bundle.manifest["run_id"],
        "software": {name: version(name) for name in ("torch", "transformers", "tokenizers")},
    }
    digest = recipe_digest(recipe)
    facts = {
        "recipe": recipe,
        "recipe_sha256": digest,
        "weights_sha256": file_digest(root / WEIGHTS),
        "weights": "float16, rounded from the float32 of the training",
        "training": training,
    }
    write_json(root / FACTS, facts)
    print(f"kept in {root}: recipe {digest[:12]}, {training['process_cpu_s']} CPU s")


if __name__ == "__main__":
    sys.exit(main())
