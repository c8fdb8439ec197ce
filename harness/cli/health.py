"""`kit health`: whether this installation is whole; what the image's health check runs."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

import click


@click.command("health")
@click.option("--packages", is_flag=True, help="Also compare every installed package with the lock.")
def cmd(packages: bool) -> None:
    """Print `ok` if the package, the protocol and the lock can be read.

    Says nothing about what can be measured here: that is `kit doctor`.
    """
    from harness import __version__
    from harness.container import checked_locks, image_digest, image_record
    from harness.errors import KitError
    from harness.spec import load_protocol

    image_digest()
    protocol = load_protocol().version
    record = image_record()
    locks = _checkout_locks() if record is None else checked_locks(record)
    words = [f"kit {__version__}", f"protocol {protocol}"]
    if record is not None:
        words.append(f"image with torch {record.get('torch')}, lock {record['lock_sha256'][:12]}")
    if packages:
        pins = [pin for lock in locks for pin in pins_of(lock.read_text(encoding="utf-8"))]
        if locks and not pins:
            raise KitError(
                "the lock pins nothing",
                where=", ".join(lock.name for lock in locks),
                fix="make image, or make lock in a checkout",
                exit_code=1,
            )
        if wrong := differences(pins):
            raise KitError(
                "installed packages differ from the lock: " + "; ".join(wrong[:5]),
                where=", ".join(lock.name for lock in locks),
                expected=f"the {len({name for name, _, _ in pins})} pins of the lock",
                fix="make image, or make setup in a checkout",
                exit_code=1,
            )
        words.append(f"{len({name for name, _, _ in pins})} pins as locked" if locks else "no lock here")
    click.echo(f"ok: {', '.join(words)}")


def _checkout_locks() -> list[Path]:
    """The lock of the checkout that this installation was made from; none for a plain install."""
    lock = Path(__file__).resolve().parents[2] / "requirements" / "base.lock"
    return [lock] if lock.is_file() else []


def pins_of(text: str) -> list[tuple[str, str, bool]]:
    """Name, version and whether it is for some machines only, of every pin of a lock."""
    lines = re.findall(r"^([a-z0-9][\w.-]*)==([^\s;]+)( ; )?", text, flags=re.MULTILINE)
    return [(name, version, bool(marker)) for name, version, marker in lines]


def differences(pins: Iterable[tuple[str, str, bool]]) -> list[str]:
    """What of the pins is not installed as pinned, one text each.

    A local version (`2.13.0+cpu`) satisfies a pin without one. A package with a marker may be missing.
    """
    from importlib.metadata import PackageNotFoundError, version

    wanted: dict[str, list[tuple[str, bool]]] = {}
    for name, pinned, conditional in pins:
        wanted.setdefault(name, []).append((pinned, conditional))
    wrong = []
    for name, choices in sorted(wanted.items()):
        try:
            found = version(name)
        except PackageNotFoundError:
            if not all(conditional for _, conditional in choices):
                wrong.append(f"{name} is missing")
            continue
        if not {found, found.partition("+")[0]} & {pinned for pinned, _ in choices}:
            wrong.append(f"{name} is {found}, locked {' or '.join(pinned for pinned, _ in choices)}")
    return wrong
