"""How long it takes to compare many bundles with each other, and whether copies among them are found.

    python scripts/bench_across.py [--bundles 1000] [--copies 20] [--seed 1]

One made-up bundle is validated; the others are it under other names, clocks and readings of their own. Some
hold another one's readings, scaled by 0.97 or with a milliwatt of noise. Prints CPU seconds and copies found.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from copy import copy
from dataclasses import replace
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from harness.validate import Report, engine
from harness.validate.across import COPIED, compare
from harness.validate.context import Context
from harness.validate.likeness import trace
from tests.validate.full_run import write_full

SAMPLES = 7200
"""An hour at the protocol's period."""


def main() -> int:
    """Make the bundles, compare them and print what it took."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--bundles", type=int, default=1000)
    parser.add_argument("--copies", type=int, default=20)
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    rng = np.random.default_rng(args.seed)
    with tempfile.TemporaryDirectory(prefix="across-") as temporary:
        report, first = engine.look_into(write_full(Path(temporary) / "run"))
        first.stages, first.events, first.artifacts, first.evals, first.boundary_rows  # noqa: B018
        powers = [
            rng.normal(600_000, 1_500, SAMPLES).astype(np.int32) for _ in range(args.bundles - args.copies)
        ]
        for k in range(args.copies):
            made = powers[k] * 0.97 if k % 2 else powers[k] + rng.integers(-1, 2, SAMPLES)
            powers.append(np.rint(made).astype(np.int32))
        began = time.process_time()
        contexts = [bundle(first, number, power) for number, power in enumerate(powers)]
        traced = time.process_time()
        reports: list[Report] = compare([report] * len(contexts), contexts, (0, 1, 2, 3, 4))
        done = time.process_time()
    found = sum(any(f.id == COPIED for f in one.findings) for one in reports)
    print(
        f"{args.bundles} bundles of {SAMPLES} samples: "
        f"traces {traced - began:.1f} CPU s, comparing {done - traced:.1f} CPU s"
    )
    print(f"{found} bundles share readings; {2 * args.copies} were made so")
    return 0 if found == 2 * args.copies else 1


def bundle(first: Context, number: int, power: np.ndarray) -> Context:
    """The first bundle under another name and clock, with other power readings."""
    own = copy(first)
    own.manifest = {**first.manifest, "run_id": f"01J{number:023d}"}
    own.manifest_bytes = b"%d" % number
    own.stages = [{**row, "clock_id": str(number)} for row in first.stages]
    signal = first.facts.seen[0].signal
    assert signal is not None
    facts = replace(first.facts.seen[0], traces=(trace(power),), signal=replace(signal, digest=str(number)))
    own.recomputed = replace(first.facts, seen=[facts])
    return own


if __name__ == "__main__":
    sys.exit(main())
