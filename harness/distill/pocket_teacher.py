"""The pocket teacher that the kit brings along, so that a demonstration need not train it.

    python -m harness.distill.pocket_teacher --model models/pocket-32b --recipe RECIPE-SHA256 --out teacher

Its weights, rounded to half precision, lie in artifacts/pocket_teacher beside teacher.json, which holds the
recipe (the settings of the three stages that made it), the digests of recipe and weights, and what its
training cost, where and when. `scripts/make_teacher.py` makes both again. It is used only where a profile's
recipe is the same; in the paper, too, the teacher came ready and nobody is charged for its making.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from harness.distill.arguments import run_stage, write_config
from harness.errors import KitError
from harness.files import file_digest

FACTS, WEIGHTS = "teacher.json", "model.safetensors"


@dataclass(frozen=True, kw_only=True)
class PocketTeacher:
    """Put the kept teacher's weights into a pocket model."""

    out: Path = field(metadata={"help": "gets checkpoint/, a model folder"})
    model: Path = field(metadata={"help": "the untrained model; its tokenizer goes along"})
    recipe: str = field(metadata={"help": "SHA-256 of the recipe that the teacher must have"})


def kept_root() -> Path:
    """Folder of the kept teacher: inside an installed package or in the checkout beside it."""
    package = Path(__file__).resolve().parents[1]
    installed = package / "_pocket_teacher"
    return installed if installed.is_dir() else package.parent / "artifacts" / "pocket_teacher"


def kept_facts() -> dict[str, Any]:
    """What teacher.json says.

    Raises:
        KitError: It cannot be read.
    """
    path = kept_root() / FACTS
    try:
        facts: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise KitError(
            f"cannot be read: {error}", where=str(path), fix="--train-teacher trains one"
        ) from None
    return facts


def recipe_digest(recipe: dict[str, Any]) -> str:
    """SHA-256 of a recipe, 64 hex digits."""
    return hashlib.sha256(json.dumps(recipe, sort_keys=True).encode()).hexdigest()


def place(config: PocketTeacher) -> Path:
    """Run the program; returns the model folder.

    Raises:
        KitError: The kept teacher has another recipe, or its weights are not those it was kept with.
    """
    from safetensors.torch import load_file
    from transformers import AutoModelForCausalLM

    from harness.distill.checkpoint import save_model

    facts, weights = kept_facts(), kept_root() / WEIGHTS
    for what, found, wanted in (
        ("recipe", facts["recipe_sha256"], config.recipe),
        ("weights", file_digest(weights), facts["weights_sha256"]),
    ):
        if found != wanted:
            raise KitError(
                f"the kept teacher's {what} has SHA-256 {found}",
                where=str(kept_root()),
                expected=wanted,
                fix="--train-teacher trains one; make teacher keeps it",
            )
    write_config(config, config.out)
    model = AutoModelForCausalLM.from_pretrained(config.model)
    model.load_state_dict({name: weight.float() for name, weight in load_file(weights).items()})
    save_model(model, config.out / "checkpoint", config.model)
    return config.out / "checkpoint"


def main() -> int:
    """Run as a program."""
    return run_stage(PocketTeacher, place)


if __name__ == "__main__":
    raise SystemExit(main())
