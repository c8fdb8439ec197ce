"""How many of a forger's edits does `kit validate` notice? Prints the answer by column.

    python scripts/tamper.py [--edits 1000] [--seed 1] [--rederive] [--bundle DIR]

A valid bundle is edited in one random place at a time: an energy, token count, time, score or limit is scaled
or shifted, its digits swapped, its sign turned, set to null or exchanged for another row's. The forger gets
every digest right; with --rederive also every derived column. Of the edits that move a reported figure by
more than its interval, 99 % must be caught at levels 0 to 3; exit code 1 if fewer are. Without --bundle two
made-up runs are edited in turn: one with GPUs and RAPL, one whose CPU energy is estimated.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from harness.validate import validate
from tests.validate.forgery import Forger, Outcome, table_of
from tests.validate.full_run import write_full

BAR = 0.99


def main() -> int:
    """Run the edits and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--edits", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--rederive", action="store_true", help="the forger also derives the columns again")
    parser.add_argument("--bundle", type=Path, help="edit this bundle instead of made-up ones")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="tamper-") as temporary:
        folder = Path(temporary)
        bundles = [args.bundle] if args.bundle else [
            write_full(folder / "gpu"), write_full(folder / "cpu", gpu=False)
        ]  # fmt: skip
        for bundle in bundles:
            if validate(bundle).errors:
                print(f"{bundle} does not hold before any edit: kit validate {bundle}")
                return 2
        rng = np.random.default_rng(args.seed)
        outcomes: list[Outcome] = []
        for number, bundle in enumerate(bundles):
            share = args.edits // len(bundles) + (number < args.edits % len(bundles))
            forger = Forger(bundle, folder / f"forged-{number}", rederive=args.rederive)
            outcomes += forger.trials(rng, share)
    print("\n".join(table_of(outcomes)))
    for outcome in outcomes:
        if outcome.material and not outcome.caught:
            print(f"escaped: {outcome.edit}\n  moved {outcome.moved}")
    material = [o for o in outcomes if o.material]
    share = sum(bool(o.caught) for o in material) / max(1, len(material))
    print(f"{len(outcomes)} edits, {len(material)} material, {share:.2%} of them caught (bar {BAR:.0%})")
    return 0 if share >= BAR else 1


if __name__ == "__main__":
    sys.exit(main())
