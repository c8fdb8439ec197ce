"""Whether a profile's teacher is the kept one or trained in the run, and what a reader must be told of it."""

from __future__ import annotations

from typing import Any

from harness.accounting.rounding import significant
from harness.distill.pocket_teacher import kept_facts, recipe_digest
from harness.experiments.profile import Profile

_RECIPE = ("pocket_models", "teacher_data", "teacher_train")


def recipe_of(profile: Profile) -> dict[str, Any]:
    """What decides the weights of a profile's generated teacher."""
    return {"teacher": profile.teacher, **{stage: profile.settings(stage) for stage in _RECIPE}}


def kept_teacher(profile: Profile) -> dict[str, Any] | None:
    """The facts of the kept teacher; None where the profile's teacher is another one, or is to be trained.

    Raises:
        KitError: The kept teacher cannot be read.
    """
    if profile.kind != "generated" or not profile.kept_teacher:
        return None
    facts = kept_facts()
    return facts if facts["recipe_sha256"] == recipe_digest(recipe_of(profile)) else None


def teacher_words(profile: Profile) -> str | None:
    """A sentence for screen and tables: where the teacher comes from; None where it was fetched."""
    if profile.kind != "generated":
        return None
    facts = kept_teacher(profile)
    if facts is None:
        return "The teacher is trained here, from scratch."
    cost = facts["training"]
    return (
        f"The teacher was not trained here: it came with the kit (recipe {facts['recipe_sha256'][:12]}). Its "
        f"training took {significant(cost['process_cpu_s'])} CPU s, {significant(cost['cpu_energy_j'])} J of "
        f"CPU and {significant(cost['dram_energy_j'])} J of memory in {significant(cost['seconds'])} s "
        f"({cost['energy_method']}, estimated) on {cost['where']}, {cost['date']}. Nobody is charged for it."
    )
