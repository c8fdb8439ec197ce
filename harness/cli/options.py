"""Options that several commands share."""

from __future__ import annotations

import click

cpu_option = click.option(
    "--cpu",
    type=click.Choice(["auto", "rapl", "codecarbon", "none"]),
    default="auto",
    show_default=True,
    help="How CPU energy is measured: auto is RAPL where readable, else CodeCarbon's estimate.",
)
verbose_option = click.option(
    "-v", "--verbose", is_flag=True, help="Show the output of the stages as it comes."
)


def cpu_words(cpu: str) -> list[str]:
    """What a later call must repeat to measure the same way."""
    return ["--cpu", cpu] if cpu != "auto" else []
