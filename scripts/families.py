"""`make families`: the load check over families of models at tiny size, and the table of docs/models.md.

Random weights, no network. What the check says of each family of tests/models/families.yaml must be what the
table says; `--write` writes the table anew.
"""

from __future__ import annotations

import argparse
import logging
import sys
import warnings
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
FAMILIES = ROOT / "tests" / "models" / "families.yaml"
PAGE = ROOT / "docs" / "models.md"
BEGIN, END = "<!-- families: begin -->\n", "<!-- families: end -->\n"
ROW = 128
"""Positions of a row: more than the windows of the list."""


def main() -> int:
    """Check every family and compare with the page; 1 where they differ."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--write", action="store_true", help="write the table into docs/models.md")
    parser.add_argument("families", nargs="*", help="only these, printed and not compared")
    options = parser.parse_args()
    warnings.filterwarnings("ignore")
    logging.disable(logging.WARNING)
    listed = yaml.safe_load(FAMILIES.read_text(encoding="utf-8"))
    names = options.families or sorted(listed["families"])
    lines = ["| Family | | How | Attention |\n", "|---|---|---|---|\n"]
    works = 0
    for name in names:
        status, how, attention = judged(name, {**listed["sizes"], **listed["families"][name]})
        works += status == "works"
        lines.append(f"| {name} | {status} | {how} | {attention} |\n")
        print(lines[-1], end="", flush=True)
    if options.families:
        return 0
    lines.insert(0, f"{works} of {len(names)} families work as they come.\n\n")
    page = PAGE.read_text(encoding="utf-8")
    before, rest = page.split(BEGIN)
    there, after = rest.split(END)
    table = "".join(lines)
    if options.write:
        PAGE.write_text(before + BEGIN + table + END + after, encoding="utf-8")
    elif there != table:
        changed = sorted(set(table.splitlines()) ^ set(there.splitlines()))
        print("families: docs/models.md says otherwise:", *changed, sep="\n  ")
        print("families: look at the reason, then write the table: python scripts/families.py --write")
        return 1
    print(f"families: {works} of {len(names)} work as they come; docs/models.md says the same")
    return 0


def judged(name: str, sizes: dict[str, Any]) -> tuple[str, str, str]:
    """Whether a family works, with what or why not, and the attention that was taken."""
    from harness.errors import KitError
    from harness.models.support import prepare

    model = model_of(name, sizes)
    packed = ""
    for batching in ("packed", "bucketed"):
        try:
            ready = prepare(model, batching=batching, seq_len=ROW)
        except KitError as error:
            said = error.message.partition(". ")[2].split("; ")
            # One reason for each way that was tried: the first that is about the model.
            reason = next((one for one in said if "does not support" not in one), said[0])
            packed = packed or reason.partition(" (off")[0].split(": ")[-1]
            continue
        status = "works" if batching == "packed" else "works with `batching: bucketed`"
        with_ = f"with {ready.head.words()}" if ready.head.words() else ""
        how = "; ".join(part for part in (packed and f"packed: {packed}", with_) if part)
        return status, how, ready.attention + (", masked" if ready.way == "masked" else "")
    return "refused", packed, ""


def model_of(name: str, sizes: dict[str, Any]) -> Any:
    """A tiny model in float32: random weights, enlarged so that differences show, and biases that are not
    zero."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    known = AutoConfig.for_model(name)
    fields = set(known.to_dict()) | set(known.attribute_map)
    config = AutoConfig.for_model(name, **{key: value for key, value in sizes.items() if key in fields})
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            if parameter.ndim >= 2:
                parameter.mul_(3)
            elif key.endswith("bias"):
                parameter.normal_(0, 0.5)
    return model


if __name__ == "__main__":
    sys.exit(main())
