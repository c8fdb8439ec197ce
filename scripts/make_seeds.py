"""Writes the first rows of the leaderboard into artifacts/submissions.

    python scripts/make_seeds.py [--pocket RUNS] [--slimming FILE]

The published table as `reported` rows, from artifacts/paper. With --pocket, the runs of `make demo` (RUNS is
its folder `runs`) as rows of lab `kit-pocket`: estimated CPU energy, never ranked. With --slimming, one row
of lab `talkingjupiter` from a public telemetry trace (MIT): derived figures only, with their doubts; the
trace itself is not stored. The authors' own traces have no licence file and are left out.
"""

from __future__ import annotations

import argparse
import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from harness.experiments.paper import REFERENCE_TOKENS, published
from harness.files import file_digest
from harness.leaderboard.entry import ENTRY, Submission
from harness.leaderboard.pack import pack
from harness.leaderboard.rules import submission_rules

ROOT = Path(__file__).resolve().parents[1]
BOARD = ROOT / "artifacts" / "submissions"
TEACHER = "OLMo-2-0325-32B-SFT"
NAMES = {"sft": "SFT", "kd": "KD", "synthetic_sft": "Synthetic SFT"}
TRACE = (
    "TalkingJupiter/Slimming-Models-Saving-Watts f45f055, "
    "0EXPERIMENT_RESULTS/RESPONSE/MODEL 1/telemetry.jsonl"
)


def row(**fields: Any) -> Submission:
    """One row without a bundle."""
    return Submission(format=submission_rules().format, licence="CC-BY-4.0", **fields)


def write(entry: Submission) -> None:
    """Write a row."""
    folder = BOARD / entry.lab / entry.id
    folder.mkdir(parents=True, exist_ok=True)
    (folder / ENTRY).write_bytes(entry.to_bytes())
    print(folder.relative_to(ROOT))


def paper() -> Iterator[Submission]:
    """Rows of the published table that have an energy."""
    for (regime, size), cell in published().items():
        if cell.energy_kwh is None:
            continue
        stated = {"energy_kwh": cell.energy_kwh}
        if cell.quality is not None:
            stated["quality"] = cell.quality
        if cell.energy_j_per_token is not None:
            stated["energy_j_per_token"] = cell.energy_j_per_token
        yield row(
            lab="published-paper",
            id=f"{regime.replace('_', '-')}-{size}",
            title=f"{NAMES[regime]} {size.upper()}, as published",
            origin="publication",
            party="third",
            method=regime,
            student=f"OLMo-2-{size.upper()}",
            teacher="" if regime == "sft" else TEACHER,
            source=f"Lambert and Luccioni, ICML 2026, arXiv 2605.13981, public notes ({cell.energy_source})",
            stated=stated,
            stages_kwh=dict(cell.stages_kwh),
            reference_tokens=REFERENCE_TOKENS,
            hardware="1 x H100 80GB, as published",
            doubts=("no log of these runs is public, but for one that ends at a limit of the cluster",),
        )


def pocket(runs: Path) -> None:
    """The runs of the demo, the shared one first."""
    shutil.rmtree(BOARD / "kit-pocket", ignore_errors=True)
    for run in sorted(runs.iterdir(), key=lambda path: (path.name != "shared", path.name)):
        size = run.name.rpartition("-")[2]
        said = {
            "lab": "kit-pocket",
            "title": f"pocket {run.name}: a thousand times smaller, CPU estimated",
            "student": f"pocket-{size}" if run.name != "shared" else None,
            "teacher": "pocket-32b" if run.name.startswith(("kd", "synthetic", "shared")) else None,
        }
        print(pack(run, BOARD, said, None, None).relative_to(ROOT))


@dataclass(frozen=True)
class Telemetry:
    """A public telemetry trace: joules by counter and by integral of power, its length, its GPUs."""

    counter_j: float
    integral_j: float
    duration_s: float
    gpus: tuple[str, ...]


def telemetry(path: Path) -> Telemetry:
    """Read a trace of one response-distillation run, in which `energy_mJ` is 1,000 times too large."""
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    times = [datetime.fromisoformat(row["timestamp"]).timestamp() for row in rows]
    counter = integral = 0.0
    for gpu in range(len(rows[0]["gpus"])):
        counter += (rows[-1]["gpus"][gpu]["energy_mJ"] - rows[0]["gpus"][gpu]["energy_mJ"]) / 1e6
        watts = [row["gpus"][gpu]["power_watts"] for row in rows]
        integral += sum(
            (a + b) / 2 * (t1 - t0) for a, b, t0, t1 in zip(watts, watts[1:], times, times[1:], strict=False)
        )
    names = tuple(gpu["gpu_name"] for gpu in rows[0]["gpus"])
    return Telemetry(counter, integral, times[-1] - times[0], names)


def slimming(path: Path) -> Submission:
    """Counter energy of one response-distillation run as an imported row."""
    found = telemetry(path)
    return row(
        lab="talkingjupiter",
        id="response-model-1",
        title="Response distillation, model 1, from a public trace",
        origin="import",
        party="third",
        method="kd",
        student="8B",
        teacher="Llama-3.1-70B",
        source=f"{TRACE} (MIT), sha256 {file_digest(path)[:16]}",
        stated={"energy_kwh": found.counter_j / 3.6e6},
        hardware=f"{len(found.gpus)} x {', '.join(sorted(set(found.gpus)))}, GPU energy alone",
        doubts=(
            "the trace's energy_mJ is 1,000 times too large and was divided by 1,000",
            f"counter {found.counter_j:.0f} J, integral of power {found.integral_j:.0f} J, "
            f"over {found.duration_s:.0f} s",
            "the trace names no stage: the teacher's share is unknown; idle time around the run is inside",
            "no score is stored with it",
        ),
    )


def main() -> None:
    """Write the rows asked for."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--pocket", type=Path)
    parser.add_argument("--slimming", type=Path)
    options = parser.parse_args()
    for entry in paper():
        write(entry)
    if options.pocket:
        pocket(options.pocket)
    if options.slimming:
        write(slimming(options.slimming))


if __name__ == "__main__":
    main()
