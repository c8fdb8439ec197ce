"""`kit preflight PROFILE|PIPELINE`: every problem that a run would meet, at once and before it starts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from harness.files import there_is
from harness.text import lines_shown

if TYPE_CHECKING:
    from harness.experiments.grid import Target
    from harness.experiments.profile import Profile
    from harness.experiments.reproduce import Request
    from harness.preflight.findings import Preflight
    from harness.preflight.stages import Outlook


def outlook_of(
    subject: str, target: str, out: Path | None, sizes: tuple[str, ...] = (), aim: Target | None = None
) -> Outlook:
    """The stages of a profile's target, or of a pipeline file.

    Args:
        subject: Profile or pipeline file.
        target: Name of a target.
        out: Where runs go.
        sizes: Only these sizes; all if empty.
        aim: The target, where it is not as its name says.

    Raises:
        KitError: There is no such profile, target or file.
    """
    from harness.experiments import grid
    from harness.experiments.datasets import apart
    from harness.experiments.reproduce import Request
    from harness.preflight.stages import of_pipeline

    profile = profile_of(subject)
    if profile is None:
        return of_pipeline(Path(subject))
    out = out or Path("runs") / f"reproduce-{profile.name}"
    request = Request(target, aim or grid.target(target), profile, out, sizes)
    parts = list(apart(request).values())
    outlook, *more = [_outlook(part) for part in parts]
    outlook.more = more
    for other in more:
        outlook.assets = {**outlook.assets, **other.assets}
    outlook.name = profile.name
    return outlook


def profile_of(subject: str) -> Profile | None:
    """The profile of this name or file; None for a pipeline file.

    Raises:
        KitError: There is no such profile or file.
    """
    from harness.experiments.profile import load_profile, profile_names

    if subject not in profile_names() and _is_pipeline(Path(subject)):
        return None
    return load_profile(subject)


def _outlook(request: Request) -> Outlook:
    from harness.experiments.own_models import own_folder, own_names
    from harness.experiments.reproduce import fetch_command, needed_assets
    from harness.fetch.lockfile import load_lock
    from harness.fetch.store import Store
    from harness.preflight.stages import of_profile

    profile = request.profile
    assets: Any = {}
    own: dict[str, Path | None] = {}
    if profile.kind == "assets":
        assets = needed_assets(request)
        locked = load_lock().assets
        own = {name: own_folder(name, role) for name, role in own_names(profile, locked).items()}
    outlook = of_profile(profile, request.cells, assets, Store(), request.out, own)
    outlook.fetch = fetch_command(request)
    return outlook


def _is_pipeline(path: Path) -> bool:
    """A YAML file with stages that have commands; a profile's stages are settings."""
    import yaml

    try:
        loaded = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError):
        return path.suffix in (".yaml", ".yml") and there_is(path)
    return isinstance(loaded, dict) and isinstance(loaded.get("stages"), list)


gpu_option = click.option(
    "--gpu",
    metavar="CARD",
    help="Judge by this card where there is none: h100-sxm, h200, a100, l40s, rtx4090, b200.",
)
target_option = click.option(
    "--target", default="table2", show_default=True, help="Of a profile: what `kit reproduce` would make."
)


def checked(
    subject: str, target: str = "table2", out: Path | None = None, gpu: str | None = None
) -> Preflight:
    """Every check of what a profile or pipeline file needs.

    Args:
        subject: Profile or pipeline file.
        target: Name of a target.
        out: Where runs go.
        gpu: Card to judge by where there is none; for profile paper the one of the paper.
    """
    from harness.planning.cards import named_card
    from harness.preflight.checks import check, this_machine

    assumed = named_card(gpu) if gpu else named_card("h100-sxm") if subject == "paper" else None
    return check(outlook_of(subject, target, out), this_machine(assumed))


@click.command()
@click.argument("subject", metavar="PROFILE|PIPELINE")
@target_option
@click.option("--out", type=click.Path(path_type=Path), help="Where the runs would go.")
@gpu_option
@click.option("--json", "as_json", is_flag=True, help="For programs.")
def cmd(subject: str, target: str, out: Path | None, gpu: str | None, as_json: bool) -> None:
    """Look at everything that PROFILE or PIPELINE needs, without loading weights: tokenizers, templates,
    vocabularies, engine, driver, devices, memory of every stage, disks, every cell of the grid, time, energy.

    One table with every problem; exits with 1 when there is one. Nothing needs to have been fetched: until
    then recorded lists of files stand in.
    """
    result = checked(subject, target, out, gpu)
    click.echo(json.dumps(result.as_json(), indent=1) if as_json else lines_shown(result.render()))
    click.get_current_context().exit(result.exit_code)
