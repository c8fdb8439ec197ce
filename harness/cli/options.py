"""Options that several commands share."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import click


class LateChoice(click.ParamType[str]):
    """A choice of words that are asked for when they are needed: no command loads the protocol for them."""

    name = "choice"

    def __init__(self, words: Callable[[], list[str]]) -> None:
        self._words = words

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """The value if it is one of the words."""
        return str(click.Choice(self._words()).convert(value, param, ctx))

    def get_metavar(self, param: click.Parameter, ctx: click.Context) -> str:
        """The words, as help shows them."""
        return f"[{'|'.join(self._words())}]"


class FiniteRange(click.FloatRange):
    """A number in a range; "nan" lies in every range, and so does "inf" in an open one."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """The value if it is a finite number in the range."""
        number = float(super().convert(value, param, ctx))
        if not math.isfinite(number):
            self.fail(f"{value} is no finite number.", param, ctx)
        return number


def refuse_inside(path: Path, runs: Iterable[Path], option: str) -> None:
    """A sealed run holds what its manifest lists and nothing else: what is made of it goes elsewhere.

    Raises:
        KitError: The path lies in one of the runs, or is one.
    """
    from harness.errors import KitError
    from harness.validate.container import BESIDE

    for run in runs:
        place, folder = path.resolve(), run.resolve()
        if place == folder or (folder in place.parents and place.relative_to(folder).parts[0] not in BESIDE):
            raise KitError(
                "lies in the run: a file that its manifest does not list makes it invalid",
                where=f"{option} {path}",
                expected="a place outside the run",
                fix=f"{option} {folder.parent / path.name}" if place != folder else f"another {option}",
            )


def _cpu_choices() -> list[str]:
    from harness.meter.choice import cpu_choices

    return cpu_choices()


openmetrics_option = click.option(
    "--openmetrics",
    "port",
    metavar="PORT",
    type=click.IntRange(0, 65535),
    help="Serve the live figures as OpenMetrics at http://127.0.0.1:PORT/metrics; 0 takes a free port.",
)

cpu_option = click.option(
    "--cpu",
    type=LateChoice(_cpu_choices),
    default="auto",
    show_default=True,
    help="How CPU energy is measured: auto is a counter where one is readable, else an estimate.",
)
source_option = click.option(
    "--source",
    "sources",
    multiple=True,
    metavar="NAME[:ARGUMENT]",
    help="Use this power source, as in scripted:FILE.csv, which replays a file and is labelled simulated.",
)
verbose_option = click.option(
    "-v", "--verbose", is_flag=True, help="Show the output of the stages as it comes."
)


def cpu_words(cpu: str, sources: tuple[str, ...] = ()) -> list[str]:
    """What a later call must repeat to measure the same way."""
    words = ["--cpu", cpu] if cpu != "auto" else []
    return words + [word for source in sources for word in ("--source", source)]
