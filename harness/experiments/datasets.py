"""One reproduction for each data set by itself, and averages over data sets and repeats, as published."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from harness.distill.pocket_tasks import FAMILIES
from harness.errors import KitError
from harness.experiments.documents import NOT_AVAILABLE, markdown
from harness.experiments.grid import REGIME_WORDS
from harness.experiments.profile import Profile
from harness.experiments.reproduce import Request
from harness.experiments.results import CellResult, Results
from harness.experiments.tables import Record


def apart(request: Request) -> dict[str, Request]:
    """Data set to the request of its own, in a folder of its own; "" to the request itself for a mixture.

    Raises:
        KitError: The profile has one data set only.
    """
    if request.target.datasets == "mixture":
        return {"": request}
    profiles = _profiles(request.profile)
    if len(profiles) < 2:
        raise KitError(
            "there is one data set only",
            where=request.profile.name,
            expected="several sources in `preprocess`",
        )
    return {
        name: replace(request, profile=profile, out=request.out / name) for name, profile in profiles.items()
    }


def _profiles(profile: Profile) -> dict[str, Profile]:
    sources = profile.settings("preprocess").get("sources", [])
    chosen: dict[str, dict[str, Any]] = {}
    if profile.kind == "generated":
        # The pocket's data sets are its families of tasks, in every source alike.
        for family in FAMILIES:
            only = {}
            for stage in ("preprocess", "preprocess_synthetic"):
                whole = profile.settings(stage).get("sources", [])
                if not all(isinstance(source.get("samples"), int) for source in whole):
                    raise KitError(
                        "cannot be parted by data sets",
                        where=f"profile {profile.name}, stages.{stage}.sources",
                        expected="`samples` for every source of generated tasks",
                    )
                share = [{**s, "task": family, "samples": s["samples"] // len(FAMILIES)} for s in whole]
                only[stage] = {**profile.settings(stage), "sources": share}
            chosen[family] = only
    else:
        for number, source in enumerate(sources):
            name = str(source.get("kind"))
            if name in ("examples", "hub") or name in chosen:
                name = f"data{number + 1}"
            chosen[name] = {"preprocess": {**profile.settings("preprocess"), "sources": [source]}}
    return {
        name: profile.model_copy(update={"stages": {**profile.stages, **only}})
        for name, only in chosen.items()
    }


def average_rows(found: Mapping[str, Results]) -> list[Record]:
    """A row a regime and size: means over data sets and repeats, and the spread of each.

    `between_datasets` is the standard deviation of the data sets' means, `between_repeats` the pooled one of
    repeats of a data set; None where one value is all there is.
    """
    groups: dict[tuple[str, str], dict[str, list[CellResult]]] = {}
    for name, results in found.items():
        for result in results.cells:
            if result.cell.is_default:
                key = (result.cell.regime, result.cell.size)
                groups.setdefault(key, {}).setdefault(name, []).append(result)
    rows = []
    for (regime, size), by_set in groups.items():
        row: Record = {"regime": regime, "size": size, "datasets": len(by_set)}
        row["runs"] = sum(map(len, by_set.values()))
        energies = {n: [c.total.best for c in cells if c.total is not None] for n, cells in by_set.items()}
        qualities = {n: [c.quality for c in cells if c.quality is not None] for n, cells in by_set.items()}
        row |= _spread("energy_j", list(energies.values())) | _spread("quality", list(qualities.values()))
        rows.append(row)
    return rows


def _spread(name: str, groups: Sequence[Sequence[float]]) -> Record:
    known = [list(group) for group in groups if group]
    means = [statistics.fmean(group) for group in known]
    repeated = [group for group in known if len(group) > 1]
    freedom = sum(len(group) - 1 for group in repeated)
    pooled = sum(statistics.variance(group) * (len(group) - 1) for group in repeated)
    return {
        f"{name}_mean": statistics.fmean(means) if means else None,
        f"{name}_between_datasets": statistics.stdev(means) if len(means) > 1 else None,
        f"{name}_between_repeats": (pooled / freedom) ** 0.5 if freedom else None,
    }


def averages_markdown(found: Mapping[str, Results]) -> str:
    """The averages, for a person."""
    first = next(iter(found.values()))
    unit, scale = first.unit
    head = ["pipeline", "size", "runs", f"E {unit}", "sd of data sets", "sd of repeats"]
    head += ["Q", "sd of data sets", "sd of repeats"]
    lines = []
    for row in average_rows(found):
        line = [REGIME_WORDS[row["regime"]], row["size"].upper(), str(row["runs"])]
        for name, times, places in (("energy_j", scale, 3), ("quality", 1.0, 2)):
            for which in ("mean", "between_datasets", "between_repeats"):
                value = row[f"{name}_{which}"]
                line.append(NOT_AVAILABLE if value is None else f"{value * times:.{places}g}")
        lines.append(line)
    note = [
        f"Means over {len(found)} data sets ({', '.join(found)}) and their repeats, each trained by itself.",
        "Profile `" + first.profile.name + "`: " + first.profile.summary + ".",
    ]
    return "\n".join(["# Averages over data sets and repeats", "", *note, "", *markdown(head, lines), ""])
