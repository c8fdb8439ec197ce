"""The forgery suite: what `kit validate` makes of bundles that were forged with the kit's own code.

    python scripts/tamper.py [--quick] [--only NAME] [--write docs/forgeries.md]
                             [--edits 0] [--seed 1] [--rederive]

Each kind of `tests/validate/forgeries.py` edits a rankable bundle and makes every derived column and digest
again. A kind that moves a figure by more than its interval must be refused, lose its rank or stand in another
class, unless it is on the list of what no software can see; exit code 1 if one does not. `--quick` tries the
kinds that CI tries. With `--edits N` also N random single edits of two made-up bundles, of which 99 % must be
caught.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from evidence import write_table

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tests.validate.forgeries import KINDS, Suite, Verdict
from tests.validate.forgery import Forger, Outcome, table_of
from tests.validate.full_run import write_full

BAR = 0.99
BEGIN = "<!-- generated: forgeries -->\n"


def main() -> int:
    """Try the forgeries and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="the kinds that CI tries")
    parser.add_argument("--only", help="one kind by its name")
    parser.add_argument("--write", type=Path, help="put the table into this file, between its marks")
    parser.add_argument("--edits", type=int, default=0, help="random single edits besides")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument(
        "--rederive", action="store_true", help="after a random edit derive every column again"
    )
    args = parser.parse_args()
    kinds = [k for k in KINDS if (k.quick or not args.quick) and args.only in (None, k.name)]
    with tempfile.TemporaryDirectory(prefix="forgeries-") as temporary:
        suite = Suite(Path(temporary))
        verdicts = [suite.judge(kind) for kind in kinds]
        share = random_edits(Path(temporary), args) if args.edits else 1.0
    table = markdown(verdicts)
    print("\n".join(table))
    broken = [v for v in verdicts if not v.holds]
    seen = sum(v.outcome != "passes" for v in verdicts)
    print(
        f"\n{len(verdicts)} kinds: {seen} seen, "
        f"{len(verdicts) - seen - len(broken)} not material or not to be seen, {len(broken)} escaped"
    )
    for verdict in broken:
        print(f"passes: {verdict.kind.name}, which moved {verdict.moved}")
    if args.write:
        write_table(args.write, BEGIN, "\n".join(table) + "\n")
    return 0 if not broken and share >= BAR else 1


def markdown(verdicts: Sequence[Verdict]) -> list[str]:
    """The table of the docs: group, kind, outcome, rules."""
    lines = ["| what | forgery | outcome | by, or what answers it |", "|---|---|---|---|"]
    for v in verdicts:
        outcome = v.outcome
        if outcome == "passes":
            outcome = "not seen" if v.moved else "no figure moves"
        by = " ".join(v.rules[:4]) or (v.kind.unseen or "" if outcome == "not seen" else "")
        lines.append(f"| {v.kind.group} | {v.kind.words} (`{v.kind.name}`) | {outcome} | {by} |")
    return lines


def random_edits(folder: Path, args: argparse.Namespace) -> float:
    """Share of the material ones among random single edits that was caught."""
    bundles = [write_full(folder / "gpu"), write_full(folder / "cpu", gpu=False)]
    rng = np.random.default_rng(args.seed)
    outcomes: list[Outcome] = []
    for number, bundle in enumerate(bundles):
        forger = Forger(bundle, folder / f"forged-{number}", rederive=args.rederive)
        outcomes += forger.trials(rng, args.edits // 2 + (number < args.edits % 2))
    print("\n".join(table_of(outcomes)))
    for outcome in outcomes:
        if outcome.material and not outcome.caught:
            print(f"escaped: {outcome.edit}\n  moved {outcome.moved}")
    material = [o for o in outcomes if o.material]
    share = sum(bool(o.caught) for o in material) / max(1, len(material))
    print(f"{len(outcomes)} edits, {len(material)} material, {share:.2%} of them caught (bar {BAR:.0%})\n")
    return share


if __name__ == "__main__":
    sys.exit(main())
